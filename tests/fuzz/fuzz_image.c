/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Fuzz the image reader: the input is the whole file. It may have a parent, which is always the same: it lies beside it, with
 * extents of every codec, and whoever says that the file "parent" is his is taken for its child. The mutator puts the checksums
 * right after half of the changes, so that what lies behind them is reached: tables, and what is unpacked.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image/codec.h"
#include "image/image.h"
#include "image/layout.h"
#include "util/arena.h"
#include "util/err.h"
#include "util/fd.h"

enum { PAGES = 3, EXTENT = PAGES * IMAGE_PAGE, CODECS = 3 };

#define PARENT "parent"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) __attribute__((weak));

/* ---- the parent, and a child of it to begin with ---- */

static char folder[] = "/dev/shm/fuzz_image.XXXXXX", parent_path[64], child_path[64];
static struct image *parent;
static uint8_t *child;
static size_t child_size;

static void fuzz_expect(bool holds)
{
	if (!holds)
		abort();
}

/* Remove the folder when this process is gone, however it ends: libFuzzer ends by _exit(), and what it finds, by a signal. */
static void fuzz_clean_up_later(void)
{
	int ends[2];
	char byte;

	fuzz_expect(pipe(ends) == 0 && fcntl(ends[1], F_SETFD, FD_CLOEXEC) == 0);
	if (fork() == 0) {
		setsid(); /* no Ctrl-C */
		close(ends[1]);
		while (read(ends[0], &byte, 1) < 0 && errno == EINTR)
			;
		unlink(parent_path);
		unlink(child_path);
		rmdir(folder);
		_exit(0);
	}
	close(ends[0]);
}

/* An extent of each codec, with a run of its own. */
static void fuzz_write_extents(struct image_writer *w, uint32_t owner, struct err *e)
{
	struct image_packer *p = image_packer_new();
	uint8_t pages[EXTENT];

	for (unsigned codec = 0; codec < CODECS; codec++) {
		const struct image_packing packing = { .codec = codec };
		struct image_run run = { .addr = (1 + codec) * 0x100000ull, .owner = owner, .pages = PAGES };
		struct image_packed x = { 0 };
		uint64_t sums[PAGES];

		for (size_t i = 0; i < sizeof(pages); i++)
			pages[i] = (uint8_t)(i / 97 * (codec + owner + 1));
		image_pack(p, &packing, pages, sizeof(pages), &x);
		image_page_sums(image_writer_seed(w), pages, PAGES, sums);
		x.sums = sums;
		fuzz_expect(image_writer_packed(w, &x, &run.extent, e) == 0 && image_writer_run(w, &run, e) == 0);
	}
	image_packer_free(p);
}

static void fuzz_write(const char *path, const struct image *of)
{
	struct image_writer *w;
	struct err e = ERR_INIT;

	fuzz_expect(image_writer_new(&w, path, false, &e) == 0 && (!of || image_writer_parent(w, of, PARENT, &e) == 0));
	for (unsigned i = 0; of && i < of->n_extents; i++) {
		struct image_run run = { .addr = (1 + i) * 0x100000ull, .owner = 1, .pages = PAGES };

		fuzz_expect(image_writer_parent_extent(w, i, &run.extent, &e) == 0 && image_writer_run(w, &run, &e) == 0);
	}
	fuzz_write_extents(w, 0, &e);
	fuzz_expect(image_writer_commit(w, "metadata", 8, &e) == 0);
	image_writer_free(w);
}

static void fuzz_begin(void)
{
	struct arena arena = ARENA_INIT;
	struct err e = ERR_INIT;
	char *data;
	int fd;

	fuzz_expect(mkdtemp(folder) != NULL);
	snprintf(parent_path, sizeof(parent_path), "%s/" PARENT, folder);
	snprintf(child_path, sizeof(child_path), "%s/child", folder);
	fuzz_clean_up_later();
	fuzz_write(parent_path, NULL);
	fuzz_expect(image_open(&parent, parent_path, &e) == 0);
	fuzz_write(child_path, parent);
	fd = open(child_path, O_RDONLY | O_CLOEXEC);
	fuzz_expect(fd >= 0 && fd_read_all(fd, &arena, &data, &child_size) == 0);
	child = malloc(child_size);
	fuzz_expect(child != NULL);
	memcpy(child, data, child_size);
	close(fd);
	arena_done(&arena);
}

/* ---- using ---- */

/* Into a buffer of just that size, so that a byte too many is seen. */
static void fuzz_read_extent(const struct image *img, size_t extent)
{
	uint32_t size = img->extents[extent].size;
	uint64_t *sums = malloc((size / IMAGE_PAGE + 1) * sizeof(*sums)), seed;
	uint8_t *buf = malloc(size + 1);
	struct err e = ERR_INIT;

	fuzz_expect(sums && buf && size <= IMAGE_EXTENT_MAX);
	if (image_read_extent(img, extent, buf, &e))
		fuzz_expect(e.reason != ERR_NONE);
	e = ERR_INIT;
	(void)!image_read_sums(img, extent, 0, size / IMAGE_PAGE, sums, &seed, &e);
	free(buf);
	free(sums);
}

static void fuzz_read_run(struct image_cursor *c, const struct image_run *run)
{
	size_t size = (run->pages < 16 ? run->pages : 16) * (size_t)IMAGE_PAGE;
	uint8_t *buf = malloc(size);
	struct err e = ERR_INIT;

	fuzz_expect(buf != NULL);
	if (image_cursor_read(c, run, 0, buf, size, &e))
		fuzz_expect(e.reason != ERR_NONE);
	free(buf);
}

