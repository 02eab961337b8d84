/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What must not stay half done: a process of its own stands by, and undoes it, also when torpor is killed
 * meanwhile. For a look at something that must be changed for the look, it does so in any case.
 */

#include <sys/types.h>

struct err;

struct guard {
	pid_t pid;
	int word; /* closed when it is to be undone, or torpor is dead */
};

/* Before the change. `undo` runs in the guard, which has a copy of torpor's memory and fds as they are now. */
int guard_begin(struct guard *g, void (*undo)(void *data), void *data, struct err *e);

/* Let the guard put it back, and wait until it has. */
void guard_end(struct guard *g);

/*
 * All is done: let the guard go without undoing anything, and wait until it has gone. From the first step of this
 * on, it is done whatever happens to torpor. Negative: the guard was lost; what it guards is neither done nor undone.
 */
int guard_dismiss(struct guard *g, struct err *e);
