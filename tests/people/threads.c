/* SPDX-License-Identifier: Apache-2.0 */

/* Threads that stand in functions of known names, for a debugger: each waits for good. */

#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 64 };

static sem_t never;
static pthread_barrier_t standing;
static volatile double kept;
char *shared_memory, *private_memory;
int answer = 42;

static __attribute__((noinline)) void sleeps_at_a_semaphore(int depth)
{
	if (depth) {
		sleeps_at_a_semaphore(depth - 1);
	} else {
		pthread_barrier_wait(&standing);
		sem_wait(&never);
	}
	kept += depth;
}

static __attribute__((noinline)) void sleeps_in_pause(int depth)
{
	if (depth) {
		sleeps_in_pause(depth - 1);
	} else {
		pthread_barrier_wait(&standing);
		pause();
	}
	kept += depth;
}

static __attribute__((noinline)) void counts_for_ever(int depth)
{
	if (depth)
		counts_for_ever(depth - 1);
	pthread_barrier_wait(&standing);
	for (kept = 1.5; kept > 0; kept += 1)
		;
}

static void *thread(void *number)
{
	switch ((long)number) {
	case 1:
		sleeps_at_a_semaphore(3);
		break;
	case 2:
		sleeps_in_pause(2);
		break;
	default:
		counts_for_ever(0);
	}
	return NULL;
}

int main(void)
{
	pthread_t t;

	sem_init(&never, 0, 0);
	shared_memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	private_memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (shared_memory == MAP_FAILED || private_memory == MAP_FAILED)
		return 1;
	snprintf(shared_memory + 5 * PAGE, PAGE, "shared words");
	snprintf(private_memory + 7 * PAGE, PAGE, "private words");
	pthread_barrier_init(&standing, NULL, 4);
	for (long i = 1; i <= 3; i++)
		if (pthread_create(&t, NULL, thread, (void *)i) != 0)
			return 1;
	pthread_barrier_wait(&standing);
	puts("standing");
	fflush(stdout);
	sleeps_at_a_semaphore(0);
	return 0;
}
