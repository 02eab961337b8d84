/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/track.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "sys/memory.h"
#include "sys/userfault.h"
#include "util/fd.h"

enum {
	TRACK_REGIONS = 1024,
	TRACK_WINDOW = 64 << 20, /* bytes of addresses that are looked at in one go */
	TRACK_LARGE = 1 << 20,   /* bytes of a mapping of which one page stands for all, */
	TRACK_GAP = 1 << 20,     /* and those between pages that are looked at together: to begin anew takes longer */
};

/* ---- making the userfaultfd ---- */

/* It has an fd in the task only while all its threads stand; if torpor dies meanwhile, the stage closes it. */
static int track_make(struct remote *r, int *ret, struct err *e)
{
	const uint64_t make[6] = { UFFD_USER_MODE_ONLY | O_CLOEXEC };
	int64_t fd, closed;

	if (remote_make(r, SYS_userfaultfd, make, SYS_close, &fd, e) < 0)
		return -1;
	*ret = (int)fd;
	if (fd < 0)
		return 0;
	*ret = sys_pidfd_getfd(r->task->pidfd, (int)fd);
	return remote_unmake(r, SYS_close, (const uint64_t[6]){ (uint64_t)fd }, &closed, e);
}

void track_init(struct track *t, pid_t pid)
{
	*t = (struct track){ .task = { .pid = pid, .mem_fd = -1, .pidfd = -1 }, .uffd = -1, .pagemap = -1 };
	copies_init(&t->copies);
}

/* Tried with any page that is there. */
static bool track_can_scan(const struct track *t, uint64_t page)
{
	struct sys_page_region region;
	struct sys_pm_scan_arg arg = {
		.size = sizeof(arg), .start = page, .end = page + MEMORY_PAGE, .vec = (uint64_t)&region, .vec_len = 1,
		.category_mask = SYS_PAGE_IS_PRESENT, .return_mask = SYS_PAGE_IS_WRITTEN,
	};

	return sys_pagemap_scan(t->pagemap, &arg) >= 0;
}

/* What is needed of /proc to read its memory and its marks. */
static int track_open(struct track *t, struct err *e)
{
	pid_t pid = t->task.pid;

	t->task.mem_fd = fd_open_proc(pid, "mem", O_RDONLY);
	t->pagemap = fd_open_proc(pid, "pagemap", O_RDONLY);
	if (t->task.mem_fd < 0 || t->pagemap < 0)
		return err_sys(e, t->pagemap < 0 ? t->pagemap : t->task.mem_fd, "opening the memory of task %d", pid);
	return 0;
}

int track_begin(struct track *t, struct target *task, const char **ret_why, struct err *e)
{
	struct remote remote;
	int r;

	track_init(t, task->pid);
	r = remote_open_bare(&remote, task, e);
	if (r == 0)
		r = track_make(&remote, &t->uffd, e);
	r = remote_close_after(&remote, r, e);
	if (r < 0)
		return r;
	*ret_why = "it cannot make a userfaultfd";
	if (t->uffd < 0)
		return 1;
	*ret_why = "the kernel has no asynchronous write protection (Linux 6.7)";
	if (sys_userfault_begin(t->uffd, SYS_UFFD_FEATURE_WP_ASYNC) < 0)
		return 1;
	if (track_open(t, e) < 0)
		return -1;
	*ret_why = "the kernel does not tell which pages are written (PAGEMAP_SCAN)";
	return track_can_scan(t, task->vdso) ? 0 : 1;
}

int track_adopt(struct track *t, struct target *task, int uffd, const struct track_stretch *stretches, size_t n, struct err *e)
{
	track_init(t, task->pid);
	t->uffd = uffd;
	if (!sys_userfault_lives(uffd, task->vdso))
		return 1;
	t->old = calloc(n + 1, sizeof(*t->old));
	if (!t->old)
		return err_nomem(e);
	if (n)
		memcpy(t->old, stretches, n * sizeof(*t->old));
	t->n_old = n;
	return track_open(t, e);
}

void track_end(struct track *t)
{
	fd_closep(&t->uffd);
	fd_closep(&t->pagemap);
	fd_closep(&t->task.mem_fd);
	t->uffd = t->pagemap = t->task.mem_fd = -1;
	free(t->stretches);
	t->stretches = NULL;
	t->n = t->room = 0;
	free(t->old);
	t->old = NULL;
	t->n_old = 0;
	t->bound = false;
	copies_done(&t->copies);
}

