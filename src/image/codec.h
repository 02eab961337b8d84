/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How the bytes of one extent are packed. Each extent is packed by itself, so
 * that any of them can be read without the others.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image/image.h"

/* How extents are to be packed. */
struct image_packing {
	enum image_codec codec;
	int level; /* of zstd, 1 to IMAGE_LEVEL_MAX; 0: its default */
	bool automatic; /* packed only where that is faster (pace.h); codec and level are not used */
};

enum { IMAGE_LEVEL_MAX = 19 };

/* "zstd", "zstd:5", "lz4", "none" or "auto". False: none of these. */
bool image_packing_parse(const char *text, struct image_packing *ret);

/* How many bytes of memory one thread needs for that. */
size_t image_packer_size(const struct image_packing *packing);

/* What one thread packs with. */
struct image_packer;

/* NULL when out of memory. Freed by image_packer_free(). */
struct image_packer *image_packer_new(void);

/*
 * Pack `size` bytes (a multiple of IMAGE_PAGE, at most IMAGE_EXTENT_MAX). Of *x,
 * codec, data, stored and size are set; the bytes belong to the packer and last
 * until the next call. They are `data` itself, raw, where no page of the file
 * would be saved, and where `packing` says so (`p` may be NULL then).
 */
void image_pack(struct image_packer *p, const struct image_packing *packing, const void *data, uint32_t size,
		struct image_packed *x);

/* NULL is allowed; returns NULL. */
struct image_packer *image_packer_free(struct image_packer *p);

/*
 * Unpack `stored` bytes into `size` bytes. False where they are not exactly one
 * whole frame of exactly that size; never writes beyond it. Needs no memory that
 * depends on the bytes.
 */
bool image_unpack(enum image_codec codec, const void *data, uint32_t stored, void *buf, uint32_t size);

/* "zstd" and so on; "?" for none. */
const char *image_codec_name(enum image_codec codec);
