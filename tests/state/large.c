/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Private memory of many megabytes: loaded by several threads, partly as huge
 * pages, of which nothing may be seen afterwards. A child shares some of it
 * since fork(2). Another thread has the next TID, which a loader must not take.
 */

#include "common.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, HUGE = 2 << 20, SIZE = 8 << 20, HOLE = 3 << 20, HOLE_SIZE = 37 * PAGE };

static struct {
	const char *what;
	int prot, advice; /* 0: none */
	char *at;
} blocks[] = {
	{ "plain", PROT_READ | PROT_WRITE, 0, NULL },
	{ "read-only", PROT_READ, 0, NULL },
	{ "hidden", PROT_NONE, 0, NULL },
	{ "executable", PROT_READ | PROT_EXEC, 0, NULL },
	{ "no huge pages", PROT_READ | PROT_WRITE, MADV_NOHUGEPAGE, NULL },
};

enum { BLOCKS = sizeof(blocks) / sizeof(blocks[0]) };

static char *shared, *changed;
static pthread_t sleeper;
static _Atomic pid_t sleeper_tid;

static bool in_hole(size_t at)
{
	return at >= HOLE && at < HOLE + HOLE_SIZE;
}

static uint64_t word_at(size_t block, size_t page)
{
	return (page + 1) * 0x9e3779b97f4a7c15 + block;
}

static void fill(char *p, size_t block, size_t size)
{
	for (size_t at = 0; at < size; at += PAGE) {
		if (in_hole(at))
			continue;
		*(uint64_t *)(p + at) = word_at(block, at / PAGE);
		*(uint64_t *)(p + at + PAGE - 8) = ~word_at(block, at / PAGE);
	}
}

static void verify_filled(const char *p, size_t block, size_t size)
{
	for (size_t at = 0; at < size; at += PAGE) {
		if (in_hole(at))
			continue;
		check(*(const uint64_t *)(p + at) == word_at(block, at / PAGE));
		check(*(const uint64_t *)(p + at + PAGE - 8) == ~word_at(block, at / PAGE));
		check(*(const uint64_t *)(p + at + 64) == 0);
	}
}

/* A few pages beside the border of a huge page, with nothing that could be merged around it. */
static char *map_aside(size_t size)
{
	char *p = mmap(NULL, size + 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	check(p != MAP_FAILED);
	p += -(uintptr_t)p % HUGE + 3 * PAGE;
	check(mmap(p, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
	return p;
}

static void *sleep_on(void *unused)
{
	sleeper_tid = gettid();
	for (;;)
		pause();
	return unused;
}

/* Every second page of a private mapping of a file is changed. */
static void make_changed(void)
{
	int fd = (int)check_call(open("large", O_RDWR | O_CREAT | O_EXCL, 0600));

	check_call(ftruncate(fd, HUGE));
	changed = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	check(changed != MAP_FAILED);
	close(fd);
	for (size_t page = 0; page < HUGE / PAGE; page += 2)
		changed[page * PAGE] = 'c';
}

void setup(const char *argument)
{
	(void)argument;
	for (size_t i = 0; i < BLOCKS; i++) {
		blocks[i].at = map_aside(SIZE);
		fill(blocks[i].at, i, SIZE);
		if (blocks[i].advice)
			check_call(madvise(blocks[i].at, SIZE, blocks[i].advice));
		check_call(mprotect(blocks[i].at, SIZE, blocks[i].prot));
	}
	make_changed();
	shared = map_aside(SIZE);
	fill(shared, BLOCKS, SIZE);
	second_task_start();
	check(pthread_create(&sleeper, NULL, sleep_on, NULL) == 0);
	while (!sleeper_tid)
		usleep(1000);
}

static void verify_hole(const char *p)
{
	unsigned char present[HOLE_SIZE / PAGE];

	check_call(mincore((void *)(p + HOLE), HOLE_SIZE, present));
	for (size_t i = 0; i < sizeof(present); i++)
		check(!(present[i] & 1));
}

static void verify_shared(void)
{
	verify_filled(shared, BLOCKS, SIZE);
}

void verify(void)
{
	for (size_t i = 0; i < BLOCKS; i++) {
		if (blocks[i].prot == PROT_NONE)
			check_call(mprotect(blocks[i].at, SIZE, PROT_READ));
		verify_filled(blocks[i].at, i, SIZE);
		verify_hole(blocks[i].at);
		if (blocks[i].prot == PROT_NONE)
			check_call(mprotect(blocks[i].at, SIZE, PROT_NONE));
	}
	for (size_t page = 0; page < HUGE / PAGE; page++)
		check(changed[page * PAGE] == (page % 2 ? 0 : 'c'));
	verify_shared();
	second_task_run(verify_shared);
	check(syscall(SYS_tgkill, getpid(), sleeper_tid, 0) == 0);
}
