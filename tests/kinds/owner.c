/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int self[2], group[2], other[2], thread[2], leased;
static pid_t thread_id;

static void *rest(void *ready)
{
	thread_id = (pid_t)syscall(SYS_gettid);
	check_call(write(*(int *)ready, "", 1));
	for (;;)
		pause();
}

static void own(int fd, int type, pid_t pid, int signo, int flags)
{
	struct f_owner_ex owner = { type, pid };

	check_call(fcntl(fd, F_SETOWN_EX, &owner));
	check_call(fcntl(fd, F_SETSIG, signo));
	check_call(fcntl(fd, F_SETFL, check_call(fcntl(fd, F_GETFL)) | flags));
}

static int move(int fd, int number)
{
	check_call(dup2(fd, number));
	check_call(close(fd));
	return number;
}

void setup(const char *argument)
{
	pthread_t handle;
	sigset_t set;
	int ready[2];

	(void)argument;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	sigaddset(&set, SIGIO);
	sigprocmask(SIG_BLOCK, &set, NULL);
	check_call(socketpair(AF_UNIX, SOCK_STREAM, 0, self));
	self[0] = move(self[0], 30); /* to a number that nothing gets by chance */
	check_call(socketpair(AF_UNIX, SOCK_STREAM, 0, group));
	check_call(pipe(other));
	check_call(pipe(thread));
	second_task_start();
	check_call(pipe(ready));
	check(pthread_create(&handle, NULL, rest, &ready[1]) == 0);
	check_call(read(ready[0], &(char){ 0 }, 1));
	check_call(close(ready[0]));
	check_call(close(ready[1]));

	own(self[0], F_OWNER_PID, getpid(), SIGRTMIN + 1, O_ASYNC | O_NONBLOCK);
	own(group[0], F_OWNER_PGRP, getpgrp(), 0, 0);
	own(other[0], F_OWNER_PID, second_task_pid(), SIGIO, 0);
	own(thread[0], F_OWNER_TID, thread_id, SIGUSR2, 0);
	leased = move((int)check_call(open("leased", O_RDWR | O_CREAT, 0600)), 40);
	own(leased, F_OWNER_PID, getpid(), SIGRTMIN + 1, 0);
	check_call(fcntl(leased, F_SETLEASE, F_WRLCK));
}

static void check_owner(int fd, int type, pid_t pid, int signo)
{
	struct f_owner_ex owner;

	check_call(fcntl(fd, F_GETOWN_EX, &owner));
	check((int)owner.type == type && owner.pid == pid);
	check(check_call(fcntl(fd, F_GETSIG)) == signo);
}

void verify(void)
{
	siginfo_t info;
	sigset_t set;

	check_owner(self[0], F_OWNER_PID, getpid(), SIGRTMIN + 1);
	check_owner(group[0], F_OWNER_PGRP, getpgrp(), 0);
	check_owner(other[0], F_OWNER_PID, second_task_pid(), SIGIO);
	check_owner(thread[0], F_OWNER_TID, thread_id, SIGUSR2);
	check_owner(leased, F_OWNER_PID, getpid(), SIGRTMIN + 1);
	check_owner(self[1], F_OWNER_TID, 0, 0);
	check(check_call(fcntl(leased, F_GETLEASE)) == F_WRLCK);
	check_flags(self[0], O_ASYNC | O_NONBLOCK, O_ASYNC | O_NONBLOCK);
	check_flags(group[0], O_ASYNC | O_NONBLOCK, 0);

	/* And it is told. */
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	check(sigtimedwait(&set, &info, &(struct timespec){ 0 }) == -1 && errno == EAGAIN);
	check_write(self[1], "x");
	check(sigtimedwait(&set, &info, &(struct timespec){ 5, 0 }) == SIGRTMIN + 1);
	check(info.si_fd == self[0]);
	check_read(self[0], "x");

	/* Somebody wants the leased file. */
	check(open("leased", O_RDWR | O_NONBLOCK) == -1 && errno == EWOULDBLOCK);
	check(sigtimedwait(&set, &info, &(struct timespec){ 5, 0 }) == SIGRTMIN + 1);
	check(info.si_fd == leased);
	check_call(fcntl(leased, F_SETLEASE, F_UNLCK)); /* the owner goes with it */
	own(leased, F_OWNER_PID, getpid(), SIGRTMIN + 1, 0);
	check_call(fcntl(leased, F_SETLEASE, F_WRLCK));
	while (sigtimedwait(&set, &info, &(struct timespec){ 0, 1000000 }) > 0)
		;
}
