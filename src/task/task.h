/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What belongs to a task or a thread and is neither memory nor a file
 * descriptor: credentials, signals, timers, limits, scheduling. One file per
 * topic, each with its dump side (collect) and its restore side (a few script
 * steps, or calls made before the switch).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>

#include "arch/x86_64/xstate.h"
#include "image/pb.h"
#include "inode/inode.h"
#include "proc/task.h"
#include "target/script.h"
#include "target/target.h"
#include "util/err.h"
#include "util/obstacle.h"

/* ---- dump ---- */

/* The namespaces that this process lives in, as links of /proc tell them; looked up when they are needed. */
enum { TASK_NAMESPACES = 8 };

struct task_namespaces {
	char *links[TASK_NAMESPACES];
};

struct task_collect {
	struct arena *arena;
	struct obstacle_list *obstacles;
	const struct target_tree *tree;
	struct inode_table *inodes;
	struct task_namespaces *namespaces; /* ours */
	const struct proc_status *outside; /* of the root, as it is seen outside the user namespace that we have entered; or NULL */
};

/*
 * Fill `pb` from a stopped task: everything but memory and fds. Executes a few
 * system calls inside it. `space` receives what only the task itself can tell
 * of its address space (the end of the heap, membarrier registrations).
 */
int task_collect(struct task_collect *c, struct target *t, Pb__Task *pb, Pb__AddressSpace *space, struct err *e);

/*
 * What has been sent to a task, or stopped it or let it go on, since task_collect(); while it stands. Only what other
 * processes have sent: all else is in the image as it was then. Returns how many came since the last look, or negative.
 */
int signals_collect_late(struct arena *arena, struct target *t, Pb__Task *pb, struct err *e);

/* Running or stopped, as far as is known by now. */
void task_set_state(const struct target *t, Pb__Task *pb);

/* A zombie: only its identity and its exit status. */
int task_collect_zombie(struct task_collect *c, struct target *t, Pb__Task *pb, struct err *e);

/*
 * The next type of namespace, from *at on (0 at first), in which a process lives in
 * another one than we; NULL: no more. Returns 0, or -errno for the one in *ret.
 * `ours` is empty at first, and is filled from the same arena.
 */
int task_next_foreign_namespace(pid_t pid, struct task_namespaces *ours, size_t *at, struct arena *arena, const char **ret);

/*
 * What only the task itself can tell, asked in one go: first each topic adds its
 * questions, then each reads its answers, in the same order.
 */
struct questions {
	struct arena *arena;
	struct remote_question *v; /* in the arena */
	size_t n, read;
};

/* `where`: as in struct remote_question. Returns 0, or -ENOMEM. */
int questions_add(struct questions *q, int64_t nr, unsigned where, uint64_t arg0, uint64_t arg1, uint64_t arg2, uint64_t arg3);
const struct remote_question *questions_next(struct questions *q);

/* The topics: *_ask() returns 0, or -ENOMEM. */
int creds_collect(struct task_collect *c, struct target *t, const struct proc_status *status, Pb__Task *pb,
		  struct err *e);
/* Those whose action may be another one than the default. SIGCHLD may have flags (SA_NOCLDWAIT) without being caught or ignored. */
uint64_t signals_with_actions(const struct proc_status *status);
/* As a set: bit N - 1 is signal N. */
uint64_t signals_of(Pb__Siginfo *const *infos, size_t n);
int signals_ask(struct questions *q, const struct proc_status *status);
int signals_collect(struct task_collect *c, struct target *t, struct questions *q, const struct proc_status *status, Pb__Task *pb,
		    struct err *e);
int signals_collect_thread(struct task_collect *c, struct target *t, pid_t tid, const struct proc_status *status, Pb__Thread *th,
			   struct err *e);
struct timers {
	struct proc_timer *v;
	size_t n;
};
int timers_find(struct task_collect *c, struct target *t, struct timers *ret, struct err *e);
int timers_ask(struct questions *q, const struct timers *timers);
/* After signals_collect(). `before`: what was pending before the questions were asked. */
int timers_collect(struct task_collect *c, struct questions *q, const struct timers *timers, const struct proc_status *before,
		   Pb__Task *pb, struct err *e);
/* Of the signals that were pending for a thread, those of timers which, as they are saved, have not expired. */
void timers_drop_early(const Pb__Task *pb, Pb__Thread *th);
int limits_collect(struct task_collect *c, struct target *t, Pb__Task *pb, struct err *e);
/* `status`: that of the thread; `q`: the answers to remote_thread_questions(). */
int thread_collect(struct task_collect *c, struct target *t, size_t thread, const struct remote_question *q,
		   const struct proc_status *status, Pb__Thread **ret, struct err *e);

