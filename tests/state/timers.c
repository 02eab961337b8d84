/* SPDX-License-Identifier: Apache-2.0 */

/* Interval timers and POSIX timers: ids, clocks, remaining times, signals. */

#include "common.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { TIMERS = 16, FIRST_SIGNAL = 40, LONG_S = 1000, TICK_NS = 20000000, SLACK_MS = 30, PATIENCE_MS = 5000 };
enum { DIRECTED = 60, BLOCKED_TICK = 61, CPU_SIGNAL = 62, THREAD_CPU = 63 };

#define S 1000000000l
#define MS 1000000l

/* Timers of the wall kind: their remaining times must all shrink by the same. */
struct timer {
	clockid_t clock;
	int notify, signo;
	long value_s, interval_ns;
	bool absolute, ticks;
	int id; /* the kernel's */
	long before;
};

static struct timer timers[] = {
	{ CLOCK_MONOTONIC, SIGEV_SIGNAL, FIRST_SIGNAL, LONG_S, 0, false, false, 0, 0 },
	{ CLOCK_REALTIME, SIGEV_SIGNAL, FIRST_SIGNAL + 1, LONG_S, 7 * S, false, false, 0, 0 },
	{ CLOCK_MONOTONIC, SIGEV_NONE, 0, LONG_S, 0, false, false, 0, 0 },
	{ CLOCK_BOOTTIME, SIGEV_SIGNAL, FIRST_SIGNAL + 2, LONG_S, 3 * MS, false, false, 0, 0 },
	{ CLOCK_REALTIME, SIGEV_SIGNAL, FIRST_SIGNAL + 3, LONG_S, 0, true, false, 0, 0 },
	{ CLOCK_MONOTONIC, SIGEV_SIGNAL, FIRST_SIGNAL + 4, LONG_S, 2 * S, true, false, 0, 0 },
	{ CLOCK_MONOTONIC, SIGEV_SIGNAL, FIRST_SIGNAL + 5, 0, TICK_NS, false, true, 0, 0 },
	{ CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0, false, false, 0, 0 }, /* never armed */
	{ CLOCK_MONOTONIC, SIGEV_NONE, 0, LONG_S, 5 * S, false, false, 0, 0 },
};
enum { N = sizeof(timers) / sizeof(timers[0]) };

static _Atomic unsigned ticks;

struct kernel_sigevent {
	union sigval value;
	int signo, notify, tid, pad[11];
};

static long timespec_ns(struct timespec ts)
{
	return ts.tv_sec * S + ts.tv_nsec;
}

static struct timespec ns_timespec(long ns)
{
	return (struct timespec){ ns / S, ns % S };
}

static long clock_ns(clockid_t clock)
{
	struct timespec ts;

	check_call(clock_gettime(clock, &ts));
	return timespec_ns(ts);
}

static int create(clockid_t clock, int notify, int signo, void *value, pid_t tid)
{
	struct kernel_sigevent sev = { .value.sival_ptr = value, .signo = signo, .notify = notify, .tid = tid };
	int id = -1;

	check_call(syscall(SYS_timer_create, clock, &sev, &id));
	return id;
}

static void arm(int id, long value_ns, long interval_ns, int flags)
{
	struct itimerspec it = { ns_timespec(interval_ns), ns_timespec(value_ns) };

	check_call(syscall(SYS_timer_settime, id, flags, &it, NULL));
}

static struct itimerspec look(int id)
{
	struct itimerspec it;

	check_call(syscall(SYS_timer_gettime, id, &it));
	return it;
}

/* ---- timers on the clocks of the day ---- */

static int gaps[2];

static void on_signal(int signo, siginfo_t *info, void *context)
{
	(void)context;
	if (signo == FIRST_SIGNAL + 5 && info->si_code == SI_TIMER && info->si_value.sival_ptr == &timers[6])
		ticks++;
}

static void make_timer(struct timer *t)
{
	long value = t->ticks ? TICK_NS : t->value_s * S;

	if (t == &timers[2])
		gaps[0] = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, NULL, 0);
	if (t == &timers[5])
		gaps[1] = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, NULL, 0);
	t->id = create(t->clock, t->notify, t->signo, t, 0);
	if (value)
		arm(t->id, value + (t->absolute ? clock_ns(t->clock) : 0), t->interval_ns, t->absolute ? TIMER_ABSTIME : 0);
}

