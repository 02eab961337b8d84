/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory that is written, dropped, replaced, moved, shared and swapped between two dumps, in all the ways that could let a page pass
 * for unchanged. What each block holds follows from the number of the round alone. Whenever it is asked to verify itself, the program
 * compares all of it, and goes through the next round: so an image holds one round as a whole, or that shows after its restore.
 *
 * Argument: "large": besides, 96 MiB that nobody touches. "tree": a second process does the same at the same addresses, and from one
 * round to the next there is a third one, which only has what it was born with.
 */

#include "common.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13 */
#define MADV_GUARD_REMOVE 103
#endif

enum { PAGE = 4096, WORDS = PAGE / 8, PAGES = 64, BLOCK = PAGES * PAGE, SPACE = 4 * BLOCK, HUGE = 2 << 20, BALLAST = 96 << 20 };

static uint64_t round_number;
static char *pool, *ballast, *huge, *heap;
static bool guards;
static pid_t third; /* 0: there is none */

/* What page `page` of block `block` holds when it was written in round `version`; never zero. */
static uint64_t value(unsigned block, unsigned page, uint64_t version)
{
	return (version + 1) * 0x9e3779b97f4a7c15u + block * 1000003u + page + 1;
}

static void page_put(char *at, uint64_t v)
{
	((volatile uint64_t *)at)[3] = v;
	((volatile uint64_t *)at)[WORDS - 1] = v;
}

static bool page_has(const char *at, uint64_t v)
{
	return ((const volatile uint64_t *)at)[3] == v && ((const volatile uint64_t *)at)[WORDS - 1] == v;
}

static char *block_at(unsigned block)
{
	return pool + (size_t)block * SPACE;
}

