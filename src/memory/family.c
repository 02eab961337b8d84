/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Who shares what with whom: a pure function of the image.
 *
 * Pages of one extent that stand at consecutive addresses are a sheet: the extent,
 * and the address where its first page would be. Two runs hold the same page at the
 * same address exactly if they are of one sheet. So for each sheet the votes for its
 * pages are counted; where several sheets want the same address (the page was changed
 * by some after they were forked), the one with more votes wins.
 */

#include "memory/family.h"

#include <stdlib.h>
#include <string.h>

#include "image/image.h"
#include "memory/memory.h"
#include "proc/maps.h"
#include "util/arena.h"

enum {
	SHEET_PAGES = IMAGE_EXTENT_MAX / IMAGE_PAGE,
	STOCKED = 1 << 24, /* added to the votes for what is there already: more than all members */
};

#define NOBODY UINT32_MAX

/* ---- the order of the members ---- */

/* Each after its maker, and the descendants of each side by side. Returns how many were reached. */
static size_t family_walk(struct family *f, uint32_t root, const uint32_t *first, const uint32_t *next, size_t n)
{
	for (uint32_t at = root;;) {
		f->place[at] = (uint32_t)n;
		f->order[n++] = at;
		if (first[at] != NOBODY) {
			at = first[at];
			continue;
		}
		for (;;) {
			f->behind[f->place[at]] = (uint32_t)n;
			if (at == root)
				return n;
			if (next[at] != NOBODY)
				break;
			at = f->members[at].maker;
		}
		at = next[at];
	}
}

static int family_sort(struct family *f, struct arena *arena, struct err *e)
{
	size_t size = f->n * sizeof(uint32_t), n = 0;
	uint32_t *first = arena_alloc(arena, size), *next = arena_alloc(arena, size);

	f->order = arena_alloc(arena, size);
	f->place = arena_alloc(arena, size);
	f->behind = arena_alloc(arena, size);
	if (!first || !next || !f->order || !f->place || !f->behind)
		return err_nomem(e);
	memset(first, 0xff, size);
	for (size_t i = f->n; i-- > 0;) {
		uint32_t maker = f->members[i].maker;

		next[i] = maker < f->n ? first[maker] : NOBODY;
		if (maker < f->n)
			first[maker] = (uint32_t)i;
	}
	for (uint32_t i = 0; i < f->n; i++)
		if (f->members[i].maker >= f->n)
			n = family_walk(f, i, first, next, n);
	return n == f->n ? 0 : err_set(e, ERR_IMAGE, 0, "the tasks of the image make each other");
}

/* Extents that several members name. */
static int family_find_shared(struct family *f, struct arena *arena, struct err *e)
{
	uint32_t *named = arena_alloc(arena, (f->image->n_extents + 1) * sizeof(*named));
	bool *shared = arena_alloc(arena, f->image->n_extents + 1);

	if (!named || !shared)
		return err_nomem(e);
	for (size_t i = 0; i < f->image->n_runs; i++) {
		const struct image_run *run = &f->image->runs[i];

		if (run->owner & IMAGE_OWNER_INODE(0))
			continue;
		if (named[run->extent] && named[run->extent] != run->owner + 1) {
			shared[run->extent] = true;
			f->shared = shared;
		}
		named[run->extent] = run->owner + 1;
	}
	return 0;
}

int family_make(struct family *f, struct arena *arena, const struct image *image, const struct family_member *members,
		size_t n, struct err *e)
{
	*f = (struct family){ .image = image, .members = members, .n = n };
	if (family_sort(f, arena, e) < 0)
		return -1;
	return n > 1 ? family_find_shared(f, arena, e) : 0;
}

bool family_makes(const struct family *f, uint32_t member)
{
	return f->shared && f->behind[f->place[member]] > f->place[member] + 1;
}

bool family_inherits(const Pb__Mapping *m)
{
	const uint64_t without = VM_FLAG_SHARED | VM_FLAG_HUGETLB | VM_FLAG_DROPPABLE | VM_FLAG_GROWSDOWN;

	return (m->kind == PB__MAPPING_KIND__ANON || m->kind == PB__MAPPING_KIND__FILE_PRIVATE) && !(m->flags & without);
}

/* ---- claims: who wants what ---- */

struct claim {
	uint64_t base; /* address of the sheet */
	uint32_t extent;
	uint32_t branch;   /* the member itself, or which of those that it makes; NOBODY: it is in the stock */
	uint32_t from, to; /* pages of the sheet */
};

