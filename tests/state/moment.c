/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory that changes all the time, in ways that only one moment can explain.
 *
 * A wave writes its version into one page of a block after the other, and looks
 * first whether the page has the version before: a page of another moment than the
 * registers of its thread, or than another page, shows when the wave comes by. Others
 * map, move, drop, protect and unmap, or fork, and know what they must find.
 */

#include "common.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, POOL = 512 * PAGE, BLOCK = 64 * PAGE };

static const char *volatile wrong; /* the first thing that was not as it must be */

static void expect(bool holds, const char *what)
{
	if (!holds && !wrong)
		wrong = what;
}

/* ---- waves ---- */

static struct wave {
	const char *what;
	size_t size;
	int flags, advice;
	unsigned pages_at_once, pause_us;
	volatile uint64_t *at;
	volatile unsigned long steps;
	pthread_t thread;
} waves[] = {
	{ .what = "a quick wave in private memory", .size = 4 << 20, .pages_at_once = 16, .pause_us = 500 },
	{ .what = "a slow wave in much private memory", .size = 32 << 20, .pages_at_once = 4, .pause_us = 1000 },
	{ .what = "a wave in huge pages", .size = 4 << 20, .advice = MADV_HUGEPAGE, .pages_at_once = 8, .pause_us = 1000 },
	{ .what = "a wave in memory that is not inherited", .size = 1 << 20, .advice = MADV_DONTFORK, .pages_at_once = 4,
	  .pause_us = 1000 },
	{ .what = "a wave in memory that is inherited empty", .size = 1 << 20, .advice = MADV_WIPEONFORK, .pages_at_once = 4,
	  .pause_us = 1000 },
	{ .what = "a wave in shared memory", .size = 2 << 20, .flags = MAP_SHARED, .pages_at_once = 8, .pause_us = 1000 },
	{ .what = "a wave in the private pages of a file", .size = 8 * PAGE, .flags = MAP_PRIVATE, .pages_at_once = 1,
	  .pause_us = 500 },
};

enum { WAVES = sizeof(waves) / sizeof(waves[0]) };

static void *wave_run(void *arg)
{
	struct wave *w = arg;

	for (uint64_t version = 1;; version++) {
		for (size_t i = 0; i < w->size / PAGE; i++) {
			volatile uint64_t *page = w->at + i * WORDS;

			expect(page[0] == version - 1 && page[WORDS - 1] == version - 1, w->what);
			page[0] = version;
			page[WORDS - 1] = version;
			w->steps++;
			if (i % w->pages_at_once == 0)
				usleep(w->pause_us);
		}
	}
	return NULL;
}

static void wave_start(struct wave *w)
{
	int fd = w->flags == MAP_PRIVATE ? (int)check_call(open("own", O_RDWR | O_CREAT, 0600)) : -1;

	if (fd >= 0)
		check_call(ftruncate(fd, (off_t)w->size));
	w->at = mmap(NULL, w->size, PROT_READ | PROT_WRITE,
		     fd >= 0 ? MAP_PRIVATE : MAP_ANONYMOUS | (w->flags ?: MAP_PRIVATE), fd, 0);
	check(w->at != MAP_FAILED);
	if (fd >= 0)
		close(fd);
	if (w->advice)
		madvise((void *)w->at, w->size, w->advice);
	if (w->advice != MADV_HUGEPAGE) /* the zeros are of the program's making, not the kernel's */
		for (size_t i = 0; i < w->size / PAGE; i++)
			w->at[i * WORDS + 7] = i + 1;
	check(pthread_create(&w->thread, NULL, wave_run, w) == 0);
}

/* ---- mappings that come, move and go ---- */

static char *pool;
static volatile unsigned long churns;

static void put(char *p, size_t size, uint64_t seed)
{
	for (size_t i = 0; i < size; i += PAGE)
		*(volatile uint64_t *)(p + i) = seed + i;
}

static bool holds(const char *p, size_t size, uint64_t seed)
{
	for (size_t i = 0; i < size; i += PAGE)
		if (*(const volatile uint64_t *)(p + i) != (seed ? seed + i : 0))
			return false;
	return true;
}

