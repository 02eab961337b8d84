/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a thread may load by itself: the decision with hostile areas; that it never allows what the kernel refuses or XRSTOR
 * faults on, and that both ways make the same registers; and the other way, by ptrace.
 */

#include <elf.h>
#include <errno.h>
#include <linux/ptrace.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch/x86_64/xstate.h"
#include "sys/ptrace.h"
#include "task/task.h"
#include "unit.h"

enum { SIZE = 2696, PKRU_AT = 2688, ROUNDS = 3000 };

static const struct arch_xstate plain = { .load = 0xe7, .size = 2688, .mxcsr_mask = 0xffff };
static const struct arch_xstate keys = { .load = 0xe7, .size = SIZE, .mxcsr_mask = 0xffff, .pkru_at = PKRU_AT,
					 .pkru = { 0x54, 0x55, 0x55, 0x55 } };

union area {
	struct arch_xstate_head head;
	unsigned char bytes[SIZE];
};

/* All components in use, as the kernel hands them out. */
static union area an_area(void)
{
	union area a = { .head = { .mxcsr = ARCH_MXCSR_INIT, .xstate_bv = 0xe7 } };

	a.bytes[160] = 1;
	return a;
}

static union area with_pkru(uint32_t pkru)
{
	union area a = an_area();

	a.head.xstate_bv |= ARCH_XSTATE_PKRU;
	memcpy(a.bytes + PKRU_AT, &pkru, sizeof(pkru));
	return a;
}

static bool fits(const struct arch_xstate *here, union area a)
{
	return arch_xstate_fits(here, &a, here->size, here->size);
}

static void allows(void)
{
	union area a = an_area();

	UNIT_CHECK(fits(&plain, a));
	UNIT_CHECK(arch_xstate_fits(&plain, &a, 600, plain.size)); /* without the zeros at its end */
	UNIT_CHECK(arch_xstate_fits(&plain, &a, 520, plain.size));
	a.head.mxcsr = 0xff80;
	a.head.xstate_bv = 2;
	UNIT_CHECK(fits(&plain, a));
	a.head.mxcsr = ARCH_MXCSR_INIT;
	a.head.xstate_bv = 0;
	UNIT_CHECK(fits(&plain, a));
}

static void refuses_sizes(void)
{
	union area a = an_area();

	UNIT_CHECK(!arch_xstate_fits(&plain, &a, 0, 0));
	UNIT_CHECK(!arch_xstate_fits(&plain, &a, 0, plain.size));
	UNIT_CHECK(!arch_xstate_fits(&plain, &a, 600, 600));
	UNIT_CHECK(!arch_xstate_fits(&plain, &a, 600, plain.size - 64));
	UNIT_CHECK(!arch_xstate_fits(&plain, &a, plain.size, plain.size + 8)); /* of another machine */
	UNIT_CHECK(!arch_xstate_fits(&(struct arch_xstate){ .size = plain.size }, &a, plain.size, plain.size));
}

static void refuses_header(void)
{
	union area a;

	for (unsigned bit = 0; bit < 64; bit++) {
		a = an_area();
		a.head.xstate_bv |= 1ull << bit;
		UNIT_CHECK_EQ(fits(&plain, a), 0xe7ull >> bit & 1);
		a = an_area();
		a.head.xcomp_bv = 1ull << bit;
		UNIT_CHECK(!fits(&plain, a));
		for (unsigned i = 0; i < 6; i++) {
			a = an_area();
			a.head.reserved[i] = 1ull << bit;
			UNIT_CHECK(!fits(&plain, a));
		}
	}
}

static void refuses_components(void)
{
	struct arch_xstate here = plain;

	here.load = 7; /* a machine without AVX-512 */
	UNIT_CHECK(!fits(&here, an_area()));
}

static void refuses_mxcsr(void)
{
	struct arch_xstate old = plain;
	union area a = an_area();

	for (unsigned bit = 16; bit < 32; bit++) {
		a.head.mxcsr = ARCH_MXCSR_INIT | 1u << bit;
		UNIT_CHECK(!fits(&plain, a));
	}
	a.head.mxcsr = ARCH_MXCSR_INIT | 0x40; /* denormals are zeros */
	UNIT_CHECK(fits(&plain, a));
	old.mxcsr_mask = ARCH_MXCSR_MASK;
	UNIT_CHECK(!fits(&old, a));
	a.head.xstate_bv &= ~(uint64_t)ARCH_XSTATE_SSE; /* XRSTOR loads it, the kernel may not */
	UNIT_CHECK(!fits(&plain, a));
	a.head.mxcsr = 0;
	UNIT_CHECK(!fits(&plain, a));
}

