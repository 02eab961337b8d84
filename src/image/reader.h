/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Inside the reader: for the files that make it up, and nobody else. */

#include "image/image.h"
#include "util/err.h"

#define reader_bad(img, e, fmt, ...) \
	err_set((e), ERR_IMAGE, 0, "%s is damaged: " fmt, (img)->path __VA_OPT__(,) __VA_ARGS__)

/* One file, without its parent (reader.c). */
int reader_open(struct image **ret, const char *path, struct err *e);

/* As above, but only what a child of it needs: it has no metadata and no runs, and nobody has looked at its sums of pages. */
int reader_open_parent(struct image **ret, const char *path, struct err *e);

/* Exactly `size` bytes of the file at `offset`. */
int reader_read(const struct image *img, void *buf, size_t size, uint64_t offset, struct err *e);

/* The sums of pages of an extent of this very file, which has an index of them. 0 or -errno. */
int reader_pread_sums(const struct image *img, size_t extent, uint32_t page, uint32_t n, uint64_t *ret);
