/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reading an image. Nothing in the file is believed: a size or an offset is
 * used only after it was compared with the file's size, a table only after its
 * checksum and each of its entries were checked.
 *
 * There is exactly one place where each block can be, right after the one
 * before it; so no two can overlap, and no byte is left that nothing checks.
 * All is read into memory and nothing is mapped: a file that somebody cuts off
 * meanwhile gives an error and not a SIGBUS.
 */

#include "image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "image/layout.h"
#include "image/reader.h"
#include "util/err.h"
#include "util/fd.h"
#include "util/privilege.h"

enum {
	SUMS_PIECE = 64 * 1024,
};

/* What a block is called when its checksum differs. */
struct reader_block {
	const char *name;
	const struct image_block *block;
	size_t each; /* bytes of one entry */
};

/* ---- failures ---- */

static int reader_cut_off(const struct image *img, struct err *e)
{
	err_set(e, ERR_IMAGE, 0, "%s has no valid end: it was cut off, or the dump never finished",
		img->path);
	err_id(e, "E-IMAGE-CUT-OFF");
	return err_help(e, "copy the image again from where it came from, or take a new one");
}

static int reader_not_ours(const struct image *img, struct err *e)
{
	err_set(e, ERR_IMAGE, 0, "%s is not a torpor image", img->path);
	return err_id(e, "E-IMAGE-NONE");
}

static int reader_too_new(const struct image *img, uint32_t version, struct err *e)
{
	err_set(e, ERR_IMAGE, 0, "%s was written by a newer torpor: its format version is %u, not %u",
		img->path, version, IMAGE_VERSION);
	err_id(e, "E-IMAGE-VERSION");
	return err_help(e, "use the version of torpor that wrote the image, or a newer one");
}

/* ---- small steps ---- */

int reader_read(const struct image *img, void *buf, size_t size, uint64_t offset, struct err *e)
{
	int r = fd_pread_full(img->fd, buf, size, (off_t)offset);

	if (!r)
		return 0;
	return err_sys(e, r, "cannot read %zu bytes at offset %llu of %s", size, (unsigned long long)offset,
		       img->path);
}

static bool reader_is_zero(const uint8_t *p, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (p[i])
			return false;
	}
	return true;
}

