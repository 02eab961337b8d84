/* SPDX-License-Identifier: Apache-2.0 */

/*
 * nth N REPORT UID GID COMMAND...: run COMMAND as that user, and let the N-th of
 * its system calls fail, those of its threads and children counted together. Of
 * calls that can fail, each has the error that a kernel or a disk would give.
 * Started by root: with no_new_privs instead, COMMAND would lose its file
 * capability. REPORT says which call it was; it stays empty if there were fewer.
 *
 * Calls are counted from the first capget(2) on, with which torpor begins: what
 * the dynamic loader does before is not ours. Of ptrace(2), only the requests
 * that can fail although the thread lives. A seccomp filter hands the calls to a
 * supervisor, a process outside of COMMAND's tree, which ends with the last
 * process that the filter is on.
 */

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CALL(name, number) { SYS_##name, number, #name }

static const struct {
	int nr, answer;
	const char *name;
} calls[] = {
	CALL(capget, 0),
	CALL(accept4, EMFILE), CALL(bind, EADDRINUSE), CALL(chdir, EIO), CALL(clone, EAGAIN),
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
	CALL(vmsplice, ENOMEM), CALL(write, ENOSPC),
};

enum { CALLS = sizeof(calls) / sizeof(calls[0]), LISTENER_WAIT_US = 100 };

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(125);
}

/* ---- the supervisor ---- */

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

static void supervise(int listener, long wanted, int report)
{
	struct pollfd p = { .fd = listener, .events = POLLIN };
	long seen = 0;

	while (poll(&p, 1, -1) > 0 && !(p.revents & POLLHUP)) {
		struct seccomp_notif call = { 0 };
		struct seccomp_notif_resp answer = { 0 };
		const char *name;
		int number = 0;

		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0)
			continue; /* it was interrupted, and comes again */
		name = call_name(call.data.nr, &number);
		answer.id = call.id;
		if ((seen && can_fail(&call.data)) || !number)
			seen++;
		if (number && can_fail(&call.data) && seen == wanted + 1) {
			answer.error = -number;
			dprintf(report, "%s(%#llx, %#llx, %#llx) of %u: %s\n", name, call.data.args[0], call.data.args[1],
				call.data.args[2], call.pid, strerror(number));
		} else {
			answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		}
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

/* Not a child of what will be COMMAND: that would wait for it. */
static void begin_supervisor(_Atomic int *listener, long wanted, int report)
{
	pid_t command = getpid(), middle = fork();
	int pidfd, fd;

	if (middle < 0)
		die("fork");
	if (middle > 0) {
		waitpid(middle, NULL, 0);
		return;
	}
	if (fork() != 0)
		_exit(0);
	setsid();
	pidfd = (int)syscall(SYS_pidfd_open, command, 0);
	while ((fd = atomic_load(listener)) < 0)
		usleep(LISTENER_WAIT_US);
	fd = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	dup2(report, 3);
	dup2(fd, 4);
	close(0), close(1), close(2);
	syscall(SYS_close_range, 5, ~0u, 0);
	supervise(4, wanted, 3);
	_exit(0);
}

/* ---- the command ---- */

static void filter(_Atomic int *listener)
{
	struct sock_filter code[2 * CALLS + 2] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)) };
	struct sock_fprog program = { .len = 1, .filter = code };
	int fd;

	for (size_t i = 0; i < CALLS; i++) {
		code[program.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i].nr, 0, 1);
		code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	}
	code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	if (fd < 0)
		die("seccomp");
	atomic_store(listener, fd);
}

int main(int argc, char **argv)
{
	_Atomic int *listener = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int report;

	if (argc < 6 || listener == MAP_FAILED)
		return 125;
	report = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
	if (report < 0)
		die(argv[2]);
	atomic_store(listener, -1);
	begin_supervisor(listener, atol(argv[1]), report);
	filter(listener);
	if (setgroups(0, NULL) < 0 || initgroups(getenv("USER"), (gid_t)atoi(argv[4])) < 0 || setgid((gid_t)atoi(argv[4])) < 0 ||
	    setuid((uid_t)atoi(argv[3])) < 0)
		die("nth");
	execvp(argv[5], argv + 5);
	die(argv[5]);
}
