/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Private anonymous memory of a stopped task, copied while somebody else reads smaps: what he has read so far, or else maps, says
 * where it may be, PAGEMAP_SCAN which pages are there, and smaps or else the pagemap whether somebody else maps them. Whether
 * a page counts is decided later, by who has read smaps; what does not is dead in the image.
 */

#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "memory/copies.h"
#include "memory/memory.h"
#include "proc/maps.h"
#include "sys/memory.h"
#include "util/fd.h"

enum {
	AHEAD_REGIONS = 512,
	AHEAD_ENTRIES = 2048,
	AHEAD_BATCH = 16384, /* pages that are found at once: they are copied soon after */
	AHEAD_CUT = 2 << 20, /* bytes: where one batch ends within a stretch, so that no huge page is in two */
};

#define PAGEMAP_EXCLUSIVE (1ull << 56)

struct ahead_finder {
	struct memory_ahead *ahead;
	const struct target *task;
	struct image_writer *writer;
	const struct image_packing *packing;
	int pagemap;
	size_t heard;     /* how many mappings of those that are told */
	uint64_t reached; /* where the last mapping ends that was taken, be it told or read */
	struct arena arena; /* of what has been found, and is to be copied now */
	struct page_source source;
	uint64_t pages; /* of it */
};

/* Nothing that has content of its own, or a meaning to the kernel. */
static bool ahead_may_copy(const struct vm_area *a)
{
	if ((a->flags & VM_FLAG_SHARED) || a->ino)
		return false;
	return !a->name[0] || strcmp(a->name, "[heap]") == 0 || strcmp(a->name, "[stack]") == 0 || strncmp(a->name, "[anon:", 6) == 0;
}

/* False as well where nobody knows. */
static bool ahead_is_alone(const struct ahead_finder *f, uint64_t start, uint64_t end)
{
	uint64_t entries[AHEAD_ENTRIES], all = PAGEMAP_EXCLUSIVE;

	for (uint64_t at = start; all && at < end;) {
		uint64_t left = (end - at) / MEMORY_PAGE, n = left < AHEAD_ENTRIES ? left : AHEAD_ENTRIES;

		if (pread(f->pagemap, entries, n * 8, (off_t)(at / MEMORY_PAGE * 8)) != (ssize_t)(n * 8))
			return false;
		for (uint64_t i = 0; i < n; i++)
			all &= entries[i];
		at += n * MEMORY_PAGE;
	}
	return all;
}

/* Of a mapping like this, or several. */
static int ahead_add(struct ahead_finder *f, uint64_t start, uint64_t end, const struct vm_area *like, struct err *e)
{
	const struct page_range range = { .addr = start, .from = start, .pages = (end - start) / MEMORY_PAGE, .task = f->task,
					  .alone = like->prot && (like->alone || ahead_is_alone(f, start, end)) };
	struct page_range *last = f->source.n ? &f->source.ranges[f->source.n - 1] : NULL;

	f->pages += range.pages;
	if (last && last->addr + last->pages * MEMORY_PAGE == start && last->alone == range.alone) {
		last->pages += range.pages;
		return 0;
	}
	return page_source_add(&f->arena, &f->source, &range, e);
}

static int ahead_store(struct ahead_finder *f, struct err *e)
{
	struct memory_ahead *a = f->ahead;
	struct memory_stats stats = { 0 };
	int r = f->source.n ? memory_store_shared(&a->shared, &f->source, f->writer, f->packing, &stats, e) : 0;

	a->stats.pages_stored += stats.pages_stored;
	a->stats.pages_zero += stats.pages_zero;
	f->source.ranges = NULL;
	f->source.n = 0;
	f->pages = 0;
	arena_done(&f->arena);
	return r;
}

/* Where to go on behind these regions; 0: these were the last. */
static uint64_t ahead_cut(struct sys_page_region *regions, long n, uint64_t most)
{
	struct sys_page_region *last = n ? &regions[n - 1] : NULL;
	uint64_t pages = 0, cut;

	for (long i = 0; i < n; i++)
		pages += (regions[i].end - regions[i].start) / MEMORY_PAGE;
	if (!last || (n < AHEAD_REGIONS && pages < most))
		return 0;
	cut = last->end / AHEAD_CUT * AHEAD_CUT;
	if (pages >= most && cut > last->start)
		last->end = cut;
	return last->end;
}

