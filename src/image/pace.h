/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Is it worth while to pack? Where the file, into which one thread at a time writes, or a disk that lags behind
 * takes more slowly what is written than the processors could pack it: then less to write is sooner done.
 */

#include <pthread.h>

#include "image/codec.h"

enum { PACE_CODECS = 3 };

struct pace {
	pthread_mutex_t lock;
	struct image_writer *writer;
	unsigned workers;
	uint64_t begun_ns, looked_at; /* when, and at which size of the file, it was last looked */
	uint64_t disk;                /* bytes per second that it takes; 0: not known yet */
	bool lags;
	uint64_t extents, seen; /* for how many was chosen; bytes of memory that were stored */
	struct pace_codec {
		struct image_packing packing;
		unsigned tries;            /* trials, while it was not the choice */
		uint64_t next_try;         /* at which extent */
		uint64_t size, stored, ns; /* of those that were packed and written so; the last ones weigh most */
	} codecs[PACE_CODECS];             /* the first one: not at all */
	unsigned choice;
};

/* Nothing is known yet; one thread is expected. */
void pace_init(struct pace *p, struct image_writer *w);

/* So many threads will call pace_choose() at once from now on. */
void pace_expect(struct pace *p, unsigned workers);

/*
 * What a look has found, `ns` after the beginning: so many bytes are written, and
 * so many of them wait for the disk. pace_choose() does it from time to time.
 */
void pace_see(struct pace *p, uint64_t written, uint64_t waiting, uint64_t ns);

/* How to pack the next extent. */
struct image_packing pace_choose(struct pace *p);

/* One of `size` bytes was packed so, or could not be, and `stored` bytes were written, all in so many nanoseconds of CPU time. */
void pace_note(struct pace *p, const struct image_packing *packing, uint32_t size, uint32_t stored, uint64_t ns);
