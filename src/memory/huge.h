/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Huge pages for memory that is loaded, without a trace on the mapping.
 *
 * Fresh 4 KiB pages cost more than the copy into them, huge pages a fraction. But
 * MADV_HUGEPAGE leaves a flag on a mapping that no advice takes back; so whole
 * 2 MiB are read into a staging mapping that has the flag, and UFFDIO_MOVE (Linux
 * 6.8, no privilege with USER_MODE_ONLY) moves the pages to where they belong.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HUGE_PAGE_SIZE = 2 * 1024 * 1024, HUGE_STAGING_SIZE = 2 * HUGE_PAGE_SIZE };

struct huge {
	int uffd;         /* -1: huge pages are not to be had, and everything is loaded in small ones */
	uint64_t staging; /* HUGE_STAGING_SIZE bytes, aligned */
	uint64_t start, size; /* the mapping that pages are being moved into; size 0: none */
};

/* `staging` is address space to use, or 0. Never fails: see huge_works(). */
void huge_open(struct huge *h, uint64_t staging);
void huge_close(struct huge *h);

static inline bool huge_works(const struct huge *h)
{
	return h->uffd >= 0;
}

/* The next moves go into this mapping (place and size). Until huge_leave() nothing else may touch it. */
bool huge_enter(struct huge *h, uint64_t start, uint64_t size);
void huge_leave(struct huge *h);

/*
 * Move the first `size` bytes of the staging to `to`; a multiple of
 * HUGE_PAGE_SIZE. Where the kernel cannot move them they are copied.
 */
void huge_move(struct huge *h, uint64_t to, uint64_t size);
