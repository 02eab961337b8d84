/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A program that holds what the benchmark wants to see saved, and nothing else:
 *
 *     hold [mib=N] [zero=PERCENT] [random] [huge|plain] [mappings=N] [threads=N] [tasks=N] [fds=N] [forks=N]
 *
 * mib       of touched anonymous memory, of which no page is quite like another; but all differ in few bytes, so they pack well
 * zero      so many pages in a hundred are touched, but zero; they lie scattered
 * random    every page is random in all its bytes, so nothing can be packed
 * huge      the memory has MADV_HUGEPAGE; otherwise MADV_NOHUGEPAGE
 * plain     nothing was said of huge pages, but it stands in small ones: what most programs have
 * mappings  the memory is cut into so many, every second one read-only
 * threads   besides the first, asleep
 * tasks     children, each a program of its own (this one with mib=0), asleep
 * fds       of pipes, eventfds and /dev/null in turn
 * forks     children that share the memory since fork(2), asleep
 *
 * When all is in place it makes the file `ready` in its working folder, then
 * touches one page in ten milliseconds.
 */

#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PAGE = 4096, HUGE_PAGE = 2 << 20, THREAD_STACK = 16 * 1024 };

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void fill_block(uint64_t *block, uint64_t *state)
{
	for (size_t i = 0; i < PAGE / sizeof(*block); i++)
		block[i] = next_random(state);
}

static void fill(char *memory, size_t size, unsigned zero, bool random)
{
	static uint64_t block[PAGE / sizeof(uint64_t)];
	uint64_t state = 88172645463325252;

	fill_block(block, &state);
	for (size_t at = 0; at < size; at += PAGE) {
		bool is_zero = next_random(&state) % 100 < zero;

		if (random)
			fill_block(block, &state);
		block[0] = at;
		if (is_zero)
			memset(memory + at, 0, PAGE);
		else
			memcpy(memory + at, block, PAGE);
	}
}

/* How the memory stands to huge pages. */
enum pages { PAGES_SMALL, PAGES_HUGE, PAGES_PLAIN };

static void choose_pages(char *memory, size_t size, enum pages pages)
{
	if (pages == PAGES_PLAIN)
		prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	else
		madvise(memory, size, pages == PAGES_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static char *hold_memory(size_t size, enum pages pages, unsigned zero, bool random, unsigned mappings)
{
	size_t each = mappings ? size / mappings / PAGE * PAGE : 0;
	char *room = mmap(NULL, size + 2 * HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *memory = (char *)(((uintptr_t)room + HUGE_PAGE) & -(uintptr_t)HUGE_PAGE);

	if (room == MAP_FAILED || mmap(memory, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
				      MAP_FAILED)
		err(1, "mmap");
	choose_pages(memory, size, pages);
	fill(memory, size, zero, random);
	prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
	for (unsigned i = 1; i < mappings; i += 2)
		if (mprotect(memory + i * each, each, PROT_READ) < 0)
			err(1, "mprotect");
	return memory;
}

static void *sleep_forever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void hold_threads(unsigned n)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	for (unsigned i = 0; i < n; i++)
		if (pthread_create(&thread, &attr, sleep_forever, NULL))
			errx(1, "pthread_create");
}

static void hold_tasks(char *self, unsigned n)
{
	char *argv[] = { self, "asleep", NULL };
	pid_t pid;

	for (unsigned i = 0; i < n; i++)
		if (posix_spawn(&pid, self, NULL, NULL, argv, environ))
			errx(1, "posix_spawn");
	if (n)
		usleep(200000 + n * 1000); /* until their loaders are done; more than enough */
}

static void hold_fds(unsigned n)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	for (unsigned have = 0; have < n;) {
		int ends[2];

		if (pipe(ends) < 0 || eventfd(1, 0) < 0 || open("/dev/null", O_RDWR) < 0)
			err(1, "fd %u", have);
		have += 4;
	}
}

static void hold_forks(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid < 0)
			err(1, "fork");
		if (pid == 0)
			sleep_forever(NULL);
	}
}

static bool option(const char *argument, const char *name, unsigned *ret)
{
	size_t n = strlen(name);

	if (strncmp(argument, name, n) || argument[n] != '=')
		return false;
	*ret = (unsigned)strtoul(argument + n + 1, NULL, 10);
	return true;
}

int main(int argc, char **argv)
{
	unsigned mib = 0, zero = 0, mappings = 0, threads = 0, tasks = 0, fds = 0, forks = 0;
	enum pages pages = PAGES_SMALL;
	char *memory = NULL;
	bool random = false;

	signal(SIGCHLD, SIG_DFL);
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "asleep"))
			sleep_forever(NULL);
		else if (!strcmp(argv[i], "huge"))
			pages = PAGES_HUGE;
		else if (!strcmp(argv[i], "plain"))
			pages = PAGES_PLAIN;
		else if (!strcmp(argv[i], "random"))
			random = true;
		else if (!option(argv[i], "mib", &mib) && !option(argv[i], "zero", &zero) &&
			 !option(argv[i], "mappings", &mappings) && !option(argv[i], "threads", &threads) &&
			 !option(argv[i], "tasks", &tasks) && !option(argv[i], "fds", &fds) && !option(argv[i], "forks", &forks))
			errx(2, "what is %s?", argv[i]);
	}
	hold_tasks(argv[0], tasks);
	if (mib)
		memory = hold_memory((size_t)mib << 20, pages, zero, random, mappings);
	hold_threads(threads);
	hold_fds(fds);
	hold_forks(forks);
	close(open("ready", O_WRONLY | O_CREAT, 0644));
	for (size_t i = 0;; i++) {
		if (memory)
			memory[mappings ? 0 : i * PAGE % ((size_t)mib << 20)] ^= 1;
		usleep(10000);
	}
}
