/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A frozen process tree. `struct target_tree` owns the stopped threads: however
 * it goes out of scope, target_tree_release() lets them run on as if nothing had
 * happened. If torpor dies, the kernel does the same.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "proc/task.h"
#include "util/arena.h"
#include "util/err.h"

struct target_thread {
	pid_t tid;
	bool stopped;                 /* in a ptrace stop */
	struct user_regs_struct regs; /* as the program must go on with them */
	uint64_t sigmask;
	uint8_t knock; /* a signal that means nothing to it (remote_find_knock); 0: none is known */
};

struct target {
	pid_t pid;
	pid_t ppid;
	size_t parent; /* index in the tree; SIZE_MAX for the root */
	struct proc_stat stat;
	struct target_thread *threads; /* the first is the leader; none for a zombie */
	size_t n_threads;
	int mem_fd, pidfd; /* -1 for a zombie */
	bool zombie;
	int stop_signal;   /* it was stopped by this signal; 0: it was running */
	uint64_t vdso, vdso_size; /* 0: there is none */
	uint64_t resident; /* bytes, about; UINT64_MAX: not known */
	bool *alone;       /* for each of its mappings, as saved: nobody else maps any of its pages; NULL: not known */
};

struct target_tree {
	struct arena *arena;
	struct target **tasks; /* parents before children */
	size_t n;
	uint64_t frozen_at; /* CLOCK_MONOTONIC ns when the last thread stood */
};

/*
 * Stop every thread of `root` and of all its descendants. When it fails,
 * whatever was stopped runs on. `timeout_ms` bounds the wait for a task that
 * does not answer (uninterruptible sleep).
 */
int target_freeze(struct target_tree *tree, pid_t root, struct arena *arena, unsigned timeout_ms, struct err *e);

/*
 * Something about this task failed. Has it ended, or is it about to? Then that is
 * the reason, whatever could not be read of it: true, and `e` says so.
 */
bool target_blame_ended(const struct target_tree *tree, const struct target *t, struct err *e);

/* Let everything run on. Also for a tree that is half frozen or empty. */
void target_tree_release(struct target_tree *tree);

/*
 * End every process of the tree and wait until it is dead (its parent may still
 * have to reap it). If torpor is killed meanwhile, all of the tree ends without
 * having run again, or all of it runs on (kill.c).
 */
void target_tree_kill(struct target_tree *tree);

/* Close what torpor holds of a task. */
void target_close(struct target *t);

/* The task with this PID; NULL when it is not in the tree. */
struct target *target_find(const struct target_tree *tree, pid_t pid);

/* ---- a clone of a stopped task's memory (clone.c) ---- */

/*
 * Make a process that has the memory of the task as it is now (copy on write), and
 * nothing else of it. *ret has its PID and mem_fd; freed by target_clone_end(). The
 * task may run on at once, and does not learn of it. If torpor dies, the clone does.
 * Missing are what MADV_DONTFORK and MADV_WIPEONFORK say; shared mappings still are. Returns 1 when the
 * task cannot make one (limits, memory).
 */
int target_clone(struct target *t, struct target *ret, struct err *e);
void target_clone_end(struct target *clone);

/* ---- system calls inside a stopped task (remote.c) ---- */

enum { REMOTE_SCRATCH_SIZE = 4096 };

struct remote {
	struct target *task;
	struct target_thread *thread;
	uint64_t stage;   /* where the stage stands in the target */
	uint64_t scratch; /* REMOTE_SCRATCH_SIZE bytes in the target, and the room that was asked for; 0: none */
	uint64_t scratch_size;
	bool owns_scratch;
	bool entered;
	enum remote_at {
		REMOTE_AT_IDLE,  /* at the entry of the idle call */
		REMOTE_AT_EXIT,  /* at the exit of another one */
		REMOTE_AT_KNOCK, /* in a stop for its own signal */
	} at;
};

