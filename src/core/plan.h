/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The plan: a pure function of the image. It refuses metadata that does not agree
 * with itself, and decides who makes whom, so that every task ends up with its
 * parent, session and process group.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image/image.h"
#include "image/pb.h"
#include "util/err.h"

/* How a task comes into the session that it must be in. */
enum birth {
	BIRTH_ROOT,            /* made by the coordinator */
	BIRTH_BEFORE_SESSION,  /* by its parent, before that becomes a session leader */
	BIRTH_CHILD,           /* by its parent, afterwards (or it leads a session of its own) */
	BIRTH_BY_STANDIN,      /* by a stand-in for the dead leader of its session; CLONE_PARENT */
	BIRTH_BY_LEADER,       /* by its living session leader, a sibling; CLONE_PARENT */
};

struct plan_task {
	const Pb__Task *pb;
	uint32_t parent;  /* index; UINT32_MAX for the root */
	enum birth birth;
	uint32_t leader;  /* BIRTH_BY_LEADER: index of the maker */
	bool makes_group; /* its group's leader is dead, and this task brings in a stand-in for it */
};

struct plan {
	const Pb__Image *image;
	struct plan_task *tasks;
	size_t n_tasks;
	size_t n_threads; /* of all living tasks */
	int fd_base;      /* above every fd of every task */
};

/* `img` gives the bounds of page runs. The plan lives in the arena. */
int plan_make(struct plan *plan, const Pb__Image *meta, const struct image *img, struct arena *arena, struct err *e);

/* Can it be restored on a machine with this vdso (memory_vdso_hash()) and these state components (arch_xfeatures())? */
int plan_check_here(const Pb__Machine *machine, uint64_t vdso_hash, uint64_t xfeatures, struct err *e);

/* A stand-in for a dead session leader is made once for all of its session; is this task the first that needs it? */
bool plan_first_of_session(const struct plan *plan, size_t task);

/* The task that forks this one, as it is or by way of a stand-in; UINT32_MAX: the coordinator. */
static inline uint32_t plan_maker(const struct plan *plan, size_t task)
{
	const struct plan_task *t = &plan->tasks[task];

	return t->birth == BIRTH_BY_LEADER ? t->leader : t->parent;
}