struct choice {
	const struct family *f;
	struct arena *arena;
	struct claim *claims;
	size_t n_claims;
	struct pick *picks;
	size_t n_picks;
	struct image_run *runs;
	size_t n_runs;
	struct err *e;
};

static int choice_add(struct choice *c, const struct image_run *run, uint64_t from, uint64_t to, uint32_t branch)
{
	struct claim *v = arena_grow(c->arena, c->claims, c->n_claims, sizeof(*v));
	uint64_t base = run->addr - (uint64_t)run->page * IMAGE_PAGE;

	if (!v)
		return err_nomem(c->e);
	c->claims = v;
	v[c->n_claims++] = (struct claim){ base, run->extent, branch, (uint32_t)((from - base) / IMAGE_PAGE),
					   (uint32_t)((to - base) / IMAGE_PAGE) };
	return 0;
}

/* A run, cut along the mappings; `k` is the first that it may meet. */
static int choice_add_run(struct choice *c, const Pb__AddressSpace *space, size_t *k, const struct image_run *run, uint32_t branch)
{
	uint64_t at = run->addr, end = run->addr + (uint64_t)run->pages * IMAGE_PAGE;

	while (at < end) {
		const Pb__Mapping *m;
		uint64_t stop;

		while (*k < space->n_mappings && space->mappings[*k]->end <= at)
			++*k;
		m = *k < space->n_mappings ? space->mappings[*k] : NULL;
		if (!m || m->start >= end)
			return 0;
		at = m->start > at ? m->start : at;
		stop = m->end < end ? m->end : end;
		if (family_inherits(m) && choice_add(c, run, at, stop, branch) < 0)
			return -1;
		at = stop;
	}
	return 0;
}

static int choice_add_member(struct choice *c, uint32_t member, uint32_t branch)
{
	const struct family_member *m = &c->f->members[member];
	size_t n = 0, k = 0;
	const struct image_run *runs = m->space ? image_runs_of(c->f->image, m->owner, &n) : NULL;
	int r = 0;

	for (size_t i = 0; r == 0 && i < n; i++)
		if (c->f->shared[runs[i].extent])
			r = choice_add_run(c, m->space, &k, &runs[i], branch);
	return r;
}

/* The member itself is one branch; each that it makes is another, with all that that one makes. */
static int choice_add_branches(struct choice *c, uint32_t member)
{
	const struct family *f = c->f;
	uint32_t at = f->place[member], end = f->behind[at], branch = 0;
	int r = choice_add_member(c, member, branch);

	for (uint32_t next = ++at; r == 0 && at < end; at++) {
		if (at == next) {
			branch++;
			next = f->behind[at];
		}
		r = choice_add_member(c, f->order[at], branch);
	}
	return r;
}

/* ---- picks: what is worth having ---- */

struct pick {
	uint64_t addr, end;
	uint32_t extent, page;
	uint32_t votes;
};

static int compare_claims(const void *a, const void *b)
{
	const struct claim *x = a, *y = b;

	if (x->extent != y->extent)
		return x->extent < y->extent ? -1 : 1;
	if (x->base != y->base)
		return x->base < y->base ? -1 : 1;
	return x->branch != y->branch ? (x->branch < y->branch ? -1 : 1) : 0;
}

/* How many branches want each page of a sheet; with STOCKED, if it is there. All claims are of one sheet. */
static void sheet_count(const struct claim *claims, size_t n, uint32_t votes[SHEET_PAGES])
{
	bool wanted[SHEET_PAGES] = { 0 };

	memset(votes, 0, SHEET_PAGES * sizeof(*votes));
	for (size_t i = 0; i < n; i++) {
		for (uint32_t k = claims[i].from; k < claims[i].to; k++)
			wanted[k] = true;
		if (i + 1 < n && claims[i + 1].branch == claims[i].branch)
			continue;
		for (uint32_t k = 0; k < SHEET_PAGES; k++)
			votes[k] += wanted[k] * (claims[i].branch == NOBODY ? STOCKED : 1);
		memset(wanted, 0, sizeof(wanted));
	}
}

/* Worth loading if two want it; if it is there, one will do. */
static bool is_worth(uint32_t votes)
{
	return votes > 1 && votes != STOCKED;
}

