/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Processes with chosen PIDs, in each of the ways that there are (abi/steer.h). */

#include <stdint.h>
#include <sys/types.h>

#include "abi/steer.h"
#include "util/err.h"
#include "util/progress.h"

enum { PIDS_STRAYS_MAX = 32 };

/* Shared by the coordinator and all the tasks: a mapping of its own, whole pages. */
struct pids {
	struct steer steer;
	uint32_t n_strays;
	struct pids_stray {
		pid_t parent, pid; /* a sibling of its maker, that `parent` must reap */
	} strays[PIDS_STRAYS_MAX];
};

/* How PIDs can be chosen here: tried, without consequences. -EPERM: only by forking. */
int pids_find_way(enum pid_way *ret);

struct pids *pids_new(enum pid_way way, uint64_t fork_limit, struct err *e);
void pids_free(struct pids *p);

/*
 * As fork(2), with this PID, and clone(2) flags (CLONE_PARENT or 0). Returns the PID, 0 in the child, or -errno:
 * -EEXIST when it is taken, -ETIME when the limit of forks was reached.
 */
pid_t pids_clone(struct pids *p, const struct progress *progress, pid_t pid, uint64_t flags, int exit_signal);

/*
 * Go on as another process, with this PID: a child of our parent, which has our address space, and copies of our file
 * descriptors. The process that calls it ends, with exit status 0. Where PIDs are chosen by clone3(2) only. Returns 0 in the
 * new process, or -errno, as above, in the old one. That may have no thread but this, and nothing that the kernel writes to
 * when it ends (set_tid_address(2), robust futexes).
 */
pid_t pids_hand_over(pid_t pid);

/* Reap what came out of pids_clone(CLONE_PARENT) as a child of ours, and had the wrong PID. */
void pids_reap_strays(struct pids *p);

/* Can this PID come up within the limit? Says so, with an estimate of the time, before anything is begun. */
int pids_foresee(const struct pids *p, pid_t pid, struct err *e);
