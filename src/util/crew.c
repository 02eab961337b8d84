/* SPDX-License-Identifier: Apache-2.0 */
#include "util/crew.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __SANITIZE_THREAD__
enum { STACK_SIZE = 2 * 1024 * 1024 }; /* it has much to keep there */
#else
enum { STACK_SIZE = 256 * 1024 };
#endif
enum { CREW_MAX = 64, STACK_GUARD = 4096 };

struct crew_member {
	void (*work)(void *arg);
	void *arg;
	void *stack; /* of our own: libc keeps its stacks for later, and whoever is made meanwhile would inherit them */
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

/* On this stack of STACK_SIZE bytes; NULL: on one of libc's. 0 or -errno. */
static int crew_create(pthread_t *ret, void *stack, void *(*run)(void *arg), void *arg)
{
	pthread_attr_t attr;
	int r;

	pthread_attr_init(&attr);
	if (stack)
		pthread_attr_setstack(&attr, stack, STACK_SIZE);
	else
		pthread_attr_setstacksize(&attr, STACK_SIZE);
	r = pthread_create(ret, &attr, run, arg);
	pthread_attr_destroy(&attr);
	return -r;
}

static int crew_start(struct crew_member *m)
{
	int r;

	m->stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (m->stack == MAP_FAILED)
		return -errno;
	mprotect(m->stack, STACK_GUARD, PROT_NONE);
	r = crew_create(&m->thread, m->stack, crew_main, m);
	if (r < 0)
		munmap(m->stack, STACK_SIZE);
	return r;
}

int crew_thread(pthread_t *ret, void *(*run)(void *arg), void *arg)
{
	return crew_create(ret, NULL, run, arg);
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
	munmap(m->stack, STACK_SIZE);
}

static __attribute__((noinline)) void crew_run_together(unsigned threads, void (*work)(void *arg), void *arg)
{
	struct crew_member others[CREW_MAX];
	unsigned n = 0;

	while (n + 1 < threads && n < CREW_MAX) {
		others[n].work = work;
		others[n].arg = arg;
		if (crew_start(&others[n]) < 0)
			break;
		n++;
	}
	work(arg);
	while (n)
		crew_join(&others[--n]);
}

/* Alone, without the stack that the others are noted on. */
void crew_run(unsigned threads, void (*work)(void *arg), void *arg)
{
	if (threads > 1)
		crew_run_together(threads, work, arg);
	else
		work(arg);
}
