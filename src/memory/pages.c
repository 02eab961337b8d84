/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Which pages are worth storing. In a private mapping: those that were written
 * (anonymous pages); untouched pages, the shared zero page and unmodified pages of
 * a file come back by themselves. PAGEMAP_SCAN tells for the whole address space
 * in a few milliseconds; /proc/PID/pagemap is the way of older kernels.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "memory/memory.h"
#include "proc/maps.h"
#include "sys/memory.h"
#include "util/fd.h"

enum {
	SCAN_REGIONS = 1024,
	SCAN_PAGES = 16384, /* that many take the kernel 0.2 ms, in which the task cannot map memory for the runner */
	PAGEMAP_ENTRIES = 8192,
};

#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)
#define PAGEMAP_FILE (1ull << 61)

struct page_finder {
	struct arena *arena;
	Pb__AddressSpace *space;
	size_t mapping; /* first mapping that may still meet the next region */
	struct page_source *source;
	struct page_source *kept; /* NULL: nothing is watched */
	const struct target *task; /* whose memory it is; NULL: a file's */
	struct err *e;
};

int page_source_add(struct arena *arena, struct page_source *s, const struct page_range *range, struct err *e)
{
	struct page_range *v = arena_grow(arena, s->ranges, s->n, sizeof(*v));

	if (!v)
		return err_nomem(e);
	s->ranges = v;
	v[s->n++] = *range;
	return 0;
}

static int finder_add_range(struct page_finder *f, struct page_source *s, uint64_t start, uint64_t end, bool keep_zero,
			    bool alone)
{
	const struct page_range range = { start, start, (end - start) / MEMORY_PAGE, f->task, keep_zero, alone };
	struct page_range *last = s->n ? &s->ranges[s->n - 1] : NULL;

	if (last && last->addr + last->pages * MEMORY_PAGE == start && last->keep_zero == keep_zero &&
	    last->alone == alone) {
		last->pages += range.pages;
		return 0;
	}
	return page_source_add(f->arena, s, &range, f->e);
}

static int finder_add_guard(struct page_finder *f, Pb__Mapping *m, uint64_t start, uint64_t end)
{
	if (!pb_add(f->arena, m, guards, start) || !pb_add(f->arena, m, guards, end))
		return err_nomem(f->e);
	return 0;
}

static struct page_source *finder_choose(const struct page_finder *f, uint64_t categories)
{
	bool kept = f->kept && (categories & SYS_PAGE_IS_WPALLOWED) && !(categories & SYS_PAGE_IS_WRITTEN);

	return kept ? f->kept : f->source;
}

/* A stretch of one mapping whose pages have the same categories (SYS_PAGE_IS_*). */
static int finder_take(struct page_finder *f, size_t mapping, uint64_t start, uint64_t end, uint64_t categories)
{
	Pb__Mapping *m = f->space->mappings[mapping];
	bool alone = f->task->alone && f->task->alone[mapping];
	bool present = categories & (SYS_PAGE_IS_PRESENT | SYS_PAGE_IS_SWAPPED);

	if (categories & SYS_PAGE_IS_GUARD)
		return finder_add_guard(f, m, start, end);
	if (!present || (m->flags & VM_FLAG_DROPPABLE))
		return 0;
	if (m->kind == PB__MAPPING_KIND__ANON)
		return categories & SYS_PAGE_IS_PFNZERO ? 0 : finder_add_range(f, finder_choose(f, categories), start, end, false,
									 alone);
	if (m->kind == PB__MAPPING_KIND__FILE_PRIVATE && !(categories & SYS_PAGE_IS_FILE))
		return finder_add_range(f, f->source, start, end, true, alone);
	return 0;
}

/* A region of the scan, cut along the mappings' borders. Regions come in ascending order. */
static int finder_region(struct page_finder *f, uint64_t start, uint64_t end, uint64_t categories)
{
	while (f->mapping < f->space->n_mappings && f->space->mappings[f->mapping]->end <= start)
		f->mapping++;
	for (size_t i = f->mapping; i < f->space->n_mappings && f->space->mappings[i]->start < end; i++) {
		const Pb__Mapping *m = f->space->mappings[i];
		uint64_t from = start > m->start ? start : m->start, to = end < m->end ? end : m->end;
		int r = from < to ? finder_take(f, i, from, to, categories) : 0;

		if (r < 0)
			return r;
	}
	return 0;
}

static uint64_t regions_pages(const struct sys_page_region *regions, long n)
{
	uint64_t pages = 0;

	for (long i = 0; i < n; i++)
		pages += (regions[i].end - regions[i].start) / MEMORY_PAGE;
	return pages;
}

/* `file`: say as well which pages are still the file's. */
static int finder_scan_stretch(struct page_finder *f, int pagemap, uint64_t start, uint64_t end, bool file)
{
	struct sys_page_region regions[SCAN_REGIONS];
	uint64_t guard = SYS_PAGE_IS_GUARD;
	struct sys_pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start,
		.end = end,
		.vec = (uint64_t)regions,
		.vec_len = SCAN_REGIONS,
		.max_pages = SCAN_PAGES,
		.category_anyof_mask = SYS_PAGE_IS_PRESENT | SYS_PAGE_IS_SWAPPED | guard,
		.return_mask = SYS_PAGE_IS_PRESENT | SYS_PAGE_IS_SWAPPED | SYS_PAGE_IS_PFNZERO | guard |
			       (file ? SYS_PAGE_IS_FILE : 0) | (f->kept ? SYS_PAGE_IS_WPALLOWED | SYS_PAGE_IS_WRITTEN : 0),
	};

	for (;;) {
		long n = sys_pagemap_scan(pagemap, &arg);

		if (n == -EINVAL && guard) { /* a kernel that does not know guard regions */
			guard = 0;
			arg.category_anyof_mask &= ~(uint64_t)SYS_PAGE_IS_GUARD;
			arg.return_mask &= ~(uint64_t)SYS_PAGE_IS_GUARD;
			continue;
		}
		if (n < 0)
			return (int)n;
		for (long i = 0; i < n; i++) {
			int r = finder_region(f, regions[i].start, regions[i].end, regions[i].categories);

			if (r < 0)
				return -ECANCELED;
		}
		if (n < SCAN_REGIONS && regions_pages(regions, n) < SCAN_PAGES)
			return 0;
		sys_pagemap_go_on(&arg, &regions[n - 1]);
	}
}

