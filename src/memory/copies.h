/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Where the pages of an address space that were copied while the program ran stand
 * in the image. Of a page that was copied several times, the last copy counts;
 * the others are dead: pages of the image that belong to no run.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image/image.h"
#include "util/arena.h"
#include "util/err.h"

struct page_source;

/* In image_run.extent: these pages are zero, and not stored; or: their content is not known, they must be read. */
#define COPIES_ZERO UINT32_MAX
#define COPIES_LOST (UINT32_MAX - 1)

struct page_copies {
	pthread_mutex_t lock; /* for what is fresh */
	struct image_run *fresh; /* of this round, in any order */
	size_t n_fresh, room_fresh;
	struct image_run *v; /* of the rounds before: ascending, never overlapping */
	size_t n;
};

void copies_init(struct page_copies *c);
void copies_done(struct page_copies *c);

/*
 * One more run behind the `*n` that are there; the last one grows where this one goes on with it, in memory and in the image. Nothing
 * if it has no pages. There must be room; the owner is not looked at.
 */
void copies_put(struct image_run *runs, size_t *n, struct image_run run);

/* Pages were stored. Thread-safe. */
int copies_add(struct page_copies *c, const struct image_run *runs, size_t n, struct err *e);

/* A round has ended: what it brought replaces what was there of the same pages. */
int copies_settle(struct page_copies *c, struct err *e);

/* What copies_take() has to do with the copies of an address space. */
struct copies_use {
	const struct page_copies *copies;
	uint32_t owner;
	struct image_writer *writer;
	struct arena *arena;
	bool distrust; /* no copy counts */
	uint64_t pages; /* out: how many stored pages are in use */
};

/*
 * The pages in `kept` are to be found in the image as they were copied: tell the
 * writer, as pages of `owner`. Those whose copy does not count are added to `lost`, those that were
 * never copied to `unknown`; that may be the same.
 */
int copies_take(struct copies_use *u, const struct page_source *kept, struct page_source *lost, struct page_source *unknown,
		struct err *e);
