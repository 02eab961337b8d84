/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Arms a timer of each sort, in turn, to expire once in 1 to 7 ms, and waits for that: it must expire, and not twice (in 8 ms).
 * Writes a line into the file `ticking` for each, and a line that begins with `bad` when one is lost or comes again.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { SORTS = 4, PATIENCE_S = 5, PAUSE_US = 8000 };

static const char *const names[SORTS] = { "setitimer", "timer_create", "timer_create for a thread", "timerfd" };
static int file, tfd;
static timer_t timers[SORTS];
static sigset_t wanted;

static timer_t make_timer(int notify, int signo)
{
	struct sigevent event = { .sigev_notify = notify, .sigev_signo = signo };
	timer_t timer;

	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) < 0)
		exit(1);
	return timer;
}

static void arm(int sort, long us)
{
	const struct itimerval val = { .it_value = { 0, us } };
	const struct itimerspec spec = { .it_value = { 0, us * 1000 } };

	if (sort == 0)
		setitimer(ITIMER_REAL, &val, NULL);
	else if (sort == 3)
		timerfd_settime(tfd, 0, &spec, NULL);
	else
		timer_settime(timers[sort], 0, &spec, NULL);
}

/* Has it expired? Within so many seconds, or by now. */
static int expired(int sort, int seconds)
{
	const struct timespec limit = { seconds, 0 };
	struct pollfd fd = { tfd, POLLIN, 0 };
	uint64_t ticks;
	int r;

	do
		r = sort == 3 ? poll(&fd, 1, seconds * 1000) : sigtimedwait(&wanted, NULL, &limit);
	while (r < 0 && errno == EINTR);
	return r > 0 && (sort != 3 || read(tfd, &ticks, sizeof(ticks)) == sizeof(ticks));
}

int main(void)
{
	file = open("ticking", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644);
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGALRM);
	sigaddset(&wanted, SIGRTMIN + 1);
	sigaddset(&wanted, SIGRTMIN + 2);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	timers[1] = make_timer(SIGEV_SIGNAL, SIGRTMIN + 1);
	timers[2] = make_timer(SIGEV_THREAD_ID, SIGRTMIN + 2);
	tfd = timerfd_create(CLOCK_MONOTONIC, 0);
	for (unsigned n = 0;; n++) {
		int sort = (int)(n % SORTS);

		arm(sort, 1000 + rand() % 6000);
		if (!expired(sort, PATIENCE_S))
			dprintf(file, "bad %s %u is lost\n", names[sort], n);
		usleep(PAUSE_US);
		if (expired(sort, 0))
			dprintf(file, "bad %s %u has expired twice\n", names[sort], n);
		if (n % 16 == 0)
			dprintf(file, "%u\n", n);
	}
}