/* Mappings that stand side by side and are like the first one, up to `end`. */
static int ahead_stretch(struct ahead_finder *f, const struct vm_area *like, uint64_t end, struct err *e)
{
	struct sys_page_region regions[AHEAD_REGIONS];
	struct sys_pm_scan_arg arg = {
		.size = sizeof(arg),
		.end = end,
		.vec = (uint64_t)regions,
		.vec_len = AHEAD_REGIONS,
		.category_mask = SYS_PAGE_IS_PRESENT | SYS_PAGE_IS_SWAPPED | SYS_PAGE_IS_PFNZERO,
		.category_inverted = SYS_PAGE_IS_SWAPPED | SYS_PAGE_IS_PFNZERO,
		.return_mask = SYS_PAGE_IS_PRESENT,
	};
	uint64_t start = like->start;
	int r = 0;

	while (r == 0 && start && !atomic_load(&f->ahead->shared.enough)) {
		long n;

		arg.start = start;
		arg.max_pages = AHEAD_BATCH - f->pages;
		n = sys_pagemap_scan(f->pagemap, &arg);
		if (n < 0)
			return 1;
		start = ahead_cut(regions, n, arg.max_pages);
		for (long i = 0; r == 0 && i < n; i++)
			r = ahead_add(f, regions[i].start, regions[i].end, like, e);
		if (r == 0 && f->pages >= AHEAD_BATCH / 2)
			r = ahead_store(f, e);
	}
	return r;
}

static bool ahead_goes_on(const struct vm_area *a, const struct vm_area *next)
{
	return ahead_may_copy(next) && next->start == a->end && !next->prot == !a->prot && next->alone == a->alone;
}

/* 1: this kernel does not tell which pages are there. */
static int ahead_areas(struct ahead_finder *f, const struct vm_area_list *list, struct err *e)
{
	const struct vm_area *v = list->areas;
	int r = 0;

	for (size_t i = 0, last; r == 0 && i < list->n; i = last + 1) {
		last = i;
		if (!ahead_may_copy(&v[i]))
			continue;
		while (last + 1 < list->n && ahead_goes_on(&v[last], &v[last + 1]))
			last++;
		r = ahead_stretch(f, &v[i], v[last].end, e);
	}
	return r;
}

/* The mappings of these that were not taken yet. */
static struct vm_area_list ahead_new_areas(const struct ahead_finder *f, struct vm_area_list list)
{
	for (; list.n && list.areas->start < f->reached; list.n--)
		list.areas++;
	return list;
}

/*
 * The next mappings: those that smaps has told by now, to somebody else; but where it takes its time over a large one, maps tells
 * sooner. None: these were all, or nobody knows.
 */
static struct vm_area_list ahead_next_areas(struct ahead_finder *f, struct areas_reader *maps)
{
	struct areas_told *told = &f->ahead->told;
	struct vm_area_list next = { 0 };
	int r = 1;

	while (!next.n && r > 0) {
		bool whole = areas_hear(told, f->heard, &next);
		size_t known = maps->list.n;

		f->heard += next.n;
		next = ahead_new_areas(f, next);
		if (next.n || whole)
			break;
		r = areas_read(maps);
		next = ahead_new_areas(f, areas_from(&maps->list, known));
	}
	if (next.n)
		f->reached = next.areas[next.n - 1].end;
	return next;
}

/* As above. */
static int ahead_all_areas(struct ahead_finder *f, struct err *e)
{
	struct arena arena = ARENA_INIT;
	struct areas_reader maps;
	struct vm_area_list next;
	int r = areas_open(&maps, &arena, f->task->pid, "maps") < 0;

	while (r == 0 && !atomic_load(&f->ahead->shared.enough) && (next = ahead_next_areas(f, &maps)).n)
		r = ahead_areas(f, &next, e);
	areas_close(&maps);
	arena_done(&arena);
	return r == 0 ? ahead_store(f, e) : r;
}

void memory_ahead_init(struct memory_ahead *a)
{
	*a = (struct memory_ahead){ .shared = MEMORY_SHARED_INIT };
	copies_init(&a->copies);
}

void memory_ahead_done(struct memory_ahead *a)
{
	copies_done(&a->copies);
}

int memory_copy_ahead(struct memory_ahead *a, const struct target *task, struct image_writer *w,
		      const struct image_packing *packing, struct err *e)
{
	cleanup_close int pagemap = fd_open_proc(task->pid, "pagemap", O_RDONLY);
	struct ahead_finder f = { .ahead = a, .task = task, .writer = w, .packing = packing, .pagemap = pagemap,
				  .source = { .fd = -1, .copies = &a->copies } };
	int r = pagemap < 0 ? 1 : ahead_all_areas(&f, e);

	arena_done(&f.arena);
	if (r >= 0)
		r = copies_settle(&a->copies, e);
	return r < 0 ? r : 0;
}

int memory_take_ahead(struct memory_ahead *a, struct image_writer *w, uint32_t owner, struct arena *arena,
		      struct page_source *s, uint64_t *ret_pages, struct err *e)
{
	struct copies_use use = { .copies = &a->copies, .owner = owner, .writer = w, .arena = arena };
	const struct page_source found = *s;
	int r;

	s->ranges = NULL;
	s->n = 0;
	r = copies_take(&use, &found, s, s, e);
	*ret_pages = use.pages;
	return r;
}
