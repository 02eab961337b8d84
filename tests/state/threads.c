/* SPDX-License-Identifier: Apache-2.0 */

/* What the kernel keeps per thread, in thirty of them. */

#include "common.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 30, SIGNAL = 45, PATIENCE_MS = 5000, ALT_SIZE = 65536, IOPRIO_SHIFT = 13, RESET_ON_FORK = 0x40000000 };

struct sched_attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
	uint32_t util_min, util_max;
};

struct member {
	pthread_t thread;
	pid_t tid;
	int number;
	_Atomic uint32_t asked, done;
	char wrong[256]; /* what the thread found */
	void *stack, *robust;
	size_t robust_size;
};

static struct member members[THREADS];
static int cpus, least_nice;

#define claim(m, condition)                                                                                   \
	do {                                                                                                  \
		if (!(condition) && !(m)->wrong[0])                                                           \
			snprintf((m)->wrong, sizeof((m)->wrong), "thread %d: %s (errno %d: %s)", (m)->number, \
				 #condition, errno, strerror(errno));                                         \
	} while (0)

/* ---- what a thread sets up for itself ---- */

static void queue_signals(struct member *m)
{
	for (int i = 0; i < 3; i++) {
		siginfo_t info = { .si_signo = SIGNAL, .si_code = SI_QUEUE };

		info.si_pid = 1000 + i;
		info.si_uid = 2000u + (unsigned)m->number;
		info.si_value.sival_int = m->number * 100 + i;
		claim(m, syscall(SYS_rt_tgsigqueueinfo, getpid(), m->tid, SIGNAL, &info) == 0);
	}
	claim(m, syscall(SYS_tgkill, getpid(), m->tid, SIGUSR2) == 0);
}

static void make_mask(const struct member *m, sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGNAL);
	sigaddset(set, SIGUSR1);
	sigaddset(set, SIGUSR2);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGRTMIN + m->number % 8);
	if (m->number % 6 == 5) { /* all that is ignored: torpor has no signal to stop the thread with, and asks in another way */
		sigaddset(set, SIGWINCH);
		sigaddset(set, SIGURG);
	}
}

static int policy_of(const struct member *m)
{
	return m->number % 3 == 1 ? SCHED_BATCH : m->number % 3 == 2 ? SCHED_IDLE : SCHED_OTHER;
}

/* Not below the program's own, which may have been started as a nice one. */
static int nice_of(const struct member *m)
{
	return least_nice + m->number % 7;
}

static void prepare(struct member *m)
{
	struct sched_attributes attr = { .size = sizeof(attr), .policy = (uint32_t)policy_of(m), .nice = nice_of(m) };
	char name[16];
	cpu_set_t cpu;
	sigset_t set;
	stack_t ss = { .ss_sp = m->stack, .ss_size = ALT_SIZE - 4096u * (unsigned)(m->number % 3) };

	m->tid = (pid_t)syscall(SYS_gettid);
	snprintf(name, sizeof(name), "member %d", m->number);
	claim(m, prctl(PR_SET_NAME, name) == 0);
	make_mask(m, &set);
	claim(m, pthread_sigmask(SIG_SETMASK, &set, NULL) == 0);
	if (m->number % 4)
		claim(m, sigaltstack(&ss, NULL) == 0);
	claim(m, prctl(PR_SET_TIMERSLACK, 60000 + m->number) == 0);
	if (m->number == 9)
		attr.flags = 1; /* SCHED_FLAG_RESET_ON_FORK */
	claim(m, setpriority(PRIO_PROCESS, 0, nice_of(m)) == 0); /* the call below does not, with SCHED_IDLE */
	claim(m, syscall(SYS_sched_setattr, 0, &attr, 0) == 0);
	if (m->number % 2) {
		CPU_ZERO(&cpu);
		CPU_SET(m->number / 2 % cpus, &cpu);
		claim(m, sched_setaffinity(0, sizeof(cpu), &cpu) == 0);
	}
	if (m->number % 5 == 1)
		claim(m, syscall(SYS_ioprio_set, 1, 0, 2 << IOPRIO_SHIFT | m->number % 8) == 0);
	if (m->number % 5 == 2)
		claim(m, syscall(SYS_ioprio_set, 1, 0, 3 << IOPRIO_SHIFT) == 0);
	claim(m, syscall(SYS_get_robust_list, 0, &m->robust, &m->robust_size) == 0);
	queue_signals(m);
}

