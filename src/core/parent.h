/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The image that a dump stores only the difference to. */

#include "image/codec.h"
#include "image/image.h"
#include "image/pb.h"
#include "memory/base.h"

struct arena;
struct err;
struct progress;

/*
 * Open it for a dump into `child`, and see that both can be: the chain must not
 * become too long, and the dump must not replace a file of it. The rest lives in
 * the arena; parent_close() closes the image.
 */
int parent_open(struct parent *p, const char *path, const char *child, struct arena *arena, struct err *e);

/* What torpor squash does. */
struct squash_options {
	const char *path, *output;
	const struct image_packing *packing; /* NULL: as it was */
	bool no_sync;
	const struct progress *progress;
};

/* Join a chain in a new file. *ret_images is how many files it had. */
int core_squash(const struct squash_options *o, int *ret_images, struct err *e);

/* With nothing open, it does nothing. */
void parent_close(struct parent *p);