/* O_NONBLOCK: a FIFO must be refused, not waited for. */
static int reader_open_file(struct image *img, struct err *e)
{
	struct stat st;

	img->fd = open(img->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (img->fd < 0)
		return err_sys(e, errno, "cannot open %s", img->path);
	if (fstat(img->fd, &st) < 0)
		return err_sys(e, errno, "cannot look at %s", img->path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, ERR_IMAGE, 0, "%s is not a torpor image: it is not a regular file",
			       img->path);
	img->size = (uint64_t)st.st_size;
	return 0;
}

/* ---- header and trailer ---- */

/* Magic first, even where the file is too short for the rest: a foreign file is not "cut off". */
static int reader_check_magic(const struct image *img, struct err *e)
{
	char magic[IMAGE_MAGIC_SIZE];
	size_t n = img->size < sizeof(magic) ? (size_t)img->size : sizeof(magic);
	int r = reader_read(img, magic, n, 0, e);

	if (r)
		return r;
	if (memcmp(magic, IMAGE_MAGIC, n))
		return reader_not_ours(img, e);
	return img->size < sizeof(struct image_header) ? reader_cut_off(img, e) : 0;
}

/*
 * The version counts only once the checksum says that it is what was written,
 * and the rest only once the version is known.
 */
static int reader_check_header(struct image *img, struct image_header *header, struct err *e)
{
	int r = reader_read(img, header, sizeof(*header), 0, e);

	if (r)
		return r;
	if (header->checksum != image_checksum(header, IMAGE_SEALED))
		return reader_bad(img, e, "the checksum of its header differs");
	if (header->version > IMAGE_VERSION)
		return reader_too_new(img, header->version, e);
	if (header->version < IMAGE_VERSION_OLDEST || header->page_size != IMAGE_PAGE ||
	    memcmp(header->magic, IMAGE_MAGIC, IMAGE_MAGIC_SIZE) ||
	    !reader_is_zero(header->zero, sizeof(header->zero)) ||
	    (header->version == 1 && !reader_is_zero(header->id, sizeof(header->id))))
		return reader_bad(img, e, "its header makes no sense");
	img->version = header->version;
	memcpy(img->id, header->id, sizeof(img->id));
	return 0;
}

/* What version 1 did not have. */
static bool reader_has_news(const struct image_trailer *trailer)
{
	return !reader_is_zero((const uint8_t *)&trailer->sums, sizeof(trailer->sums)) ||
	       !reader_is_zero((const uint8_t *)&trailer->parent, sizeof(trailer->parent));
}

static int reader_check_trailer(struct image *img, const struct image_header *header,
				struct image_trailer *trailer, struct err *e)
{
	int r;

	if (img->size % IMAGE_PAGE || img->size < sizeof(*header) + sizeof(*trailer))
		return reader_cut_off(img, e);
	r = reader_read(img, trailer, sizeof(*trailer), img->size - sizeof(*trailer), e);
	if (r)
		return r;
	if (memcmp(trailer->magic, IMAGE_TRAILER_MAGIC, IMAGE_MAGIC_SIZE))
		return reader_cut_off(img, e);
	if (trailer->checksum != image_checksum(trailer, IMAGE_SEALED))
		return reader_bad(img, e, "the checksum of its trailer differs");
	/* A stored page may be the trailer of another image: then the file ends too early. */
	if (trailer->file_size != img->size)
		return reader_cut_off(img, e);
	if (trailer->header_checksum != header->checksum)
		return reader_bad(img, e, "its header and its trailer are of different images");
	if (!reader_is_zero(trailer->zero, sizeof(trailer->zero)) || (img->version == 1 && reader_has_news(trailer)))
		return reader_bad(img, e, "its trailer makes no sense");
	img->trailer_checksum = trailer->checksum;
	return 0;
}

/* ---- blocks ---- */

/*
 * The block must begin at *pos and end before `end`; *pos becomes what is right
 * behind it. Both are multiples of IMAGE_PAGE, so rounding up stays within.
 */
static bool reader_place_block(const struct image_block *block, size_t each, uint64_t *pos, uint64_t end)
{
	if (block->offset != *pos || block->count > (end - *pos) / each)
		return false;
	*pos += image_align(block->count * each);
	return true;
}

/* From the metadata on, everything must lie end to end up to the trailer. */
static int reader_check_places(const struct image *img, const struct reader_block *blocks, size_t n,
			       struct err *e)
{
	uint64_t pos = blocks[0].block->offset;
	uint64_t end = img->size - sizeof(struct image_trailer);

	if (pos % IMAGE_PAGE || pos < sizeof(struct image_header) || pos > end)
		return reader_bad(img, e, "its %s is outside of the file", blocks[0].name);
	for (size_t i = 0; i < n; i++) {
		if (!reader_place_block(blocks[i].block, blocks[i].each, &pos, end))
			return reader_bad(img, e, "its %s is outside of its bounds", blocks[i].name);
	}
	if (pos != end)
		return reader_bad(img, e, "there are bytes before its trailer that belong to nothing");
	return 0;
}

static int reader_check_block(const struct image *img, const struct reader_block *b, bool same, const uint8_t *rest,
			      size_t padding, struct err *e)
{
	if (!same)
		return reader_bad(img, e, "the checksum of its %s differs", b->name);
	if (!reader_is_zero(rest, padding))
		return reader_bad(img, e, "there is something in the padding after its %s", b->name);
	return 0;
}

static int reader_load_block(const struct image *img, const struct reader_block *b, const void **ret,
			     struct err *e)
{
	size_t size = b->block->count * b->each;
	size_t padded = image_align(size);
	uint8_t *buf = malloc(padded ?: 1);
	int r;

	if (!buf)
		return err_nomem(e);
	*ret = buf; /* image_close() frees it, whatever comes */
	r = reader_read(img, buf, padded, b->block->offset, e);
	if (r)
		return r;
	return reader_check_block(img, b, b->block->checksum == image_checksum(buf, size), buf + size, padded - size, e);
}

/* The sums of pages are rarely needed and may be many: they are not kept, only looked at. */
static int reader_pass_block(const struct image *img, const struct reader_block *b, struct err *e)
{
	size_t size = b->block->count * b->each, padded = image_align(size), n, kept = 0;
	uint8_t *buf = malloc(SUMS_PIECE);
	struct xxh3_state state;
	int r = buf ? 0 : err_nomem(e);

	xxh3_begin(&state);
	for (size_t done = 0; !r && done < padded; done += n) {
		n = padded - done < SUMS_PIECE ? padded - done : SUMS_PIECE;
		kept = size - done < n ? size - done : n;
		r = reader_read(img, buf, n, b->block->offset + done, e);
		if (!r)
			xxh3_add(&state, buf, kept);
		if (!r && kept < n)
			r = reader_check_block(img, b, true, buf + kept, n - kept, e);
	}
	if (!r)
		r = reader_check_block(img, b, xxh3_end(&state) == b->block->checksum, buf, 0, e);
	free(buf);
	return r;
}

/* The block must hold an id, a checksum and a path. */
static int reader_take_parent(struct image *img, const void *block, size_t size, struct err *e)
{
	const struct image_parent *parent = block;
	size_t length = size - sizeof(*parent);

	if (!size)
		return 0;
	if (size <= sizeof(*parent) || length >= PATH_MAX || memchr(parent->path, 0, length))
		return reader_bad(img, e, "what it says of its parent makes no sense");
	memcpy(img->parent_id, parent->id, sizeof(img->parent_id));
	img->parent_checksum = parent->trailer_checksum;
	img->parent_path = strndup(parent->path, length);
	return img->parent_path ? 0 : err_nomem(e);
}

static int reader_load_news(struct image *img, const struct image_trailer *trailer, const struct reader_block *sums,
			    const struct reader_block *parent, bool of_child, struct err *e)
{
	const void *loaded = NULL;
	int r = of_child ? 0 : reader_pass_block(img, sums, e);

	if (!r)
		r = reader_load_block(img, parent, &loaded, e);
	if (!r)
		r = reader_take_parent(img, loaded, trailer->parent.count, e);
	free((void *)loaded);
	img->sums_offset = trailer->sums.offset;
	img->n_sums = trailer->sums.count;
	return r;
}

/*
 * `of_child`: it is opened as the parent of another one, which refers to its extents and to nothing else. A sum of a page that is
 * wrong can only make pages differ that are the same.
 */
static int reader_load_blocks(struct image *img, const struct image_trailer *trailer, bool of_child, struct err *e)
{
	const struct reader_block blocks[] = {
		{ "metadata", &trailer->meta, 1 },
		{ "index of extents", &trailer->extents, sizeof(struct image_extent) },
		{ "index of runs", &trailer->runs, sizeof(struct image_run) },
		{ "index of page sums", &trailer->sums, sizeof(uint64_t) },
		{ "parent", &trailer->parent, 1 },
	};
	const void *loaded[3] = { NULL };
	int r = reader_check_places(img, blocks, img->version == 1 ? 3 : 5, e);

	for (size_t i = 0; !r && i < 3; i++)
		if (!of_child || blocks[i].block == &trailer->extents)
			r = reader_load_block(img, &blocks[i], &loaded[i], e);
	img->meta = loaded[0];
	img->extents = loaded[1];
	img->runs = loaded[2];
	if (!r && img->version > 1)
		r = reader_load_news(img, trailer, &blocks[3], &blocks[4], of_child, e);
	if (r)
		return r;
	img->meta_size = img->meta ? trailer->meta.count : 0;
	img->n_extents = trailer->extents.count;
	img->n_runs = img->runs ? trailer->runs.count : 0;
	return 0;
}

/* ---- the index ---- */

static bool reader_extent_valid(const struct image *img, const struct image_extent *extent)
{
	if (extent->reserved || !extent->size || extent->size % IMAGE_PAGE || extent->size > IMAGE_EXTENT_MAX)
		return false;
	switch (extent->codec) {
	case IMAGE_CODEC_RAW:
		return extent->stored == extent->size;
	case IMAGE_CODEC_ZSTD:
	case IMAGE_CODEC_LZ4:
		return img->version > 1 && extent->stored && image_align(extent->stored) < extent->size;
	case IMAGE_CODEC_PARENT: /* what it refers to is checked when the parent is opened (chain.c) */
		return img->parent_path && !extent->stored;
	default:
		return false;
	}
}

/* Those of its own fill the file from the header to the metadata, in the order of the table. */
static int reader_check_extents(const struct image *img, uint64_t end, struct err *e)
{
	uint64_t pos = sizeof(struct image_header), pages = 0;

	for (size_t i = 0; i < img->n_extents; i++) {
		const struct image_extent *extent = &img->extents[i];

		if (!reader_extent_valid(img, extent))
			return reader_bad(img, e, "extent %zu makes no sense", i);
		if (extent->codec == IMAGE_CODEC_PARENT)
			continue;
		if (extent->offset != pos || extent->stored > end - pos)
			return reader_bad(img, e, "extent %zu is not where it must be", i);
		pos += image_align(extent->stored);
		pages += extent->size / IMAGE_PAGE;
	}
	if (pos != end)
		return reader_bad(img, e, "there are bytes before its metadata that belong to nothing");
	if (img->version > 1 && pages != img->n_sums)
		return reader_bad(img, e, "its index of page sums is not that of its pages");
	return 0;
}

static bool reader_runs_ascend(const struct image_run *before, const struct image_run *run)
{
	if (before->owner != run->owner)
		return before->owner < run->owner;
	return image_run_end(before) <= run->addr;
}

static int reader_check_runs(const struct image *img, struct err *e)
{
	for (size_t i = 0; i < img->n_runs; i++) {
		const struct image_run *run = &img->runs[i];

		if (!image_run_valid(run) || !image_run_fits(run, img->extents, img->n_extents))
			return reader_bad(img, e, "run %zu makes no sense", i);
		if (i && !reader_runs_ascend(run - 1, run))
			return reader_bad(img, e, "run %zu is out of order", i);
	}
	return 0;
}

/* Where the sums of the pages of each extent begin. */
static int reader_place_sums(struct image *img, struct err *e)
{
	uint64_t *first = malloc((img->n_extents + 1) * sizeof(*first)), pages = 0;

	if (!first)
		return err_nomem(e);
	for (size_t i = 0; i < img->n_extents; i++) {
		first[i] = pages;
		if (img->extents[i].codec != IMAGE_CODEC_PARENT)
			pages += img->extents[i].size / IMAGE_PAGE;
	}
	img->first_sums = first;
	return 0;
}

/* ---- opening ---- */

static int reader_load_as(struct image *img, bool of_child, struct err *e)
{
	struct image_header header;
	struct image_trailer trailer;
	cleanup_privilege struct privilege none = { 0 };
	int r;

	r = reader_open_file(img, e);
	none = privilege_none(); /* anybody may have written what is read now */
	if (!r)
		r = reader_check_magic(img, e);
	if (!r)
		r = reader_check_header(img, &header, e);
	if (!r)
		r = reader_check_trailer(img, &header, &trailer, e);
	if (!r)
		r = reader_load_blocks(img, &trailer, of_child, e);
	if (!r)
		r = reader_check_extents(img, trailer.meta.offset, e);
	if (!r)
		r = reader_check_runs(img, e);
	if (!r && img->n_sums)
		r = reader_place_sums(img, e);
	return r;
}

static int reader_load(struct image *img, struct err *e)
{
	return reader_load_as(img, false, e);
}

static int reader_load_parent(struct image *img, struct err *e)
{
	return reader_load_as(img, true, e);
}

/* Checksums are not looked at, but no offset or size is taken for granted. */
static int reader_load_damaged(struct image *img, struct err *e)
{
	struct image_header header;
	struct image_trailer trailer;
	struct err ignored;
	cleanup_privilege struct privilege none = { 0 };
	int r = reader_open_file(img, e);

	none = privilege_none();
	if (r)
		return r;
	if (img->size % IMAGE_PAGE || img->size < sizeof(trailer))
		return reader_cut_off(img, e);
	img->version = 1;
	if (!reader_read(img, &header, sizeof(header), 0, &ignored) && header.version == IMAGE_VERSION)
		img->version = header.version;
	r = reader_read(img, &trailer, sizeof(trailer), img->size - sizeof(trailer), e);
	if (r)
		return r;
	r = reader_load_blocks(img, &trailer, false, &ignored);
	if (!r && !reader_check_extents(img, trailer.meta.offset, &ignored) && !reader_check_runs(img, &ignored))
		return reader_place_sums(img, e);
	img->n_extents = img->n_runs = img->n_sums = 0;
	img->meta_size = img->meta ? trailer.meta.count : 0;
	return img->meta ? 0 : reader_bad(img, e, "its metadata is not found");
}

static int reader_new(struct image **ret, const char *path, int (*load)(struct image *, struct err *), struct err *e)
{
	struct image *img = calloc(1, sizeof(*img));
	int r;

	if (!img)
		return err_nomem(e);
	img->fd = -1;
	img->path = strdup(path);
	r = img->path ? load(img, e) : err_nomem(e);
	if (r) {
		image_close(img);
		return r;
	}
	*ret = img;
	return 0;
}

int reader_open(struct image **ret, const char *path, struct err *e)
{
	return reader_new(ret, path, reader_load, e);
}

int reader_open_parent(struct image **ret, const char *path, struct err *e)
{
	return reader_new(ret, path, reader_load_parent, e);
}

int image_salvage(struct image **ret, const char *path, struct err *e)
{
	return reader_new(ret, path, reader_load_damaged, e);
}

void image_forget_meta(struct image *img)
{
	free((void *)img->meta);
	img->meta = NULL;
}

struct image *image_close(struct image *img)
{
	struct image *parent;

	for (; img; img = parent) {
		parent = img->parent;
		fd_closep(&img->fd);
		free((void *)img->meta);
		free((void *)img->extents);
		free((void *)img->runs);
		free((void *)img->parent_path);
		free((void *)img->first_sums);
		free((void *)img->path);
		free(img);
	}
	return NULL;
}

/* The first run of that owner or of a greater one. */
static size_t reader_lower_bound(const struct image *img, uint64_t owner)
{
	size_t low = 0, high = img->n_runs;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (img->runs[middle].owner < owner)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const struct image_run *image_runs_of(const struct image *img, uint32_t owner, size_t *ret_n)
{
	size_t first = reader_lower_bound(img, owner);

	*ret_n = reader_lower_bound(img, (uint64_t)owner + 1) - first;
	return *ret_n ? &img->runs[first] : NULL;
}

uint64_t image_pages_of(const struct image *img, uint32_t owner)
{
	uint64_t pages = 0;
	size_t n;
	const struct image_run *runs = image_runs_of(img, owner, &n);

	for (size_t i = 0; i < n; i++)
		pages += runs[i].pages;
	return pages;
}

const struct image_run *image_runs_from(const struct image *img, uint32_t owner, uint64_t addr, size_t *ret_n)
{
	size_t n, low = 0, high;
	const struct image_run *runs = image_runs_of(img, owner, &n);

	for (high = n; low < high;) {
		size_t middle = low + (high - low) / 2;

		if (image_run_end(&runs[middle]) <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	*ret_n = n - low;
	return *ret_n ? runs + low : NULL;
}
