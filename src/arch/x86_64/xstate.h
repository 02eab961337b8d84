/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The extended state of a thread: x87, vector registers and more (Intel SDM volume 1, chapter 13). May a thread load by itself
 * what was saved of another (NT_X86_XSTATE, in the standard format of XSAVE)? XRSTOR faults on what the kernel refuses.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "arch/x86_64/regs.h"

enum {
	ARCH_XSTATE_ALIGN = 64,
	ARCH_XSTATE_SSE = 1 << 1,
	ARCH_XSTATE_VECTORS = 1 << 0 | 1 << 1 | 1 << 2 | 7 << 5, /* x87, SSE, AVX, AVX-512 */
	ARCH_XSTATE_MPX = 3 << 3,
	ARCH_XSTATE_PKRU = 1 << 9,
	ARCH_XSTATE_TILECFG = 1 << 17, /* AMX */
	ARCH_XSTATE_TILEDATA = 1 << 18,
	ARCH_MXCSR_INIT = 0x1f80,
	ARCH_MXCSR_MASK = 0xffbf, /* where FXSAVE tells none */
};

/* How such an area begins: the legacy region and the header. */
struct arch_xstate_head {
	unsigned char x87[24];
	uint32_t mxcsr, mxcsr_mask;
	unsigned char registers[480];
	uint64_t xstate_bv, xcomp_bv, reserved[6];
};

_Static_assert(sizeof(struct arch_xstate_head) == 576, "Intel SDM volume 1, 13.4");

/* What this machine, and this process, have to do with it. */
struct arch_xstate {
	uint64_t load; /* the components that a thread loads, or initialises, by itself; 0: it loads nothing */
	uint32_t size; /* of all that the kernel saves */
	uint32_t mxcsr_mask;
	uint32_t pkru_at; /* in that; 0: there is none */
	unsigned char pkru[8]; /* that of this process, and of all that it makes */
};

/* CPUID's leaf 0xd. In a virtual machine it takes microseconds. */
static inline void arch_cpuid_xstate(uint32_t sub, uint32_t *eax, uint32_t *ebx)
{
	uint32_t ecx = sub, edx;

	*eax = 0xd;
	__asm__ volatile("cpuid" : "+a"(*eax), "=b"(*ebx), "+c"(ecx), "=d"(edx));
}

/*
 * What is not loaded must be already what the kernel would make it. PKRU is compared with what was saved. Bounds (MPX) and a
 * tile configuration, which are inherited, must not be in use; nothing of ours uses them. False: they are.
 */
static inline bool arch_xstate_look(struct arch_xstate *here, uint64_t others, unsigned char *area)
{
	struct arch_xstate_head *head = (struct arch_xstate_head *)area;
	uint32_t eax;

	memset(head, 0, sizeof(*head));
	__asm__ volatile("xsave64 (%0)" : : "r"(area), "a"((uint32_t)others), "d"(0) : "memory");
	if (head->xstate_bv & ~(uint64_t)ARCH_XSTATE_PKRU)
		return false;
	if (!(others & ARCH_XSTATE_PKRU))
		return true;
	arch_cpuid_xstate(9, &eax, &here->pkru_at);
	if (here->pkru_at < sizeof(*head) || here->pkru_at > here->size - sizeof(here->pkru))
		return false;
	if (head->xstate_bv & ARCH_XSTATE_PKRU)
		memcpy(here->pkru, area + here->pkru_at, sizeof(here->pkru));
	return true;
}

/* Tiles nobody inherits: fpu_clone() in arch/x86/kernel/fpu/core.c. With what is not known here, nothing is loaded. */
static inline struct arch_xstate arch_xstate_here(uint64_t xfeatures)
{
	const uint64_t others = xfeatures & (ARCH_XSTATE_MPX | ARCH_XSTATE_PKRU | ARCH_XSTATE_TILECFG);
	_Alignas(ARCH_XSTATE_ALIGN) unsigned char area[ARCH_XSTATE_MAX];
	struct arch_xstate_head *head = (struct arch_xstate_head *)area;
	struct arch_xstate here = { .load = xfeatures & ARCH_XSTATE_VECTORS };
	uint32_t eax;

	if (xfeatures & ~(others | ARCH_XSTATE_VECTORS | ARCH_XSTATE_TILEDATA))
		return (struct arch_xstate){ 0 };
	arch_cpuid_xstate(0, &eax, &here.size);
	if (here.size < sizeof(*head) || here.size > sizeof(area))
		return (struct arch_xstate){ 0 };
	memset(head, 0, sizeof(*head));
	__asm__ volatile("fxsave64 (%0)" : : "r"(area) : "memory");
	here.mxcsr_mask = head->mxcsr_mask ? head->mxcsr_mask : ARCH_MXCSR_MASK;
	return !others || arch_xstate_look(&here, others, area) ? here : (struct arch_xstate){ 0 };
}

/* Would PKRU become what it is already? */
static inline bool arch_xstate_same_pkru(const struct arch_xstate *here, uint64_t xstate_bv, const unsigned char *saved,
					 size_t len)
{
	unsigned char pkru[sizeof(here->pkru)] = { 0 };

	if (!here->pkru_at)
		return !(xstate_bv & ARCH_XSTATE_PKRU);
	for (size_t i = 0; xstate_bv & ARCH_XSTATE_PKRU && i < sizeof(pkru) && here->pkru_at + i < len; i++)
		pkru[i] = saved[here->pkru_at + i];
	return memcmp(pkru, here->pkru, sizeof(pkru)) == 0;
}

/*
 * Does XRSTOR make of these `len` bytes, with zeros up to `size`, what the kernel would make of them, and without a fault? The
 * kernel checks the same: validate_user_xstate_header() and copy_uabi_to_xstate() in arch/x86/kernel/fpu/xstate.c. But XRSTOR
 * loads MXCSR also where SSE is to be initialised (Intel SDM volume 1, 13.8.1).
 */
static inline bool arch_xstate_fits(const struct arch_xstate *here, const void *saved, size_t len, size_t size)
{
	struct arch_xstate_head head = { 0 };
	uint64_t reserved;

	if (!here->load || !len || len > size || size != here->size)
		return false;
	memcpy(&head, saved, len < sizeof(head) ? len : sizeof(head));
	reserved = head.xcomp_bv;
	for (unsigned i = 0; i < sizeof(head.reserved) / sizeof(head.reserved[0]); i++)
		reserved |= head.reserved[i];
	if (reserved || head.xstate_bv & ~(here->load | ARCH_XSTATE_PKRU))
		return false;
	if (head.mxcsr != ARCH_MXCSR_INIT && (!(head.xstate_bv & ARCH_XSTATE_SSE) || head.mxcsr & ~here->mxcsr_mask))
		return false;
	return arch_xstate_same_pkru(here, head.xstate_bv, saved, len);
}
