/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Extent by extent, in the order of the table: the pages that are still referred
 * to move up against each other, until an extent is full. An extent of which all
 * pages are needed stays one, so that huge pages stay whole (memory/fill.c).
 */

#include "image/squash.h"

#include <stdlib.h>
#include <string.h>

#include "image/layout.h"
#include "util/err.h"
#include "util/interrupt.h"
#include "util/progress.h"

enum { EXTENT_PAGES = IMAGE_EXTENT_MAX / IMAGE_PAGE };

struct squash {
	const struct image *img;
	struct image_writer *w;
	struct image_packing packing;
	struct image_packer *packer;
	uint8_t *in, *out; /* IMAGE_EXTENT_MAX bytes each */
	uint32_t n_out;    /* pages in `out` */
	uint32_t *order;   /* all runs, by extent */
	struct image_run *pending; /* those whose pages are in `out` */
	size_t n_pending;
};

/* ---- which runs belong to which extent ---- */

/* Count, then place: the runs of each extent come to lie side by side. */
static int squash_sort(struct squash *s, size_t **ret_first, struct err *e)
{
	const struct image *img = s->img;
	size_t *first = calloc(img->n_extents + 2, sizeof(*first));

	s->order = malloc((img->n_runs + 1) * sizeof(*s->order));
	s->pending = malloc((img->n_runs + 1) * sizeof(*s->pending));
	*ret_first = first;
	if (!first || !s->order || !s->pending)
		return err_nomem(e);
	for (size_t i = 0; i < img->n_runs; i++)
		first[img->runs[i].extent + 2]++;
	for (size_t i = 2; i < img->n_extents + 2; i++)
		first[i] += first[i - 1];
	for (size_t i = 0; i < img->n_runs; i++)
		s->order[first[img->runs[i].extent + 1]++] = (uint32_t)i;
	return 0;
}

/* ---- one extent ---- */

static int squash_flush(struct squash *s, struct err *e)
{
	uint64_t sums[EXTENT_PAGES];
	struct image_packed x = { .sums = sums };
	uint32_t extent;
	int r;

	if (!s->n_out)
		return 0;
	image_page_sums(image_writer_seed(s->w), s->out, s->n_out, sums);
	image_pack(s->packer, &s->packing, s->out, s->n_out * IMAGE_PAGE, &x);
	r = image_writer_packed(s->w, &x, &extent, e);
	for (size_t i = 0; r == 0 && i < s->n_pending; i++) {
		s->pending[i].extent = extent;
		r = image_writer_run(s->w, &s->pending[i], e);
	}
	s->n_out = 0;
	s->n_pending = 0;
	return r;
}

/* Which pages any of these runs refers to; returns how many. */
static uint32_t squash_mark(const struct squash *s, const uint32_t *runs, size_t n, bool live[EXTENT_PAGES])
{
	uint32_t count = 0;

	memset(live, 0, EXTENT_PAGES * sizeof(*live));
	for (size_t i = 0; i < n; i++) {
		const struct image_run *run = &s->img->runs[runs[i]];

		for (uint32_t k = 0; k < run->pages; k++) {
			count += !live[run->page + k];
			live[run->page + k] = true;
		}
	}
	return count;
}

static int squash_extent(struct squash *s, size_t extent, const uint32_t *runs, size_t n, struct err *e)
{
	bool live[EXTENT_PAGES];
	uint32_t place[EXTENT_PAGES]; /* of each live page in `out` */
	uint32_t count = squash_mark(s, runs, n, live);

	if (s->n_out + count > EXTENT_PAGES && squash_flush(s, e) < 0)
		return -1;
	if (image_read_extent(s->img, extent, s->in, e) < 0)
		return -1;
	for (uint32_t i = 0; i < EXTENT_PAGES; i++) {
		if (!live[i])
			continue;
		place[i] = s->n_out;
		memcpy(s->out + (size_t)s->n_out++ * IMAGE_PAGE, s->in + (size_t)i * IMAGE_PAGE, IMAGE_PAGE);
	}
	for (size_t i = 0; i < n; i++) {
		struct image_run run = s->img->runs[runs[i]];

		run.page = place[run.page];
		s->pending[s->n_pending++] = run;
	}
	return s->n_out == EXTENT_PAGES ? squash_flush(s, e) : 0;
}

/* ---- all of them ---- */

static int squash_extents(struct squash *s, const size_t *first, const struct progress *progress, struct err *e)
{
	size_t n = s->img->n_extents;
	int r = 0;

	for (size_t i = 0; r == 0 && i < n; i++) {
		progress_step(progress, "joining", i * (uint64_t)IMAGE_EXTENT_MAX, n * (uint64_t)IMAGE_EXTENT_MAX);
		r = interrupt_check(e);
		if (r == 0 && first[i + 1] > first[i])
			r = squash_extent(s, i, s->order + first[i], first[i + 1] - first[i], e);
	}
	return r == 0 ? squash_flush(s, e) : r;
}

/* As the files of the chain are: the first packed extent decides. */
static struct image_packing squash_packing(const struct image *img)
{
	for (size_t i = 0; i < img->n_extents; i++) {
		size_t index;
		const struct image *holder = image_holder(img, i, &index);

		if (holder->extents[index].codec != IMAGE_CODEC_RAW)
			return (struct image_packing){ .codec = holder->extents[index].codec };
	}
	return (struct image_packing){ .codec = IMAGE_CODEC_RAW };
}

int image_squash(const struct image *img, struct image_writer *w, const struct image_packing *packing,
		 const struct progress *progress, struct err *e)
{
	struct squash s = { .img = img, .w = w, .packing = packing && !packing->automatic ? *packing : squash_packing(img) };
	size_t *first = NULL;
	int r;

	s.packer = image_packer_new();
	s.in = malloc(IMAGE_EXTENT_MAX);
	s.out = malloc(IMAGE_EXTENT_MAX);
	r = s.packer && s.in && s.out ? squash_sort(&s, &first, e) : err_nomem(e);
	if (r == 0)
		r = squash_extents(&s, first, progress, e);
	image_packer_free(s.packer);
	free(s.in);
	free(s.out);
	free(s.order);
	free(s.pending);
	free(first);
	return r;
}
