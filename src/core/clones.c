/* SPDX-License-Identifier: Apache-2.0 */
#include "core/clones.h"

#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "proc/maps.h"
#include "util/err.h"

/* ---- what can be cloned ---- */

/*
 * The clone is an orphan, so a subreaper among its ancestors would get it as a child; and
 * to have a System V segment attached once more shows in that segment.
 */
static bool clones_would_show(const struct target_tree *tree, const Pb__Image *image)
{
	for (size_t i = 0; i < tree->n; i++)
		if (image->tasks[i]->child_subreaper)
			return true;
	for (size_t i = 0; i < image->n_inodes; i++)
		if (image->inodes[i]->kind == PB__INODE_KIND__SYSV_SHM)
			return true;
	return false;
}

/*
 * A thread that waits for children of every sort (__WALL, __WCLONE): if torpor is killed at the wrong moment, it
 * could see the helper end before the stage has reaped it.
 */
static bool task_would_see(const struct target *t)
{
	for (size_t i = 0; i < t->n_threads; i++) {
		const struct user_regs_struct *regs = &t->threads[i].regs;
		uint64_t options = regs->orig_rax == SYS_waitid ? regs->r10 : regs->rdx;

		if ((regs->orig_rax == SYS_wait4 || regs->orig_rax == SYS_waitid) && (options & (__WALL | __WCLONE)))
			return true;
	}
	return false;
}

/* The first mapping that ends beyond `addr`, from *at on; NULL at the end. */
static const Pb__Mapping *mapping_at(const Pb__AddressSpace *space, uint64_t addr, size_t *at)
{
	while (*at < space->n_mappings && space->mappings[*at]->end <= addr)
		++*at;
	return *at < space->n_mappings ? space->mappings[*at] : NULL;
}

/* Private huge pages are not there for everybody: when they run out, the clone loses its own. */
static bool mapping_is_cloned(const Pb__Mapping *m)
{
	return !(m->flags & (VM_FLAG_SHARED | VM_FLAG_DONTFORK | VM_FLAG_WIPEONFORK | VM_FLAG_HUGETLB));
}

/* A range may cross the border between mappings of which one is cloned and the other is not: it is cut there. */
typedef int (*part_function)(void *data, const struct page_range *part, bool cloned);

static int clones_each_part(const Pb__AddressSpace *space, const struct page_source *s, part_function f, void *data)
{
	uint64_t last = 0;
	size_t at = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < s->n; i++) {
		struct page_range rest = s->ranges[i];

		if (rest.addr < last)
			at = 0; /* those that were found last are not in order */
		last = rest.addr;
		while (r == 0 && rest.pages) {
			const Pb__Mapping *m = mapping_at(space, rest.addr, &at);
			struct page_range part = rest;

			if (m && (m->end - rest.addr) / MEMORY_PAGE < rest.pages)
				part.pages = (m->end - rest.addr) / MEMORY_PAGE;
			r = f(data, &part, m && mapping_is_cloned(m));
			rest.addr += part.pages * MEMORY_PAGE;
			rest.from += part.pages * MEMORY_PAGE;
			rest.pages -= part.pages;
		}
	}
	return r;
}

static int count_part(void *data, const struct page_range *part, bool cloned)
{
	*(uint64_t *)data += cloned ? part->pages : 0;
	return 0;
}

uint64_t clones_count(const struct target_tree *tree, const Pb__Image *image, const struct page_source *sources, size_t n)
{
	uint64_t pages = 0;

	if (clones_would_show(tree, image))
		return 0;
	for (size_t i = 0; i < n && i < image->n_spaces; i++)
		clones_each_part(image->spaces[i], &sources[i], count_part, &pages);
	return pages;
}

/* ---- making them ---- */

struct split {
	struct arena *arena;
	const struct target *clone;
	struct page_source now, later;
	uint64_t pages;
	struct err *e;
};

static int split_part(void *data, const struct page_range *part, bool cloned)
{
	struct split *split = data;
	struct page_range range = *part;

	if (!cloned)
		return page_source_add(split->arena, &split->now, &range, split->e);
	range.task = split->clone;
	range.alone = false; /* the program has its pages, too */
	split->pages += range.pages;
	return page_source_add(split->arena, &split->later, &range, split->e);
}

static int clones_split(struct clones *c, struct arena *arena, const Pb__AddressSpace *space, const struct target *clone,
			struct page_source *s, struct err *e)
{
	struct split split = { .arena = arena, .clone = clone, .now = *s, .later = *s, .e = e };

	split.now.ranges = split.later.ranges = NULL;
	split.now.n = split.later.n = 0;
	if (clones_each_part(space, s, split_part, &split) < 0)
		return -1;
	*s = split.now;
	c->sources[c->n_sources++] = split.later;
	c->pages += split.pages;
	return 0;
}

static int clones_make_one(struct clones *c, size_t task, struct arena *arena, struct target_tree *tree, const Pb__Image *image,
			   struct page_source *sources, struct err *e)
{
	uint32_t space = image->tasks[task]->space;
	uint64_t pages = 0;
	int r;

	if (tree->tasks[task]->zombie || task_would_see(tree->tasks[task]))
		return 0;
	clones_each_part(image->spaces[space], &sources[space], count_part, &pages);
	if (!pages)
		return 0;
	r = target_clone(tree->tasks[task], &c->v[task], e);
	if (r)
		return r < 0 ? r : 0;
	return clones_split(c, arena, image->spaces[space], &c->v[task], &sources[space], e);
}

int clones_make(struct clones *c, struct arena *arena, struct target_tree *tree, const Pb__Image *image,
		struct page_source *sources, struct err *e)
{
	*c = (struct clones){ .n = tree->n };
	c->v = arena_alloc(arena, tree->n * sizeof(*c->v));
	c->sources = arena_alloc(arena, tree->n * sizeof(*c->sources));
	if (!c->v || !c->sources) {
		c->n = 0;
		return err_nomem(e);
	}
	for (size_t i = 0; i < tree->n; i++)
		c->v[i].mem_fd = c->v[i].pidfd = -1;
	for (size_t i = 0; i < tree->n; i++)
		if (clones_make_one(c, i, arena, tree, image, sources, e) < 0)
			return -1;
	return 0;
}

void clones_end(struct clones *c)
{
	for (size_t i = 0; i < c->n; i++)
		target_clone_end(&c->v[i]);
	c->n = 0;
}
