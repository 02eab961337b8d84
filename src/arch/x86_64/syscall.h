/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* System calls, and what else code without libc does. They return the raw result. */

#include <stdint.h>

static inline int64_t arch_syscall(int64_t nr, const uint64_t *args)
{
	register uint64_t r10 __asm__("r10") = args[3];
	register uint64_t r8 __asm__("r8") = args[4];
	register uint64_t r9 __asm__("r9") = args[5];
	int64_t result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(nr), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

/*
 * clone3(2) where the child starts on its own stack with entry(arg). `stack` is
 * the top of the child's stack as the kernel sets it (clone_args.stack +
 * stack_size). Only the parent returns: the child's TID or -errno.
 */
static inline int64_t arch_clone3_thread(uint64_t clone_args, uint64_t size, void (*entry)(void *), void *arg)
{
	register void (*child_entry)(void *) __asm__("r12") = entry;
	register void *child_arg __asm__("r13") = arg;
	int64_t result;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r13, %%rdi\n\t"
			 "call *%%r12\n\t"
			 "ud2\n\t"
			 "1:"
			 : "=a"(result)
			 : "a"(435L), "D"(clone_args), "S"(size), "r"(child_entry), "r"(child_arg)
			 : "rcx", "r11", "memory");
	return result;
}

/* The same by clone(2), for kernels without clone3: `stack` is the top of the child's stack. */
static inline int64_t arch_clone_thread(uint64_t flags, uint64_t stack, void (*entry)(void *), void *arg)
{
	register void (*child_entry)(void *) __asm__("r12") = entry;
	register void *child_arg __asm__("r13") = arg;
	register uint64_t r10 __asm__("r10") = 0;
	register uint64_t r8 __asm__("r8") = 0;
	int64_t result;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r13, %%rdi\n\t"
			 "call *%%r12\n\t"
			 "ud2\n\t"
			 "1:"
			 : "=a"(result)
			 : "a"(56L), "D"(flags), "S"(stack), "d"(0L), "r"(r10), "r"(r8), "r"(child_entry), "r"(child_arg)
			 : "rcx", "r11", "memory");
	return result;
}

/*
 * clone3(2) by which a process gives its address space and its stack away (CLONE_VM): the child goes on here, the parent
 * ends at once and touches no memory meanwhile. Returns 0 in the child; -errno where there is none, and the caller goes on.
 */
static inline int64_t arch_clone3_hand_over(uint64_t clone_args, uint64_t size)
{
	int64_t result;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jle 1f\n\t"
			 "xor %%edi, %%edi\n\t"
			 "mov $231, %%eax\n\t"
			 "syscall\n\t"
			 "ud2\n\t"
			 "1:"
			 : "=a"(result)
			 : "a"(435L), "D"(clone_args), "S"(size)
			 : "rcx", "r11", "memory");
	return result;
}

/*
 * Load these components of the extended state (Intel SDM volume 1, 13.8) from `area`, which is aligned to 64 bytes. For code
 * that is compiled for general registers only; system calls leave them alone, and so does a stop.
 */
static inline void arch_load_xstate(uint64_t area, uint64_t components)
{
	__asm__ volatile("xrstor64 (%0)" : : "r"(area), "a"((uint32_t)components), "d"((uint32_t)(components >> 32)) : "memory");
}

enum { ARCH_NR_PRCTL = 158, ARCH_PRCTL_SHSTK_STATUS = 0x5005, ARCH_PRCTL_MAP_VDSO = 0x2003 };

/* Has this thread a user shadow stack? With one, a child that goes on on our stack would get another one (6.6: ARCH_SHSTK_STATUS). */
static inline int arch_has_shadow_stack(void)
{
	uint64_t features = 0;
	const uint64_t args[6] = { ARCH_PRCTL_SHSTK_STATUS, (uint64_t)&features };

	return arch_syscall(ARCH_NR_PRCTL, args) == 0 && features != 0;
}

/*
 * Can arch_prctl(2) make the mappings of the vdso, its data first, at an address (ARCH_MAP_VDSO_64, Linux 4.9: map_vdso_once() in
 * arch/x86/entry/vdso/vma.c)? If something is in the way there, it makes them elsewhere. To be asked by a process that has a vdso, which
 * it keeps: EEXIST.
 */
static inline int arch_can_map_vdso(void)
{
	const uint64_t args[6] = { ARCH_PRCTL_MAP_VDSO, 0 };

	return arch_syscall(ARCH_NR_PRCTL, args) == -17 /* EEXIST */;
}

/*
 * A process that ends at once, and of which no tracer hears: clone(2) with CLONE_VM,
 * CLONE_VFORK and CLONE_UNTRACED. Returns its PID, to be waited for with __WALL.
 */
static inline int64_t arch_vfork_exit(void)
{
	register uint64_t r10 __asm__("r10") = 0;
	register uint64_t r8 __asm__("r8") = 0;
	int64_t result;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "mov $60, %%eax\n\t"
			 "xor %%edi, %%edi\n\t"
			 "syscall\n\t"
			 "1:"
			 : "=a"(result)
			 : "a"(56L), "D"(0x804100L), "S"(0L), "d"(0L), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}
