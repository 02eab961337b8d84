/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the architecture-neutral code needs to know of the registers of a stopped thread. */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/user.h>

#define ARCH_NAME "x86_64"

enum { ARCH_SYSCALL_INSN_SIZE = 2, ARCH_XSTATE_MAX = 16 * 1024, ARCH_CODE64_SELECTOR = 0x33 };

/* In-kernel results that ask for a restart; only a tracer sees them (kernel: include/linux/errno.h). */
enum {
	ARCH_ERESTARTSYS = 512,
	ARCH_ERESTARTNOINTR = 513,
	ARCH_ERESTARTNOHAND = 514,
	ARCH_ERESTART_RESTARTBLOCK = 516,
};

/* The state components that this machine saves (XCR0: Intel SDM volume 1, chapter 13). Their layout follows from them. */
static inline uint64_t arch_xfeatures(void)
{
	uint32_t low, high;

	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return low | (uint64_t)high << 32;
}

static inline bool arch_is_64bit(const struct user_regs_struct *r)
{
	return r->cs == ARCH_CODE64_SELECTOR;
}

/* The thread was inside a system call when it was stopped. */
static inline bool arch_in_syscall(const struct user_regs_struct *r)
{
	return (int64_t)r->orig_rax >= 0;
}

/* Make the thread execute the interrupted system call again from its start. */
static inline void arch_restart_syscall(struct user_regs_struct *r)
{
	r->rax = r->orig_rax;
	r->rip -= ARCH_SYSCALL_INSN_SIZE;
	r->orig_rax = (uint64_t)-1;
}

/*
 * Waits that a mere ptrace stop turns into EINTR, although no signal was
 * handled: to be executed again, or the program would see an error that it
 * never saw without torpor. The others restart by themselves.
 */
static inline bool arch_eintr_was_ours(const struct user_regs_struct *r)
{
	if (!arch_in_syscall(r) || (int64_t)r->rax != -4 /* EINTR */)
		return false;
	switch (r->orig_rax) {
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
	case SYS_semop:
	case SYS_semtimedop:
	case SYS_rt_sigtimedwait:
	case SYS_io_getevents:
	case SYS_io_pgetevents:
	case SYS_io_uring_enter:
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_recvmmsg:
	case SYS_accept:
	case SYS_accept4:
	case SYS_sendto:
	case SYS_sendmsg:
		return true;
	default:
		return false;
	}
}

enum { ARCH_CALL_CODE = 24 }; /* bytes before the end of a system call instruction that say which call it is */

/*
 * The thread goes on with an interrupted sleep, or is about to: the kernel's own
 * restart_syscall stands where the call was, because it was stopped before
 * (SIGSTOP, a debugger, an earlier dump). *ret_end is the end of the instruction.
 */
static inline bool arch_in_restart(const struct user_regs_struct *r, uint64_t *ret_end)
{
	bool again = arch_in_syscall(r) && (int64_t)r->rax == -ARCH_ERESTART_RESTARTBLOCK;

	if (!(again && r->orig_rax == SYS_restart_syscall) && r->rax != SYS_restart_syscall)
		return false;
	*ret_end = r->rip + (again ? 0 : ARCH_SYSCALL_INSN_SIZE);
	return true;
}

/*
 * Which call it was, by the code before `end`, where nearly every caller sets
 * its number; else by the arguments of a private futex. -1: cannot be told.
 */
static inline int64_t arch_restarted_call(const struct user_regs_struct *r, const unsigned char code[ARCH_CALL_CODE])
{
	static const uint32_t calls[] = { SYS_nanosleep, SYS_clock_nanosleep, SYS_poll, SYS_futex };
	const int end = ARCH_CALL_CODE - ARCH_SYSCALL_INSN_SIZE;

	if (code[end] != 0x0f || code[end + 1] != 0x05)
		return -1;
	for (int at = end - 5; at >= 0; at--) {
		uint32_t nr;

		memcpy(&nr, code + at + 1, sizeof(nr));
		for (unsigned i = 0; code[at] == 0xb8 /* mov $nr, %eax */ && i < sizeof(calls) / sizeof(calls[0]); i++)
			if (nr == calls[i])
				return nr;
	}
	return (r->rsi & ~0x109ull) == 0x80 ? SYS_futex : -1; /* FUTEX_WAIT or _BITSET, private, any clock */
}

/* Stand in that call, as if it had been interrupted for the first time. The kernel goes on with it as before. */
static inline void arch_name_restarted(struct user_regs_struct *r, uint64_t end, int64_t nr)
{
	r->rip = end;
	r->rax = (uint64_t)-ARCH_ERESTART_RESTARTBLOCK;
	r->orig_rax = (uint64_t)nr;
}

/*
 * The registers with which a thread that lost its kernel state (a restored one,
 * or one resumed by a plain jump) goes on as if nothing had happened. A sleep
 * whose remaining time only the kernel knew is executed again in full; the
 * kernel decides between restart and EINTR by the signals that are pending.
 */
static inline void arch_regs_for_new_task(struct user_regs_struct *r)
{
	if (arch_in_syscall(r) && (int64_t)r->rax == -ARCH_ERESTART_RESTARTBLOCK)
		r->rax = (uint64_t)-ARCH_ERESTARTNOHAND;
}

/*
 * The registers for a jump back into user mode in the same task: what the
 * kernel would do on the way out of an interrupted system call is done here.
 */
static inline void arch_regs_for_jump(struct user_regs_struct *r)
{
	int64_t result = (int64_t)r->rax;

	if (!arch_in_syscall(r))
		return;
	if (result == -ARCH_ERESTART_RESTARTBLOCK) {
		r->orig_rax = SYS_restart_syscall;
		arch_restart_syscall(r);
	} else if (result == -ARCH_ERESTARTSYS || result == -ARCH_ERESTARTNOINTR || result == -ARCH_ERESTARTNOHAND) {
		arch_restart_syscall(r);
	}
}

static inline void arch_set_syscall(struct user_regs_struct *r, int64_t nr, const uint64_t *args)
{
	r->orig_rax = (uint64_t)nr;
	r->rax = (uint64_t)nr;
	r->rdi = args[0];
	r->rsi = args[1];
	r->rdx = args[2];
	r->r10 = args[3];
	r->r8 = args[4];
	r->r9 = args[5];
}

static inline int64_t arch_syscall_result(const struct user_regs_struct *r)
{
	return (int64_t)r->rax;
}
