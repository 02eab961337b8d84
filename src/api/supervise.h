/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Looking up a file on a server that does not answer (NFS, FUSE) takes for ever: the process sleeps in the kernel, and
 * only its end ends that. Whoever does so while a program stands needs somebody who looks after it.
 */

#include <stdbool.h>
#include <sys/types.h>

#include "util/err.h"

/* Does anything that this process can reach lie on a file system that asks others? Also false where that is not known. */
bool supervise_is_needed(pid_t pid);

enum { SUPERVISE_TEXT = 256 };

struct supervision {
	pid_t pid;           /* our child */
	unsigned timeout_ms;
	unsigned idle_ms;    /* for so long it has been in the same call */
	char last[SUPERVISE_TEXT]; /* of /proc/PID/syscall */
};

/*
 * One look, `passed_ms` after the last. True: it has not come out of a call that looks a file up for longer than it may;
 * or, when it was `called_off`, out of one that waits for a file system.
 */
bool supervise_look(struct supervision *s, unsigned passed_ms, bool called_off);

/* Which file, and where in the kernel? Returns negative. The process must not have been ended yet. */
int supervise_blame(const struct supervision *s, struct err *e);
