/* SPDX-License-Identifier: Apache-2.0 */

/*
 * busy MIB: so much memory in small pages, of which one thread writes to one page in a hundred, at random, in every 100 ms.
 * Another one does nothing but read the clock. The file `state` is mapped by this program, and holds, for who wants to know, two
 * numbers of 64 bits: the longest time between two of its looks, in ns (to be set to 0 for a new search), and how many pages
 * were written. When all is in place it makes the file `ready`.
 */

#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, SPAN_US = 100000, PORTIONS = 20, SHARE = 100 };

static struct state {
	_Atomic uint64_t gap, steps;
} *state;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Who shares its CPU has gaps that are not the dump's; nice values are those of threads. */
static void *watch(void *arg)
{
	uint64_t before = now_ns();

	if (setpriority(PRIO_PROCESS, 0, -20) < 0)
		warn("the gaps will be those of the scheduler as well");
	for (;;) {
		uint64_t now = now_ns();

		if (now - before > state->gap)
			state->gap = now - before;
		before = now;
	}
	return arg;
}

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

int main(int argc, char **argv)
{
	size_t pages = argc > 1 ? (size_t)atoi(argv[1]) << 8 : 0;
	int fd = open("state", O_RDWR | O_CREAT, 0600);
	uint64_t x = 88172645463325252;
	pthread_t thread;
	char *memory;

	if (!pages || fd < 0 || ftruncate(fd, PAGE) < 0)
		errx(2, "usage: busy MIB, in a folder that can be written to");
	state = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (state == MAP_FAILED || memory == MAP_FAILED)
		err(2, "mmap");
	close(fd);
	madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
	for (size_t at = 0; at < pages * PAGE; at += sizeof(x))
		memcpy(memory + at, &(uint64_t){ next_random(&x) }, sizeof(x));
	if (pthread_create(&thread, NULL, watch, NULL))
		errx(2, "no thread");
	close(open("ready", O_WRONLY | O_CREAT, 0600));
	for (;;) {
		for (size_t i = 0; i < pages / SHARE / PORTIONS; i++, state->steps++)
			memory[next_random(&x) % pages * PAGE]++;
		usleep(SPAN_US / PORTIONS);
	}
}
