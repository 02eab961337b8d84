/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What happens inside the processes that become the saved tasks: birth, groups,
 * memory, file descriptors, script. Every function here runs in a child of the
 * coordinator, traced by it, and reports failures through `struct meeting`.
 */

#include <signal.h>
#include <stdatomic.h>

#include "core/pids.h"
#include "core/plan.h"
#include "inode/inode.h"
#include "kinds/kind.h"
#include "memory/family.h"
#include "memory/help.h"
#include "task/task.h"

/* Memory that the coordinator and all the tasks share while the tree is being made. */
struct meeting {
	_Atomic uint32_t go;      /* the root is traced: it may begin */
	_Atomic uint32_t arrived; /* at the barriers; each task counts once per barrier */
	_Atomic uint32_t failed;  /* 1: `err` is being or has been filled */
	_Atomic uint32_t told;    /* 1: `err` is complete */
	struct err err;
};

struct build {
	const struct plan *plan;
	const struct image *image;
	const struct inode_restore *inodes;
	const int *object_fds;
	struct meeting *meeting;
	struct pids *pids;     /* how PIDs are chosen, in shared memory: */
	enum pid_way way;      /* what it says, for those who make nobody and need not look */
	bool meets;            /* at the barriers: build_must_meet() */
	bool loads_first;      /* the one task is born with its memory loaded: by build_loader(), which verifies it */
	const bool *settable_exes; /* memory_settable_exes(); NULL: /proc/PID/exe may not be set */
	struct arch_xstate xstate; /* what threads load by themselves: arch_xstate_here() */
	bool maps_vdso;        /* the kernel makes a vdso where it is told to: arch_can_map_vdso() */
	bool keeps_groups;     /* in a user namespace: supplementary groups stay as they are, under whatever numbers */
	pid_t coordinator;
	unsigned timeout_ms; /* without anybody coming further, before the restore is given up */
	sigset_t interrupts; /* the signals by which loading first can be called off */
	int park; /* the signal by which threads stop when they are complete; 0: SIGSTOP */
	bool every_cpu; /* the root is born with all CPUs allowed: thread_may_use_every_cpu(); false: or it is not worth a look */
	struct proc_status own;  /* of the coordinator, and so of what it makes */
	struct limits_born born; /* of this very process, by what it was made with */
	struct help *help;     /* between the coordinator and the loader, in shared memory; NULL: there is none */
	const struct family *family;
	struct stock stock;    /* what this very process was born with, or has for those that it makes */
	const struct vm_area_list *areas; /* all that it was born with; NULL: not known */
	const struct progress *progress; /* the coordinator's: the tasks only count */
	struct build_region {
		uint64_t start, size;
		uint64_t script; /* the leader's */
		_Atomic uint64_t loaded; /* bytes of memory so far */
		bool changes_ids; /* its credentials are others than torpor's */
		bool lowered;     /* a limit, or the out-of-memory score, may not be what was saved */
	} *regions; /* one per task, in shared memory */
};

/* So much stack each task takes on its way, beyond what the coordinator has used: RLIMIT_STACK must allow it. */
size_t build_stack_bytes(const struct plan *p);

/*
 * Must the tasks wait for each other? Not where each is born into its group, chooses all its PIDs and TIDs while nobody
 * else takes numbers, and has no descriptor that refers to another task: then each goes on as soon as it is born.
 */
bool build_must_meet(const struct build *b);

/* Make the root task. Returns its PID in the coordinator, or negative. */
pid_t build_root(struct build *b, struct err *e);

/*
 * Make a process that is none of the tree, but loads the memory of its one task, and then makes the root, which takes its
 * address space over. Returns its PID in the coordinator, or negative. When it has ended with status 0, the root is there.
 */
pid_t build_loader(struct build *b, struct err *e);

/*
 * The steps of a task's script that follow the switch of address spaces, and the
 * scripts of its threads: what is the same in every restore. `tr` has what
 * creds_read_own() tells, and its region holds build_steps_ops() and build_steps_bytes().
 */
struct task_restore;
struct script_builder;
int build_steps(const struct build *b, const struct task_restore *tr, struct script_builder *s, struct err *e);
size_t build_steps_ops(const struct task_restore *tr);
uint64_t build_steps_bytes(const struct task_restore *tr);

/* Let the root begin. */
void build_go(struct build *b);

/* Let a root that may have been born end. */
void build_call_off(struct build *b);