/* Only for mappings of files: the kernel must look at every page to answer that, which takes longer than all the rest. */
static int finder_scan(struct page_finder *f, int pagemap)
{
	Pb__Mapping **v = f->space->mappings;
	size_t n = f->space->n_mappings;
	int r = 0;

	for (size_t i = 0, last; r == 0 && i < n; i = last + 1) {
		bool file = v[i]->kind == PB__MAPPING_KIND__FILE_PRIVATE;

		for (last = i; last + 1 < n && (v[last + 1]->kind == PB__MAPPING_KIND__FILE_PRIVATE) == file;)
			last++;
		r = finder_scan_stretch(f, pagemap, v[i]->start, v[last]->end, file);
	}
	return r;
}

static uint64_t finder_pagemap_categories(uint64_t entry)
{
	return (entry & PAGEMAP_PRESENT ? SYS_PAGE_IS_PRESENT : 0) | (entry & PAGEMAP_SWAPPED ? SYS_PAGE_IS_SWAPPED : 0) |
	       (entry & PAGEMAP_FILE ? SYS_PAGE_IS_FILE : 0);
}

/* The old way: 8 bytes per page, mapping by mapping. */
static int finder_pagemap(struct page_finder *f, int pagemap)
{
	static const size_t chunk = PAGEMAP_ENTRIES;
	uint64_t entries[PAGEMAP_ENTRIES];

	for (size_t i = 0; i < f->space->n_mappings; i++) {
		const Pb__Mapping *m = f->space->mappings[i];

		if (m->kind != PB__MAPPING_KIND__ANON && m->kind != PB__MAPPING_KIND__FILE_PRIVATE)
			continue;
		if (!m->prot && (m->flags & VM_FLAG_NORESERVE))
			continue; /* a mere reservation, possibly terabytes */
		for (uint64_t at = m->start; at < m->end;) {
			uint64_t n = (m->end - at) / MEMORY_PAGE;
			ssize_t got = pread(pagemap, entries, (n < chunk ? n : chunk) * 8, (off_t)(at / MEMORY_PAGE * 8));

			if (got <= 0)
				return got < 0 ? -errno : -EIO;
			for (size_t k = 0; k < (size_t)got / 8; k++, at += MEMORY_PAGE)
				if ((entries[k] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) &&
				    finder_region(f, at, at + MEMORY_PAGE, finder_pagemap_categories(entries[k])) < 0)
					return -ECANCELED;
		}
	}
	return 0;
}

int memory_find_pages(struct arena *arena, const struct target *task, Pb__AddressSpace *space, uint32_t owner,
		      struct page_source *ret, struct page_source *kept, struct err *e)
{
	cleanup_close int pagemap = fd_open_proc(task->pid, "pagemap", O_RDONLY);
	struct page_finder f = { .arena = arena, .space = space, .source = ret, .kept = kept, .task = task, .e = e };
	int r;

	*ret = (struct page_source){ .owner = owner, .fd = -1 };
	if (kept)
		*kept = *ret;
	if (pagemap < 0)
		return err_sys(e, pagemap, "opening /proc/%d/pagemap", task->pid);
	if (!space->n_mappings)
		return 0;
	r = finder_scan(&f, pagemap);
	if (r == -ENOTTY || r == -ENOSYS || r == -EINVAL)
		r = finder_pagemap(&f, pagemap);
	if (r == -ECANCELED)
		return r; /* *e says why */
	return r < 0 ? err_sys(e, r, "finding the pages of task %d", task->pid) : 0;
}

/* Through the file: only where it has data. */
static int inode_pages_of_file(struct page_finder *f, const struct inode_entry *inode)
{
	uint64_t size = inode->pb->size;
	off_t at = 0;

	while ((uint64_t)at < size) {
		off_t data = lseek(inode->fd, at, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			return 0;
		hole = data < 0 ? -1 : lseek(inode->fd, data, SEEK_HOLE);
		if (hole < 0)
			return err_sys(f->e, errno, "finding the data of %s", inode->pb->path);
		data &= ~(off_t)(MEMORY_PAGE - 1);
		at = (hole + MEMORY_PAGE - 1) & ~(off_t)(MEMORY_PAGE - 1);
		if (finder_add_range(f, f->source, (uint64_t)data, (uint64_t)at, false, false) < 0)
			return -1;
	}
	return 0;
}

int memory_find_inode_pages(struct arena *arena, struct inode_entry *inode, uint32_t owner, struct page_source *ret,
			    struct err *e)
{
	struct page_finder f = { .arena = arena, .source = ret, .e = e };

	*ret = (struct page_source){ .owner = owner, .fd = inode->fd };
	if (!inode->pb->size)
		return 0;
	return inode->fd >= 0 ? inode_pages_of_file(&f, inode) : memory_find_window_pages(arena, inode, ret, e);
}
