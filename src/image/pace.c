/* SPDX-License-Identifier: Apache-2.0 */

#include "image/pace.h"

#include "util/clock.h"

enum {
	PACE_STEP = 64 * 1024 * 1024, /* bytes of the file between two looks at the disk */
	PACE_FIRST_MS = 200,          /* before that, it has hardly begun */
	PACE_TRIES = 3,               /* extents by which a codec is judged at first */
	PACE_LAG_MS = 50,             /* with so much to do, the disk lags */
	PACE_GAIN_PERCENT = 125,      /* so much faster it must be: a restore has to unpack */
};

void pace_init(struct pace *p, struct image_writer *w, unsigned workers)
{
	*p = (struct pace){
		.lock = PTHREAD_MUTEX_INITIALIZER, .writer = w, .workers = workers, .begun_ns = clock_now_ns(CLOCK_MONOTONIC),
		.codecs = { { .packing = { .codec = IMAGE_CODEC_LZ4 } }, { .packing = { .codec = IMAGE_CODEC_ZSTD } } },
	};
}

/* Bytes of memory per second that would be dealt with, if all were packed so: by the processors, or by the disk. */
static double pace_rate(const struct pace *p, const struct pace_codec *c)
{
	double packs = 1e9 * (double)c->size / (double)(c->ns ?: 1) * p->workers;
	double writes = (double)p->disk * (double)c->size / (double)(c->stored ?: 1);

	return packs < writes ? packs : writes;
}

static void pace_decide(struct pace *p)
{
	double best = (double)p->disk * PACE_GAIN_PERCENT / 100;

	p->choice = (struct image_packing){ .codec = IMAGE_CODEC_RAW };
	for (int i = 0; p->lags && i < PACE_CODECS; i++) {
		const struct pace_codec *c = &p->codecs[i];

		if (c->tried < PACE_TRIES || pace_rate(p, c) <= best)
			continue;
		best = pace_rate(p, c);
		p->choice = c->packing;
	}
}

/* The disk is as fast as it has ever been: it may have had a slow moment. */
void pace_see(struct pace *p, uint64_t written, uint64_t waiting, uint64_t ns)
{
	uint64_t disk = (uint64_t)((double)(written - waiting) * 1e9 / (double)(ns ?: 1));

	p->looked_at = written;
	if (ns < PACE_FIRST_MS * 1000000ull)
		return;
	if (disk > p->disk)
		p->disk = disk;
	p->lags = (double)waiting * 1e3 > (double)p->disk * PACE_LAG_MS;
	pace_decide(p);
}

static void pace_look(struct pace *p)
{
	uint64_t written, waiting;

	if (image_writer_backlog(p->writer, &written, &waiting))
		pace_see(p, written, waiting, clock_now_ns(CLOCK_MONOTONIC) - p->begun_ns);
	else
		p->looked_at = UINT64_MAX - PACE_STEP; /* it cannot be seen: all is raw */
}

struct image_packing pace_choose(struct pace *p)
{
	struct image_packing choice;

	pthread_mutex_lock(&p->lock);
	if (image_writer_stored(p->writer) >= p->looked_at + PACE_STEP)
		pace_look(p);
	choice = p->choice;
	for (int i = 0; p->lags && i < PACE_CODECS; i++) {
		if (p->codecs[i].tried < PACE_TRIES) {
			p->codecs[i].tried++;
			choice = p->codecs[i].packing;
			break;
		}
	}
	pthread_mutex_unlock(&p->lock);
	return choice;
}

void pace_note(struct pace *p, const struct image_packing *packing, const struct image_packed *x, uint64_t ns)
{
	pthread_mutex_lock(&p->lock);
	for (int i = 0; i < PACE_CODECS; i++) {
		struct pace_codec *c = &p->codecs[i];

		if (c->packing.codec != packing->codec)
			continue;
		c->size += x->size;
		c->stored += x->stored;
		c->ns += ns;
	}
	pthread_mutex_unlock(&p->lock);
}