static void block_map(unsigned block)
{
	check(mmap(block_at(block), BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == block_at(block));
}

/* [from, to) of the pages of a block, as of this round. */
static void block_put(unsigned block, unsigned from, unsigned to, uint64_t version)
{
	for (unsigned i = from; i < to; i++)
		page_put(block_at(block) + (size_t)i * PAGE, value(block, i, version));
}

static void expect(unsigned block, unsigned from, unsigned to, bool zero, uint64_t version)
{
	for (unsigned i = from; i < to; i++) {
		if (page_has(block_at(block) + (size_t)i * PAGE, zero ? 0 : value(block, i, version)))
			continue;
		static char what[100];

		snprintf(what, sizeof(what), "round %lu: block %u, page %u", round_number, block, i);
		check_failed(__FILE__, __LINE__, what, -1);
	}
}

/* ---- the blocks: each has what it does in a round, and what must be there after that of round `r` ---- */

/* 0: untouched since the beginning. */
static void nothing_step(unsigned b, uint64_t r)
{
	if (r == 0)
		block_put(b, 0, PAGES, 0);
}

static void nothing_check(unsigned b, uint64_t r)
{
	(void)r;
	expect(b, 0, PAGES, false, 0);
}

/* Some pages are written, by the program, by the kernel, and by another way into its memory. */
static void write_step(unsigned b, uint64_t r)
{
	uint64_t page[WORDS] = { 0 };
	int ends[2];

	if (r == 0)
		block_put(b, 0, PAGES, 0);
	block_put(b, 5, 9, r);
	check_call(pipe(ends));
	for (unsigned i = 20; i < 24; i++) {
		page_put((char *)page, value(b, i, r));
		check(write(ends[1], page, PAGE) == PAGE && read(ends[0], block_at(b) + (size_t)i * PAGE, PAGE) == PAGE);
	}
	close(ends[0]);
	close(ends[1]);
	for (unsigned i = 30; i < 33; i++) {
		struct iovec from = { page, PAGE }, to = { block_at(b) + (size_t)i * PAGE, PAGE };

		page_put((char *)page, value(b, i, r));
		check(process_vm_writev(getpid(), &from, 1, &to, 1, 0) == PAGE);
	}
}

static void write_check(unsigned b, uint64_t r)
{
	expect(b, 0, 5, false, 0);
	expect(b, 5, 9, false, r);
	expect(b, 9, 20, false, 0);
	expect(b, 20, 24, false, r);
	expect(b, 30, 33, false, r);
	expect(b, 33, PAGES, false, 0);
}

/* Dropped, and partly written again; partly only read, which maps the zero page. */
static void drop_step(unsigned b, uint64_t r)
{
	if (r == 0)
		block_put(b, 0, PAGES, 0);
	block_put(b, 0, 48, r);
	check_call(madvise(block_at(b), 32 * PAGE, r % 2 ? MADV_DONTNEED : MADV_DONTNEED_LOCKED));
	block_put(b, 0, 8, r);
	expect(b, 8, 16, true, 0);
}

static void drop_check(unsigned b, uint64_t r)
{
	expect(b, 0, 8, false, r);
	expect(b, 8, 32, true, 0);
	expect(b, 32, 48, false, r);
	expect(b, 48, PAGES, false, 0);
}

/* Alternately filled and dropped. */
static void come_step(unsigned b, uint64_t r)
{
	if (r % 2)
		check_call(madvise(block_at(b), BLOCK, MADV_DONTNEED));
	else
		block_put(b, 0, PAGES, r);
}

static void come_check(unsigned b, uint64_t r)
{
	expect(b, 0, PAGES, r % 2, r);
}

/* Another mapping in the same place. */
static void replace_step(unsigned b, uint64_t r)
{
	check_call(munmap(block_at(b), BLOCK));
	block_map(b);
	block_put(b, r % 2 ? 0 : 32, r % 2 ? 40 : PAGES, r);
}

static void replace_check(unsigned b, uint64_t r)
{
	expect(b, r % 2 ? 40 : 0, r % 2 ? PAGES : 32, true, 0);
	expect(b, r % 2 ? 0 : 32, r % 2 ? 40 : PAGES, false, r);
}

/* Three mappings change places, and are not written to: their old content stands at other addresses. */
static char *swap_at(unsigned b, unsigned i)
{
	return block_at(b) + (size_t)i * BLOCK;
}

static void swap_step(unsigned b, uint64_t r)
{
	if (r == 0) {
		for (unsigned i = 0; i < 3; i++) {
			check(mmap(swap_at(b, i), BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
			      MAP_FAILED);
			for (unsigned k = 0; k < PAGES; k++)
				page_put(swap_at(b, i) + (size_t)k * PAGE, value(b + 100 * i, k, 0));
		}
		return;
	}
	for (unsigned i = 3; i > 0; i--)
		check(mremap(swap_at(b, i - 1), BLOCK, BLOCK, MREMAP_MAYMOVE | MREMAP_FIXED, swap_at(b, i)) == swap_at(b, i));
	check(mremap(swap_at(b, 3), BLOCK, BLOCK, MREMAP_MAYMOVE | MREMAP_FIXED, swap_at(b, 0)) == swap_at(b, 0));
}

static void swap_check(unsigned b, uint64_t r)
{
	for (unsigned i = 0; i < 3; i++) {
		unsigned from = (unsigned)((i + 3 * r - r) % 3);

		for (unsigned k = 0; k < PAGES; k++)
			check(page_has(swap_at(b, i) + (size_t)k * PAGE, value(b + 100 * from, k, 0)));
	}
}

/* It grows in its place, its head is cut off, and it begins anew. */
static void grow_step(unsigned b, uint64_t r)
{
	char *at = block_at(b);

	switch (r % 4) {
	case 0:
		munmap(at, 2 * BLOCK);
		block_map(b);
		block_put(b, 0, PAGES, r);
		break;
	case 1:
		check(mremap(at, BLOCK, 2 * BLOCK, 0) == at);
		block_put(b, PAGES, 2 * PAGES, r);
		break;
	case 2:
		check_call(munmap(at, BLOCK + 8 * PAGE));
		block_put(b, PAGES + 10, PAGES + 12, r);
		break;
	case 3:
		check_call(munmap(at + BLOCK + 16 * PAGE, BLOCK - 16 * PAGE));
		break;
	}
}

static void grow_check(unsigned b, uint64_t r)
{
	uint64_t turn = r - r % 4;

	if (r % 4 < 2)
		expect(b, 0, PAGES, false, turn);
	if (r % 4 == 1)
		expect(b, PAGES, 2 * PAGES, false, turn + 1);
	if (r % 4 >= 2) {
		expect(b, PAGES + 8, PAGES + 10, false, turn + 1);
		expect(b, PAGES + 10, PAGES + 12, false, turn + 2);
		expect(b, PAGES + 12, PAGES + 16, false, turn + 1);
	}
	if (r % 4 == 2)
		expect(b, PAGES + 16, 2 * PAGES, false, turn + 1);
}

/* Both sides write after a fork; and the child of another one, which has no page of its own, reads. */
static void fork_step(unsigned b, uint64_t r)
{
	int status;
	pid_t pid;

	if (r == 0)
		block_put(b, 0, PAGES, 0);
	pid = (pid_t)check_call(fork());
	if (pid == 0) {
		block_put(b, 0, PAGES, r + 12345);
		_exit(0);
	}
	block_put(b, 3, 7, r);
	check(waitpid(pid, &status, 0) == pid && status == 0);
	block_put(b, 7, 10, r);
}

static void fork_check(unsigned b, uint64_t r)
{
	expect(b, 0, 3, false, 0);
	expect(b, 3, 10, false, r);
	expect(b, 10, PAGES, false, 0);
}

/* Written through a change of protection. */
static void protect_step(unsigned b, uint64_t r)
{
	check_call(mprotect(block_at(b), BLOCK, PROT_READ | PROT_WRITE));
	block_put(b, 0, r ? 4 : PAGES, r);
	check_call(mprotect(block_at(b) + 2 * PAGE, BLOCK - 10 * PAGE, r % 2 ? PROT_READ : PROT_NONE));
	check_call(mprotect(block_at(b), BLOCK, PROT_READ));
}

static void protect_check(unsigned b, uint64_t r)
{
	expect(b, 0, 4, false, r);
	expect(b, 4, PAGES, false, 0);
}

/* Overwritten with zeros, and again with something. */
static void zero_step(unsigned b, uint64_t r)
{
	if (r == 0)
		block_put(b, 0, PAGES, 0);
	memset(block_at(b), r % 2 ? 0 : 1, 16 * PAGE);
	block_put(b, r % 2 ? 8 : 0, 16, r);
}

static void zero_check(unsigned b, uint64_t r)
{
	if (r % 2)
		expect(b, 0, 8, true, 0);
	expect(b, r % 2 ? 8 : 0, 16, false, r);
	expect(b, 16, PAGES, false, 0);
}

/* Swapped out, if there is somewhere; one of the pages is written. */
static void swapped_step(unsigned b, uint64_t r)
{
	if (r == 0)
		block_put(b, 0, PAGES, 0);
	madvise(block_at(b), BLOCK, MADV_PAGEOUT);
	block_put(b, 40, 42, r);
	if (r % 2)
		madvise(block_at(b), BLOCK, MADV_PAGEOUT);
}

static void swapped_check(unsigned b, uint64_t r)
{
	expect(b, 0, 40, false, 0);
	expect(b, 40, 42, false, r);
	expect(b, 42, PAGES, false, 0);
}

/* A guard comes and goes, and takes what was there along. */
static void guard_step(unsigned b, uint64_t r)
{
	if (r == 0)
		block_put(b, 0, PAGES, 0);
	if (guards && r % 3 == 1)
		guards = madvise(block_at(b) + 8 * PAGE, 8 * PAGE, MADV_GUARD_INSTALL) == 0;
	if (guards && r % 3 == 2)
		check_call(madvise(block_at(b) + 8 * PAGE, 8 * PAGE, MADV_GUARD_REMOVE));
	if (r % 3 == 0)
		block_put(b, 8, 16, r);
}

static void guard_check(unsigned b, uint64_t r)
{
	expect(b, 0, 8, false, 0);
	expect(b, 16, PAGES, false, 0);
	if (guards && r % 3 == 2)
		expect(b, 8, 16, true, 0);
	if (r % 3 == 0)
		expect(b, 8, 16, false, r);
}

/* A mapping is put over the middle of another one, which is written to around it. */
static void middle_step(unsigned b, uint64_t r)
{
	if (r == 0)
		block_put(b, 0, PAGES, 0);
	check(mmap(block_at(b) + 16 * PAGE, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
	      MAP_FAILED);
	block_put(b, 15, 20, r);
}

static void middle_check(unsigned b, uint64_t r)
{
	expect(b, 0, 15, false, 0);
	expect(b, 15, 20, false, r);
	expect(b, 20, 32, true, 0);
	expect(b, 32, PAGES, false, 0);
}

/* Nothing but a flag of its mapping changes. */
static void advise_step(unsigned b, uint64_t r)
{
	if (r == 0)
		block_put(b, 0, PAGES, 0);
	check_call(madvise(block_at(b), BLOCK, r % 2 ? MADV_DONTDUMP : MADV_DODUMP));
	check_call(madvise(block_at(b), BLOCK, r % 3 ? MADV_DONTFORK : MADV_DOFORK));
}

static void advise_check(unsigned b, uint64_t r)
{
	FILE *smaps = fopen("/proc/self/smaps", "r");
	char line[1000], wanted[40];
	bool inside = false, found = false;

	check(smaps);
	snprintf(wanted, sizeof(wanted), "%lx-", (unsigned long)block_at(b));
	while (!found && fgets(line, sizeof(line), smaps)) {
		inside |= strncmp(line, wanted, strlen(wanted)) == 0;
		found = inside && strncmp(line, "VmFlags:", 8) == 0;
	}
	fclose(smaps);
	check(found && !strstr(line, " dd") == !(r % 2) && !strstr(line, " dc") == !(r % 3));
	expect(b, 0, PAGES, false, 0);
}

static const struct {
	void (*step)(unsigned block, uint64_t r), (*look)(unsigned block, uint64_t r);
} blocks[] = {
	{ nothing_step, nothing_check }, { write_step, write_check },     { drop_step, drop_check },
	{ come_step, come_check },       { replace_step, replace_check }, { swap_step, swap_check },
	{ grow_step, grow_check },       { fork_step, fork_check },       { protect_step, protect_check },
	{ zero_step, zero_check },       { swapped_step, swapped_check }, { guard_step, guard_check },
	{ middle_step, middle_check },   { advise_step, advise_check },
};

enum { BLOCKS = sizeof(blocks) / sizeof(blocks[0]) };

/* ---- huge pages, and the heap ---- */

static void huge_step(uint64_t r)
{
	for (unsigned i = 0; i < HUGE / PAGE; i += r ? 100 : 1)
		page_put(huge + (size_t)i * PAGE, value(50, i, r));
	if (r % 3 == 2)
		madvise(huge, HUGE, 25 /* MADV_COLLAPSE */);
}

static void huge_check(uint64_t r)
{
	for (unsigned i = 0; i < HUGE / PAGE; i++)
		check(page_has(huge + (size_t)i * PAGE, value(50, i, i % 100 ? 0 : r)));
}

/* It grows by a block in three rounds and gives them back in the fourth. */
static void heap_step(uint64_t r)
{
	if (r % 4 == 3) {
		check(brk(heap) == 0);
		return;
	}
	char *at = sbrk(BLOCK);

	check(at == heap + r % 4 * BLOCK);
	for (unsigned i = 0; i < PAGES; i++)
		page_put(at + (size_t)i * PAGE, value(60, i, r));
}

static void heap_check(uint64_t r)
{
	check(sbrk(0) == heap + (r % 4 == 3 ? 0 : (r % 4 + 1) * BLOCK));
	for (uint64_t k = r - r % 4; r % 4 != 3 && k <= r; k++)
		for (unsigned i = 0; i < PAGES; i++)
			check(page_has(heap + k % 4 * BLOCK + (size_t)i * PAGE, value(60, i, k)));
}

/* ---- the test ---- */

static void step(uint64_t r)
{
	for (unsigned b = 0; b < BLOCKS; b++)
		blocks[b].step(b, r);
	huge_step(r);
	heap_step(r);
}

/* Blocks whose pages need no right. */
static void third_verify(int signo)
{
	bool good = true;

	for (unsigned i = 0; i < PAGES; i++)
		good &= page_has(block_at(0) + (size_t)i * PAGE, value(0, i, 0));
	for (unsigned i = 5; i < 9; i++)
		good &= page_has(block_at(1) + (size_t)i * PAGE, value(1, i, round_number));
	_exit(good ? 0 : signo);
}

static void third_begin(void);

void setup(const char *argument)
{
	guards = true;
	pool = mmap(NULL, BLOCKS * SPACE + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check(pool != MAP_FAILED);
	pool = (char *)(((uintptr_t)pool + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
	for (unsigned b = 0; b < BLOCKS; b++)
		block_map(b);
	huge = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(huge != MAP_FAILED);
	huge = (char *)(((uintptr_t)huge + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
	madvise(huge, HUGE, MADV_HUGEPAGE);
	void *volatile library = malloc(4 * PAGE); /* so that the C library has its heap, and need not grow it */

	free(library);
	heap = sbrk(0);
	heap += -(uintptr_t)heap % PAGE;
	check(brk(heap) == 0);
	if (argument && strcmp(argument, "large") == 0) {
		ballast = mmap(NULL, BALLAST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		check(ballast != MAP_FAILED);
		for (unsigned i = 0; i < BALLAST / PAGE; i++)
			page_put(ballast + (size_t)i * PAGE, value(70, i, 0));
	}
	step(0);
	if (argument && strcmp(argument, "tree") == 0) {
		second_task_start();
		third_begin();
	}
}

static void verify_and_go_on(void)
{
	for (unsigned b = 0; b < BLOCKS; b++)
		blocks[b].look(b, round_number);
	huge_check(round_number);
	heap_check(round_number);
	for (unsigned i = 0; ballast && i < BALLAST / PAGE; i++)
		check(page_has(ballast + (size_t)i * PAGE, value(70, i, 0)));
	step(++round_number);
}

/* It has what its parent had in this round. */
static void third_begin(void)
{
	third = (pid_t)check_call(fork());
	if (third)
		return;
	signal(SIGTERM, third_verify);
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (;;)
		pause();
}

static void third_end(void)
{
	int status;

	check_call(kill(third, SIGTERM));
	check(waitpid(third, &status, 0) == third && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void verify(void)
{
	if (!third) {
		verify_and_go_on();
		return;
	}
	third_end();
	second_task_run(verify_and_go_on);
	verify_and_go_on();
	third_begin();
}
