/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The stage: the few hundred bytes that execute system calls inside a stopped
 * thread on the tracer's behalf (stage.S). Theory of operation: target/remote.c.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/user.h>

/* The stage's last bytes: what it puts back by itself when the tracer is gone. */
struct stage_data {
	uint64_t sigmask;
	uint64_t flags;
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rip;
};

_Static_assert(sizeof(struct stage_data) == 18 * 8, "offsets are used by stage.S");

extern const unsigned char stage_begin[], stage_end[];

enum { STAGE_ROOM = 512 }; /* bytes that one stage may need */

static inline size_t stage_size(void)
{
	return (size_t)(stage_end - stage_begin);
}

/* The stage's code, with the data that restores `r` and `sigmask`, into buf[stage_size()]. */
static inline void stage_fill(unsigned char *buf, const struct user_regs_struct *r, uint64_t sigmask)
{
	const struct stage_data data = {
		.sigmask = sigmask, .flags = r->eflags, .rax = r->rax, .rbx = r->rbx, .rcx = r->rcx,
		.rdx = r->rdx, .rsi = r->rsi, .rdi = r->rdi, .rbp = r->rbp, .r8 = r->r8, .r9 = r->r9,
		.r10 = r->r10, .r11 = r->r11, .r12 = r->r12, .r13 = r->r13, .r14 = r->r14,
		.r15 = r->r15, .rip = r->rip,
	};

	memcpy(buf, stage_begin, stage_size());
	memcpy(buf + stage_size() - sizeof(data), &data, sizeof(data));
}

/* Registers with which a thread enters the stage at `stage`. */
static inline void stage_enter(struct user_regs_struct *r, uint64_t stage, uint64_t scratch_size)
{
	r->rip = stage;
	r->orig_rax = (uint64_t)-1;
	r->rbx = 0;
	r->rbp = scratch_size;
	r->r12 = 0;
	r->r14 = 0;
	r->r15 = 0;
}

/* The call in progress makes the scratch mapping that the stage must remove ... */
static inline void stage_keep_result(struct user_regs_struct *r)
{
	r->r12 = 1;
}

/* ... or removes it. */
static inline void stage_forget_result(struct user_regs_struct *r)
{
	r->rbx = 0;
}

/* A new number: the tracer is alive. */
static inline void stage_next(struct user_regs_struct *r)
{
	r->r15++;
}
