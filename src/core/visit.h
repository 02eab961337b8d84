/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A program that lives in a namespace of torpor's (namespace.h) is dumped from
 * inside: there its PIDs are those that it knows, and nothing in the dump needs to
 * be translated. The process that goes in is a child of the caller, in the PID
 * namespace but not of its init, which waits for such visitors before it ends.
 */

#include <sys/types.h>

#include "proc/task.h"
#include "util/arena.h"
#include "util/err.h"

struct visit {
	pid_t pid;  /* inside */
	pid_t init; /* outside */
	int program_fd, init_fd; /* of both, while we are there */
	struct proc_status outside; /* of the process, as it was read outside; in the arena */
};

/*
 * Does this process live in namespaces that torpor made, and is all else of it
 * where we are? 1 and *ret, or 0, or negative. For 0 the dump itself finds out what
 * is to be said.
 */
int visit_find(pid_t pid, struct arena *arena, struct visit *ret, struct err *e);

/*
 * Go into the namespaces of this process. Returns 0 in the child that is inside, with the working folder that we
 * had; in the caller, which only waits for it, its PID; or negative.
 */
pid_t visit_enter(struct visit *v, pid_t process, struct err *e);

/* When the visitor has ended: if the program has, too, its init does so in a moment, and frees its name. */
void visit_done(struct visit *v);