static void compares_pkru(void)
{
	union area a = with_pkru(0x55555554);

	UNIT_CHECK(fits(&keys, a));
	UNIT_CHECK(!fits(&keys, with_pkru(0x55555550)));
	UNIT_CHECK(!fits(&keys, with_pkru(0)));
	UNIT_CHECK(!arch_xstate_fits(&keys, &a, PKRU_AT, SIZE));
	UNIT_CHECK(!arch_xstate_fits(&keys, &a, PKRU_AT + 3, SIZE));
	UNIT_CHECK(arch_xstate_fits(&keys, &a, PKRU_AT + 4, SIZE));
	a.bytes[PKRU_AT + 4] = 1;
	UNIT_CHECK(!fits(&keys, a));
	UNIT_CHECK(!fits(&keys, an_area())); /* it would become 0 */
}

static void compares_pkru_of_zero(void)
{
	struct arch_xstate open = keys;

	memset(open.pkru, 0, sizeof(open.pkru));
	UNIT_CHECK(fits(&open, an_area()));
	UNIT_CHECK(fits(&open, with_pkru(0)));
	UNIT_CHECK(!fits(&open, with_pkru(4)));
}

/* ---- on this machine ---- */

/* A child that, each time it goes on, loads `area` if it is told to, and stops. */
static struct told {
	_Alignas(ARCH_XSTATE_ALIGN) unsigned char area[ARCH_XSTATE_MAX];
	uint64_t components;
} *told;
static struct arch_xstate here;
static unsigned char saved[ARCH_XSTATE_MAX]; /* a state of that child */
static size_t saved_size;

static _Noreturn void loader(void)
{
	sys_ptrace(PTRACE_TRACEME, 0, 0, 0);
	for (;;)
		__asm__ volatile("int3\n\t"
				 "mov %1, %%eax\n\t"
				 "xor %%edx, %%edx\n\t"
				 "test %%eax, %%eax\n\t"
				 "jz 1f\n\t"
				 "xrstor64 %0\n"
				 "1:"
				 :
				 : "m"(told->area), "m"(told->components)
				 : "rax", "rdx", "memory");
}

static bool stops_again(pid_t child)
{
	int status;

	return waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP;
}

static pid_t start_loader(void)
{
	pid_t child;

	told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	here = arch_xstate_here(arch_xfeatures());
	child = told == MAP_FAILED ? -1 : fork();
	if (child == 0)
		loader();
	if (child < 0 || !stops_again(child))
		return -1;
	saved_size = (size_t)sys_ptrace_getregset(child, NT_X86_XSTATE, saved, sizeof(saved));
	return child;
}

static void end_loader(pid_t child)
{
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	munmap(told, sizeof(*told));
}

static bool go_on(pid_t child, uint64_t components)
{
	told->components = components;
	return sys_ptrace(SYS_PTRACE_CONT, child, 0, 0) == 0 && stops_again(child);
}

/* Do two areas hold the same, but for what the processor does not define: reserved bytes, and which components are in use? */
static bool same_registers(const unsigned char *a, const unsigned char *b)
{
	for (int i = 0; i < 8; i++)
		if (memcmp(a + 32 + 16 * i, b + 32 + 16 * i, 10) != 0)
			return false;
	return memcmp(a, b, 5) == 0 && memcmp(a + 24, b + 24, 4) == 0 && memcmp(a + 160, b + 160, 256) == 0 &&
	       memcmp(a + 576, b + 576, saved_size - 576) == 0;
}

/* Of the x87 environment, what stays as given: the processor makes some bits of others, and the kernel may not show that. */
static void change_x87(unsigned char *area)
{
	const uint16_t control = (uint16_t)(0x7f | (rand() & 0xf00)), status = (uint16_t)(rand() & 0x7f3f);

	memcpy(area, &control, sizeof(control));
	memcpy(area + 2, &status, sizeof(status));
	area[4] = (unsigned char)rand();
}

static void change(unsigned char *area)
{
	struct arch_xstate_head *head = (struct arch_xstate_head *)area;

	change_x87(area);
	for (int k = rand() % 64; k >= 0; k--)
		area[32 + rand() % 384] = (unsigned char)rand();
	for (int k = rand() % 64; k >= 0; k--)
		area[576 + (size_t)rand() % (saved_size - 576)] = (unsigned char)rand();
	head->xstate_bv = saved[512 + 1] & 2 ? (uint64_t)ARCH_XSTATE_PKRU : 0;
	head->xstate_bv |= (uint64_t)rand() & here.load;
	head->mxcsr = rand() % 2 ? ARCH_MXCSR_INIT : (uint32_t)rand() & 0xffff;
	if (here.pkru_at)
		memcpy(area + here.pkru_at, saved + here.pkru_at, 8);
	if (rand() % 4 == 0)
		area[512 + rand() % 64] ^= (unsigned char)(1 << rand() % 8);
	if (rand() % 8 == 0)
		head->mxcsr ^= 1u << rand() % 32;
}

/*
 * All registers as they are initialised, but said to be in use. Some processors save a component as one in use that was only
 * initialised, and do not write it: then the kernel shows what its area held before.
 */
