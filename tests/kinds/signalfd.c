/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

static int both, same, blocking, watching;
static sigset_t set;

static void queue(int signo, int value)
{
	check_call(sigqueue(getpid(), signo, (union sigval){ .sival_int = value }));
}

static void take(int fd, int signo, int value)
{
	struct signalfd_siginfo info;

	check(check_call(read(fd, &info, sizeof(info))) == sizeof(info));
	check((int)info.ssi_signo == signo && info.ssi_int == value && (pid_t)info.ssi_pid == getpid());
}

/* Pending signals, two of a real-time signal. */
static void set_pending(void)
{
	queue(SIGUSR2, 1);
	queue(SIGRTMIN + 3, 2);
	queue(SIGRTMIN + 3, 3);
}

void setup(const char *argument)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = 5 };

	(void)argument;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGRTMIN + 3);
	sigprocmask(SIG_BLOCK, &set, NULL);
	both = (int)check_call(signalfd(-1, &set, SFD_NONBLOCK));
	same = (int)check_call(dup3(both, 50, O_CLOEXEC));
	sigdelset(&set, SIGUSR2);
	blocking = (int)check_call(signalfd(-1, &set, SFD_CLOEXEC));
	watching = (int)check_call(epoll_create1(0));
	check_call(epoll_ctl(watching, EPOLL_CTL_ADD, both, &event));
	second_task_start();
	set_pending();
}

/* What is pending here is another matter than what is pending there. */
static void verify_in_second(void)
{
	struct signalfd_siginfo info;

	check(read(both, &info, sizeof(info)) == -1);
	queue(SIGUSR2, 9);
	take(same, SIGUSR2, 9);
}

void verify(void)
{
	struct signalfd_siginfo info;
	struct epoll_event event;

	check_flags(both, O_NONBLOCK, O_NONBLOCK);
	check_flags(blocking, O_NONBLOCK, 0);
	check_cloexec(both, false);
	check_cloexec(same, true);
	check_cloexec(blocking, true);
	check_same_description(both, same, true);
	check(check_call(epoll_wait(watching, &event, 1, 0)) == 1 && event.data.u32 == 5);

	take(blocking, SIGRTMIN + 3, 2);
	second_task_run(verify_in_second);
	take(both, SIGUSR2, 1);
	take(same, SIGRTMIN + 3, 3);
	check(read(both, &info, sizeof(info)) == -1);
	check(check_call(epoll_wait(watching, &event, 1, 0)) == 0);
	set_pending();
}
