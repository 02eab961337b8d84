/* SPDX-License-Identifier: Apache-2.0 */

/* Private memory: contents, protections, stacks and heap that grow, advice, locks, guards, reservations. */

#include "common.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "maps.h"

enum { PAGE = 4096, PAGES = 300, HUGE = 2 << 20, DEEP = 3 << 20, GROWTH = 200 * PAGE, BULK = 32 << 20 };

#define RESERVATION (8ul << 40)

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

static void *map(size_t size, int prot, int flags)
{
	void *p = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	check(p != MAP_FAILED);
	return p;
}

/* A mapping that no other can be merged with. */
static void *map_apart(size_t size, int prot, int flags)
{
	char *p = map(size + 2 * PAGE, PROT_NONE, MAP_NORESERVE);

	check(mmap(p + PAGE, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | flags, -1, 0) == p + PAGE);
	return p + PAGE;
}

static char byte_at(size_t i)
{
	return (char)(i * 17 + i / PAGE * 3 + 1);
}

static void fill(char *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		p[i] = byte_at(i);
}

static void verify_filled(const char *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		check(p[i] == byte_at(i));
}

/* ---- faults ---- */

static sigjmp_buf fault_jump;

static void on_fault(int signo)
{
	siglongjmp(fault_jump, signo);
}

/* The signal that reading (or writing) here raises; 0: none. */
static int fault(volatile char *p, bool write)
{
	static char stack[65536];
	const stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction sa = { .sa_handler = on_fault, .sa_flags = SA_ONSTACK | SA_NODEFER }, before[2];
	int signo;

	sigaltstack(&ss, NULL);
	sigaction(SIGSEGV, &sa, &before[0]);
	sigaction(SIGBUS, &sa, &before[1]);
	signo = sigsetjmp(fault_jump, 0);
	if (!signo) {
		char byte = *p;

		if (write)
			*p = byte;
	}
	sigaction(SIGSEGV, &before[0], NULL);
	sigaction(SIGBUS, &before[1], NULL);
	return signo;
}

/* ---- contents ---- */

static char *holes, *hidden, *readable, *wiped;

/* Of each ten pages: written, written with zeros, read only, untouched ... */
static void make_holes(void)
{
	holes = map(PAGES * PAGE, PROT_READ | PROT_WRITE, 0);
	for (int i = 0; i < PAGES; i++) {
		if (i % 5 == 0)
			fill(holes + i * PAGE, PAGE);
		if (i % 5 == 1)
			memset(holes + i * PAGE, 0, PAGE);
		if (i % 5 == 2)
			check(((volatile char *)holes)[i * PAGE] == 0);
	}
}

static void verify_holes(void)
{
	static const char zero[PAGE];
	unsigned char present[PAGES];

	check_call(mincore(holes, PAGES * PAGE, present));
	for (int i = 0; i < PAGES; i++) {
		check(i % 5 < 3 || !(present[i] & 1)); /* untouched they cost nothing */
		if (i % 5 == 0)
			verify_filled(holes + i * PAGE, PAGE);
		else if (i % 5 < 3)
			check(memcmp(holes + i * PAGE, zero, PAGE) == 0);
	}
}

static void make_protected(void)
{
	hidden = map_apart(3 * PAGE, PROT_READ | PROT_WRITE, 0);
	fill(hidden, 3 * PAGE);
	check_call(mprotect(hidden, 3 * PAGE, PROT_NONE));
	readable = map_apart(3 * PAGE, PROT_READ | PROT_WRITE, 0);
	fill(readable, 3 * PAGE);
	check_call(mprotect(readable, 3 * PAGE, PROT_READ));
	wiped = map_apart(2 * PAGE, PROT_READ | PROT_WRITE, 0);
	fill(wiped, 2 * PAGE);
	check_call(madvise(wiped, PAGE, MADV_DONTNEED));
}

static void verify_protected(void)
{
	check(fault(hidden, false) == SIGSEGV);
	check_call(mprotect(hidden, 3 * PAGE, PROT_READ));
	verify_filled(hidden, 3 * PAGE);
	check_call(mprotect(hidden, 3 * PAGE, PROT_NONE));
	check(fault(readable, true) == SIGSEGV);
	verify_filled(readable, 3 * PAGE);
	for (int i = 0; i < PAGE; i++)
		check(wiped[i] == 0);
	verify_filled(wiped + PAGE, 0);
	check(wiped[PAGE] == byte_at(PAGE));
	check_call(madvise(wiped, PAGE, MADV_DONTNEED));
}

/* ---- code ---- */

static const unsigned char code_one[] = { 0xb8, 1, 0, 0, 0, 0xc3 }, code_two[] = { 0xb8, 2, 0, 0, 0, 0xc3 };
static char *written_code, *open_code;

