/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* ptrace(2) requests, typed. All return 0 or -errno unless they say otherwise. */

#include <elf.h>
#include <errno.h>
#include <linux/ptrace.h>
#include <signal.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <unistd.h>

#include <sys/syscall.h>

#include "sys/process.h"

/* libc's <sys/ptrace.h> and <linux/ptrace.h> cannot be included together. */
enum {
	SYS_PTRACE_CONT = 7,
	SYS_PTRACE_SYSCALL = 24,
	SYS_PTRACE_DETACH = 17,
	SYS_PTRACE_GETREGS = 12,
	SYS_PTRACE_SETREGS = 13,
	SYS_PTRACE_GETSIGINFO = 0x4202,
};

static inline int sys_ptrace(int request, pid_t tid, uintptr_t addr, uintptr_t data)
{
	return (int)SYS_RESULT(syscall(SYS_ptrace, (long)request, (long)tid, addr, data));
}

static inline int sys_ptrace_getregs(pid_t tid, struct user_regs_struct *ret)
{
	return sys_ptrace(SYS_PTRACE_GETREGS, tid, 0, (uintptr_t)ret);
}

static inline int sys_ptrace_setregs(pid_t tid, const struct user_regs_struct *regs)
{
	return sys_ptrace(SYS_PTRACE_SETREGS, tid, 0, (uintptr_t)regs);
}

/* Returns the number of bytes that the regset has, at most `size`, or -errno. */
static inline int sys_ptrace_getregset(pid_t tid, unsigned note, void *buf, size_t size)
{
	struct iovec iov = { buf, size };
	int r = sys_ptrace(PTRACE_GETREGSET, tid, note, (uintptr_t)&iov);

	return r < 0 ? r : (int)iov.iov_len;
}

static inline int sys_ptrace_setregset(pid_t tid, unsigned note, const void *buf, size_t size)
{
	struct iovec iov = { (void *)buf, size };

	return sys_ptrace(PTRACE_SETREGSET, tid, note, (uintptr_t)&iov);
}

/* The signal of a signal-delivery-stop; -EINVAL in every other stop. */
static inline int sys_ptrace_getsiginfo(pid_t tid, siginfo_t *ret)
{
	return sys_ptrace(SYS_PTRACE_GETSIGINFO, tid, 0, (uintptr_t)ret);
}

static inline int sys_ptrace_getsigmask(pid_t tid, uint64_t *ret)
{
	return sys_ptrace(PTRACE_GETSIGMASK, tid, sizeof(*ret), (uintptr_t)ret);
}

static inline int sys_ptrace_setsigmask(pid_t tid, uint64_t mask)
{
	return sys_ptrace(PTRACE_SETSIGMASK, tid, sizeof(mask), (uintptr_t)&mask);
}
