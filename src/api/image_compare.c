/* SPDX-License-Identifier: Apache-2.0 */

/* Which pages of two images differ: their contents are compared. */

#include <stdlib.h>
#include <string.h>

#include "api/image.h"
#include "image/layout.h"

enum { PAGE = IMAGE_PAGE, CHUNK = 64 * PAGE };

struct comparison {
	const struct torpor_image *a, *b;
	uint32_t owner_a, owner_b;
	struct image_cursor cursor_a, cursor_b;
	char *page_a, *page_b; /* CHUNK bytes each */
	struct torpor_pages *pages;
};

/* Stored in both: `ra` and `rb` hold all from `addr` on. */
static int compare_stored(struct comparison *c, const struct image_run *ra, const struct image_run *rb, uint64_t addr,
			  uint64_t size, struct err *e)
{
	while (size) {
		size_t n = size < CHUNK ? size : CHUNK;

		if (image_cursor_read(&c->cursor_a, ra, addr - ra->addr, c->page_a, n, e) < 0 ||
		    image_cursor_read(&c->cursor_b, rb, addr - rb->addr, c->page_b, n, e) < 0)
			return -1;
		for (size_t at = 0; at < n; at += PAGE) {
			if (memcmp(c->page_a + at, c->page_b + at, PAGE) == 0)
				c->pages->same++;
			else
				c->pages->changed++;
		}
		addr += n, size -= n;
	}
	return 0;
}

/* The runs of both, side by side, cut where either begins or ends. */
static int compare_stretch(struct comparison *c, uint64_t start, uint64_t end, struct err *e)
{
	size_t na, nb;
	const struct image_run *ra = image_runs_from(c->a->image, c->owner_a, start, &na);
	const struct image_run *rb = image_runs_from(c->b->image, c->owner_b, start, &nb);

	for (uint64_t at = start, next; at < end; at = next) {
		bool in_a, in_b;

		for (; na && image_run_end(ra) <= at; ra++)
			na--;
		for (; nb && image_run_end(rb) <= at; rb++)
			nb--;
		in_a = na && ra->addr <= at;
		in_b = nb && rb->addr <= at;
		next = end;
		if (na && (in_a ? image_run_end(ra) : ra->addr) < next)
			next = in_a ? image_run_end(ra) : ra->addr;
		if (nb && (in_b ? image_run_end(rb) : rb->addr) < next)
			next = in_b ? image_run_end(rb) : rb->addr;
		if (in_a && in_b && compare_stored(c, ra, rb, at, next - at, e) < 0)
			return -1;
		c->pages->gone += in_a && !in_b ? (next - at) / PAGE : 0;
		c->pages->added += in_b && !in_a ? (next - at) / PAGE : 0;
	}
	return 0;
}

static int compare(struct comparison *c, uint64_t start, uint64_t end, struct torpor_error **error)
{
	char *pages = malloc(2 * CHUNK);
	struct err e = ERR_INIT;
	int r;

	c->cursor_a.img = c->a->image;
	c->cursor_b.img = c->b->image;
	c->page_a = pages;
	c->page_b = pages + CHUNK;
	r = pages ? compare_stretch(c, start & ~(uint64_t)(PAGE - 1), (end + PAGE - 1) & ~(uint64_t)(PAGE - 1), &e) : err_nomem(&e);
	image_cursor_done(&c->cursor_a);
	image_cursor_done(&c->cursor_b);
	free(pages);
	return r < 0 ? api_fail(error, &e) : 0;
}

static int compare_nothing(const char *what, struct torpor_error **error)
{
	struct err e = ERR_INIT;

	err_set(&e, ERR_USAGE, 0, "there is no such %s in the image", what);
	return api_fail(error, &e);
}

int torpor_compare_spaces(const struct torpor_image *a, size_t space_a, const struct torpor_image *b, size_t space_b, uint64_t start,
			  uint64_t end, struct torpor_pages *pages, struct torpor_error **error)
{
	struct comparison c = { .a = a, .b = b, .owner_a = IMAGE_OWNER_SPACE(space_a), .owner_b = IMAGE_OWNER_SPACE(space_b),
				.pages = pages };

	if (space_a >= a->info.spaces || space_b >= b->info.spaces)
		return compare_nothing("address space", error);
	return compare(&c, start, end, error);
}

int torpor_compare_inodes(const struct torpor_image *a, size_t inode_a, const struct torpor_image *b, size_t inode_b,
			  struct torpor_pages *pages, struct torpor_error **error)
{
	struct comparison c = { .a = a, .b = b, .owner_a = IMAGE_OWNER_INODE(inode_a), .owner_b = IMAGE_OWNER_INODE(inode_b),
				.pages = pages };
	uint64_t size;

	if (inode_a >= a->info.inodes || inode_b >= b->info.inodes)
		return compare_nothing("file", error);
	size = a->inodes[inode_a].size > b->inodes[inode_b].size ? a->inodes[inode_a].size : b->inodes[inode_b].size;
	return compare(&c, 0, size, error);
}