/*
 * Take over the stopped leader (thread 0) of a task, with a scratch page in it.
 * Undone by remote_close(), or by the stage itself if torpor dies.
 */
int remote_open(struct remote *r, struct target *task, struct err *e);

/*
 * As above, with `room` more bytes of addresses behind the scratch
 * page. Whatever is mapped over them goes with the scratch page.
 */
int remote_open_with_room(struct remote *r, struct target *task, uint64_t room, struct err *e);

/*
 * As above, without a scratch page: for calls that need no memory,
 * and for remote_make(), as the stage looks after one thing only.
 */
int remote_open_bare(struct remote *r, struct target *task, struct err *e);

/* Execute one system call in the thread. Returns its raw result (-errno included) in *ret_result. */
int remote_syscall(struct remote *r, int64_t nr, const uint64_t args[6], int64_t *ret_result, struct err *e);

#define remote_call(r, ret, e, nr, ...)                                                                       \
	remote_syscall((r), (nr), (const uint64_t[6]){ __VA_ARGS__ }, (ret), (e))

/* A call that only asks for something, and whose answer is its result or some bytes. */
enum { REMOTE_ANSWER = 32, REMOTE_THREAD_QUESTIONS = 4 };

struct remote_question {
	int64_t nr;
	uint64_t args[4];
	unsigned where; /* the index of the argument that is to be the address of the answer; 0: there is none */
	int64_t result; /* raw, -errno included */
	unsigned char answer[REMOTE_ANSWER];
};

/*
 * Ask the leader all of these. Where it knows a signal that means nothing to it, in one go, with two
 * changes between it and us; else one by one.
 */
int remote_ask(struct remote *r, struct remote_question *q, size_t n, struct err *e);

/* What every thread must be asked itself: alternate stack, PR_GET_TID_ADDRESS, PR_GET_PDEATHSIG, PR_GET_TIMERSLACK. */
void remote_thread_questions(struct remote_question q[REMOTE_THREAD_QUESTIONS]);

/* Ask these of another thread, which borrows the leader's scratch page. Of the results only the last is told. */
int remote_ask_thread(const struct remote *leader, size_t thread, struct remote_question q[REMOTE_THREAD_QUESTIONS], struct err *e);

/*
 * A signal that means nothing to a thread: the program neither catches it nor waits for it, but it is ignored, by
 * default or by its wish. Arguments are sets of signals, as /proc/PID/status has them. 0: there is none.
 */
uint8_t remote_find_knock(uint64_t caught, uint64_t ignored, uint64_t blocked);

/*
 * As remote_syscall(), for a call that makes something: an fd, or a child (`undo`
 * is SYS_close or SYS_wait4). If torpor dies before remote_unmake() has undone it,
 * the stage does, and a child whose tracer is gone at its birth ends at once.
 */
int remote_make(struct remote *r, int64_t nr, const uint64_t args[6], int64_t undo, int64_t *ret_result, struct err *e);
int remote_unmake(struct remote *r, int64_t nr, const uint64_t args[6], int64_t *ret_result, struct err *e);

/*
 * The child that the stage of `parent` has just made stands at its birth: it is to
 * serve as a remote, too. `child` has one thread. Not undone by remote_close(): kill it.
 */
int remote_await_birth(pid_t pid, struct err *e);
int remote_adopt(struct remote *r, struct target *child, const struct remote *parent, struct err *e);

/* Copy from and to the scratch page. */
int remote_read(const struct remote *r, void *buf, size_t size, struct err *e);
int remote_write(const struct remote *r, const void *buf, size_t size, struct err *e);

/* Give the thread back, stopped, with its own registers and mask. */
int remote_close(struct remote *r, struct err *e);

/* The same after work that returned `result`: returns that, or if it was no failure and closing is one, that of closing. */
int remote_close_after(struct remote *r, int result, struct err *e);

/* Bring threads out of the stage of an earlier torpor that was killed. The task must stand still. */
int remote_rescue(struct target *t, struct err *e);
