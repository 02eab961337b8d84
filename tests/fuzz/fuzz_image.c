/* SPDX-License-Identifier: Apache-2.0 */

/* Fuzz the image reader: the input is the whole file. */

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "image/image.h"
#include "util/err.h"
#include "util/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
	if (image_verify_extents(img, 1 + sum % 2, &e) && e.reason == ERR_NONE)
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
		return 0;
	}
	fuzz_use(img);
	image_close(img);
	return 0;
}