/* ---- watching ---- */

/* The kernel looks at no page of a mapping that is not watched. */
bool track_is_watched(pid_t pid)
{
	cleanup_close int pagemap = fd_open_proc(pid, "pagemap", O_RDONLY);
	struct sys_page_region region;
	struct sys_pm_scan_arg arg = {
		.size = sizeof(arg), .end = MEMORY_ADDRESSES, .vec = (uint64_t)&region, .vec_len = 1,
		.category_mask = SYS_PAGE_IS_WPALLOWED, .return_mask = SYS_PAGE_IS_WPALLOWED,
	};

	return pagemap >= 0 && sys_pagemap_scan(pagemap, &arg) > 0;
}

/*
 * Memory of the task's own and nothing else; who watches it is another question. Not file mappings: the kernel keeps the
 * mark of a page that MADV_DONTNEED has made the file's again. Not hugetlb, which
 * swaps whole pages below the marks.
 */
static bool track_is_own(const struct vm_area *a)
{
	const unsigned strange = VM_FLAG_SHARED | VM_FLAG_HUGETLB | VM_FLAG_IO | VM_FLAG_SHADOW_STACK | VM_FLAG_SEALED |
				 VM_FLAG_DROPPABLE;

	return !a->ino && a->name[0] != '/' && !(a->flags & strange) && (a->flags & VM_FLAG_MAYWRITE) &&
	       strncmp(a->name, "[v", 2) != 0;
}

static int track_add(struct track *t, uint64_t start, uint64_t end, struct err *e)
{
	if (t->n && t->stretches[t->n - 1].end == start) {
		t->stretches[t->n - 1].end = end;
		return 0;
	}
	if (t->n == t->room) {
		size_t room = t->room ? t->room * 2 : 64;
		struct track_stretch *bigger = reallocarray(t->stretches, room, sizeof(*bigger));

		if (!bigger)
			return err_nomem(e);
		t->stretches = bigger;
		t->room = room;
	}
	t->stretches[t->n++] = (struct track_stretch){ start, end };
	return 0;
}

/* From *at on, which goes up with `start`. */
static bool stretches_meet(const struct track_stretch *v, size_t n, size_t *at, uint64_t start, uint64_t end)
{
	while (*at < n && v[*at].end <= start)
		++*at;
	return *at < n && v[*at].start < end;
}

/* No copy is known of these pages, nor does the parent have them. */
static int track_lose(struct track *t, uint64_t start, uint64_t end, struct err *e)
{
	const uint64_t most = 1u << 31;

	for (uint64_t at = start, pages; at < end; at += pages * MEMORY_PAGE) {
		struct image_run run = { .addr = at, .extent = COPIES_LOST };

		pages = (end - at) / MEMORY_PAGE < most ? (end - at) / MEMORY_PAGE : most;
		run.pages = (uint32_t)pages;
		if (copies_add(&t->copies, &run, 1, e) < 0)
			return -1;
	}
	return 0;
}

/*
 * 1 when it is watched; what vanishes meanwhile, or cannot be watched, is not. Where a mapping was moved to, kernels before 6.13
 * leave marks that mean another place; so marks of what was not registered before count for nothing.
 */
static int track_register(struct track *t, uint64_t start, uint64_t end, struct err *e)
{
	if (sys_userfault_register(t->uffd, start, end - start) < 0)
		return 0;
	return t->n_old && track_lose(t, start, end, e) < 0 ? -1 : 1;
}

/*
 * What is registered since an earlier dump stays as it is: its marks are worth something. It has not been moved or
 * replaced, which ends a registration, only cut or grown. It is not registered once more, as it may be another mapping by now.
 */
int track_watch(struct track *t, const struct vm_area_list *areas, struct err *e)
{
	size_t at = 0;

	for (size_t i = 0; t->uffd >= 0 && i < areas->n; i++) {
		const struct vm_area *a = &areas->areas[i];
		bool watched = (a->flags & VM_FLAG_UFFD) && stretches_meet(t->old, t->n_old, &at, a->start, a->end);
		int r = !track_is_own(a) ? 0 : watched ? 1 : track_register(t, a->start, a->end, e);

		if (r < 0 || (r && track_add(t, a->start, a->end, e) < 0))
			return -1;
	}
	if (copies_settle(&t->copies, e) < 0)
		return -1;
	track_rewind(t);
	return 0;
}

