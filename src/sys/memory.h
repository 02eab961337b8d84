/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Memory interfaces of newer kernels than the installed headers may know. */

#include <linux/types.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include "sys/process.h"

/* PAGEMAP_SCAN, Linux 6.7 (Documentation/admin-guide/mm/pagemap.rst). */
struct sys_page_region {
	uint64_t start, end, categories;
};

struct sys_pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SYS_PAGEMAP_SCAN _IOWR('f', 16, struct sys_pm_scan_arg)

enum {
	SYS_PAGE_IS_WPALLOWED = 1 << 0,
	SYS_PAGE_IS_WRITTEN = 1 << 1,
	SYS_PAGE_IS_FILE = 1 << 2,
	SYS_PAGE_IS_PRESENT = 1 << 3,
	SYS_PAGE_IS_SWAPPED = 1 << 4,
	SYS_PAGE_IS_PFNZERO = 1 << 5,
	SYS_PAGE_IS_HUGE = 1 << 6,
	SYS_PAGE_IS_SOFT_DIRTY = 1 << 7,
	SYS_PAGE_IS_GUARD = 1 << 8, /* Linux 6.15 */
};

/* Returns the number of regions filled in, or -errno. */
static inline long sys_pagemap_scan(int pagemap_fd, struct sys_pm_scan_arg *arg)
{
	return SYS_RESULT(ioctl(pagemap_fd, SYS_PAGEMAP_SCAN, arg));
}

/*
 * The vector was full, so there may be more: go on behind its last region. walk_end may be stale: where the walk came
 * to its end, 6.18 leaves it where its own buffer of 512 regions was last emptied.
 */
static inline void sys_pagemap_go_on(struct sys_pm_scan_arg *arg, const struct sys_page_region *last)
{
	arg->start = arg->walk_end > last->end ? arg->walk_end : last->end;
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13 */
#endif

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08 /* Linux 6.11 */
#endif

/* cachestat(2), Linux 6.5: how many pages of a stretch of a file are in the page cache, and in which state. */
struct sys_cachestat {
	uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

static inline long sys_cachestat(int fd, uint64_t offset, uint64_t size, struct sys_cachestat *ret)
{
	const uint64_t range[2] = { offset, size };

	return SYS_RESULT(syscall(451, fd, range, ret, 0u));
}

/* membarrier(2): the registrations of this process (Linux 6.3). */
enum { SYS_MEMBARRIER_GET_REGISTRATIONS = 1 << 9 };

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77 /* Linux 6.15 */
#endif

/* UFFDIO_MOVE, Linux 6.8 (Documentation/admin-guide/mm/userfaultfd.rst). */
struct sys_uffdio_move {
	uint64_t dst, src, len, mode;
	int64_t move; /* bytes moved, or -errno */
};

#define SYS_UFFDIO_MOVE _IOWR(0xAA, 0x05, struct sys_uffdio_move)
#define SYS_UFFD_FEATURE_MOVE (1 << 16)