/*
 * A thread that was interrupted within a restartable sequence (rseq(2)) must go on
 * in the abort handler. The kernel sees to that when a thread returns to the
 * place where it was; ours have been in the stage or the runner meanwhile. To be
 * called before the thread enters the stage.
 */
void thread_leave_sequence(const struct target *t, struct target_thread *th);

/* Refuse a task for a reason of its own. Returns 0, or negative when out of memory. */
#define task_refuse(c, t, id, help, ...)                                                                      \
	obstacle_add((c)->obstacles, (id), (t)->pid, (t)->stat.comm, (help), __VA_ARGS__)

/* ---- restore ---- */

/* What a process has from its maker. */
struct limits_born {
	bool knows_oom, knows_filter, knows_limits;
	struct rlimit limits[RLIM_NLIMITS]; /* as they are now: whoever sets one notes it here */
	int oom_score_adj;
	uint64_t coredump_filter;
};

/* Those of this process, which all have that it makes. What cannot be read is not known. */
struct limits_born limits_read_born(struct arena *arena);

/* The steps of the scripts of one task, in this order; the leader's first, between them its threads. */
struct task_restore {
	struct arena *arena;
	struct region *region;
	const Pb__Task *pb;
	const Pb__AddressSpace *space;
	const struct inode_restore *inodes;
	bool keeps_groups;      /* creds_check() has compared them, from outside the user namespace that we are in */
	struct proc_status own; /* of this process, before it changes: by creds_read_own() */
	struct limits_born *born; /* of this process as well; or NULL */
	const struct arch_xstate *xstate; /* arch_xstate_here() */
	bool *lowered;          /* set when a limit or the oom score may stay lower than it was; or NULL */
};

/* In ordinary C, before anything is mapped: as much room as we may have. */
int limits_widen(const struct task_restore *r, struct err *e);

/* In ordinary C, before the switch: working and root folder, umask, oom score, core dump filter. */
int limits_restore(const struct task_restore *r, struct err *e);

/* From outside, once a task is parked that was `lowered`: what stays lower than it was is added to `notes`. -ENOMEM or 0. */
int limits_note(struct arena *arena, const Pb__Task *pb, struct obstacle_list *notes);

/* Can this process take on these credentials? `own` are those that it has, by creds_read_own(). */
int creds_check(const Pb__Task *pb, const struct proc_status *own, struct err *e);
int creds_read_own(struct arena *arena, struct proc_status *ret, struct err *e);

/* Append the leader's steps that concern the whole task. */
int signals_restore(const struct task_restore *r, struct script_builder *b, struct err *e);
int timers_restore(const struct task_restore *r, struct script_builder *b, struct err *e);
int limits_restore_script(const struct task_restore *r, struct script_builder *b, struct err *e);
size_t task_script_ops(const Pb__Task *pb);

/* Append the steps of one thread, the leader included: the last of its script. */
int thread_restore(const struct task_restore *r, const Pb__Thread *th, struct script_builder *b, struct err *e);
int creds_restore(const struct task_restore *r, struct script_builder *b, struct err *e);
size_t creds_script_ops(const struct task_restore *r);

/* Will the script change user or group ids? The kernel makes such a process not dumpable. */
bool creds_change_ids(const struct task_restore *r);
size_t thread_script_ops(const struct task_restore *r, const Pb__Thread *th);

/*
 * Take back what libc has registered with the kernel for this thread, which whoever it makes would be born with: the area of
 * rseq(2), into which the kernel writes each time that it lets the thread run.
 */
int thread_forget_libc(struct err *e);

/* May this thread of ours, and so what it makes, be on every CPU that it could be allowed (sched_setaffinity(2))? */
bool thread_may_use_every_cpu(pid_t tid);

/*
 * Does the thread load its extended state by itself, at the end of its script? What it does not certainly load as the kernel would,
 * thread_restore_outside() gives it, or it is refused there.
 */
bool thread_loads_xstate(const struct arch_xstate *here, const Pb__Thread *th);

/*
 * From outside, once the thread is parked: registers, signal mask, scheduling. `every_cpu`: what thread_may_use_every_cpu()
 * has told of who made it. What may not be set and differs is added to `notes` (text for the user).
 */
int thread_restore_outside(const Pb__Thread *th, const struct arch_xstate *here, bool every_cpu, struct obstacle_list *notes,
			   struct err *e);

/* The root's wish to be told of the end of its parent cannot be kept. -ENOMEM or 0. */
int thread_note_parent(const Pb__Task *pb, struct obstacle_list *notes);
