/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What stands in the file: header, trailer, and where the blocks between them
 * must be. Shared by the writer and the reader, and by nobody else.
 * doc/format.md is the same in words; change both together.
 *
 *	header | extents ... | metadata | extent table | run table | page sums | parent | trailer
 *
 * Every block begins on a page and follows the one before it without a gap, so
 * that no byte of the file is outside of all checksums. What is left of a
 * block's last page is zero, and the reader checks that it is.
 */

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "image/image.h"
#include "util/xxh3.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the tables are written as they are in memory");
static_assert(sizeof(size_t) == sizeof(uint64_t), "sizes of blocks are handed to malloc() and pread()");

#define IMAGE_MAGIC "\x89TORPOR\n"
#define IMAGE_TRAILER_MAGIC "\x89TORPEND"

enum {
	IMAGE_MAGIC_SIZE = 8,
	IMAGE_VERSION = 2,
	IMAGE_VERSION_OLDEST = 1, /* without id, page sums, parent, and codecs but raw */
	IMAGE_SEALED = IMAGE_PAGE - 8, /* the bytes of header and trailer that their checksum covers */
};

/*
 * Magic, version and the checksum at the end stay where they are in all
 * versions to come, so that an older torpor can say "too new" of a sound file.
 */
struct image_header {
	char magic[IMAGE_MAGIC_SIZE];
	uint32_t version;
	uint32_t page_size; /* IMAGE_PAGE */
	uint8_t id[IMAGE_ID_SIZE]; /* random; version 1: zero */
	uint8_t zero[IMAGE_PAGE - 40];
	uint64_t checksum; /* XXH3-64 of all the above */
};

struct image_block {
	uint64_t offset;
	uint64_t count;    /* bytes of the metadata, or entries of the table */
	uint64_t checksum; /* XXH3-64 of the block without its padding */
};

struct image_trailer {
	char magic[IMAGE_MAGIC_SIZE];
	uint64_t file_size; /* with the trailer */
	uint64_t header_checksum; /* as in the header: the two belong together */
	struct image_block meta;
	struct image_block extents;
	struct image_block runs;
	struct image_block sums;   /* version 1: this and the next are zero */
	struct image_block parent; /* bytes of a struct image_parent with its path; 0: there is none */
	uint8_t zero[IMAGE_PAGE - 152];
	uint64_t checksum; /* XXH3-64 of all the above */
};

/* What an image says of the one that holds the rest of its pages. The path has no NUL, and ends with the block. */
struct image_parent {
	uint8_t id[IMAGE_ID_SIZE];
	uint64_t trailer_checksum;
	char path[];
};

#define LAYOUT_SIZE(type, bytes) static_assert(sizeof(type) == (bytes), #type " has its place in the file")
#define LAYOUT_AT(type, member, at) \
	static_assert(offsetof(type, member) == (at), #type "." #member " has its place in the file")

LAYOUT_SIZE(IMAGE_MAGIC, IMAGE_MAGIC_SIZE + 1);
LAYOUT_SIZE(IMAGE_TRAILER_MAGIC, IMAGE_MAGIC_SIZE + 1);
LAYOUT_SIZE(struct image_header, IMAGE_PAGE);
LAYOUT_AT(struct image_header, version, 8);
LAYOUT_AT(struct image_header, page_size, 12);
LAYOUT_AT(struct image_header, id, 16);
LAYOUT_AT(struct image_header, zero, 32);
LAYOUT_AT(struct image_header, checksum, IMAGE_SEALED);
LAYOUT_SIZE(struct image_block, 24);
LAYOUT_SIZE(struct image_trailer, IMAGE_PAGE);
LAYOUT_AT(struct image_trailer, file_size, 8);
LAYOUT_AT(struct image_trailer, header_checksum, 16);
LAYOUT_AT(struct image_trailer, meta, 24);
LAYOUT_AT(struct image_trailer, extents, 48);
LAYOUT_AT(struct image_trailer, runs, 72);
LAYOUT_AT(struct image_trailer, sums, 96);
LAYOUT_AT(struct image_trailer, parent, 120);
LAYOUT_AT(struct image_trailer, zero, 144);
LAYOUT_AT(struct image_trailer, checksum, IMAGE_SEALED);

LAYOUT_SIZE(struct image_parent, 24);
LAYOUT_AT(struct image_parent, trailer_checksum, 16);

LAYOUT_SIZE(struct image_extent, 32);
LAYOUT_AT(struct image_extent, stored, 8);
LAYOUT_AT(struct image_extent, size, 12);
LAYOUT_AT(struct image_extent, checksum, 16);
LAYOUT_AT(struct image_extent, codec, 24);
LAYOUT_AT(struct image_extent, reserved, 28);
LAYOUT_SIZE(struct image_run, 24);
LAYOUT_AT(struct image_run, owner, 8);
LAYOUT_AT(struct image_run, pages, 12);
LAYOUT_AT(struct image_run, extent, 16);
LAYOUT_AT(struct image_run, page, 20);

/* Up to the next page; the caller knows that this does not wrap around. */
static inline uint64_t image_align(uint64_t size)
{
	return (size + IMAGE_PAGE - 1) & ~(uint64_t)(IMAGE_PAGE - 1);
}

static inline uint64_t image_checksum(const void *data, size_t size)
{
	return xxh3_sum(data, size, 0);
}

/*
 * The sums of single pages are seeded with the beginning of the image's id: who
 * does not know it cannot prepare two pages that pass for the same.
 */
static inline uint64_t image_seed(const uint8_t id[IMAGE_ID_SIZE])
{
	uint64_t seed;

	memcpy(&seed, id, sizeof(seed));
	return seed;
}

static inline uint64_t image_page_sum(uint64_t seed, const void *page)
{
	return xxh3_sum(page, IMAGE_PAGE, seed);
}

static inline void image_page_sums(uint64_t seed, const void *pages, size_t n, uint64_t *ret)
{
	for (size_t i = 0; i < n; i++)
		ret[i] = image_page_sum(seed, (const uint8_t *)pages + i * IMAGE_PAGE);
}

/*
 * Whether a run makes sense by itself: whole pages, at least one, and not
 * beyond the end of the 64-bit address space.
 */
static inline bool image_run_valid(const struct image_run *run)
{
	uint64_t end;

	return run->pages && run->addr % IMAGE_PAGE == 0 &&
	       !__builtin_add_overflow(run->addr, (uint64_t)run->pages * IMAGE_PAGE, &end);
}

static inline uint64_t image_run_end(const struct image_run *run)
{
	return run->addr + (uint64_t)run->pages * IMAGE_PAGE;
}

/* Whether the pages of a run are inside its extent. */
static inline bool image_run_fits(const struct image_run *run, const struct image_extent *extents,
				  size_t n_extents)
{
	return run->extent < n_extents &&
	       (uint64_t)run->page + run->pages <= extents[run->extent].size / IMAGE_PAGE;
}

/* "address space 3" or "inode 7", for messages. */
#define IMAGE_OWNER_FMT "%s %u"
#define IMAGE_OWNER_ARGS(owner) \
	((owner) & 0x80000000u) ? "inode" : "address space", (owner) & 0x7fffffffu
