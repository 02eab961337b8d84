/* SPDX-License-Identifier: Apache-2.0 */

#include "memory/base.h"

#include <string.h>

#include "image/layout.h"
#include "memory/memory.h"
#include "memory/once.h"
#include "util/arena.h"
#include "util/err.h"

/* ---- who is who ---- */

static uint32_t base_space_of(const Pb__Image *meta, int32_t pid)
{
	for (size_t i = 0; i < meta->n_tasks; i++)
		if (meta->tasks[i]->pid == pid && meta->tasks[i]->has_space)
			return IMAGE_OWNER_SPACE(meta->tasks[i]->space);
	return BASE_NONE;
}

static uint32_t base_inode_of(const Pb__Image *meta, const Pb__Inode *inode)
{
	for (size_t i = 0; i < meta->n_inodes; i++)
		if (meta->inodes[i]->dev == inode->dev && meta->inodes[i]->ino == inode->ino)
			return IMAGE_OWNER_INODE(i);
	for (size_t i = 0; i < meta->n_inodes; i++)
		if (meta->inodes[i]->kind == inode->kind && meta->inodes[i]->path && inode->path &&
		    strcmp(meta->inodes[i]->path, inode->path) == 0)
			return IMAGE_OWNER_INODE(i);
	return BASE_NONE;
}

/* Room for the owners, none of which is known. */
static uint32_t *base_new_owners(struct base *b, const struct parent *parent, size_t n_spaces, size_t n_inodes,
				 struct image_writer *w, struct arena *arena)
{
	uint32_t *owners = arena_alloc(arena, (n_spaces + n_inodes + 1) * sizeof(*owners));

	for (size_t i = 0; owners && i < n_spaces + n_inodes; i++)
		owners[i] = BASE_NONE;
	*b = (struct base){ parent->image, w, n_spaces, n_inodes, owners };
	return owners;
}

int base_of_image(struct base *b, const struct parent *parent, const Pb__Image *child, struct image_writer *w,
		  struct arena *arena, struct err *e)
{
	uint32_t *owners = base_new_owners(b, parent, child->n_spaces, child->n_inodes, w, arena);

	if (!owners)
		return err_nomem(e);
	for (size_t i = 0; parent->image && i < child->n_tasks; i++)
		if (child->tasks[i]->has_space)
			owners[child->tasks[i]->space] = base_space_of(parent->meta, child->tasks[i]->pid);
	for (size_t i = 0; parent->image && i < child->n_inodes; i++)
		owners[child->n_spaces + i] = base_inode_of(parent->meta, child->inodes[i]);
	return 0;
}

int base_of_tasks(struct base *b, const struct parent *parent, const int32_t *pids, size_t n, struct image_writer *w,
		  struct arena *arena, struct err *e)
{
	uint32_t *owners = base_new_owners(b, parent, n, 0, w, arena);

	if (!owners)
		return err_nomem(e);
	for (size_t i = 0; parent->image && i < n; i++)
		owners[i] = base_space_of(parent->meta, pids[i]);
	return 0;
}

static uint32_t base_owner_of(const struct base *b, uint32_t owner)
{
	uint32_t index = owner & ~IMAGE_OWNER_INODE(0);

	if (owner & IMAGE_OWNER_INODE(0))
		return index < b->n_inodes ? b->owners[b->n_spaces + index] : BASE_NONE;
	return index < b->n_spaces ? b->owners[index] : BASE_NONE;
}

/* ---- comparing ---- */

/* Sums of pages of one extent, read ahead. */
struct base_sums {
	uint32_t extent, first, n;
	uint64_t seed;
	uint64_t v[IMAGE_EXTENT_MAX / IMAGE_PAGE];
};

/* Let `s` hold the sum of a page of the run, and those behind it. */
static int base_read_sums(const struct base *b, struct base_sums *s, const struct image_run *run, uint32_t page, struct err *e)
{
	if (s->n && s->extent == run->extent && page >= s->first && page - s->first < s->n)
		return 0;
	s->extent = run->extent;
	s->first = page;
	s->n = run->page + run->pages - page;
	return image_read_sums(b->image, run->extent, page, s->n, s->v, &s->seed, e);
}

