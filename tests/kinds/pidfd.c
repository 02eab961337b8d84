/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int self, child, same, zombie, gone, watching, elsewhere;
static pid_t zombie_pid;

static int open_pid(pid_t pid, unsigned flags)
{
	return (int)check_call(syscall(SYS_pidfd_open, pid, flags));
}

static pid_t ended_child(int status)
{
	pid_t pid = (pid_t)check_call(fork());

	if (pid == 0)
		_exit(status);
	return pid;
}

static bool readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return check_call(poll(&p, 1, 0)) == 1 && (p.revents & POLLIN);
}

static int probe(int fd)
{
	return syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0) == 0 ? 0 : errno;
}

static pid_t pid_of(int fd)
{
	char path[64], line[256];
	pid_t pid = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "r");
	check(file);
	while (fgets(line, sizeof(line), file))
		sscanf(line, "Pid: %d", &pid);
	fclose(file);
	return pid;
}

void setup(const char *argument)
{
	struct epoll_event event = { .events = EPOLLIN };
	pid_t pid;

	(void)argument;
	watching = (int)check_call(epoll_create1(0)); /* with a lower number than what it watches */
	elsewhere = (int)check_call(epoll_create1(0));
	self = open_pid(getpid(), 0);
	second_task_start();
	child = open_pid(second_task_pid(), O_NONBLOCK);
	same = (int)check_call(fcntl(child, F_DUPFD, 40));
	zombie_pid = ended_child(7);
	zombie = open_pid(zombie_pid, 0);
	check_call(waitid(P_PID, (id_t)zombie_pid, &(siginfo_t){ 0 }, WEXITED | WNOWAIT));
	pid = ended_child(0);
	gone = open_pid(pid, 0);
	check_call(waitpid(pid, NULL, 0));
	event.data.fd = child;
	check_call(epoll_ctl(watching, EPOLL_CTL_ADD, child, &event));
	event.data.fd = zombie;
	check_call(epoll_ctl(watching, EPOLL_CTL_ADD, zombie, &event));
	event.data.fd = gone;
	check_call(epoll_ctl(elsewhere, EPOLL_CTL_ADD, 70 + 0 * dup2(gone, 70), &event));
	check_call(close(70)); /* still watched, by another fd of the same description */
}

static void verify_in_second(void)
{
	check(pid_of(self) == getppid());
	check(probe(self) == 0);
}

void verify(void)
{
	struct epoll_event event;
	siginfo_t info = { 0 };

	check(pid_of(self) == getpid() && probe(self) == 0);
	check(pid_of(child) == second_task_pid() && probe(child) == 0 && !readable(child));
	check_flags(child, O_NONBLOCK, O_NONBLOCK);
	check_flags(self, O_NONBLOCK, 0);
	check_cloexec(child, true); /* as pidfd_open(2) makes it */
	check_cloexec(same, false);
	check_same_description(child, same, true);
	second_task_run(verify_in_second);

	check(pid_of(zombie) == zombie_pid && readable(zombie));
	check_call(waitid(P_PIDFD, (id_t)zombie, &info, WEXITED | WNOWAIT));
	check(info.si_pid == zombie_pid && info.si_status == 7);

	check(pid_of(gone) == -1 && readable(gone) && probe(gone) == ESRCH);
	check(waitid(P_PIDFD, (id_t)gone, &info, WEXITED) == -1 && errno == ECHILD);

	check(check_call(epoll_wait(watching, &event, 1, 0)) == 1 && event.data.fd == zombie);
	check(check_call(epoll_wait(elsewhere, &event, 1, 0)) == 1 && event.data.fd == gone);
}
