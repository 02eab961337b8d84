/* SPDX-License-Identifier: Apache-2.0 */

/*
 * nth N WHAT REPORT UID GID COMMAND...: run COMMAND as that user, and do WHAT at
 * the N-th of its system calls, those of its threads and children counted together:
 *
 *     fail    of the calls that can fail, the N-th does, with the error that a kernel or a disk would give
 *     kill    before that call, COMMAND is killed
 *     MS      it begins so many milliseconds later: whoever runs beside it is far ahead then
 *
 * REPORT says which call it was; it stays empty if there were fewer. Instead of a
 * number, N may be NAME:VALUE: each call of that name with that third argument, then.
 *
 * Calls are counted from the first capget(2) on, with which torpor begins: what
 * the dynamic loader does before is not ours. Of ptrace(2), only the requests
 * that can fail although the thread lives.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/ptrace.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "supervised.h"

#define CALL(name, number) { SYS_##name, number, #name }

static const struct {
	int nr, answer;
	const char *name;
} calls[] = {
	CALL(capget, 0), CALL(exit_group, 0), CALL(futex, 0), CALL(pause, 0), CALL(rt_sigprocmask, 0), CALL(sched_yield, 0),
	CALL(wait4, 0), CALL(waitid, 0),
	CALL(accept4, EMFILE), CALL(arch_prctl, EINVAL), CALL(bind, EADDRINUSE), CALL(chdir, EIO), CALL(clone, EAGAIN),
	CALL(clone3, EAGAIN), CALL(close_range, EINVAL), CALL(connect, ECONNREFUSED), CALL(dup2, EMFILE), CALL(dup3, EMFILE),
	CALL(epoll_create1, EMFILE), CALL(epoll_ctl, ENOMEM), CALL(eventfd2, EMFILE), CALL(faccessat, EIO),
	CALL(fallocate, ENOSPC), CALL(fchdir, EIO), CALL(fchmod, EIO), CALL(fcntl, EMFILE), CALL(flock, ENOLCK),
	CALL(fork, EAGAIN), CALL(fstat, ENOMEM), CALL(fsync, EIO), CALL(ftruncate, ENOSPC), CALL(getdents64, EIO),
	CALL(get_robust_list, EPERM),
	CALL(inotify_add_watch, ENOSPC), CALL(inotify_init1, EMFILE), CALL(ioctl, ENOMEM), CALL(ioprio_get, EPERM),
	CALL(ioprio_set, EPERM), CALL(kill, EPERM), CALL(listen, EADDRINUSE), CALL(lseek, EIO),
	CALL(lstat, EIO), CALL(madvise, ENOMEM), CALL(membarrier, EPERM), CALL(memfd_create, EMFILE), CALL(mlock2, ENOMEM),
	CALL(mmap, ENOMEM), CALL(mprotect, ENOMEM), CALL(mremap, ENOMEM), CALL(newfstatat, EIO), CALL(open, EMFILE),
	CALL(openat, EMFILE), CALL(personality, EPERM), CALL(pidfd_getfd, EMFILE), CALL(pidfd_open, EMFILE),
	CALL(pidfd_send_signal, EPERM), CALL(pipe2, EMFILE), CALL(prctl, EPERM), CALL(pread64, EIO), CALL(preadv, EIO),
	CALL(prlimit64, EPERM), CALL(process_vm_readv, ENOMEM), CALL(process_vm_writev, ENOMEM), CALL(ptrace, EIO),
	CALL(pwrite64, ENOSPC), CALL(read, EIO),
	CALL(readlink, ENOMEM), CALL(readlinkat, ENOMEM), CALL(recvfrom, ENOMEM), CALL(recvmsg, ENOMEM), CALL(rename, EIO),
	CALL(renameat, EIO), CALL(rt_tgsigqueueinfo, EPERM), CALL(sched_getattr, EPERM),
	CALL(sched_setaffinity, EPERM), CALL(sched_setattr, EPERM), CALL(sendmsg, ENOBUFS), CALL(sendto, ENOBUFS),
	CALL(setitimer, EINVAL), CALL(setpgid, EPERM), CALL(setpriority, EPERM), CALL(setresgid, EPERM), CALL(setresuid, EPERM),
	CALL(set_robust_list, EINVAL), CALL(setsid, EPERM), CALL(setsockopt, ENOMEM), CALL(sigaltstack, ENOMEM),
	CALL(signalfd4, EMFILE), CALL(socket, EMFILE), CALL(socketpair, EMFILE), CALL(splice, ENOMEM), CALL(stat, EIO),
	CALL(statx, EIO), CALL(sync_file_range, EIO), CALL(tee, ENOMEM), CALL(tgkill, EPERM), CALL(timer_create, EAGAIN),
	CALL(timer_settime, EINVAL), CALL(timerfd_create, EMFILE), CALL(timerfd_settime, EINVAL), CALL(userfaultfd, EPERM),
	CALL(vfork, EAGAIN), CALL(vmsplice, ENOMEM), CALL(write, ENOSPC),
};

enum { CALLS = sizeof(calls) / sizeof(calls[0]) };

static long wanted, seen;
static int wanted_nr = -1;
static uint64_t wanted_value; /* of its third argument */
static enum { FAIL, KILL, LATE } what;
static unsigned late_ms;
static pid_t command;