/* The page stands in the image: say where, as the child refers to it. */
static int base_refer(const struct base *b, struct once_page *p, const struct image_run *run, uint32_t page, struct err *e)
{
	p->page = page;
	p->state = ONCE_KNOWN;
	return image_writer_parent_extent(b->writer, run->extent, &p->extent, e);
}

int base_look(const struct base *b, uint32_t owner, struct once_page *pages, size_t n, size_t *ret_n, struct err *e)
{
	uint32_t in_base = b->image ? base_owner_of(b, owner) : BASE_NONE;
	struct base_sums sums = { .n = 0 };
	size_t left = 0;
	const struct image_run *run = NULL;

	*ret_n = 0;
	if (in_base == BASE_NONE || !n)
		return 0;
	run = image_runs_from(b->image, in_base, pages[0].addr, &left);
	for (size_t i = 0; i < n && left; i++) {
		uint32_t page;
		int r;

		while (left && image_run_end(run) <= pages[i].addr)
			run++, left--;
		if (!left || run->addr > pages[i].addr)
			continue;
		page = run->page + (uint32_t)((pages[i].addr - run->addr) / IMAGE_PAGE);
		r = base_read_sums(b, &sums, run, page, e);
		if (r == 0 && image_page_sum(sums.seed, pages[i].data) == sums.v[page - sums.first]) {
			r = base_refer(b, &pages[i], run, page, e);
			++*ret_n;
		}
		if (r)
			return r;
	}
	return 0;
}

/* ---- what tracking tells ---- */

static int base_miss(struct arena *arena, struct page_source *missing, const struct page_range *range, uint64_t from, uint64_t to,
		     struct err *e)
{
	struct page_range part = *range;

	part.addr = part.from = from;
	part.pages = (to - from) / IMAGE_PAGE;
	return page_source_add(arena, missing, &part, e);
}

/* The part [from, to) of a run of the base. */
static int base_take_run(const struct base *b, uint32_t owner, const struct image_run *run, uint64_t from, uint64_t to, struct err *e)
{
	struct image_run taken = { .addr = from, .owner = owner, .pages = (uint32_t)((to - from) / IMAGE_PAGE),
				   .page = run->page + (uint32_t)((from - run->addr) / IMAGE_PAGE) };
	int r = image_writer_parent_extent(b->writer, run->extent, &taken.extent, e);

	return r < 0 ? r : image_writer_run(b->writer, &taken, e);
}

static int base_take_range(const struct base *b, uint32_t owner, uint32_t in_base, const struct page_range *range, struct arena *arena,
			   struct page_source *missing, uint64_t *ret_pages, struct err *e)
{
	uint64_t at = range->addr, end = at + range->pages * IMAGE_PAGE;
	size_t left = 0;
	const struct image_run *run = in_base == BASE_NONE ? NULL : image_runs_from(b->image, in_base, at, &left);
	int r = 0;

	for (; r == 0 && left && run->addr < end; run++, left--) {
		uint64_t from = run->addr > at ? run->addr : at, to = image_run_end(run) < end ? image_run_end(run) : end;

		if (from > at)
			r = base_miss(arena, missing, range, at, from, e);
		if (r == 0)
			r = base_take_run(b, owner, run, from, to, e);
		*ret_pages += (to - from) / IMAGE_PAGE;
		at = to;
	}
	return r == 0 && at < end ? base_miss(arena, missing, range, at, end, e) : r;
}

int base_take(const struct base *b, uint32_t owner, const struct page_source *same, struct arena *arena,
	      struct page_source *missing, uint64_t *ret_pages, struct err *e)
{
	uint32_t in_base = b->image ? base_owner_of(b, owner) : BASE_NONE;
	int r = 0;

	*ret_pages = 0;
	for (size_t i = 0; r == 0 && i < same->n; i++)
		r = base_take_range(b, owner, in_base, &same->ranges[i], arena, missing, ret_pages, e);
	return r;
}
