/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What of an extent belongs where: the unit in which memory is loaded (fill.c, help.c). */

#include <stdbool.h>
#include <stdint.h>

#include "memory/memory.h"

/* Pages of one extent that belong into one stretch of mappings, side by side. */
struct piece {
	uint64_t to; /* where it stands now */
	uint32_t mapping; /* in which it begins */
	uint32_t extent, page, pages;
};

/*
 * `size` bytes of its extent have been read, from `at` on. Which part of the piece is that? *ret is that part, with its page
 * counted from what has been read. False: it is none of it.
 */
static inline bool piece_part(const struct piece *p, uint32_t at, uint32_t size, struct piece *ret)
{
	uint32_t first = at / MEMORY_PAGE, last = first + size / MEMORY_PAGE;
	uint32_t from = p->page > first ? p->page : first, to = p->page + p->pages < last ? p->page + p->pages : last;

	if (from >= to)
		return false;
	*ret = *p;
	ret->to += (uint64_t)(from - p->page) * MEMORY_PAGE;
	ret->page = from - first;
	ret->pages = to - from;
	return true;
}