static const char *call_name(int nr, int *ret_answer)
{
	for (size_t i = 0; i < CALLS; i++)
		if (calls[i].nr == nr) {
			*ret_answer = calls[i].answer;
			return calls[i].name;
		}
	return "?";
}

/* A thread that stands obeys its tracer, until it is killed: that is for kill.py to try. */
static bool can_fail(const struct seccomp_data *call)
{
	uint64_t request = call->args[0];

	if (call->nr == SYS_prctl && (request == PR_CAP_AMBIENT || request == PR_CAPBSET_READ))
		return false;
	return call->nr != SYS_ptrace || request == PTRACE_SEIZE || request == PTRACE_GETREGSET ||
	       request == PTRACE_SETREGSET || request == PTRACE_PEEKSIGINFO || request == PTRACE_SETOPTIONS;
}

/* Is it the N-th, or one of that name? */
static bool is_wanted(const struct seccomp_data *call, int number)
{
	if (!seen || call->nr == SYS_capget || !(what != FAIL || (number && can_fail(call))))
		return false;
	return seen++ == wanted || (call->nr == wanted_nr && call->args[2] == wanted_value);
}

static unsigned disturb(const struct seccomp_notif *call, struct seccomp_notif_resp *answer)
{
	int number = 0;
	const char *name = call_name(call->data.nr, &number);

	if (call->data.nr == SYS_capget && !seen) {
		command = (pid_t)call->pid;
		seen = 1; /* it begins; later ones of these are not counted */
	}
	if (!is_wanted(&call->data, number))
		return 0;
	if (what == FAIL) {
		answer->flags = 0;
		answer->error = -number;
	}
	dprintf(3, "%s(%#llx, %#llx, %#llx) of %u: %s\n", name, call->data.args[0], call->data.args[1], call->data.args[2],
		call->pid, what == KILL ? "killed" : what == LATE ? "late" : strerror(number));
	if (what == KILL)
		kill(command, SIGKILL);
	return late_ms;
}

static void choose_calls(const char *n, int numbers[CALLS])
{
	wanted = atol(n);
	for (size_t i = 0; i < CALLS; i++) {
		size_t length = strlen(calls[i].name);

		numbers[i] = calls[i].nr;
		if (strncmp(calls[i].name, n, length) != 0 || n[length] != ':')
			continue;
		wanted_nr = calls[i].nr;
		wanted_value = strtoull(n + length + 1, NULL, 0);
	}
}

int main(int argc, char **argv)
{
	int numbers[CALLS], report;

	if (argc < 7)
		return 125;
	report = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
	if (report < 0)
		supervised_die(argv[3]);
	choose_calls(argv[1], numbers);
	late_ms = (unsigned)atoi(argv[2]);
	what = strcmp(argv[2], "fail") == 0 ? FAIL : strcmp(argv[2], "kill") == 0 ? KILL : LATE;
	supervised_run(numbers, CALLS, disturb, report, argv[4], argv[5], argv + 6);
}
