/* SPDX-License-Identifier: Apache-2.0 */

/* Signal actions, pending signals, and handlers that run while the program is saved. */

#include "common.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SIGNALS = 64, QUEUED = 5, ALT_SIZE = 65536, CUSTOM_CODE = -77, PATIENCE_MS = 5000 };
enum { REAL_TIME = 50, CUSTOM = 51, RESET = 52, INSIDE = 53, AUTODISARM = 54 };

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

/* ---- actions ---- */

struct kernel_sigaction {
	uint64_t handler, flags, restorer, mask;
};

static struct kernel_sigaction actions[SIGNALS + 1];

static void read_action(int signo, struct kernel_sigaction *ret)
{
	memset(ret, 0, sizeof(*ret));
	check_call(syscall(SYS_rt_sigaction, signo, NULL, ret, 8));
}

static void handler(int signo)
{
	(void)signo;
}

static void set_action(int signo, void (*function)(int), int flags, uint64_t mask)
{
	struct sigaction sa = { .sa_handler = function, .sa_flags = flags };

	for (int i = 0; i < SIGNALS; i++)
		if (mask >> i & 1)
			sigaddset(&sa.sa_mask, i + 1);
	check_call(sigaction(signo, &sa, NULL));
}

static void set_actions(void)
{
	set_action(SIGHUP, SIG_IGN, 0, 0);
	set_action(SIGPIPE, SIG_IGN, SA_RESTART, 0x30);
	set_action(SIGWINCH, handler, 0, 0);
	set_action(SIGALRM, handler, SA_SIGINFO | SA_ONSTACK | SA_RESTART, 0x5555555555555555);
	set_action(SIGVTALRM, handler, SA_NODEFER, 0);
	set_action(SIGCHLD, SIG_DFL, SA_NOCLDWAIT | SA_NOCLDSTOP, 0);
	set_action(SIGTSTP, handler, SA_NODEFER | SA_ONSTACK, ~0ull);
	set_action(RESET, handler, (int)SA_RESETHAND, 0);
	for (int signo = 55; signo <= SIGNALS; signo++)
		set_action(signo, handler, signo % 2 ? SA_SIGINFO : SA_RESTART, 1ull << (signo - 40));
	for (int signo = 1; signo <= SIGNALS; signo++)
		read_action(signo, &actions[signo]);
}

static void verify_actions(void)
{
	for (int signo = 1; signo <= SIGNALS; signo++) {
		struct kernel_sigaction now;

		read_action(signo, &now);
		if (memcmp(&now, &actions[signo], sizeof(now)) != 0) {
			char text[128];

			snprintf(text, sizeof(text), "the action of signal %d is %lx flags %lx mask %lx", signo, now.handler,
				 now.flags, now.mask);
			check_failed("signals.c", __LINE__, text, -1);
		}
	}
}

/* ---- pending signals of the process ---- */

static const int blocked[] = { SIGUSR2, SIGINT, SIGIO, SIGTSTP, REAL_TIME, CUSTOM };

static void from_second(void)
{
	check_call(kill(getppid(), SIGINT));
}

/* With no room left in the user's queue the kernel keeps only the number of an ordinary signal. */
static void queue_number_only(void)
{
	struct rlimit before, none;

	check_call(getrlimit(RLIMIT_SIGPENDING, &before));
	none = (struct rlimit){ 0, before.rlim_max };
	check_call(setrlimit(RLIMIT_SIGPENDING, &none));
	check_call(sigqueue(getpid(), SIGIO, (union sigval){ .sival_int = 1 }));
	check_call(setrlimit(RLIMIT_SIGPENDING, &before));
}

static void queue(void)
{
	siginfo_t info = { .si_signo = CUSTOM, .si_code = CUSTOM_CODE };

	check_call(kill(getpid(), SIGUSR2));
	second_task_run(from_second);
	queue_number_only();
	for (int i = 0; i < QUEUED; i++)
		check_call(sigqueue(getpid(), REAL_TIME, (union sigval){ .sival_ptr = (char *)queue + i }));
	info.si_pid = 4711;
	info.si_value.sival_ptr = (void *)0x123456789abcdef;
	check_call(syscall(SYS_rt_sigqueueinfo, getpid(), CUSTOM, &info));
	info.si_code = SI_MESGQ;
	check_call(syscall(SYS_rt_sigqueueinfo, getpid(), CUSTOM, &info));
	check_call(kill(getpid(), SIGTSTP));
}

static void take(int signo, siginfo_t *ret)
{
	const struct timespec now = { 0 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, signo);
	memset(ret, 0, sizeof(*ret));
	check(sigtimedwait(&set, ret, &now) == signo);
	check(ret->si_signo == signo);
}

static void verify_empty(int signo)
{
	const struct timespec now = { 0 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, signo);
	check(sigtimedwait(&set, NULL, &now) == -1 && errno == EAGAIN);
}

