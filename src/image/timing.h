/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How long the phases of an image's last restore took. It is an attribute of the
 * file (xattr(7)), for torpor inspect; the file itself is only read by a restore.
 */

#include <stdbool.h>
#include <stdint.h>

#define IMAGE_TIMING_XATTR "user.torpor.restore"

enum image_phase {
	IMAGE_PHASE_READ,   /* reading and checking the image, and the plan */
	IMAGE_PHASE_FILES,  /* files, pipes, sockets and the rest that tasks refer to */
	IMAGE_PHASE_TASKS,  /* the tasks, and their memory */
	IMAGE_PHASE_FINISH, /* the last state of each thread, until all run */
	IMAGE_PHASES,
};

struct image_timing {
	uint64_t realtime_ns; /* when the tree ran */
	uint64_t phase_ns[IMAGE_PHASES];
};

/* What people call a phase. */
const char *image_phase_name(enum image_phase phase);

/* Where the file or its file system does not take attributes, nothing is kept. */
void image_timing_write(int fd, const struct image_timing *t);

/* False: there is none, or none that makes sense. */
bool image_timing_read(int fd, struct image_timing *ret);