static int run_code(const char *p)
{
	return ((int (*)(void))(void *)p)();
}

static void make_code(void)
{
	written_code = map_apart(2 * PAGE, PROT_READ | PROT_WRITE, 0);
	memcpy(written_code + PAGE, code_one, sizeof(code_one));
	check_call(mprotect(written_code, 2 * PAGE, PROT_READ | PROT_EXEC));
	open_code = map_apart(PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, 0);
	memcpy(open_code, code_two, sizeof(code_two));
}

static __attribute__((noinline, aligned(4096))) int patched(void)
{
	return 5;
}

/* The program's own code, changed: a modified page of a private file mapping. */
static void patch(void)
{
	static const unsigned char code[] = { 0xb8, 7, 0, 0, 0, 0xc3 };

	check_call(mprotect((void *)patched, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC));
	memcpy((void *)patched, code, sizeof(code));
	check_call(mprotect((void *)patched, PAGE, PROT_READ | PROT_EXEC));
}

static void verify_code(void)
{
	int (*volatile function)(void) = patched;

	check(run_code(written_code + PAGE) == 1);
	check(fault(written_code + PAGE, true) == SIGSEGV);
	check(run_code(open_code) == 2);
	memcpy(open_code, code_one, sizeof(code_one));
	check(run_code(open_code) == 1);
	memcpy(open_code, code_two, sizeof(code_two));
	check(function() == 7);
}

/* ---- what grows ---- */

static char *growing, *growing_low;
static size_t stack_depth = 64 * 1024;

