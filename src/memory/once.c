/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A table of what has been stored, by address and content. Content is compared by
 * XXH3-128 with a random seed: no accident makes two pages equal, and no program can
 * prepare two that will be, since the seed is new in every dump and seen by nobody. Pages at addresses that only one address space holds are not looked at.
 *
 * Two threads can meet the same page at the same time. The second one waits for the
 * first, but only when its own pages are stored; so nobody waits in a circle.
 */

#include "memory/once.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "image/image.h"
#include "memory/memory.h"
#include "util/err.h"
#include "util/xxh3.h"

enum {
	ENTRIES_MAX = 1 << 20, /* 4 GiB of pages, in 32 MiB; what comes later is stored as if it were alone */
	ENTRIES_FIRST = 1 << 12,
	UNKNOWN = 0xffffffff, /* the extent of what is being stored */
};

struct once_entry {
	uint64_t low, high; /* of the hash; the address is in it */
	uint32_t extent, page;
};

struct span {
	uint64_t start, end;
};

struct once {
	uint64_t seed;
	struct span *spans; /* which more than one address space holds pages in; ascending */
	size_t n_spans;

	pthread_mutex_t lock; /* for what follows */
	pthread_cond_t stored;
	bool given_up;
	struct once_entry *entries;
	size_t n_entries, room;
	uint32_t *slots; /* 2 * room of them: entry + 1, or 0 */
};

/* ---- where more than one address space holds pages ---- */

struct edge {
	uint64_t addr;
	int step; /* 1: a range begins; -1: one ends */
};

static int compare_edges(const void *a, const void *b)
{
	const struct edge *x = a, *y = b;

	return x->addr != y->addr ? (x->addr < y->addr ? -1 : 1) : x->step - y->step;
}

static bool is_space(const struct page_source *s)
{
	return !(s->owner & IMAGE_OWNER_INODE(0));
}

/* Both edges of every range of every address space, ascending. NULL and 0 when there is only one space. */
static int once_edges(const struct page_source *sources, size_t n, struct edge **ret, size_t *ret_n, struct err *e)
{
	size_t n_ranges = 0, spaces = 0, at = 0;
	struct edge *v;

	*ret = NULL;
	*ret_n = 0;
	for (size_t i = 0; i < n; i++)
		if (is_space(&sources[i]))
			spaces++, n_ranges += sources[i].n;
	if (spaces < 2 || !n_ranges)
		return 0;
	v = malloc(2 * n_ranges * sizeof(*v));
	if (!v)
		return err_nomem(e);
	for (size_t i = 0; i < n; i++) {
		for (size_t k = 0; is_space(&sources[i]) && k < sources[i].n; k++) {
			const struct page_range *r = &sources[i].ranges[k];

			v[at++] = (struct edge){ r->addr, 1 };
			v[at++] = (struct edge){ r->addr + r->pages * MEMORY_PAGE, -1 };
		}
	}
	qsort(v, at, sizeof(*v), compare_edges);
	*ret = v;
	*ret_n = at;
	return 0;
}

/* The spans in which at least two ranges overlap; those of one space never do. In place: there are fewer spans than edges. */
static size_t once_overlaps(const struct edge *edges, size_t n, struct span *spans)
{
	size_t n_spans = 0;
	int depth = 0;

	for (size_t i = 0; i < n; i++) {
		if (edges[i].step > 0 && depth == 1) {
			if (n_spans && spans[n_spans - 1].end == edges[i].addr)
				n_spans--; /* goes on */
			else
				spans[n_spans].start = edges[i].addr;
		}
		depth += edges[i].step;
		if (edges[i].step < 0 && depth == 1)
			spans[n_spans++].end = edges[i].addr;
	}
	return n_spans;
}