/* An image that was opened is inside its bounds: its parts can be read and its runs point at extents. */
static void fuzz_use(const struct image *img, bool whole)
{
	struct image_cursor cursor = { .img = img };
	const unsigned char *meta = img->meta;
	struct err e = ERR_INIT;
	unsigned sum = 0;
	size_t n;

	for (size_t i = 0; i < img->meta_size; i++)
		sum += meta[i];
	for (size_t i = 0; i < img->n_runs; i++) {
		const struct image_run *run = &img->runs[i];

		fuzz_expect(run->extent < img->n_extents && image_runs_of(img, run->owner, &n) && n);
		if (whole && i < 64)
			fuzz_read_run(&cursor, run);
	}
	for (size_t i = 0; whole && i < img->n_extents && i < 64; i++)
		fuzz_read_extent(img, i);
	image_cursor_done(&cursor);
	if (whole && image_verify_pages(img, 1 + sum % 2, &e))
		fuzz_expect(e.reason != ERR_NONE);
}

static void fuzz_adopt(uint8_t *data, size_t size);

static bool fuzz_make_file(const uint8_t *data, size_t size)
{
	cleanup_close int fd = open(child_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	uint8_t *copy = malloc(size ?: 1);
	bool made;

	fuzz_expect(copy != NULL);
	memcpy(copy, data, size);
	fuzz_adopt(copy, size);
	made = fd >= 0 && fd_write_full(fd, copy, size) == 0;
	free(copy);
	return made;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image *img = NULL;
	struct err e = ERR_INIT;
	bool whole = true;

	if (!child)
		fuzz_begin();
	if (!fuzz_make_file(data, size))
		return 0;
	if (image_open(&img, child_path, &e)) {
		fuzz_expect(e.reason != ERR_NONE);
		whole = false;
		if (image_salvage(&img, child_path, &e)) /* what torpor inspect shows of a damaged one */
			return 0;
	}
	fuzz_use(img, whole);
	image_close(img);
	return 0;
}

/* ---- changing ---- */

static void fuzz_seal_block(uint8_t *data, size_t size, struct image_block *block, size_t each)
{
	if (block->offset <= size && block->count <= (size - block->offset) / each)
		block->checksum = image_checksum(data + block->offset, block->count * each);
}

/* What is stored of each extent, so that a change of it gets as far as to be unpacked. */
static void fuzz_seal_extents(uint8_t *data, size_t size, const struct image_block *block)
{
	struct image_extent *x;

	if (block->offset % 8 || block->offset > size || block->count > (size - block->offset) / sizeof(*x))
		return;
	x = (void *)(data + block->offset);
	for (size_t i = 0; i < block->count; i++)
		if (x[i].codec != IMAGE_CODEC_PARENT && x[i].offset <= size && x[i].stored <= size - x[i].offset)
			x[i].checksum = image_checksum(data + x[i].offset, x[i].stored);
}

static void fuzz_seal(uint8_t *data, size_t size)
{
	struct image_header *header = (void *)data;
	struct image_trailer *trailer = (void *)(data + size - sizeof(*trailer));

	header->checksum = image_checksum(header, IMAGE_SEALED);
	trailer->header_checksum = header->checksum;
	fuzz_seal_extents(data, size, &trailer->extents);
	fuzz_seal_block(data, size, &trailer->meta, 1);
	fuzz_seal_block(data, size, &trailer->extents, sizeof(struct image_extent));
	fuzz_seal_block(data, size, &trailer->runs, sizeof(struct image_run));
	fuzz_seal_block(data, size, &trailer->sums, sizeof(uint64_t));
	fuzz_seal_block(data, size, &trailer->parent, 1);
	trailer->checksum = image_checksum(trailer, IMAGE_SEALED);
}

/* A sound child, perhaps of an earlier run: its parent's numbers are those of this run, and all else is left as it is. */
static void fuzz_adopt(uint8_t *data, size_t size)
{
	struct image_trailer *trailer = (void *)(data + size - sizeof(*trailer));
	struct image_parent *of;
	const size_t length = sizeof(*of) + strlen(PARENT);

	if (size < 2 * IMAGE_PAGE || size % 8 || trailer->checksum != image_checksum(trailer, IMAGE_SEALED))
		return;
	if (trailer->parent.count != length || trailer->parent.offset > size - length || trailer->parent.offset % 8)
		return;
	of = (void *)(data + trailer->parent.offset);
	if (trailer->parent.checksum != image_checksum(of, length) || memcmp(of->path, PARENT, strlen(PARENT)))
		return;
	memcpy(of->id, parent->id, sizeof(of->id));
	of->trailer_checksum = parent->trailer_checksum;
	fuzz_seal_block(data, size, &trailer->parent, 1);
	trailer->checksum = image_checksum(trailer, IMAGE_SEALED);
}

/* Where to change a file: by preference the tables and the trailer at its end, and what is stored packed. */
static size_t fuzz_place(size_t size, unsigned seed)
{
	if (seed % 8 < 3)
		return size - IMAGE_PAGE;
	if (seed % 8 < 5 && size > 7 * IMAGE_PAGE)
		return size - 6 * IMAGE_PAGE;
	return (seed / 8) % (size / 64) * 64;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	size_t from, most;

	if (!child)
		fuzz_begin();
	if (seed % 101 == 0 && child_size <= max_size) {
		memcpy(data, child, child_size);
		return child_size;
	}
	if (size < 2 * IMAGE_PAGE || size % 8 || seed % 8 == 7)
		return LLVMFuzzerMutate(data, size, max_size);
	from = fuzz_place(size, seed);
	most = size - from < 152 ? size - from : 152;
	LLVMFuzzerMutate(data + from, most, most);
	if (seed & 0x100)
		fuzz_seal(data, size);
	return size;
}
