/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A restore stays within its image: what the scripts of a plan do is read step by
 * step, and compared with what the image names.
 */

#include <stdbool.h>

#include "core/explain.h"
#include "core/plan.h"

struct within {
	const char *what;  /* what is not within; NULL: all is */
	const char *note;  /* the step */
	uint64_t value;    /* an address, PID, fd, or the number of a system call */
	unsigned long steps, values; /* how many were looked at */
};

/* Every task of the plan is one of the image, and torpor's own fds are above all that these have. */
bool within_plan(struct within *w, const struct plan *plan);

/*
 * The steps of a task, and of its threads. A step may be one of some system calls,
 * none of which takes a path. What the kernel reads must lie in the region; an
 * address of the program must be the image's, and with `mapped`, as in an image
 * that was not made to deceive, lie in one of its mappings; a PID or TID must be
 * the task's, an fd one of its slots, an id one of the image's.
 */
bool within_script(struct within *w, const struct plan *plan, size_t task, const struct explain *x, bool mapped);

/*
 * The switch of address spaces, as a task would make it out of this very process. Unmapped is what belongs neither to the
 * image nor to the region, all of it; what is moved comes to where the image has a mapping of that size; and the
 * layout is the image's. `parked`: of the mappings, each one after so many stands in the way of something; 0: none.
 * Maps a region and leaves it; nothing is executed.
 */
bool within_switch(struct within *w, const struct plan *plan, size_t task, const struct image *img, size_t parked,
		   struct arena *arena, struct err *e);