static bool once_in_span(const struct once *o, uint64_t addr)
{
	size_t low = 0, high = o->n_spans;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (o->spans[mid].end <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low < o->n_spans && o->spans[low].start <= addr;
}

/* ---- the table ---- */

/* The place of an entry with this hash, or the empty one where it belongs. */
static uint32_t *once_slot(const struct once *o, uint64_t low, uint64_t high)
{
	size_t mask = 2 * o->room - 1;

	for (size_t i = high & mask;; i = (i + 1) & mask) {
		const struct once_entry *entry = &o->entries[o->slots[i] - 1];

		if (!o->slots[i] || (entry->low == low && entry->high == high))
			return &o->slots[i];
	}
}

/* Twice the room; false when it is at its largest, or there is no memory. */
static bool once_grow(struct once *o)
{
	size_t room = o->room ? 2 * o->room : ENTRIES_FIRST;
	struct once_entry *entries;
	uint32_t *slots;

	if (room > ENTRIES_MAX)
		return false;
	slots = calloc(2 * room, sizeof(*slots));
	entries = slots ? realloc(o->entries, room * sizeof(*entries)) : NULL;
	if (!entries) {
		free(slots);
		return false;
	}
	free(o->slots);
	o->entries = entries;
	o->slots = slots;
	o->room = room;
	for (size_t i = 0; i < o->n_entries; i++)
		*once_slot(o, entries[i].low, entries[i].high) = (uint32_t)i + 1;
	return true;
}

/* Under the lock. */
static void once_look_up(struct once *o, struct once_page *p, const struct xxh3_128 *hash)
{
	uint32_t *slot = o->room ? once_slot(o, hash->low, hash->high) : NULL;

	if (!slot || (!*slot && o->n_entries == o->room)) {
		if (!once_grow(o))
			return;
		slot = once_slot(o, hash->low, hash->high);
	}
	if (!*slot) {
		o->entries[o->n_entries] = (struct once_entry){ hash->low, hash->high, UNKNOWN, 0 };
		p->entry = (uint32_t)o->n_entries++;
		*slot = p->entry + 1;
		p->state = ONCE_FIRST;
		return;
	}
	p->entry = *slot - 1;
	p->extent = o->entries[p->entry].extent;
	p->page = o->entries[p->entry].page;
	p->state = p->extent == UNKNOWN ? ONCE_AWAITED : ONCE_KNOWN;
}

/* ---- for the threads that store ---- */

void once_look(struct once *o, struct once_page *pages, size_t n)
{
	struct xxh3_128 hashes[IMAGE_EXTENT_MAX / MEMORY_PAGE];

	for (size_t i = 0; i < n; i++) {
		if (pages[i].state == ONCE_KNOWN)
			continue;
		pages[i].state = ONCE_ALONE;
		if (!o || !once_in_span(o, pages[i].addr))
			continue;
		hashes[i] = xxh3_sum_128(pages[i].data, MEMORY_PAGE, o->seed);
		hashes[i].low ^= pages[i].addr;
		pages[i].state = ONCE_FIRST;
	}
	if (!o)
		return;
	pthread_mutex_lock(&o->lock);
	for (size_t i = 0; i < n; i++) {
		if (pages[i].state == ONCE_ALONE || pages[i].state == ONCE_KNOWN)
			continue;
		pages[i].state = ONCE_ALONE;
		once_look_up(o, &pages[i], &hashes[i]);
	}
	pthread_mutex_unlock(&o->lock);
}

void once_tell(struct once *o, const struct once_page *pages, size_t n)
{
	if (!o)
		return;
	pthread_mutex_lock(&o->lock);
	for (size_t i = 0; i < n; i++) {
		if (pages[i].state != ONCE_FIRST)
			continue;
		o->entries[pages[i].entry].extent = pages[i].extent;
		o->entries[pages[i].entry].page = pages[i].page;
	}
	pthread_cond_broadcast(&o->stored);
	pthread_mutex_unlock(&o->lock);
}

bool once_await(struct once *o, struct once_page *pages, size_t n)
{
	bool all = true;

	if (!o)
		return true;
	pthread_mutex_lock(&o->lock);
	for (size_t i = 0; all && i < n; i++) {
		if (pages[i].state != ONCE_AWAITED)
			continue;
		while (o->entries[pages[i].entry].extent == UNKNOWN && !o->given_up)
			pthread_cond_wait(&o->stored, &o->lock);
		pages[i].extent = o->entries[pages[i].entry].extent;
		pages[i].page = o->entries[pages[i].entry].page;
		pages[i].state = ONCE_KNOWN;
		all = pages[i].extent != UNKNOWN;
	}
	pthread_mutex_unlock(&o->lock);
	return all;
}

void once_give_up(struct once *o)
{
	if (!o)
		return;
	pthread_mutex_lock(&o->lock);
	o->given_up = true;
	pthread_cond_broadcast(&o->stored);
	pthread_mutex_unlock(&o->lock);
}

/* ---- making and freeing ---- */

static int once_make(struct edge *edges, size_t n, struct once **ret, struct err *e)
{
	struct once *o = calloc(1, sizeof(*o));

	if (!o)
		return err_nomem(e);
	pthread_mutex_init(&o->lock, NULL);
	pthread_cond_init(&o->stored, NULL);
	*ret = o;
	o->spans = malloc((n / 2 + 1) * sizeof(*o->spans));
	if (!o->spans)
		return err_nomem(e);
	o->n_spans = once_overlaps(edges, n, o->spans);
	if (getrandom(&o->seed, sizeof(o->seed), 0) != sizeof(o->seed))
		return err_sys(e, errno, "getrandom");
	return 0;
}

int once_new(const struct page_source *sources, size_t n, struct once **ret, struct err *e)
{
	struct edge *edges;
	size_t n_edges;
	int r = once_edges(sources, n, &edges, &n_edges, e);

	*ret = NULL;
	if (r == 0 && n_edges)
		r = once_make(edges, n_edges, ret, e);
	free(edges);
	if (*ret && (r < 0 || !(*ret)->n_spans))
		*ret = once_free(*ret);
	return r;
}

struct once *once_free(struct once *o)
{
	if (!o)
		return NULL;
	pthread_mutex_destroy(&o->lock);
	pthread_cond_destroy(&o->stored);
	free(o->spans);
	free(o->entries);
	free(o->slots);
	free(o);
	return NULL;
}
