/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The stock of a task, in its own memory: mappings that are made and filled before its
 * children are born. They are made as large as anybody's mapping there is, and writable;
 * who keeps a part of one cuts off the rest, and protects it as it was.
 *
 * After the birth nothing here may write to a page, or it would not be shared any more.
 */

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "image/image.h"
#include "memory/family.h"
#include "memory/memory.h"
#include "proc/maps.h"
#include "util/arena.h"

/* Flags that mmap(2) gives and nothing takes back. */
#define LASTING_FLAGS (VM_FLAG_NORESERVE | VM_FLAG_ACCOUNT)

/* Can the one be a part of the other, as far as what is mapped goes? */
static bool is_alike(const Pb__Mapping *a, const Pb__Mapping *b)
{
	if (a->kind != b->kind || (a->flags ^ b->flags) & LASTING_FLAGS || (a->prot ^ b->prot) & PROT_EXEC)
		return false;
	return a->kind == PB__MAPPING_KIND__ANON ||
	       (a->inode == b->inode && a->offset - a->start == b->offset - b->start);
}

/* The first mapping of the stock that ends behind `addr`. */
static size_t stock_find(const struct stock *s, uint64_t addr)
{
	size_t low = 0, high = s->space.n_mappings;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (s->space.mappings[mid]->end <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* ---- runs side by side ---- */

struct cursor {
	const struct image_run *v;
	size_t n, i;
};

/* The run that holds the page at `at`, or NULL; *end becomes less where that changes before. `at` must not go back. */
static const struct image_run *cursor_at(struct cursor *c, uint64_t at, uint64_t *end)
{
	uint64_t border;

	while (c->i < c->n && c->v[c->i].addr + (uint64_t)c->v[c->i].pages * MEMORY_PAGE <= at)
		c->i++;
	if (c->i == c->n)
		return NULL;
	border = c->v[c->i].addr > at ? c->v[c->i].addr : c->v[c->i].addr + (uint64_t)c->v[c->i].pages * MEMORY_PAGE;
	*end = border < *end ? border : *end;
	return c->v[c->i].addr > at ? NULL : &c->v[c->i];
}

static uint32_t page_at(const struct image_run *run, uint64_t at)
{
	return run->page + (uint32_t)((at - run->addr) / MEMORY_PAGE);
}

/* What is in memory, what should be there, and the difference. */
struct comparison {
	const struct stock *stock;
	struct cursor have, want;
	struct arena *arena;
	struct image_run *missing;
	size_t n_missing;
	uint64_t same; /* bytes */
};

/* Give pages of the stock back. */
static int stock_drop(const struct stock *s, uint64_t from, uint64_t to, struct err *e)
{
	for (size_t i = stock_find(s, from); i < s->space.n_mappings && s->space.mappings[i]->start < to; i++) {
		const Pb__Mapping *m = s->space.mappings[i];
		uint64_t start = from > m->start ? from : m->start, end = to < m->end ? to : m->end;

		if (madvise((void *)(s->at[i] + (start - m->start)), end - start, MADV_DONTNEED) < 0)
			return err_sys(e, errno, "dropping what was inherited at %lx", start);
	}
	return 0;
}

static int comparison_miss(struct comparison *c, const struct image_run *run, uint64_t from, uint64_t to, struct err *e)
{
	struct image_run *v = arena_grow(c->arena, c->missing, c->n_missing, sizeof(*v));

	if (!v)
		return err_nomem(e);
	c->missing = v;
	v[c->n_missing++] = (struct image_run){ .addr = from, .owner = run->owner, .pages = (uint32_t)((to - from) / MEMORY_PAGE),
						.extent = run->extent, .page = page_at(run, from) };
	return 0;
}

/* From `from` to `to`: drop what should not be there, and note what is missing. `usable`: what is there can be kept. */
static int comparison_walk(struct comparison *c, uint64_t from, uint64_t to, bool usable, struct err *e)
{
	int r = 0;

	for (uint64_t at = from, end; r == 0 && at < to; at = end) {
		const struct image_run *have, *want;

		end = to;
		have = usable ? cursor_at(&c->have, at, &end) : NULL;
		want = cursor_at(&c->want, at, &end);
		if (have && want && have->extent == want->extent && page_at(have, at) == page_at(want, at)) {
			c->same += end - at;
			continue;
		}
		if (have)
			r = stock_drop(c->stock, at, end, e);
		if (r == 0 && want)
			r = comparison_miss(c, want, at, end, e);
	}
	return r;
}

/* ---- before the children are born ---- */

static bool runs_meet(const struct image_run *runs, size_t n, uint64_t start, uint64_t end)
{
	size_t low = 0, high = n;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (runs[mid].addr + (uint64_t)runs[mid].pages * MEMORY_PAGE <= start)
			low = mid + 1;
		else
			high = mid;
	}
	return low < n && runs[low].addr < end;
}

/* Mappings in which nothing is wanted any more. */
static int stock_unmap_useless(struct stock *s, const struct image_run *wanted, size_t n, struct err *e)
{
	size_t kept = 0;

	for (size_t i = 0; i < s->space.n_mappings; i++) {
		Pb__Mapping *m = s->space.mappings[i];

		if (runs_meet(wanted, n, m->start, m->end)) {
			s->space.mappings[kept] = m;
			s->at[kept++] = s->at[i];
		} else if (munmap((void *)s->at[i], m->end - m->start) < 0) {
			return err_sys(e, errno, "unmapping what was inherited at %lx", m->start);
		}
	}
	s->space.n_mappings = kept;
	return 0;
}

/* A new mapping of the stock, at index `i`. It is placed later. */
static int stock_insert(struct stock *s, size_t i, const Pb__Mapping *like, uint64_t start, uint64_t end, struct arena *arena,
			struct err *e)
{
	size_t n = s->space.n_mappings;
	Pb__Mapping *m = pb_new(arena, Pb__Mapping, pb__mapping__init);
	uint64_t *at = arena_grow(arena, s->at, n, sizeof(*at));

	if (!m || !at || !pb_add(arena, &s->space, mappings, m))
		return err_nomem(e);
	s->at = at;
	memmove(&s->space.mappings[i + 1], &s->space.mappings[i], (n - i) * sizeof(m));
	memmove(&at[i + 1], &at[i], (n - i) * sizeof(*at));
	s->space.mappings[i] = m;
	at[i] = 0;
	m->start = start;
	m->end = end;
	m->prot = PROT_READ | PROT_WRITE | (like->prot & PROT_EXEC);
	m->name = like->name;
	m->inode = like->inode;
	pb_set(m, kind, like->kind);
	pb_set(m, flags, like->flags & (LASTING_FLAGS | VM_FLAG_NOHUGEPAGE));
	pb_set(m, offset, like->offset + (start - like->start));
	return 0;
}

/* Those parts of a member's mapping that no mapping of the stock covers. */
static int stock_cover(struct stock *s, const Pb__Mapping *map, struct arena *arena, struct err *e)
{
	size_t i = stock_find(s, map->start);
	uint64_t at = map->start;
	int r = 0;

	while (r == 0 && at < map->end) {
		const Pb__Mapping *next = i < s->space.n_mappings ? s->space.mappings[i] : NULL;
		uint64_t stop = next && next->start < map->end ? next->start : map->end;

		if (at < stop)
			r = stock_insert(s, i++, map, at, stop, arena, e);
		i++;
		at = next && next->start < map->end ? next->end : map->end;
	}
	return r;
}

/* First the member's own, then those of the others: what they have in common stands in one of them. */
static int stock_cover_all(struct stock *s, const struct family *f, uint32_t member, const struct image_run *wanted, size_t n,
			   struct arena *arena, struct err *e)
{
	for (uint32_t at = f->place[member]; at < f->behind[f->place[member]]; at++) {
		const Pb__AddressSpace *space = f->members[f->order[at]].space;

		for (size_t i = 0; space && i < space->n_mappings; i++) {
			const Pb__Mapping *m = space->mappings[i];

			if (family_inherits(m) && runs_meet(wanted, n, m->start, m->end) && stock_cover(s, m, arena, e) < 0)
				return -1;
		}
	}
	return 0;
}

/* One mapping of two that are new and side by side: somebody else may have them in one. */
static void stock_merge(struct stock *s)
{
	Pb__Mapping **v = s->space.mappings;
	size_t n = 0;

	for (size_t i = 0; i < s->space.n_mappings; i++) {
		if (n && !s->at[n - 1] && !s->at[i] && v[n - 1]->end == v[i]->start && is_alike(v[n - 1], v[i])) {
			v[n - 1]->end = v[i]->end;
			v[n - 1]->flags |= v[i]->flags;
			continue;
		}
		v[n] = v[i];
		s->at[n++] = s->at[i];
	}
	s->space.n_mappings = n;
}

/* Where something of ours is in the way: anywhere where nothing is now, and nothing will be in any task. */
static int stock_park(struct stock *s, size_t i, const struct family *f, struct memory_load *m, struct err *e)
{
	const Pb__AddressSpace **spaces = arena_alloc(m->arena, (f->n + 1) * sizeof(const Pb__AddressSpace *));
	size_t n = 0;

	if (!spaces)
		return err_nomem(e);
	for (size_t k = 0; k < f->n; k++)
		if (f->members[k].space)
			spaces[n++] = f->members[k].space;
	if (memory_find_room(m, spaces, n, s->space.mappings[i], &s->at[i], e) < 0)
		return -1;
	return memory_map(m, s->space.mappings[i], s->at[i], e);
}

static int stock_place(struct stock *s, const struct family *f, struct memory_load *m, struct err *e)
{
	int r = 0;

	stock_merge(s);
	for (size_t i = 0; r >= 0 && i < s->space.n_mappings; i++) {
		Pb__Mapping *map = s->space.mappings[i];

		if (s->at[i])
			continue;
		s->at[i] = map->start;
		r = memory_map(m, map, map->start, e);
		if (r == -EEXIST)
			r = stock_park(s, i, f, m, e);
		if (r < 0 && !e->reason)
			memory_map_failed(map, r, e);
	}
	return r;
}

/* Drop what is not wanted, and load what is wanted and not there. The children are no processes yet: no threads. */
static int stock_load(struct stock *s, struct memory_load *m, const struct image_run *wanted, size_t n, struct err *e)
{
	struct comparison c = { .stock = s, .have = { s->runs, s->n_runs, 0 }, .want = { wanted, n, 0 }, .arena = m->arena };

	if (comparison_walk(&c, 0, UINT64_MAX & ~(uint64_t)(MEMORY_PAGE - 1), true, e) < 0)
		return -1;
	m->runs = c.missing;
	m->n_runs = c.n_missing;
	return 0;
}

int stock_prepare(struct stock *s, const struct family *f, uint32_t member, const struct memory_load *own, struct err *e)
{
	struct memory_load m = { .arena = own->arena, .image = own->image, .inodes = own->inodes, .loaded = own->loaded,
				 .space = &s->space, .one_thread = true };
	struct image_run *wanted;
	size_t n;

	if (!family_makes(f, member))
		return 0;
	if (family_choose(f, member, s, m.arena, &wanted, &n, e) < 0 || stock_load(s, &m, wanted, n, e) < 0 ||
	    stock_unmap_useless(s, wanted, n, e) < 0 || stock_cover_all(s, f, member, wanted, n, m.arena, e) < 0 ||
	    stock_place(s, f, &m, e) < 0)
		return -1;
	m.place = s->at;
	s->runs = wanted;
	s->n_runs = n;
	return memory_fill(&m, e);
}

/* ---- when they are born ---- */

/* Where a mapping stands in the stock; 0: nowhere, or not as a whole. */
static uint64_t stock_holds(const struct stock *s, const Pb__Mapping *map)
{
	size_t i = stock_find(s, map->start);
	const Pb__Mapping *m = i < s->space.n_mappings ? s->space.mappings[i] : NULL;

	if (!m || map->start < m->start || map->end > m->end || !family_inherits(map) || !is_alike(m, map))
		return 0;
	return s->at[i] + (map->start - m->start);
}

static int stock_unmap(const struct stock *s, size_t i, uint64_t from, uint64_t to, struct err *e)
{
	if (from >= to || munmap((void *)(s->at[i] + (from - s->space.mappings[i]->start)), to - from) == 0)
		return 0;
	return err_sys(e, errno, "unmapping what was inherited at %lx", from);
}

/* What no mapping of the task is made of. */
static int stock_unmap_rest(const struct stock *s, const struct memory_load *m, struct err *e)
{
	size_t k = 0;

	for (size_t i = 0; i < s->space.n_mappings; i++) {
		const Pb__Mapping *map = s->space.mappings[i];
		uint64_t at = map->start;

		for (; k < m->space->n_mappings && m->space->mappings[k]->start < map->end; k++) {
			if (!m->place[k])
				continue;
			if (stock_unmap(s, i, at, m->space->mappings[k]->start, e) < 0)
				return -1;
			at = m->space->mappings[k]->end;
		}
		if (stock_unmap(s, i, at, map->end, e) < 0)
			return -1;
	}
	return 0;
}

int stock_adopt(struct stock *s, struct memory_load *m, struct err *e)
{
	struct comparison c = { .stock = s, .have = { s->runs, s->n_runs, 0 }, .want = { m->runs, m->n_runs, 0 }, .arena = m->arena };
	uint64_t at = 0;
	int r = 0;

	if (!s->space.n_mappings)
		return 0;
	m->place = arena_alloc(m->arena, (m->space->n_mappings + 1) * sizeof(*m->place));
	if (!m->place)
		return err_nomem(e);
	for (size_t i = 0; r == 0 && i < m->space->n_mappings; i++) {
		const Pb__Mapping *map = m->space->mappings[i];

		m->place[i] = stock_holds(s, map);
		r = comparison_walk(&c, at, map->start, false, e);
		if (r == 0)
			r = comparison_walk(&c, map->start, map->end, m->place[i], e);
		at = map->end;
	}
	if (r == 0)
		r = comparison_walk(&c, at, UINT64_MAX & ~(uint64_t)(MEMORY_PAGE - 1), false, e);
	if (r == 0)
		r = stock_unmap_rest(s, m, e);
	m->runs = c.missing;
	m->n_runs = c.n_missing;
	atomic_fetch_add(m->loaded, c.same);
	*s = (struct stock){ 0 };
	return r;
}