/* A mapping is registered as a whole or not at all. So of a large one only the first page is looked at: up to here. */
static uint64_t area_look_end(const struct vm_area *a)
{
	return a->end - a->start > TRACK_LARGE ? a->start + MEMORY_PAGE : a->end;
}

/* Ranges come in ascending order; those that touch have been joined by the kernel, but for the end of its list. */
static void areas_flag(struct vm_area_list *areas, size_t *at, uint64_t start, uint64_t end)
{
	while (*at < areas->n && areas->areas[*at].start < start)
		++*at;
	for (; *at < areas->n && area_look_end(&areas->areas[*at]) <= end; ++*at)
		areas->areas[*at].flags |= VM_FLAG_UFFD;
}

/* The areas from *at on up to the next large one, in one go. */
static int areas_look(const struct track *t, struct vm_area_list *areas, size_t *at)
{
	struct sys_page_region regions[TRACK_REGIONS];
	struct sys_pm_scan_arg arg = {
		.size = sizeof(arg), .start = areas->areas[*at].start, .vec = (uint64_t)regions, .vec_len = TRACK_REGIONS,
		.category_mask = SYS_PAGE_IS_WPALLOWED, .return_mask = SYS_PAGE_IS_WPALLOWED,
	};
	size_t flagged = *at;
	long n;

	while (*at + 1 < areas->n && area_look_end(&areas->areas[*at]) == areas->areas[*at].end)
		++*at;
	arg.end = area_look_end(&areas->areas[*at]);
	++*at;
	do {
		n = sys_pagemap_scan(t->pagemap, &arg);
		for (long k = 0; k < n; k++)
			areas_flag(areas, &flagged, regions[k].start, regions[k].end);
		if (n > 0)
			sys_pagemap_go_on(&arg, &regions[n - 1]);
	} while (n == TRACK_REGIONS);
	return n < 0 ? (int)n : 0;
}

int track_find_watched(const struct track *t, struct vm_area_list *areas)
{
	struct vm_area_list own = *areas;
	int r = 0;

	while (own.n && (int64_t)own.areas[own.n - 1].end < 0) /* [vsyscall] */
		own.n--;
	for (size_t at = 0; r == 0 && at < own.n;)
		r = areas_look(t, &own, &at);
	return r;
}

void track_hide(const struct track *t, struct vm_area_list *areas, bool stands)
{
	size_t k = 0, old = 0;

	for (size_t i = 0; i < areas->n; i++) {
		struct vm_area *a = &areas->areas[i];

		if (!(a->flags & VM_FLAG_UFFD))
			continue;
		if (stretches_meet(t->stretches, t->n, &k, a->start, a->end) || stretches_meet(t->old, t->n_old, &old, a->start, a->end) ||
		    (stands && t->n_old && sys_userfault_register(t->uffd, a->start, a->end - a->start) == 0))
			a->flags &= ~(unsigned)VM_FLAG_UFFD;
	}
}

/* ---- what was written ---- */

void track_rewind(struct track *t)
{
	t->stretch = 0;
	t->at = t->n ? t->stretches[0].start : 0;
}

static int track_take(struct track *t, struct arena *arena, const struct sys_page_region *region, struct page_source *s,
		      struct err *e)
{
	const struct page_range range = { .addr = region->start, .from = region->start,
					  .pages = (region->end - region->start) / MEMORY_PAGE, .task = &t->task };
	struct page_range *last = s->n ? &s->ranges[s->n - 1] : NULL;

	if (region->categories & SYS_PAGE_IS_PFNZERO)
		return 0; /* it is zero, and what is zero later without having been written is, too */
	if (last && last->addr + last->pages * MEMORY_PAGE == region->start) {
		last->pages += range.pages;
		return 0;
	}
	return page_source_add(arena, s, &range, e);
}

/* Returns the number of pages found, or negative; -ESRCH when the task has ended. */
static int64_t track_scan(struct track *t, struct arena *arena, uint64_t start, uint64_t end, struct page_source *s,
			  struct err *e)
{
	struct sys_page_region regions[TRACK_REGIONS];
	struct sys_pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = SYS_PM_SCAN_WP_MATCHING,
		.start = start,
		.end = end,
		.vec = (uint64_t)regions,
		.vec_len = TRACK_REGIONS,
		.category_mask = SYS_PAGE_IS_WRITTEN,
		.category_anyof_mask = SYS_PAGE_IS_PRESENT | SYS_PAGE_IS_SWAPPED,
		.return_mask = SYS_PAGE_IS_PFNZERO,
	};
	int64_t pages = 0;

	for (;;) {
		long n = sys_pagemap_scan(t->pagemap, &arg);

		if (n < 0)
			return n;
		for (long i = 0; i < n; i++) {
			if (track_take(t, arena, &regions[i], s, e) < 0)
				return -ECANCELED;
			pages += (int64_t)((regions[i].end - regions[i].start) / MEMORY_PAGE);
		}
		if (n < TRACK_REGIONS)
			return pages;
		sys_pagemap_go_on(&arg, &regions[n - 1]);
	}
}

