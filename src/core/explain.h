/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The scripts of a restore, built in this very process, to be read and not to be executed. */

#include "core/plan.h"
#include "target/script.h"
#include "util/arena.h"

struct explain {
	struct region region;       /* addresses in the arguments of the steps may lie in it */
	const struct script *script; /* the leader's; threads are started by its SCRIPT_THREAD steps */
};

/*
 * The steps of a living task, but for those that depend on the process that
 * executes them: leaving libc's registrations, and the switch of address spaces.
 * The same image gives the same steps. Ended by explain_end(), also on failure.
 */
int explain_begin(struct explain *x, const struct plan *plan, size_t task, struct arena *arena, struct err *e);
void explain_end(struct explain *x);
