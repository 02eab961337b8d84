/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Is it worth while to pack? Only where the disk takes what is written more slowly
 * than the processors could pack it, and only while it lags behind: then less to
 * write is sooner done.
 */

#include <pthread.h>

#include "image/codec.h"

enum { PACE_CODECS = 2 };

struct pace {
	pthread_mutex_t lock;
	struct image_writer *writer;
	unsigned workers;
	uint64_t begun_ns, looked_at; /* when, and at which size of the file, it was last looked */
	uint64_t disk;                /* bytes per second that it takes; 0: not known yet */
	bool lags;
	struct pace_codec {
		struct image_packing packing;
		unsigned tried;
		uint64_t size, stored, ns; /* of all that was packed */
	} codecs[PACE_CODECS];
	struct image_packing choice;
};

/* For as many threads as will call pace_choose() at once. */
void pace_init(struct pace *p, struct image_writer *w, unsigned workers);

/*
 * What a look has found, `ns` after the beginning: so many bytes are written, and
 * so many of them wait for the disk. pace_choose() does it from time to time.
 */
void pace_see(struct pace *p, uint64_t written, uint64_t waiting, uint64_t ns);

/* How to pack the next extent. */
struct image_packing pace_choose(struct pace *p);

/* One was packed, or could not be, in so many nanoseconds. */
void pace_note(struct pace *p, const struct image_packing *packing, const struct image_packed *x, uint64_t ns);
