/* SPDX-License-Identifier: Apache-2.0 */
#include "util/crew.h"

#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CREW_MAX = 64, STACK_SIZE = 256 * 1024 };

struct crew_member {
	void (*work)(void *arg);
	void *arg;
	pthread_t thread;
	_Atomic pid_t tid;
};

static void *crew_main(void *arg)
{
	struct crew_member *m = arg;

	atomic_store(&m->tid, gettid());
	m->work(m->arg);
	return NULL;
}

int crew_thread(pthread_t *ret, void *(*run)(void *arg), void *arg)
{
	pthread_attr_t attr;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	r = pthread_create(ret, &attr, run, arg);
	pthread_attr_destroy(&attr);
	return -r;
}

/*
 * pthread_join(3) returns a moment before the kernel, and a tracer, have let go of
 * the thread; unshare() and setns() for a user namespace would refuse a caller
 * who still counts as two threads.
 */
static void crew_join(struct crew_member *m)
{
	pthread_join(m->thread, NULL);
	while (syscall(SYS_tgkill, getpid(), atomic_load(&m->tid), 0) == 0)
		sched_yield();
}

void crew_run(unsigned threads, void (*work)(void *arg), void *arg)
{
	struct crew_member others[CREW_MAX];
	unsigned n = 0;

	while (n + 1 < threads && n < CREW_MAX) {
		others[n].work = work;
		others[n].arg = arg;
		if (crew_thread(&others[n].thread, crew_main, &others[n]) < 0)
			break;
		n++;
	}
	work(arg);
	while (n)
		crew_join(&others[--n]);
}