static void make_timers(void)
{
	for (int i = 0; i < N; i++)
		make_timer(&timers[i]);
	for (int i = 0; i < 2; i++)
		check_call(syscall(SYS_timer_delete, gaps[i]));
	for (int i = 0; i < N; i++)
		timers[i].before = timespec_ns(look(timers[i].id).it_value);
}

static void verify_timers(void)
{
	long least = -1, most = -1;

	for (int i = 0; i < N; i++) {
		struct timer *t = &timers[i];
		struct itimerspec it = look(t->id);
		long now = timespec_ns(it.it_value), gone = t->before - now;

		check(timespec_ns(it.it_interval) == (t->value_s || t->ticks ? t->interval_ns : 0));
		t->before = now;
		if (t->ticks)
			continue;
		if (!t->value_s) {
			check(now == 0);
			continue;
		}
		check(gone >= 0);
		if (least < 0 || gone < least)
			least = gone;
		if (gone > most)
			most = gone;
	}
	/* The time that passed for one, passed for all; and none of it while the program slept. */
	check(most - least < slower(SLACK_MS * MS));
	check(most < slower(3 * S));
	for (int i = 0; i < 2; i++)
		check(syscall(SYS_timer_delete, gaps[i]) == -1 && errno == EINVAL);
}

static void verify_ticks(void)
{
	unsigned before = ticks;
	long begun = clock_ns(CLOCK_MONOTONIC);

	while (ticks < before + 5 && clock_ns(CLOCK_MONOTONIC) - begun < slower(5 * S))
		usleep(1000);
	check(ticks >= before + 5);
	check(clock_ns(CLOCK_MONOTONIC) - begun >= 3 * TICK_NS);
}

/* ---- a signal that is directed to a thread, one that is blocked, and clocks of CPU time ---- */

static pthread_t thread;
static _Atomic pid_t thread_tid;
static _Atomic int directed, thread_cpu;
static sem_t thread_burn, thread_burnt;
static int directed_id, blocked_id, process_cpu_id, thread_cpu_id, other_cpu_id;
static long process_cpu_before, thread_cpu_before;

static void on_directed(int signo, siginfo_t *info, void *context)
{
	(void)context;
	if (syscall(SYS_gettid) == thread_tid && info->si_code == SI_TIMER)
		*(signo == DIRECTED ? &directed : &thread_cpu) += 1;
}

static void burn(long ns)
{
	long end = clock_ns(CLOCK_THREAD_CPUTIME_ID) + ns;

	while (clock_ns(CLOCK_THREAD_CPUTIME_ID) < end)
		;
}

static void *thread_main(void *arg)
{
	pid_t tid = (pid_t)syscall(SYS_gettid);

	/* This clock is that of the thread which makes the timer. */
	thread_cpu_id = create(CLOCK_THREAD_CPUTIME_ID, SIGEV_THREAD_ID, THREAD_CPU, NULL, tid);
	arm(thread_cpu_id, 100 * MS, 0, 0);
	thread_tid = tid;
	for (;;) {
		while (sem_wait(&thread_burn)) /* it is interrupted by what is directed to it */
			;
		burn(150 * MS);
		sem_post(&thread_burnt);
	}
	return arg;
}

static void make_special(void)
{
	clockid_t clock;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, BLOCKED_TICK);
	sigaddset(&set, CPU_SIGNAL);
	sigprocmask(SIG_BLOCK, &set, NULL);
	check(sem_init(&thread_burn, 0, 0) == 0 && sem_init(&thread_burnt, 0, 0) == 0);
	check(pthread_create(&thread, NULL, thread_main, NULL) == 0);
	while (!thread_tid)
		usleep(100);
	directed_id = create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, DIRECTED, NULL, thread_tid);
	arm(directed_id, TICK_NS, TICK_NS, 0);
	blocked_id = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, BLOCKED_TICK, (void *)0xb10c, 0);
	arm(blocked_id, MS, TICK_NS, 0);
	process_cpu_id = create(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, CPU_SIGNAL, (void *)0xc9, 0);
	arm(process_cpu_id, LONG_S * S, 3 * S, 0);
	check(pthread_getcpuclockid(thread, &clock) == 0);
	other_cpu_id = create(clock, SIGEV_NONE, 0, NULL, 0);
	arm(other_cpu_id, LONG_S * S, 0, 0);
	process_cpu_before = timespec_ns(look(process_cpu_id).it_value);
	thread_cpu_before = timespec_ns(look(other_cpu_id).it_value);
	usleep(30000); /* the blocked one has gone off */
}

