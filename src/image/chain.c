/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A chain of images: one may leave pages to its parent, and that one to its own.
 * An extent of the parent has an entry in the child's table, with its size and
 * its checksum; so whoever follows it lands at those very bytes or is told that
 * they are not there. All files of a chain are open while one of it is.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "image/codec.h"
#include "image/layout.h"
#include "image/reader.h"
#include "util/fd.h"

/* ---- opening ---- */

/* In the folder of the child, wherever symbolic links to that are. */
static char *chain_parent_path(const struct image *child)
{
	char *real, *path = NULL, *slash;

	if (child->parent_path[0] == '/')
		return strdup(child->parent_path);
	real = realpath(child->path, NULL);
	slash = real ? strrchr(real, '/') : NULL;
	if (slash && asprintf(&path, "%.*s/%s", (int)(slash - real), real, child->parent_path) < 0)
		path = NULL;
	free(real);
	return path ?: strdup(child->parent_path);
}

static int chain_bad(const struct image *child, const char *path, struct err *e, const char *why)
{
	err_set(e, ERR_IMAGE, 0, "%s, the parent of %s, %s", path, child->path, why);
	err_id(e, "E-IMAGE-PARENT");
	return err_help(e, "%s needs the image that it was taken from: put that back in its place, unchanged", child->path);
}

static int chain_open_failed(const struct image *child, const char *path, struct err *e)
{
	if (e->number == ENOENT || e->number == ENOTDIR)
		return chain_bad(child, path, e, "is not there");
	err_id(e, "E-IMAGE-PARENT");
	return err_wrap(e, "the parent of %s", child->path);
}

/* What the child's table says of its parent's extents must be what they are. */
static int chain_check_extents(const struct image *child, const char *path, struct err *e)
{
	const struct image *parent = child->parent;

	for (size_t i = 0; i < child->n_extents; i++) {
		const struct image_extent *x = &child->extents[i], *of = NULL;

		if (x->codec != IMAGE_CODEC_PARENT)
			continue;
		if (x->offset < parent->n_extents)
			of = &parent->extents[x->offset];
		if (!of || of->size != x->size || of->checksum != x->checksum)
			return chain_bad(child, path, e, "does not hold the extents that are said to be in it");
	}
	return 0;
}

static int chain_open_parent(struct image *child, const char *path, struct err *e)
{
	int r = reader_open_parent(&child->parent, path, e);

	if (r)
		return chain_open_failed(child, path, e);
	if (child->parent->trailer_checksum != child->parent_checksum ||
	    memcmp(child->parent->id, child->parent_id, IMAGE_ID_SIZE))
		return chain_bad(child, path, e, "is another image than the one it was taken from");
	return chain_check_extents(child, path, e);
}

int image_open(struct image **ret, const char *path, struct err *e)
{
	struct image *first, *at;
	int depth = 1, r = reader_open(&first, path, e);

	if (r)
		return r;
	for (at = first; !r && at->parent_path; at = at->parent) {
		char *parent = chain_parent_path(at);

		if (!parent)
			r = err_nomem(e);
		else if (depth++ == IMAGE_CHAIN_MAX)
			r = chain_bad(at, parent, e, "is one too many: a chain has 64 images at most");
		else
			r = chain_open_parent(at, parent, e);
		free(parent);
		if (r)
			break;
	}
	if (r)
		image_close(first);
	else
		*ret = first;
	return r;
}

bool image_is(const struct image *img, const struct image_identity *identity)
{
	return img->trailer_checksum == identity->trailer_checksum && memcmp(img->id, identity->id, IMAGE_ID_SIZE) == 0;
}

/* ---- finding ---- */

const struct image *image_holder(const struct image *img, size_t extent, size_t *ret_extent)
{
	while (img->extents[extent].codec == IMAGE_CODEC_PARENT && img->parent) {
		extent = img->extents[extent].offset;
		img = img->parent;
	}
	*ret_extent = extent;
	return img;
}

/* ---- sums of pages ---- */

int reader_pread_sums(const struct image *img, size_t extent, uint32_t page, uint32_t n, uint64_t *ret)
{
	uint64_t first = img->first_sums[extent] + page;

	return fd_pread_full(img->fd, ret, n * sizeof(*ret), (off_t)(img->sums_offset + first * sizeof(*ret)));
}

int image_read_sums(const struct image *img, size_t extent, uint32_t page, uint32_t n, uint64_t *ret, uint64_t *ret_seed,
		    struct err *e)
{
	size_t index;
	const struct image *holder = image_holder(img, extent, &index);
	int r;

	if (!holder->n_sums)
		return -ENODATA;
	*ret_seed = image_seed(holder->id);
	r = reader_pread_sums(holder, index, page, n, ret);
	return r ? err_sys(e, r, "cannot read the sums of pages of %s", holder->path) : 0;
}

/* ---- pages of runs ---- */

/* The slot that holds the extent, else the one that was not used for longest, or never. */
static struct image_cursor_slot *cursor_slot(struct image_cursor *c, size_t extent)
{
	struct image_cursor_slot *oldest = &c->slots[0];

	for (size_t i = 0; i < IMAGE_CURSOR_SLOTS; i++) {
		struct image_cursor_slot *slot = &c->slots[i];

		if (slot->used && slot->extent == extent)
			return slot;
		if (slot->used < oldest->used)
			oldest = slot;
	}
	return oldest;
}

/* The bytes of a packed extent, unpacked; NULL with `e` set where they cannot be had. */
static const uint8_t *cursor_unpacked(struct image_cursor *c, size_t extent, struct err *e)
{
	struct image_cursor_slot *slot = cursor_slot(c, extent);
	bool held = slot->used && slot->extent == extent;

	if (!held) {
		slot->used = 0;
		slot->extent = extent;
		slot->buf = slot->buf ?: malloc(IMAGE_EXTENT_MAX);
		if (!slot->buf) {
			err_nomem(e);
			return NULL;
		}
		if (image_read_extent(c->img, extent, slot->buf, e))
			return NULL;
	}
	slot->used = ++c->reads;
	return slot->buf;
}

/* As read(2) would: where there is no memory for it, that is an error and no signal. */
static int cursor_copy(void *to, const uint8_t *from, size_t size)
{
	struct iovec local = { (void *)from, size }, remote = { to, size };
	ssize_t n = process_vm_writev(getpid(), &local, 1, &remote, 1, 0);

	return n == (ssize_t)size ? 0 : n < 0 ? -errno : -EFAULT;
}

int image_cursor_read(struct image_cursor *c, const struct image_run *run, uint64_t skip, void *buf, size_t size,
		      struct err *e)
{
	uint64_t from = (uint64_t)run->page * IMAGE_PAGE + skip;
	size_t index;
	const struct image *holder = image_holder(c->img, run->extent, &index);
	const struct image_extent *x = &holder->extents[index];
	const uint8_t *unpacked;
	int r;

	if (x->codec == IMAGE_CODEC_RAW) {
		r = fd_pread_full(holder->fd, buf, size, (off_t)(x->offset + from));
		return r ? err_sys(e, r, "reading memory from %s", holder->path) : 0;
	}
	unpacked = cursor_unpacked(c, run->extent, e);
	if (!unpacked)
		return -1;
	r = cursor_copy(buf, unpacked + from, size);
	return r ? err_sys(e, r, "reading memory from %s", holder->path) : 0;
}

void image_cursor_done(struct image_cursor *c)
{
	for (size_t i = 0; i < IMAGE_CURSOR_SLOTS; i++)
		free(c->slots[i].buf);
	memset(c->slots, 0, sizeof(c->slots));
}
