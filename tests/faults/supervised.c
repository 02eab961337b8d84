/* SPDX-License-Identifier: Apache-2.0 */
#include "supervised.h"

#include <errno.h>
#include <grp.h>
#include <linux/filter.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CALLS_MAX = 200, WAIT_US = 100, NOT_YET = -1, TAKEN = -2 };

_Noreturn void supervised_die(const char *what)
{
	perror(what);
	exit(125);
}

/* ---- the supervisor ---- */

static void answer_late(int listener, struct seccomp_notif_resp *answer, unsigned ms)
{
	if (fork() != 0)
		return;
	usleep(ms * 1000);
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, answer);
	_exit(0);
}

static void supervise(int listener, supervised_handler *handler)
{
	struct pollfd p = { .fd = listener, .events = POLLIN };

	signal(SIGCHLD, SIG_IGN);
	while (poll(&p, 1, -1) > 0 && !(p.revents & POLLHUP)) {
		struct seccomp_notif call = { 0 };
		struct seccomp_notif_resp answer = { 0 };
		unsigned ms;

		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0)
			continue; /* it was interrupted, and comes again */
		answer.id = call.id;
		answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		ms = handler(&call, &answer);
		if (ms)
			answer_late(listener, &answer, ms);
		else
			ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

/* Not a child of what will be the command: that would wait for it. */
static void begin_supervisor(_Atomic int *listener, supervised_handler *handler, int report)
{
	pid_t command = getpid(), middle = fork();
	int pidfd, fd;

	if (middle < 0)
		supervised_die("fork");
	if (middle > 0) {
		waitpid(middle, NULL, 0);
		return;
	}
	if (fork() != 0)
		_exit(0);
	setsid();
	pidfd = (int)syscall(SYS_pidfd_open, command, 0);
	while ((fd = atomic_load(listener)) < 0)
		usleep(WAIT_US);
	fd = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	atomic_store(listener, TAKEN);
	dup2(report, 3);
	dup2(fd, 4);
	close(0), close(1), close(2);
	syscall(SYS_close_range, 5, ~0u, 0);
	supervise(4, handler);
	_exit(0);
}

/* ---- the command ---- */

static void filter(_Atomic int *listener, const int *calls, size_t n)
{
	struct sock_filter code[2 * CALLS_MAX + 2] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)) };
	struct sock_fprog program = { .len = 1, .filter = code };
	int fd;

	for (size_t i = 0; i < n && i < CALLS_MAX; i++) {
		code[program.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i], 0, 1);
		code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	}
	code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	if (fd < 0)
		supervised_die("seccomp");
	atomic_store(listener, fd);
	while (atomic_load(listener) != TAKEN) /* execve(2) will close it */
		usleep(WAIT_US);
}

_Noreturn void supervised_run(const int *calls, size_t n, supervised_handler *handler, int report, const char *uid,
			      const char *gid, char **argv)
{
	_Atomic int *listener = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (listener == MAP_FAILED)
		supervised_die("mmap");
	atomic_store(listener, NOT_YET);
	if (setgroups(0, NULL) < 0 || initgroups(getenv("USER"), (gid_t)atoi(gid)) < 0 || setgid((gid_t)atoi(gid)) < 0)
		supervised_die("becoming one of the group");
	begin_supervisor(listener, handler, report);
	filter(listener, calls, n);
	if (setuid((uid_t)atoi(uid)) < 0)
		supervised_die("becoming the user");
	execvp(argv[0], argv);
	supervised_die(argv[0]);
}
