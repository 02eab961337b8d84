/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * For a look at something that must be changed for the look: a process of its own
 * stands by, and puts it back, in any case; also when torpor is killed meanwhile.
 */

#include <sys/types.h>

struct err;

struct guard {
	pid_t pid;
	int word; /* closed when all is well, or torpor is dead */
};

/* Before the change. `undo` runs in the guard, which has a copy of torpor's memory and fds as they are now. */
int guard_begin(struct guard *g, void (*undo)(void *data), void *data, struct err *e);

/* Let the guard put it back, and wait until it has. */
void guard_end(struct guard *g);
