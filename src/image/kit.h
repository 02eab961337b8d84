/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What one thread makes extents with: room for the pages, and what packs them. To get and to give back such memory takes
 * longer than to fill it once, so it goes with the writer, and whoever comes next works with it.
 */

#include <pthread.h>
#include <stddef.h>

#include "image/codec.h"

struct kit {
	char *room;                  /* `size` bytes, in whole pages that are there */
	size_t size;
	struct image_packer *packer; /* NULL: it was not needed yet */
	struct kit *next;
};

/* Those that nobody works with. */
struct kits {
	pthread_mutex_t lock;
	struct kit *first;
};

void kits_init(struct kits *k);

/* None may be out. */
void kits_done(struct kits *k);

/* One with so much room. NULL when out of memory. It is given back by kits_give(). */
struct kit *kits_take(struct kits *k, size_t size);
void kits_give(struct kits *k, struct kit *kit);