static char *churn_map(size_t at)
{
	return mmap(pool + at, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

/* One life of a block. Addresses of the pool are used again and again, so that old copies lie in wait. */
static void churn(uint64_t seed)
{
	size_t from = seed % 3 * BLOCK, to = (4 + seed % 2) * BLOCK;
	char *p = churn_map(from);

	expect(p != MAP_FAILED && holds(p, BLOCK, 0), "a new mapping");
	put(p, BLOCK, seed);
	usleep(700);
	expect(holds(p, BLOCK, seed), "what was written to a new mapping");
	p = mremap(p, BLOCK, BLOCK, MREMAP_MAYMOVE | MREMAP_FIXED, pool + to);
	expect(p == pool + to && holds(p, BLOCK, seed), "a mapping that was moved");
	expect(churn_map(from) == pool + from, "a mapping in its old place");
	expect(holds(pool + from, BLOCK, 0), "what is where it was");
	put(pool + from, BLOCK, seed * 7 + 1);
	usleep(700);
	madvise(p, BLOCK / 2, MADV_DONTNEED);
	expect(holds(p, BLOCK / 2, 0), "what was dropped");
	put(p, BLOCK / 4, seed + 5);
	mprotect(p, BLOCK, PROT_READ);
	usleep(700);
	expect(holds(p, BLOCK / 4, seed + 5) && holds(p + BLOCK / 4, BLOCK / 4, 0), "what was dropped and written again");
	expect(holds(p + BLOCK / 2, BLOCK / 2, seed + BLOCK / 2), "what was protected");
	expect(holds(pool + from, BLOCK, seed * 7 + 1), "the second mapping in the old place");
	munmap(p, BLOCK);
	munmap(pool + from, BLOCK);
	churns++;
}

static void *churn_run(void *arg)
{
	for (uint64_t seed = 1;; seed++)
		churn(seed);
	return arg;
}

/* ---- children ---- */

static volatile unsigned long forks;

static int child_run(volatile uint64_t *own, uint64_t seed)
{
	for (int i = 0; i < 6; i++) {
		for (size_t k = 0; k < 32; k++)
			if (own[k * WORDS] != seed + (uint64_t)i)
				return 1;
		for (size_t k = 0; k < 32; k++)
			own[k * WORDS]++;
		usleep(1500);
	}
	return 0;
}

/* Nobody else's child is ever to be seen. */
static void *fork_run(void *arg)
{
	volatile uint64_t *own = mmap(NULL, 32 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (uint64_t seed = 1;; seed++) {
		int status;
		pid_t pid;

		for (size_t k = 0; k < 32; k++)
			own[k * WORDS] = seed;
		pid = fork();
		if (pid == 0)
			_exit(child_run(own, seed));
		expect(pid > 0, "fork");
		expect(waitpid(-1, &status, 0) == pid, "the child that was waited for");
		expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the memory of a child");
		expect(waitpid(-1, &status, 0) < 0, "there was only one child");
		for (size_t k = 0; k < 32; k++)
			expect(own[k * WORDS] == seed, "memory that a child had, too");
		forks++;
	}
	return arg;
}

/* ---- the test ---- */

static size_t part; /* of each block that is waited for: one of so many */

void setup(const char *argument)
{
	pthread_t thread;

	part = argument && strcmp(argument, "quick") == 0 ? 8 : 1;
	pool = mmap(NULL, POOL, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check(pool != MAP_FAILED);
	for (size_t i = 0; i < WAVES; i++)
		wave_start(&waves[i]);
	check(pthread_create(&thread, NULL, churn_run, NULL) == 0);
	check(pthread_create(&thread, NULL, fork_run, NULL) == 0);
}

/* Everything gets further, every wave through the whole of its block unless that is large or it is asked for a part. */
void verify(void)
{
	unsigned long before[WAVES + 2];

	for (size_t i = 0; i < WAVES; i++)
		before[i] = waves[i].steps;
	before[WAVES] = churns;
	before[WAVES + 1] = forks;
	for (int i = 0; i < 10000 && !wrong; i++) {
		bool done = churns > before[WAVES] + 8 / part && forks > before[WAVES + 1] + 1;

		for (size_t k = 0; k < WAVES; k++)
			done &= waves[k].steps > before[k] + waves[k].size / PAGE / part / (waves[k].size > 8 << 20 ? 8 : 1);
		if (done)
			break;
		usleep(1000);
		check(i + 1 < 10000);
	}
	for (size_t i = 0; i < WAVES; i++) /* what no wave has come by yet */
		for (size_t k = 0; waves[i].advice != MADV_HUGEPAGE && k < waves[i].size / PAGE; k++)
			check(waves[i].at[k * WORDS + 7] == k + 1);
	if (wrong)
		check_failed(__FILE__, __LINE__, wrong, -1);
}
