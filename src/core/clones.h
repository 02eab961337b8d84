/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Clones of the tasks' memory, to copy from when the tree runs again (theory.md, "A short pause"). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image/pb.h"
#include "memory/memory.h"
#include "target/target.h"

struct clones {
	struct target *v; /* by task of the tree; those without a clone have PID 0 */
	size_t n;
	struct page_source *sources; /* what is to be read from the clones */
	size_t n_sources;
	uint64_t pages;
};

/* How many of these pages could be copied from clones; 0 as well where none can be made without the tree noticing. */
uint64_t clones_count(const struct target_tree *tree, const Pb__Image *image, const struct page_source *sources, size_t n);

/*
 * Make clones, and move what can be read from them out of `sources`, whose first
 * n_spaces belong to the address spaces of the image. A task that cannot make one keeps its pages there.
 */
int clones_make(struct clones *c, struct arena *arena, struct target_tree *tree, const Pb__Image *image,
		struct page_source *sources, struct err *e);

/* May be called twice, and for a zeroed struct. */
void clones_end(struct clones *c);