uint64_t track_count(struct track *t)
{
	struct sys_page_region regions[TRACK_REGIONS];
	uint64_t pages = 0;
	long n = 0;

	for (size_t i = 0; n >= 0 && i < t->n; i++) {
		struct sys_pm_scan_arg arg = {
			.size = sizeof(arg),
			.start = t->stretches[i].start,
			.end = t->stretches[i].end,
			.vec = (uint64_t)regions,
			.vec_len = TRACK_REGIONS,
			.category_mask = SYS_PAGE_IS_WRITTEN | SYS_PAGE_IS_WPALLOWED,
			.category_anyof_mask = SYS_PAGE_IS_PRESENT | SYS_PAGE_IS_SWAPPED,
		};

		do {
			n = sys_pagemap_scan(t->pagemap, &arg);
			for (long k = 0; k < n; k++)
				pages += (regions[k].end - regions[k].start) / MEMORY_PAGE;
			if (n > 0)
				sys_pagemap_go_on(&arg, &regions[n - 1]);
		} while (n == TRACK_REGIONS);
	}
	return pages;
}

int track_find(struct track *t, struct arena *arena, uint64_t most, struct page_source *ret, struct err *e)
{
	uint64_t found = 0;

	while (t->stretch < t->n && found < most) {
		uint64_t end = t->stretches[t->stretch].end;
		uint64_t to = end - t->at > TRACK_WINDOW ? t->at + TRACK_WINDOW : end;
		int64_t n = track_scan(t, arena, t->at, to, ret, e);

		if (n == -ESRCH)
			return 0;
		if (n < 0)
			return n == -ECANCELED ? -1 : err_sys(e, (int)n, "finding written pages of task %d", t->task.pid);
		found += (uint64_t)n;
		t->at = to;
		if (to == end && ++t->stretch < t->n)
			t->at = t->stretches[t->stretch].start;
	}
	return t->stretch < t->n;
}

static int track_lose_all(struct track *t, const struct page_source *marked, struct err *e)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < marked->n; i++) {
		const struct page_range *range = &marked->ranges[i];

		r = track_lose(t, range->addr, range->addr + range->pages * MEMORY_PAGE, e);
	}
	return r < 0 ? r : copies_settle(&t->copies, e);
}

int track_mark(struct track *t, struct err *e)
{
	struct arena scratch = ARENA_INIT;
	struct page_source marked = { 0 };
	int r;

	track_rewind(t);
	do
		r = track_find(t, &scratch, UINT64_MAX, &marked, e);
	while (r > 0);
	if (r == 0)
		r = track_lose_all(t, &marked, e);
	arena_done(&scratch);
	return r;
}

/* From *i on, as many ranges as can be looked at together; *i becomes the one behind them. Returns where they end. */
static uint64_t ranges_join(const struct page_source *s, size_t *i)
{
	uint64_t end;

	do {
		end = s->ranges[*i].addr + s->ranges[*i].pages * MEMORY_PAGE;
		++*i;
	} while (*i < s->n && s->ranges[*i].addr >= end && s->ranges[*i].addr - end <= TRACK_GAP);
	return end;
}

int track_mark_found(struct track *t, const struct page_source *found, struct err *e)
{
	struct arena scratch = ARENA_INIT;
	struct page_source marked = { 0 };
	int r = 0;

	for (size_t i = 0; r == 0 && i < found->n;) {
		uint64_t start = found->ranges[i].addr, end = ranges_join(found, &i);
		int64_t n = track_scan(t, &scratch, start, end, &marked, e);

		if (n < 0)
			r = n == -ECANCELED ? -1 : err_sys(e, (int)n, "marking pages of task %d", t->task.pid);
	}
	if (r == 0)
		r = track_lose_all(t, &marked, e);
	arena_done(&scratch);
	return r;
}
