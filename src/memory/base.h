/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The image that a dump is taken against: which pages are the same as there, at
 * the same address of the same process or the same place of the same file. They
 * are compared by the sums that the image keeps of them.
 */

#include <stddef.h>
#include <stdint.h>

#include "image/image.h"
#include "image/pb.h"

struct arena;
struct err;
struct once_page;
struct page_source;

/* The image that a dump stores only the difference to. */
struct parent {
	struct image *image; /* NULL: there is none */
	Pb__Image *meta;
	const char *path; /* from the folder of the child */
};

struct base {
	const struct image *image; /* NULL: there is none */
	struct image_writer *writer; /* of the child */
	size_t n_spaces, n_inodes; /* of the child; */
	const uint32_t *owners;    /* for each of them, spaces first: the owner in the image, or BASE_NONE */
};

enum { BASE_NONE = 0xffffffff };

/*
 * Find out who in the child is who in its parent, which may be none. Processes are
 * found again by their PIDs, files by device and number or by name: it need not be
 * right, since the pages are compared. In the arena.
 */
int base_of_image(struct base *b, const struct parent *parent, const Pb__Image *child, struct image_writer *w,
		  struct arena *arena, struct err *e);

/* As above, before there is an image: the owners are the address spaces of these processes. */
int base_of_tasks(struct base *b, const struct parent *parent, const int32_t *pids, size_t n, struct image_writer *w,
		  struct arena *arena, struct err *e);

/*
 * Of these pages of one owner, in ascending order, those that the image holds
 * become ONCE_KNOWN, with their place. *ret_n is how many. May be called by several
 * threads at once.
 */
int base_look(const struct base *b, uint32_t owner, struct once_page *pages, size_t n, size_t *ret_n, struct err *e);

/*
 * These pages of an owner are as they were when the image was taken. Those that it holds become runs of the child;
 * *ret_pages is how many. The others, which were zero then, or not there, are added to `missing`.
 */
int base_take(const struct base *b, uint32_t owner, const struct page_source *same, struct arena *arena,
	      struct page_source *missing, uint64_t *ret_pages, struct err *e);