static void verify_pending(bool compared)
{
	siginfo_t info;

	take(SIGUSR2, &info);
	check(info.si_code == SI_USER && info.si_pid == getpid() && info.si_uid == getuid());
	take(SIGINT, &info);
	check(info.si_code == SI_USER && info.si_pid == second_task_pid());
	take(SIGIO, &info);
	check(info.si_code == SI_USER && !info.si_pid);
	for (int i = 0; i < QUEUED; i++) {
		take(REAL_TIME, &info);
		check(info.si_code == SI_QUEUE && info.si_pid == getpid());
		check(info.si_value.sival_ptr == (char *)queue + i);
	}
	take(CUSTOM, &info);
	check(info.si_code == CUSTOM_CODE && info.si_pid == 4711);
	check(info.si_value.sival_ptr == (void *)0x123456789abcdef);
	take(CUSTOM, &info);
	check(info.si_code == SI_MESGQ);
	if (!compared) /* SIGCONT takes it away */
		take(SIGTSTP, &info);
	for (size_t i = 0; i < sizeof(blocked) / sizeof(blocked[0]); i++)
		verify_empty(blocked[i]);
	queue();
}

static void verify_mask(void)
{
	uint64_t expected = 1ull << (SIGUSR1 - 1) | 1ull << (SIGTERM - 1), mask;

	for (size_t i = 0; i < sizeof(blocked) / sizeof(blocked[0]); i++)
		expected |= 1ull << (blocked[i] - 1);
	check_call(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8));
	check(mask == expected);
}

/* ---- handlers at work ---- */

struct worker {
	int signo;
	unsigned flags; /* of its alternate stack */
	pthread_t thread;
	pid_t tid;
	void *stack;
	_Atomic int inside, may_return, returned, wrong;
};

static struct worker workers[] = { { .signo = INSIDE }, { .signo = AUTODISARM, .flags = SS_AUTODISARM } };
static __thread struct worker *self;

/* Runs on the alternate stack until it is told to return. */
static void long_handler(int signo, siginfo_t *info, void *context)
{
	char here;
	stack_t ss;

	(void)context;
	if (&here < (char *)self->stack || &here >= (char *)self->stack + ALT_SIZE)
		self->wrong = 1;
	if (sigaltstack(NULL, &ss) || ss.ss_flags != (int)(self->flags ? SS_DISABLE : SS_ONSTACK))
		self->wrong = 2;
	self->inside = 1;
	while (!self->may_return)
		usleep(500);
	if (sigaltstack(NULL, &ss) || ss.ss_flags != (int)(self->flags ? SS_DISABLE : SS_ONSTACK))
		self->wrong = 3;
	if (info->si_signo != signo || info->si_code != SI_TKILL || info->si_pid != getpid())
		self->wrong = 4;
}

static void *worker_main(void *arg)
{
	struct worker *w = self = arg;
	stack_t ss = { .ss_sp = w->stack, .ss_size = ALT_SIZE, .ss_flags = (int)w->flags }, now;
	uint64_t before, after;

	w->tid = (pid_t)syscall(SYS_gettid);
	if (sigaltstack(&ss, NULL))
		w->wrong = 5;
	for (;;) {
		double precise = 1.0 / 3;

		w->inside = w->may_return = 0;
		syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &before, 8);
		__asm__ volatile("" : "+x"(precise));
		syscall(SYS_tgkill, getpid(), w->tid, w->signo);
		__asm__ volatile("" : "+x"(precise));
		syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &after, 8);
		if (before != after || precise != 1.0 / 3)
			w->wrong = 6;
		if (sigaltstack(NULL, &now) || now.ss_sp != ss.ss_sp || now.ss_flags != ss.ss_flags)
			w->wrong = 7;
		w->returned++;
	}
	return NULL;
}

static void await(_Atomic int *word, int value)
{
	for (int ms = 0; *word != value; ms++) {
		check(ms < PATIENCE_MS);
		usleep(1000);
	}
}

static void start_worker(struct worker *w)
{
	set_action(w->signo, (void (*)(int))(void *)long_handler, SA_SIGINFO | SA_ONSTACK, 0xff00);
	w->stack = mmap(NULL, ALT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(w->stack != MAP_FAILED);
	check(pthread_create(&w->thread, NULL, worker_main, w) == 0);
	await(&w->inside, 1);
}

static void verify_worker(struct worker *w)
{
	int before = w->returned;

	check(w->wrong == 0);
	w->may_return = 1;
	await(&w->returned, before + 1);
	await(&w->inside, 1);
	if (w->wrong)
		check_failed("signals.c", __LINE__, "a handler at work found something wrong", w->wrong);
}

/* ---- */

static bool compared;

void setup(const char *argument)
{
	sigset_t set;

	compared = argument != NULL;
	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(blocked) / sizeof(blocked[0]); i++)
		sigaddset(&set, blocked[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	second_task_start();
	for (size_t i = 0; i < sizeof(workers) / sizeof(workers[0]); i++)
		start_worker(&workers[i]);
	set_actions();
	queue();
}

void verify(void)
{
	verify_actions();
	verify_mask();
	verify_pending(compared);
	for (size_t i = 0; i < sizeof(workers) / sizeof(workers[0]); i++)
		verify_worker(&workers[i]);
	/* Of a child that ends, nothing is left. */
	compared = false;
}
