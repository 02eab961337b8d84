/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Memory in huge pages. */

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

enum { HUGE_PAGE_SIZE = 2 * 1024 * 1024 };

/*
 * Private anonymous memory, `size` bytes (a multiple of HUGE_PAGE_SIZE) at such an address, in huge pages where they can be had
 * (MADV_HUGEPAGE); with more flags of mmap(2), or 0. NULL: there is none. To be given back by munmap(2).
 */
static inline void *huge_map(size_t size, int flags)
{
	char *room = mmap(NULL, size + HUGE_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0), *p;
	size_t before;

	if (room == MAP_FAILED)
		return NULL;
	before = -(uintptr_t)room & (HUGE_PAGE_SIZE - 1);
	p = room + before;
	if (before)
		munmap(room, before);
	munmap(p + size, HUGE_PAGE_SIZE - before);
	madvise(p, size, MADV_HUGEPAGE);
	return p;
}