static void make_growing(void)
{
	/* Nothing below it, ever, or it could not grow: far from where the kernel puts other mappings. */
	char *room = (char *)0x123400000000;

	growing = mmap(room + 1020 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
	check(growing == room + 1020 * PAGE);
	fill(growing, 4 * PAGE);
	growing_low = growing;
}

static void verify_growing(void)
{
	verify_filled(growing, 4 * PAGE);
	for (char *p = growing - PAGE; p >= growing_low; p -= PAGE)
		check(*p == 'g');
	for (int i = 0; i < 10; i++) {
		growing_low -= PAGE;
		check(fault(growing_low, true) == 0);
		*growing_low = 'g';
	}
}

static __attribute__((noinline)) size_t use_stack(size_t size)
{
	volatile char block[2 * PAGE];

	for (size_t i = 0; i < sizeof(block); i += 64)
		block[i] = (char)i;
	if (size > sizeof(block))
		size = use_stack(size - sizeof(block));
	return size + (size_t)block[64] - 64;
}

/* Deeper each time than it ever was. */
static void verify_stack(void)
{
	stack_depth += 512 * 1024;
	check(stack_depth > 6 << 20 || use_stack(stack_depth) <= 2 * PAGE);
}

/* ---- advice, locks, guards ---- */

struct advised {
	int advice;
	char *at;
	bool known;
};

static struct advised advised[] = {
	{ MADV_DONTFORK, NULL, false },  { MADV_WIPEONFORK, NULL, false }, { MADV_DONTDUMP, NULL, false },
	{ MADV_HUGEPAGE, NULL, false },  { MADV_NOHUGEPAGE, NULL, false }, { MADV_MERGEABLE, NULL, false },
	{ MADV_SEQUENTIAL, NULL, false }, { MADV_RANDOM, NULL, false },
};
enum { ADVICES = sizeof(advised) / sizeof(advised[0]) };

static char *locked, *locked_later, *locked_none, *droppable, *huge, *reserved, *writable_reserve;

static void make_advised(void)
{
	for (int i = 0; i < ADVICES; i++) {
		advised[i].at = map_apart(4 * PAGE, PROT_READ | PROT_WRITE, 0);
		fill(advised[i].at, 2 * PAGE);
		advised[i].known = madvise(advised[i].at, 4 * PAGE, advised[i].advice) == 0;
	}
	locked = map_apart(4 * PAGE, PROT_READ | PROT_WRITE, 0);
	fill(locked, PAGE);
	check_call(mlock(locked, 4 * PAGE));
	locked_later = map_apart(4 * PAGE, PROT_READ | PROT_WRITE, 0);
	fill(locked_later, PAGE);
	check_call(mlock2(locked_later, 4 * PAGE, MLOCK_ONFAULT));
	/* As mlockall(2) leaves what may not be read: locked, though nothing is there. */
	locked_none = map_apart(4 * PAGE, PROT_NONE, 0);
	check(mlock(locked_none, 4 * PAGE) == 0 || errno == ENOMEM);
	droppable = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
	if (droppable == MAP_FAILED)
		droppable = NULL;
	else
		droppable[0] = 'd';
}

static int child_reads(const char *p)
{
	pid_t child = fork();
	int status;

	if (child == 0)
		_exit(*(volatile const char *)p == 0 ? 1 : 0);
	check(waitpid(child, &status, 0) == child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void verify_advised(void)
{
	unsigned char present[4];

	for (int i = 0; i < ADVICES; i++) {
		verify_filled(advised[i].at, 2 * PAGE);
		check(advised[i].at[2 * PAGE] == 0);
	}
	check(!advised[0].known || child_reads(advised[0].at) == -SIGSEGV);
	check(!advised[1].known || child_reads(advised[1].at) == 1);
	verify_filled(locked, PAGE);
	check_call(mincore(locked, 4 * PAGE, present));
	for (int i = 0; i < 4; i++)
		check(present[i] & 1);
	verify_filled(locked_later, PAGE);
	check_call(mincore(locked_later, 4 * PAGE, present));
	check((present[0] & 1) && !(present[3] & 1));
	check(!droppable || droppable[0] == 'd' || droppable[0] == 0);
}

static char *guarded, *guarded_locked;

static void make_guards(void)
{
	guarded = map_apart(10 * PAGE, PROT_READ | PROT_WRITE, 0);
	fill(guarded, 10 * PAGE);
	if (madvise(guarded + 2 * PAGE, 3 * PAGE, MADV_GUARD_INSTALL)) {
		guarded = NULL;
		return;
	}
	guarded_locked = map_apart(4 * PAGE, PROT_READ | PROT_WRITE, 0);
	check_call(madvise(guarded_locked + PAGE, PAGE, MADV_GUARD_INSTALL));
	check(mlock(guarded_locked, 4 * PAGE) == 0 || errno == ENOMEM || errno == EFAULT || errno == EAGAIN);
}

static void verify_guards(void)
{
	if (!guarded)
		return;
	for (int i = 2; i < 5; i++)
		check(fault(guarded + i * PAGE, false) == SIGSEGV);
	verify_filled(guarded, 2 * PAGE);
	check(guarded[5 * PAGE] == byte_at(5 * PAGE));
	check(fault(guarded_locked + PAGE, false) == SIGSEGV);
	check_call(madvise(guarded + 2 * PAGE, 3 * PAGE, MADV_GUARD_REMOVE));
	check(fault(guarded + 3 * PAGE, true) == 0 && guarded[3 * PAGE] == 0);
	check_call(madvise(guarded + 2 * PAGE, 3 * PAGE, MADV_GUARD_INSTALL));
}

/* ---- large things ---- */

static void make_large(void)
{
	char *p = map(3 * HUGE, PROT_READ | PROT_WRITE, 0);

	huge = (char *)(((uintptr_t)p + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
	madvise(huge, HUGE, MADV_HUGEPAGE);
	fill(huge, HUGE);
	reserved = map(RESERVATION, PROT_NONE, MAP_NORESERVE);
	check_call(mprotect(reserved + (RESERVATION >> 1), PAGE, PROT_READ | PROT_WRITE));
	fill(reserved + (RESERVATION >> 1), PAGE);
	writable_reserve = map(1ul << 38, PROT_READ | PROT_WRITE, MAP_NORESERVE);
	fill(writable_reserve + (1ul << 37), PAGE);
}

static void verify_large(void)
{
	verify_filled(huge, HUGE);
	verify_filled(reserved + (RESERVATION >> 1), PAGE);
	check(fault(reserved, false) == SIGSEGV);
	check(fault(reserved + (RESERVATION >> 1) + PAGE, false) == SIGSEGV);
	verify_filled(writable_reserve + (1ul << 37), PAGE);
	check(writable_reserve[1ul << 36] == 0);
	check_call(madvise(writable_reserve + (1ul << 36), PAGE, MADV_DONTNEED));
}

/* ---- */

static char *bulk; /* so much that a dump begins to copy before it knows the flags of mappings */

static void make_bulk(void)
{
	bulk = map_apart(BULK, PROT_READ | PROT_WRITE, 0);
	for (size_t at = 0; at < BULK; at += PAGE)
		if (at / PAGE % 5)
			fill(bulk + at, PAGE);
		else
			bulk[at] = 0;
}

static void verify_bulk(void)
{
	for (size_t at = 0; bulk && at < BULK; at += PAGE)
		if (at / PAGE % 5)
			verify_filled(bulk + at, PAGE);
		else
			check(bulk[at] == 0);
}

void setup(const char *argument)
{
	if (argument && strcmp(argument, "bulk") == 0)
		make_bulk();
	make_holes();
	make_protected();
	make_code();
	patch();
	make_growing();
	make_advised();
	make_guards();
	make_large();
	use_stack(stack_depth);
	maps_make_heap();
	maps_remember();
}

void verify(void)
{
	maps_verify();
	verify_bulk();
	verify_holes();
	verify_protected();
	verify_code();
	verify_growing();
	verify_stack();
	verify_advised();
	verify_guards();
	verify_large();
	maps_remember();
}
