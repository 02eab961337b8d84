/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Fuzz the image reader: the input is the whole file. The mutator puts the checksums right after half of the changes, so
 * that what lies behind them is reached.
 */

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "image/image.h"
#include "image/layout.h"
#include "util/err.h"
#include "util/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) __attribute__((weak));

static int fuzz_make_file(const uint8_t *data, size_t size)
{
	cleanup_close int fd = memfd_create("fuzz_image", MFD_CLOEXEC);

	if (fd < 0 || fd_write_full(fd, data, size))
		return -1;
	return fd_take(&fd);
}

/* An image that was opened is inside its bounds: its parts can be read and its runs point at extents. */
static void fuzz_use(const struct image *img)
{
	const unsigned char *meta = img->meta;
	unsigned sum = 0;
	struct err e = ERR_INIT;
	size_t n;

	for (size_t i = 0; i < img->meta_size; i++)
		sum += meta[i];
	for (size_t i = 0; i < img->n_runs; i++) {
		const struct image_run *run = &img->runs[i];

		if (run->extent >= img->n_extents)
			abort();
		if (!image_runs_of(img, run->owner, &n) || n == 0)
			abort();
	}
	if (image_verify_pages(img, 1 + sum % 2, &e) && e.reason == ERR_NONE)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_close int fd = fuzz_make_file(data, size);
	struct image *img = NULL;
	struct err e = ERR_INIT;
	char path[64];

	if (fd < 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (image_open(&img, path, &e)) {
		if (e.reason == ERR_NONE)
			abort();
		if (image_salvage(&img, path, &e)) /* what torpor inspect shows of a damaged one */
			return 0;
	}
	fuzz_use(img);
	image_close(img);
	return 0;
}

/* ---- changing ---- */

static void fuzz_seal_block(uint8_t *data, size_t size, struct image_block *block, size_t each)
{
	if (block->offset <= size && block->count <= (size - block->offset) / each)
		block->checksum = image_checksum(data + block->offset, block->count * each);
}

static void fuzz_seal(uint8_t *data, size_t size)
{
	struct image_header *header = (void *)data;
	struct image_trailer *trailer = (void *)(data + size - sizeof(*trailer));

	header->checksum = image_checksum(header, IMAGE_SEALED);
	trailer->header_checksum = header->checksum;
	fuzz_seal_block(data, size, &trailer->meta, 1);
	fuzz_seal_block(data, size, &trailer->extents, sizeof(struct image_extent));
	fuzz_seal_block(data, size, &trailer->runs, sizeof(struct image_run));
	if (header->version != 1) {
		fuzz_seal_block(data, size, &trailer->sums, sizeof(uint64_t));
		fuzz_seal_block(data, size, &trailer->parent, 1);
	}
	trailer->checksum = image_checksum(trailer, IMAGE_SEALED);
}

/* Of a whole file, the end by preference: tables and trailer. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	size_t from = 0;

	if (size < 2 * IMAGE_PAGE || size % 8 || seed % 8 == 0)
		return LLVMFuzzerMutate(data, size, max_size);
	if (seed % 8 < 3)
		from = size - IMAGE_PAGE;
	else if (size > 4 * IMAGE_PAGE)
		from = size - 3 * IMAGE_PAGE;
	LLVMFuzzerMutate(data + from, seed % 8 < 6 ? 144 : size - from, size - from);
	if (seed & 8)
		fuzz_seal(data, size);
	return size;
}