static int choice_pick(struct choice *c, const struct claim *sheet, const uint32_t votes[SHEET_PAGES])
{
	for (uint32_t k = 0, end; k < SHEET_PAGES; k = end) {
		struct pick *v;

		for (end = k + 1; end < SHEET_PAGES && votes[end] == votes[k];)
			end++;
		if (!is_worth(votes[k]))
			continue;
		v = arena_grow(c->arena, c->picks, c->n_picks, sizeof(*v));
		if (!v)
			return err_nomem(c->e);
		c->picks = v;
		v[c->n_picks++] = (struct pick){ sheet->base + (uint64_t)k * IMAGE_PAGE, sheet->base + (uint64_t)end * IMAGE_PAGE,
						 sheet->extent, k, votes[k] };
	}
	return 0;
}

static int choice_pick_all(struct choice *c)
{
	uint32_t votes[SHEET_PAGES];
	int r = 0;

	qsort(c->claims, c->n_claims, sizeof(*c->claims), compare_claims);
	for (size_t i = 0, end; r == 0 && i < c->n_claims; i = end) {
		const struct claim *sheet = &c->claims[i];

		for (end = i + 1; end < c->n_claims && c->claims[end].extent == sheet->extent && c->claims[end].base == sheet->base;)
			end++;
		sheet_count(sheet, end - i, votes);
		r = choice_pick(c, sheet, votes);
	}
	return r;
}

/* ---- runs: one page for each address ---- */

static int compare_picks(const void *a, const void *b)
{
	const struct pick *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static int choice_add_result(struct choice *c, const struct pick *p, uint64_t from, uint64_t to)
{
	struct image_run *last = c->n_runs ? &c->runs[c->n_runs - 1] : NULL, *v;
	uint32_t page = p->page + (uint32_t)((from - p->addr) / IMAGE_PAGE), pages = (uint32_t)((to - from) / IMAGE_PAGE);

	if (last && last->addr + (uint64_t)last->pages * IMAGE_PAGE == from && last->extent == p->extent &&
	    last->page + last->pages == page) {
		last->pages += pages;
		return 0;
	}
	v = arena_grow(c->arena, c->runs, c->n_runs, sizeof(*v));
	if (!v)
		return err_nomem(c->e);
	c->runs = v;
	v[c->n_runs++] = (struct image_run){ .addr = from, .pages = pages, .extent = p->extent, .page = page };
	return 0;
}

/* The best of those that cover `at`, and up to where; those that end there leave `active`. */
static const struct pick *best_pick(const struct pick **active, size_t *n, uint64_t at, uint64_t *end)
{
	const struct pick *best = NULL;
	size_t kept = 0;

	for (size_t i = 0; i < *n; i++) {
		const struct pick *p = active[i];

		if (p->end <= at)
			continue;
		active[kept++] = p;
		*end = p->end < *end ? p->end : *end;
		if (!best || p->votes > best->votes)
			best = p;
	}
	*n = kept;
	return best;
}

static int choice_settle(struct choice *c)
{
	const struct pick **active = arena_alloc(c->arena, (c->n_picks + 1) * sizeof(const struct pick *));
	size_t n = 0, i = 0;
	uint64_t at = 0;
	int r = 0;

	if (!active)
		return err_nomem(c->e);
	qsort(c->picks, c->n_picks, sizeof(*c->picks), compare_picks);
	while (r == 0 && (n || i < c->n_picks)) {
		const struct pick *best;
		uint64_t end;

		at = n || at > c->picks[i].addr ? at : c->picks[i].addr;
		while (i < c->n_picks && c->picks[i].addr <= at)
			active[n++] = &c->picks[i++];
		end = i < c->n_picks ? c->picks[i].addr : UINT64_MAX;
		best = best_pick(active, &n, at, &end);
		if (best)
			r = choice_add_result(c, best, at, end);
		at = end;
	}
	return r;
}

int family_choose(const struct family *f, uint32_t member, const struct stock *stock, struct arena *arena,
		  struct image_run **ret, size_t *ret_n, struct err *e)
{
	struct choice c = { .f = f, .arena = arena, .e = e };
	int r = choice_add_branches(&c, member);

	for (size_t i = 0; r == 0 && i < stock->n_runs; i++) {
		const struct image_run *run = &stock->runs[i];

		r = choice_add(&c, run, run->addr, run->addr + (uint64_t)run->pages * IMAGE_PAGE, NOBODY);
	}
	if (r == 0)
		r = choice_pick_all(&c);
	if (r == 0)
		r = choice_settle(&c);
	*ret = c.runs;
	*ret_n = c.n_runs;
	return r;
}
