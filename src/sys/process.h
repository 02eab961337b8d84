/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * System calls on processes that libc lacks, one inline each. All return a
 * non-negative result or -errno; errno itself is not part of the contract.
 */

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define SYS_RESULT(call)                                                                                      \
	({                                                                                                    \
		long sys_r = (call);                                                                          \
		sys_r < 0 ? -errno : sys_r;                                                                   \
	})

enum sys_kcmp { SYS_KCMP_FILE, SYS_KCMP_VM, SYS_KCMP_FILES, SYS_KCMP_FS, SYS_KCMP_SIGHAND, SYS_KCMP_IO,
		SYS_KCMP_SYSVSEM, SYS_KCMP_EPOLL_TFD };

struct sys_kcmp_epoll_slot {
	uint32_t efd, tfd, toff;
};

/* struct sched_attr of <linux/sched/types.h>, which clashes with libc's <sched.h>. */
struct sys_sched_attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
	uint32_t util_min, util_max;
};

static inline int sys_pidfd_open(pid_t pid, unsigned flags)
{
	return (int)SYS_RESULT(syscall(SYS_pidfd_open, pid, flags));
}

/* A duplicate (close-on-exec) of the fd `fd` of that process. */
static inline int sys_pidfd_getfd(int pidfd, int fd)
{
	return (int)SYS_RESULT(syscall(SYS_pidfd_getfd, pidfd, fd, 0));
}

static inline int sys_pidfd_send_signal(int pidfd, int signo)
{
	return (int)SYS_RESULT(syscall(SYS_pidfd_send_signal, pidfd, signo, NULL, 0));
}

#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448 /* Linux 5.15 */
#endif

/* Free the memory of a process that has been killed, beside itself (process_mrelease(2)). */
static inline int sys_process_mrelease(int pidfd)
{
	return (int)SYS_RESULT(syscall(SYS_process_mrelease, pidfd, 0));
}

/* 0: the same object; 1, 2: an order; 3: different without order (kcmp(2)). */
static inline int sys_kcmp(pid_t a, pid_t b, enum sys_kcmp type, unsigned long x, unsigned long y)
{
	return (int)SYS_RESULT(syscall(SYS_kcmp, a, b, (int)type, x, y));
}

/* Without set_tid and stack also where clone3(2) is not there: before Linux 5.3, and where a seccomp filter forbids it. */
static inline int sys_clone3(struct clone_args *args)
{
	int r = (int)SYS_RESULT(syscall(SYS_clone3, args, sizeof(*args)));

	if (r == -ENOSYS && !args->set_tid_size && !args->stack)
		r = (int)SYS_RESULT(syscall(SYS_clone, args->flags | args->exit_signal, NULL, args->pidfd, NULL, 0));
	return r;
}

static inline int sys_tgkill(pid_t tgid, pid_t tid, int signo)
{
	return (int)SYS_RESULT(syscall(SYS_tgkill, tgid, tid, signo));
}

static inline int sys_get_robust_list(pid_t tid, uint64_t *ret_head, uint64_t *ret_size)
{
	return (int)SYS_RESULT(syscall(SYS_get_robust_list, tid, ret_head, ret_size));
}

static inline int sys_sched_getattr(pid_t tid, struct sys_sched_attr *ret)
{
	return (int)SYS_RESULT(syscall(SYS_sched_getattr, tid, ret, sizeof(*ret), 0));
}

static inline int sys_sched_setattr(pid_t tid, struct sys_sched_attr *attr)
{
	return (int)SYS_RESULT(syscall(SYS_sched_setattr, tid, attr, 0));
}

/* Returns the number of bytes of the mask. */
static inline int sys_sched_getaffinity(pid_t tid, size_t size, void *ret_mask)
{
	return (int)SYS_RESULT(syscall(SYS_sched_getaffinity, tid, size, ret_mask));
}

static inline int sys_sched_setaffinity(pid_t tid, size_t size, const void *mask)
{
	return (int)SYS_RESULT(syscall(SYS_sched_setaffinity, tid, size, mask));
}

enum { SYS_CPU_MASK_MAX = 1024 }; /* bytes */

/* Every CPU: the kernel leaves out what is not there, or not for this thread. */
static inline int sys_sched_allow_all(pid_t tid)
{
	unsigned char every[SYS_CPU_MASK_MAX];

	__builtin_memset(every, 0xff, sizeof(every));
	return sys_sched_setaffinity(tid, sizeof(every), every);
}

enum { SYS_IOPRIO_WHO_PROCESS = 1 };

static inline int sys_ioprio_get(pid_t tid)
{
	return (int)SYS_RESULT(syscall(SYS_ioprio_get, SYS_IOPRIO_WHO_PROCESS, tid));
}

static inline int sys_ioprio_set(pid_t tid, int ioprio)
{
	return (int)SYS_RESULT(syscall(SYS_ioprio_set, SYS_IOPRIO_WHO_PROCESS, tid, ioprio));
}

static inline int sys_close_range(unsigned first, unsigned last)
{
	return (int)SYS_RESULT(syscall(SYS_close_range, first, last, 0));
}

static inline pid_t sys_gettid(void)
{
	return (pid_t)syscall(SYS_gettid);
}
