/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The stage: the few hundred bytes that execute system calls inside a stopped
 * thread on the tracer's behalf (stage.S). Theory of operation: target/remote.c.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/user.h>

/* The stage's last bytes: what it puts back by itself when the tracer is gone. */
struct stage_data {
	uint64_t sigmask;
	uint64_t flags;
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rip;
	/* Not for the stage but for a later torpor: where the thread stood, as the kernel would go on from there. */
	uint64_t stopped_rip, stopped_rax, stopped_orig_rax;
};

_Static_assert(sizeof(struct stage_data) == 21 * 8, "offsets are used by stage.S");

/* One of the calls that the leader's stage makes in one go, in its scratch page. Behind the last: `nr` -1, and the knock's arguments. */
struct stage_call {
	int64_t nr;
	uint64_t args[4];
	int64_t result;
};

_Static_assert(sizeof(struct stage_call) == 48, "offsets are used by stage.S");

/* What the stage of another thread asks in one go, where its register r12 leads; the timer slack is in r12 then. */
struct stage_answers {
	unsigned char altstack[32];
	uint64_t tid_address;
	uint32_t pdeath_signal;
};

extern const unsigned char stage_begin[], stage_batch[], stage_finish[], stage_knocked[], stage_masked[], stage_end[];
extern const unsigned char thread_stage_begin[], thread_stage_batch[], thread_stage_knocked[], thread_stage_masked[],
	thread_stage_end[];

enum { STAGE_ROOM = 496 }; /* bytes that one stage needs; stage.S checks it. The vdso of Linux 6.12 has 1007 to spare */

/* The stage of a leader, or of another thread; places in it as offsets. */
struct stage {
	const unsigned char *code;
	size_t code_size; /* behind it is struct stage_data */
	uint64_t batch, knocked, masked;
};

static inline struct stage stage_of(bool leader)
{
	const unsigned char *begin = leader ? stage_begin : thread_stage_begin;

	return (struct stage){
		.code = begin,
		.code_size = (size_t)((leader ? stage_end : thread_stage_end) - begin) - sizeof(struct stage_data),
		.batch = (uint64_t)((leader ? stage_batch : thread_stage_batch) - begin),
		.knocked = (uint64_t)((leader ? stage_knocked : thread_stage_knocked) - begin),
		.masked = (uint64_t)((leader ? stage_masked : thread_stage_masked) - begin),
	};
}

/*
 * The stage's code, with the data that restores `r` and `sigmask`, into
 * buf[STAGE_ROOM]. `stopped` are the registers from which `r` was made for a jump. Returns its size.
 */
static inline size_t stage_fill(const struct stage *s, unsigned char *buf, const struct user_regs_struct *r,
				const struct user_regs_struct *stopped, uint64_t sigmask)
{
	const struct stage_data data = {
		.sigmask = sigmask, .flags = r->eflags, .rax = r->rax, .rbx = r->rbx, .rcx = r->rcx,
		.rdx = r->rdx, .rsi = r->rsi, .rdi = r->rdi, .rbp = r->rbp, .r8 = r->r8, .r9 = r->r9,
		.r10 = r->r10, .r11 = r->r11, .r12 = r->r12, .r13 = r->r13, .r14 = r->r14,
		.r15 = r->r15, .rip = r->rip, .stopped_rip = stopped->rip, .stopped_rax = stopped->rax,
		.stopped_orig_rax = stopped->orig_rax,
	};

	memcpy(buf, s->code, s->code_size);
	memcpy(buf + s->code_size, &data, sizeof(data));
	return s->code_size + sizeof(data);
}

/* Registers with which a thread enters the stage at `stage`. */
static inline void stage_enter(struct user_regs_struct *r, uint64_t stage)
{
	r->rip = stage;
	r->orig_rax = (uint64_t)-1;
	r->rbx = (uint64_t)-1;
	r->r12 = 0;
	r->r14 = 0;
	r->r15 = 0;
}

/* The call in progress makes something that the stage must undo by the system call `undo`(result, `more`) ... */
static inline void stage_keep_result(struct user_regs_struct *r, uint64_t undo, uint64_t more)
{
	r->r12 = 1;
	r->r13 = undo;
	r->rbp = more;
}

/* ... or undoes it. */
static inline void stage_forget_result(struct user_regs_struct *r)
{
	r->rbx = (uint64_t)-1;
}

/* At the knock, whose arguments these are, a tracer will see to the thread. */
static inline void stage_set_knock(struct user_regs_struct *r, pid_t pid, pid_t tid, int signo)
{
	r->orig_rax = (uint64_t)-1;
	r->r8 = (uint64_t)pid;
	r->r9 = (uint64_t)tid;
	r->r10 = (uint64_t)signo;
}

/* Make the calls that are asked for in one go. `at`: the first struct stage_call; for the other stage, struct stage_answers. */
static inline void stage_begin_batch(struct user_regs_struct *r, uint64_t batch, uint64_t at)
{
	r->rip = batch;
	r->r12 = at;
}

/* It has a scratch page. */
static inline void stage_own(struct user_regs_struct *r, uint64_t scratch, uint64_t size)
{
	r->rbx = scratch;
	r->rbp = size;
	r->r13 = SYS_munmap;
}

/* Remove the scratch page, and knock. */
static inline void stage_begin_finish(struct user_regs_struct *r, uint64_t stage, uint64_t scratch, uint64_t size)
{
	stage_own(r, scratch, size);
	r->rip = stage + (uint64_t)(stage_finish - stage_begin);
}

/* After a knock: back to the idle call, for a request. */
static inline void stage_begin_idle(struct user_regs_struct *r, uint64_t stage)
{
	r->rip = stage;
	r->orig_rax = (uint64_t)-1;
	r->r12 = 0;
	r->r15++;
}

/* The process that the call has made: it neither ends nor undoes anything, but waits for its first request. */
static inline void stage_adopt(struct user_regs_struct *r)
{
	r->rax = 1;
	r->rbx = (uint64_t)-1;
	r->r12 = 0;
	r->r15++;
}

/* The reverse of stage_fill(): the registers of a plain stop, for a thread that stands in the stage with `r`. */
static inline void stage_undo(const struct stage_data *d, struct user_regs_struct *r)
{
	r->eflags = d->flags;
	r->rax = d->stopped_rax;
	r->rbx = d->rbx;
	r->rcx = d->rcx;
	r->rdx = d->rdx;
	r->rsi = d->rsi;
	r->rdi = d->rdi;
	r->rbp = d->rbp;
	r->r8 = d->r8;
	r->r9 = d->r9;
	r->r10 = d->r10;
	r->r11 = d->r11;
	r->r12 = d->r12;
	r->r13 = d->r13;
	r->r14 = d->r14;
	r->r15 = d->r15;
	r->rip = d->stopped_rip;
	r->orig_rax = d->stopped_orig_rax;
}

/* A new number: the tracer is alive. */
static inline void stage_next(struct user_regs_struct *r)
{
	r->r15++;
}
