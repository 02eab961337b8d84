/* SPDX-License-Identifier: Apache-2.0 */

#include "image/pace.h"

#include "util/clock.h"

enum {
	PACE_MIB = 1024 * 1024,
	PACE_STEP = 64 * PACE_MIB,   /* bytes of the file between two looks at the disk */
	PACE_FIRST_MS = 200,         /* before that, it has hardly begun */
	PACE_LAG_MS = 50,            /* with so much to do, the disk lags */
	PACE_GAIN_PERCENT = 125,     /* so much faster it must be: a restore has to unpack */
	PACE_FROM = 4 * PACE_MIB,    /* bytes of memory before the first trial: of a small target, all is raw */
	PACE_TRIES = 2,              /* extents by which a codec is judged at first; */
	PACE_TRY_AGAIN = 32,         /* after so many once more, and then each time after twice as many, */
	PACE_TRY_LATEST = 512,       /* but not more than that */
	PACE_MEMORY = 16 * PACE_MIB, /* so much of what was packed is remembered, and half of it forgotten then */
};

/* Bytes per second that a file takes at most, however fast the disk: only one thread at a time writes into it. Measured. */
static const double pace_file = 4e9;

void pace_init(struct pace *p, struct image_writer *w)
{
	*p = (struct pace){
		.lock = PTHREAD_MUTEX_INITIALIZER, .writer = w, .workers = 1, .begun_ns = clock_now_ns(CLOCK_MONOTONIC),
		.codecs = { { .packing = { .codec = IMAGE_CODEC_RAW } }, { .packing = { .codec = IMAGE_CODEC_LZ4 } },
			    { .packing = { .codec = IMAGE_CODEC_ZSTD } } },
	};
}

void pace_expect(struct pace *p, unsigned workers)
{
	pthread_mutex_lock(&p->lock);
	p->workers = workers;
	pthread_mutex_unlock(&p->lock);
}

/* Bytes of memory per second that would be dealt with, if all were packed so: by the processors, by the file, or by a disk that lags. */
static double pace_rate(const struct pace *p, const struct pace_codec *c)
{
	double packs = 1e9 * (double)c->size / (double)(c->ns ?: 1) * p->workers;
	double writes = (p->lags ? (double)p->disk : pace_file) * (double)c->size / (double)(c->stored ?: 1);

	return packs < writes ? packs : writes;
}

static void pace_decide(struct pace *p)
{
	double best = pace_rate(p, &p->codecs[0]) * PACE_GAIN_PERCENT / 100;

	p->choice = 0;
	for (unsigned i = 1; i < PACE_CODECS; i++) {
		const struct pace_codec *c = &p->codecs[i];

		if (c->tries < PACE_TRIES || pace_rate(p, c) <= best)
			continue;
		best = pace_rate(p, c);
		p->choice = i;
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
		p->looked_at = UINT64_MAX - PACE_STEP; /* nobody waits for it, or it cannot be seen */
}

static uint64_t pace_interval(const struct pace *p)
{
	if (p->extents < PACE_TRY_AGAIN)
		return PACE_TRY_AGAIN;
	return p->extents < PACE_TRY_LATEST ? p->extents : PACE_TRY_LATEST;
}

/*
 * Whether this extent is to show what the codec does now; after the first ones, that alone counts, as the memory may be
 * another there. A dense codec is of no use while the disk keeps up.
 */
static bool pace_tries(struct pace *p, unsigned i)
{
	struct pace_codec *c = &p->codecs[i];

	if (i == p->choice || (c->packing.codec == IMAGE_CODEC_ZSTD && !p->lags))
		return false;
	if (c->tries >= PACE_TRIES) {
		if (p->extents < c->next_try)
			return false;
		c->size = c->stored = c->ns = 0;
	}
	c->tries++;
	c->next_try = p->extents + pace_interval(p);
	return true;
}

struct image_packing pace_choose(struct pace *p)
{
	struct image_packing packing;
	unsigned chosen;

	pthread_mutex_lock(&p->lock);
	if (image_writer_stored(p->writer) >= p->looked_at + PACE_STEP)
		pace_look(p);
	chosen = p->choice;
	for (unsigned i = 0; p->seen >= PACE_FROM && i < PACE_CODECS; i++) {
		if (pace_tries(p, i)) {
			chosen = i;
			break;
		}
	}
	p->extents++;
	packing = p->codecs[chosen].packing;
	pthread_mutex_unlock(&p->lock);
	return packing;
}

static void pace_forget_half(struct pace_codec *c)
{
	c->size /= 2;
	c->stored /= 2;
	c->ns /= 2;
}

void pace_note(struct pace *p, const struct image_packing *packing, uint32_t size, uint32_t stored, uint64_t ns)
{
	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < PACE_CODECS; i++) {
		struct pace_codec *c = &p->codecs[i];

		if (c->packing.codec != packing->codec)
			continue;
		p->seen += size;
		c->size += size;
		c->stored += stored;
		c->ns += ns;
		if (c->size > PACE_MEMORY)
			pace_forget_half(c);
	}
	pace_decide(p);
	pthread_mutex_unlock(&p->lock);
}
