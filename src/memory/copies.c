/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/copies.h"

#include <stdlib.h>
#include <string.h>

#include "image/layout.h"
#include "memory/memory.h"

void copies_init(struct page_copies *c)
{
	*c = (struct page_copies){ .lock = PTHREAD_MUTEX_INITIALIZER };
}

void copies_done(struct page_copies *c)
{
	free(c->fresh);
	free(c->v);
	copies_init(c);
}

/* No page of the image belongs to it. */
static bool run_is_nowhere(const struct image_run *r)
{
	return r->extent == COPIES_ZERO || r->extent == COPIES_LOST;
}

/* Does `next` go on where `r` ends, both in memory and in the image? */
static bool run_continues(const struct image_run *r, const struct image_run *next)
{
	return image_run_end(r) == next->addr && r->extent == next->extent &&
	       (run_is_nowhere(r) || r->page + r->pages == next->page);
}

/* The part of a run within [from, to). */
static struct image_run run_part(const struct image_run *r, uint64_t from, uint64_t to)
{
	struct image_run part = *r;

	if (from > r->addr) {
		part.addr = from;
		part.page += (uint32_t)((from - r->addr) / MEMORY_PAGE);
	}
	part.pages = (uint32_t)(((to < image_run_end(r) ? to : image_run_end(r)) - part.addr) / MEMORY_PAGE);
	return part;
}

void copies_put(struct image_run *runs, size_t *n, struct image_run run)
{
	if (!run.pages)
		return;
	if (*n && run_continues(&runs[*n - 1], &run))
		runs[*n - 1].pages += run.pages;
	else
		runs[(*n)++] = run;
}

int copies_add(struct page_copies *c, const struct image_run *runs, size_t n, struct err *e)
{
	int r = 0;

	pthread_mutex_lock(&c->lock);
	if (c->n_fresh + n > c->room_fresh) {
		size_t room = (c->n_fresh + n) * 2;
		struct image_run *bigger = reallocarray(c->fresh, room, sizeof(*bigger));

		if (bigger) {
			c->fresh = bigger;
			c->room_fresh = room;
		} else {
			r = err_nomem(e);
		}
	}
	for (size_t i = 0; r == 0 && i < n; i++)
		c->fresh[c->n_fresh++] = runs[i];
	pthread_mutex_unlock(&c->lock);
	return r;
}

/* ---- the end of a round ---- */

static int compare_runs(const void *left, const void *right)
{
	const struct image_run *a = left, *b = right;

	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

/* Merge: where both have a page, the fresh one wins. `to` has room for old + 2 * fresh runs. */
static size_t overlay(struct image_run *to, const struct image_run *old, size_t n_old, const struct image_run *fresh,
		      size_t n_fresh)
{
	size_t n = 0, k = 0;
	uint64_t done = 0; /* old pages below this are settled */

	for (size_t i = 0; i < n_fresh; i++) {
		for (; k < n_old && old[k].addr < fresh[i].addr; k++) {
			if (image_run_end(&old[k]) > done)
				copies_put(to, &n, run_part(&old[k], done, fresh[i].addr));
			if (image_run_end(&old[k]) > fresh[i].addr)
				break; /* its rest may stand behind this fresh run */
		}
		copies_put(to, &n, fresh[i]);
		done = image_run_end(&fresh[i]);
		while (k < n_old && image_run_end(&old[k]) <= done)
			k++;
	}
	for (; k < n_old; k++)
		if (image_run_end(&old[k]) > done)
			copies_put(to, &n, run_part(&old[k], done, image_run_end(&old[k])));
	return n;
}

int copies_settle(struct page_copies *c, struct err *e)
{
	struct image_run *merged = calloc(c->n + 2 * c->n_fresh + 1, sizeof(*merged)), *fit;
	size_t n;

	if (!merged)
		return err_nomem(e);
	if (c->n_fresh)
		qsort(c->fresh, c->n_fresh, sizeof(*c->fresh), compare_runs);
	n = overlay(merged, c->v, c->n, c->fresh, c->n_fresh);
	fit = realloc(merged, (n + 1) * sizeof(*merged));
	free(c->v);
	c->v = fit ?: merged;
	c->n = n;
	c->n_fresh = 0;
	return 0;
}

/* ---- the end ---- */

static int add_range(struct arena *arena, struct page_source *s, const struct page_range *like, uint64_t from, uint64_t to,
		     struct err *e)
{
	const struct page_range range = { .addr = from, .from = from, .pages = (to - from) / MEMORY_PAGE, .task = like->task,
					  .keep_zero = like->keep_zero, .alone = like->alone };

	return page_source_add(arena, s, &range, e);
}

/* A part of `range` that was copied. */
static int take_run(struct copies_use *u, struct image_run run, const struct page_range *range, struct page_source *lost,
		    struct err *e)
{
	if (u->distrust || run.extent == COPIES_LOST)
		return add_range(u->arena, lost, range, run.addr, image_run_end(&run), e);
	if (run.extent == COPIES_ZERO)
		return 0;
	run.owner = u->owner;
	u->pages += run.pages;
	return image_writer_run(u->writer, &run, e);
}

int copies_take(struct copies_use *u, const struct page_source *kept, struct page_source *lost, struct page_source *unknown,
		struct err *e)
{
	const struct page_copies *c = u->copies;
	size_t k = 0;
	int r = 0;

	u->pages = 0;
	for (size_t i = 0; r == 0 && i < kept->n; i++) {
		const struct page_range *range = &kept->ranges[i];
		uint64_t at = range->addr, end = at + range->pages * MEMORY_PAGE;

		while (k < c->n && image_run_end(&c->v[k]) <= at)
			k++;
		for (size_t m = k; r == 0 && at < end; m++) {
			uint64_t next = m < c->n && c->v[m].addr < end ? c->v[m].addr : end;

			if (next > at) {
				r = add_range(u->arena, unknown, range, at, next, e);
				at = next;
			}
			if (r == 0 && at < end) {
				struct image_run run = run_part(&c->v[m], at, end);

				at = image_run_end(&run);
				r = take_run(u, run, range, lost, e);
			}
		}
	}
	return r;
}