static void verify_directed(void)
{
	int before = directed;

	for (int ms = 0; directed < before + 3; ms++) {
		check(ms < slower(PATIENCE_MS));
		usleep(1000);
	}
}

static void verify_blocked(void)
{
	const struct timespec wait = ns_timespec(slower(2 * S));
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, BLOCKED_TICK);
	for (int i = 0; i < 4; i++) {
		int signo;

		do /* the handler of the ticks interrupts it */
			signo = sigtimedwait(&set, &info, &wait);
		while (signo == -1 && errno == EINTR);
		check(signo == BLOCKED_TICK);
		check(info.si_code == SI_TIMER && info.si_value.sival_ptr == (void *)0xb10c);
	}
	usleep(2 * TICK_NS / 1000);
}

static void verify_cpu(void)
{
	struct itimerspec it = look(process_cpu_id);
	long left, before;

	check(timespec_ns(it.it_interval) == 3 * S);
	left = timespec_ns(it.it_value);
	check(left <= process_cpu_before && process_cpu_before - left < slower(3 * S));
	burn(50 * MS);
	check(left - timespec_ns(look(process_cpu_id).it_value) >= 50 * MS);
	process_cpu_before = left - 50 * MS;

	/* The other thread's clock does not tick for us, but it does for the other thread. */
	before = timespec_ns(look(other_cpu_id).it_value);
	check(before <= thread_cpu_before && thread_cpu_before - before < slower(2 * S));
	burn(60 * MS);
	check(before - timespec_ns(look(other_cpu_id).it_value) < 40 * MS);
	check(thread_cpu == 0);
	check(timespec_ns(look(thread_cpu_id).it_value) > 30 * MS);
	sem_post(&thread_burn);
	while (sem_wait(&thread_burnt))
		;
	thread_cpu_before = timespec_ns(look(other_cpu_id).it_value);
	check(before - thread_cpu_before >= 150 * MS);
	check(thread_cpu == 1);
	thread_cpu = 0;
	arm(thread_cpu_id, 100 * MS, 0, 0);
}

/* ---- setitimer ---- */

static long itimer_before[3];

static long itimer_left(int which, long interval_s)
{
	struct itimerval it;

	check_call(getitimer((__itimer_which_t)which, &it));
	check(it.it_interval.tv_sec == interval_s && it.it_interval.tv_usec == 0);
	return it.it_value.tv_sec * S + it.it_value.tv_usec * 1000;
}

static void make_itimers(void)
{
	for (int which = 0; which < 3; which++) {
		const struct itimerval it = { { which + 1, 0 }, { LONG_S + which, 500000 } };

		check_call(setitimer((__itimer_which_t)which, &it, NULL));
		itimer_before[which] = itimer_left(which, which + 1);
	}
}

static void verify_itimers(void)
{
	for (int which = 0; which < 3; which++) {
		long left = itimer_left(which, which + 1);

		check(left <= itimer_before[which] + 10 * MS && itimer_before[which] - left < slower(3 * S));
		itimer_before[which] = left;
	}
}

void setup(const char *argument)
{
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };

	(void)argument;
	check_call(sigaction(FIRST_SIGNAL + 5, &sa, NULL));
	sa.sa_sigaction = on_directed;
	check_call(sigaction(DIRECTED, &sa, NULL));
	check_call(sigaction(THREAD_CPU, &sa, NULL));
	/* None is ignored: torpor has no signal to stop this program with, and asks in another way. */
	check_call(sigaction(SIGWINCH, &sa, NULL));
	check_call(sigaction(SIGURG, &sa, NULL));
	make_timers();
	make_special();
	make_itimers();
}

void verify(void)
{
	verify_timers();
	verify_itimers();
	verify_ticks();
	verify_directed();
	verify_blocked();
	verify_cpu();
	for (int i = 0; i < N; i++)
		timers[i].before = timespec_ns(look(timers[i].id).it_value);
}