/* ---- what it finds ---- */

static void verify_identity(struct member *m)
{
	char name[16], expected[16];

	claim(m, syscall(SYS_gettid) == m->tid);
	claim(m, pthread_equal(pthread_self(), m->thread));
	snprintf(expected, sizeof(expected), "member %d", m->number);
	claim(m, prctl(PR_GET_NAME, name) == 0 && strcmp(name, expected) == 0);
}

static void verify_scheduling(struct member *m)
{
	struct sched_attributes attr = { 0 };
	cpu_set_t cpu;

	claim(m, syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) == 0);
	claim(m, (int)attr.policy == policy_of(m));
	claim(m, attr.nice == nice_of(m));
	claim(m, (attr.flags & 1) == (m->number == 9));
	claim(m, prctl(PR_GET_TIMERSLACK) == 60000 + m->number);
	claim(m, sched_getaffinity(0, sizeof(cpu), &cpu) == 0);
	claim(m, CPU_COUNT(&cpu) == (m->number % 2 ? 1 : cpus));
	claim(m, m->number % 2 == 0 || CPU_ISSET(m->number / 2 % cpus, &cpu));
	claim(m, syscall(SYS_ioprio_get, 1, 0) == (m->number % 5 == 1   ? 2 << IOPRIO_SHIFT | m->number % 8
						   : m->number % 5 == 2 ? 3 << IOPRIO_SHIFT
									: 0));
}

static void verify_signals(struct member *m)
{
	const struct timespec now = { 0 };
	sigset_t set, expected;
	siginfo_t info;
	stack_t ss;

	make_mask(m, &expected);
	claim(m, pthread_sigmask(SIG_SETMASK, NULL, &set) == 0);
	for (int signo = 1; signo <= 64; signo++)
		claim(m, sigismember(&set, signo) == sigismember(&expected, signo));
	claim(m, sigaltstack(NULL, &ss) == 0);
	if (m->number % 4)
		claim(m, ss.ss_sp == m->stack && ss.ss_size == ALT_SIZE - 4096u * (unsigned)(m->number % 3) && !ss.ss_flags);
	else
		claim(m, ss.ss_flags == SS_DISABLE);
	sigemptyset(&set);
	sigaddset(&set, SIGNAL);
	for (int i = 0; i < 3; i++) {
		claim(m, sigtimedwait(&set, &info, &now) == SIGNAL);
		claim(m, info.si_code == SI_QUEUE && info.si_pid == 1000 + i);
		claim(m, info.si_uid == 2000u + (unsigned)m->number && info.si_value.sival_int == m->number * 100 + i);
	}
	claim(m, sigtimedwait(&set, &info, &now) == -1 && errno == EAGAIN);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	/* libc would make an SI_USER of it. */
	claim(m, syscall(SYS_rt_sigtimedwait, &set, &info, &now, 8) == SIGUSR2);
	claim(m, info.si_code == SI_TKILL && info.si_pid == getpid());
	queue_signals(m);
}