static bool wipe(pid_t child)
{
	static unsigned char blank[ARCH_XSTATE_MAX];
	struct arch_xstate_head *head = (struct arch_xstate_head *)blank;

	head->x87[0] = 0x7f;
	head->x87[1] = 0x03;
	head->mxcsr = ARCH_MXCSR_INIT;
	head->xstate_bv = here.load;
	return sys_ptrace_setregset(child, NT_X86_XSTATE, blank, saved_size) == 0 && go_on(child, 0);
}

/* What is allowed, the kernel accepts, XRSTOR loads without a fault, and with the same outcome. */
static void loads_as_the_kernel(void)
{
	static unsigned char by_ptrace[ARCH_XSTATE_MAX], by_xrstor[ARCH_XSTATE_MAX];
	pid_t child = start_loader();
	int allowed = 0, refused = 0;

	UNIT_CHECK(child > 0);
	if (!here.load) { /* a processor with what is not known here */
		end_loader(child);
		return;
	}
	UNIT_CHECK_EQ(here.size, saved_size);
	UNIT_CHECK(arch_xstate_fits(&here, saved, saved_size, saved_size));
	srand(1);
	for (int round = 0; round < ROUNDS; round++) {
		memcpy(told->area, saved, saved_size);
		change(told->area);
		if (!arch_xstate_fits(&here, told->area, saved_size, saved_size)) {
			refused++;
			continue;
		}
		allowed++;
		UNIT_CHECK(wipe(child));
		UNIT_CHECK_EQ(sys_ptrace_setregset(child, NT_X86_XSTATE, told->area, saved_size), 0);
		UNIT_CHECK(go_on(child, 0));
		sys_ptrace_getregset(child, NT_X86_XSTATE, by_ptrace, sizeof(by_ptrace));
		UNIT_CHECK_EQ(sys_ptrace_setregset(child, NT_X86_XSTATE, saved, saved_size), 0);
		UNIT_CHECK(go_on(child, here.load));
		sys_ptrace_getregset(child, NT_X86_XSTATE, by_xrstor, sizeof(by_xrstor));
		UNIT_CHECK(same_registers(by_ptrace, by_xrstor));
	}
	UNIT_CHECK(allowed > ROUNDS / 4 && refused > ROUNDS / 4);
	end_loader(child);
}

/* The other way: what does not fit is set from outside, or refused by the kernel; what fits is left alone. */
static void sets_from_outside(void)
{
	static unsigned char now[ARCH_XSTATE_MAX];
	struct arena arena = ARENA_INIT;
	struct obstacle_list notes = { .arena = &arena };
	struct arch_xstate_head *head = (struct arch_xstate_head *)saved;
	const struct arch_xstate none = { 0 };
	struct user_regs_struct regs;
	Pb__Thread th = PB__THREAD__INIT;
	struct err e = ERR_INIT;
	pid_t child = start_loader();

	UNIT_CHECK(child > 0 && sys_ptrace_getregs(child, &regs) == 0);
	head->xstate_bv |= ARCH_XSTATE_SSE;
	saved[160] ^= 0xff;
	th.tid = child;
	th.regs = (ProtobufCBinaryData){ sizeof(regs), (uint8_t *)&regs };
	th.xstate = (ProtobufCBinaryData){ saved_size, saved };
	th.xstate_size = (uint32_t)saved_size;
	if (here.load) {
		UNIT_CHECK(thread_loads_xstate(&here, &th));
		UNIT_CHECK_EQ(thread_restore_outside(&th, &here, false, &notes, &e), 0);
		sys_ptrace_getregset(child, NT_X86_XSTATE, now, sizeof(now));
		UNIT_CHECK(now[160] != saved[160]);
	}
	UNIT_CHECK(!thread_loads_xstate(&none, &th));
	UNIT_CHECK_EQ(thread_restore_outside(&th, &none, false, &notes, &e), 0);
	sys_ptrace_getregset(child, NT_X86_XSTATE, now, sizeof(now));
	UNIT_CHECK_EQ(now[160], saved[160]);
	head->reserved[2] = 1;
	UNIT_CHECK(!thread_loads_xstate(&here, &th));
	UNIT_CHECK(thread_restore_outside(&th, &here, false, &notes, &e) < 0);
	UNIT_CHECK_STR(e.id, "E-CPU");
	arena_done(&arena);
	end_loader(child);
}

/* Its bytes are at no address: nothing may be copied from there. */
static void has_none(void)
{
	Pb__Thread th = PB__THREAD__INIT;
	unsigned char room[16];

	UNIT_CHECK_EQ(pb_xstate_size(&th), 0);
	UNIT_CHECK_EQ(pb_xstate(&th, room, sizeof(room)), 0);
	UNIT_CHECK(!thread_loads_xstate(&plain, &th));
}

UNIT_MAIN(UNIT_CASE(allows), UNIT_CASE(refuses_sizes), UNIT_CASE(refuses_header), UNIT_CASE(refuses_components),
	  UNIT_CASE(refuses_mxcsr), UNIT_CASE(compares_pkru), UNIT_CASE(compares_pkru_of_zero), UNIT_CASE(loads_as_the_kernel),
	  UNIT_CASE(sets_from_outside), UNIT_CASE(has_none))