/* The kernel keeps the number of the CPU up to date in the area that was registered. */
static void verify_rseq(struct member *m)
{
	const struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	cpu_set_t before, one;

	if (!__rseq_size)
		return;
	claim(m, sched_getaffinity(0, sizeof(before), &before) == 0);
	for (int i = 0; i < cpus; i++) {
		CPU_ZERO(&one);
		CPU_SET(i, &one);
		claim(m, sched_setaffinity(0, sizeof(one), &one) == 0);
		claim(m, *(volatile uint32_t *)&area->cpu_id == (uint32_t)i);
		claim(m, sched_getcpu() == i);
	}
	claim(m, sched_setaffinity(0, sizeof(before), &before) == 0);
	claim(m, syscall(SYS_rseq, area, 32, 0, RSEQ_SIG) == -1 && errno == EBUSY); /* just so it is registered */
}

static void *member_main(void *arg)
{
	struct member *m = arg;
	void *robust;
	size_t size;

	prepare(m);
	for (;;) {
		m->done++;
		while (m->asked < m->done)
			syscall(SYS_futex, &m->asked, FUTEX_WAIT_PRIVATE, m->done - 1, NULL, NULL, 0);
		verify_identity(m);
		verify_scheduling(m);
		verify_signals(m);
		verify_rseq(m);
		claim(m, syscall(SYS_get_robust_list, 0, &robust, &size) == 0);
		claim(m, robust == m->robust && size == m->robust_size);
	}
	return NULL;
}

static void members_wait(uint32_t done)
{
	for (int i = 0; i < THREADS; i++) {
		for (int ms = 0; members[i].done < done; ms++) {
			check(ms < PATIENCE_MS);
			usleep(1000);
		}
		if (members[i].wrong[0])
			check_failed("threads.c", __LINE__, members[i].wrong, -1);
	}
}

/* ---- a thread that dies with a robust mutex, and one that is joined ---- */

static pthread_mutex_t robust;
static pthread_t holder;
static _Atomic uint32_t holder_holds, holder_may_end;

static void *holder_main(void *arg)
{
	pthread_mutex_lock(&robust);
	holder_holds = 1;
	while (!holder_may_end)
		usleep(500);
	return arg;
}

static void holder_start(void)
{
	holder_holds = holder_may_end = 0;
	check(pthread_create(&holder, NULL, holder_main, &holder_holds) == 0);
	while (!holder_holds)
		usleep(500);
}

static void holder_verify(void)
{
	struct timespec soon;
	void *result;

	check(pthread_mutex_trylock(&robust) == EBUSY);
	holder_may_end = 1;
	clock_gettime(CLOCK_REALTIME, &soon);
	soon.tv_sec += 5;
	check(pthread_mutex_timedlock(&robust, &soon) == EOWNERDEAD);
	check(pthread_mutex_consistent(&robust) == 0);
	check(pthread_mutex_unlock(&robust) == 0);
	check(pthread_timedjoin_np(holder, &result, &soon) == 0);
	check(result == &holder_holds);
	holder_start();
}

/* ---- a child that wants to know of its parent's end ---- */

static void child_prepare(void)
{
	check_call(prctl(PR_SET_PDEATHSIG, SIGUSR2));
}

static void child_verify(void)
{
	int signo = 0;

	check_call(prctl(PR_GET_PDEATHSIG, &signo));
	check(signo == SIGUSR2);
}

void setup(const char *argument)
{
	pthread_mutexattr_t attr;
	sigset_t set;

	(void)argument;
	cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
	least_nice = getpriority(PRIO_PROCESS, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGNAL);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	second_task_start();
	second_task_run(child_prepare);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attr);
	for (int i = 0; i < THREADS; i++) {
		members[i].number = i;
		members[i].stack = mmap(NULL, ALT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		check(members[i].stack != MAP_FAILED);
		check(pthread_create(&members[i].thread, NULL, member_main, &members[i]) == 0);
	}
	members_wait(1);
	holder_start();
}

void verify(void)
{
	for (int i = 0; i < THREADS; i++) {
		members[i].asked++;
		syscall(SYS_futex, &members[i].asked, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
	members_wait(members[0].asked + 1);
	holder_verify();
	second_task_run(child_verify);
}
