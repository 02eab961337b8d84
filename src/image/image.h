/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The container: one file, written front to back, sealed by its trailer.
 * doc/format.md describes it byte by byte. Nothing here knows of kinds; the
 * metadata is an opaque block of bytes to this layer.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

enum {
	IMAGE_PAGE = 4096,
	IMAGE_EXTENT_MAX = 1024 * 1024, /* most bytes of one extent before compression */
};

/* Whose memory a run belongs to. */
#define IMAGE_OWNER_SPACE(i) ((uint32_t)(i))
#define IMAGE_OWNER_INODE(i) ((uint32_t)(i) | 0x80000000u)

/*
 * A run of pages of one owner, with consecutive addresses, that stand one after
 * the other in one extent. Fixed width, little endian: this is the file's layout.
 */
struct image_run {
	uint64_t addr;    /* page-aligned address, or offset in the inode */
	uint32_t owner;   /* IMAGE_OWNER_* */
	uint32_t pages;
	uint32_t extent;  /* index into the extents */
	uint32_t page;    /* first page inside the (uncompressed) extent */
};

/* A stretch of the file that holds pages. Fixed width, little endian. */
struct image_extent {
	uint64_t offset;   /* in the file, multiple of IMAGE_PAGE */
	uint32_t stored;   /* bytes in the file */
	uint32_t size;     /* bytes when unpacked, multiple of IMAGE_PAGE */
	uint64_t checksum; /* XXH3-64 of the stored bytes */
	uint32_t codec;    /* 0: raw */
	uint32_t reserved; /* 0 */
};

/* ---- writing ---- */

struct image_writer;

/*
 * Begin PATH.part-PID beside `path` (O_EXCL, mode 0600). The final name appears
 * only with image_writer_commit(). *ret is freed by image_writer_free(), which
 * removes the unfinished file. `sync`: the commit waits until all is on the disk,
 * so the disk is told to begin early. The caller ignores SIGXFSZ, so that a limit of
 * file sizes is an error (EFBIG) and not a death.
 */
int image_writer_new(struct image_writer **ret, const char *path, bool sync, struct err *e);

/*
 * Store one extent of `size` bytes (a multiple of IMAGE_PAGE, at most
 * IMAGE_EXTENT_MAX); *ret_extent is its index. May be called from several
 * threads at once; `data` must not change meanwhile. After a failure the commit
 * refuses.
 */
int image_writer_extent(struct image_writer *w, const void *data, size_t size, uint32_t *ret_extent,
			struct err *e);

/* Record where pages are. Thread-safe; any order (the index is sorted at commit). */
int image_writer_run(struct image_writer *w, const struct image_run *run, struct err *e);

/* Bytes of page extents stored so far. Thread-safe. */
uint64_t image_writer_stored(const struct image_writer *w);

/*
 * Write metadata, index and trailer, fsync the file, rename it to its final
 * name (replacing an older file), fsync the folder. After success the image is
 * whole and, unless the writer was made without `sync`, durable.
 */
int image_writer_commit(struct image_writer *w, const void *meta, size_t meta_size, struct err *e);

/* NULL is allowed. Removes the file unless it was committed. */
struct image_writer *image_writer_free(struct image_writer *w);

/* ---- reading ---- */

struct image {
	const char *path; /* as given to image_open(), for messages */
	int fd;
	uint64_t size;
	const void *meta;
	size_t meta_size;
	const struct image_extent *extents;
	size_t n_extents;
	const struct image_run *runs; /* ascending by owner, then address; never overlapping */
	size_t n_runs;
};

/*
 * Open and check the structure: header, trailer, checksums of metadata and
 * index, and that every offset, size and index in them is inside its bounds.
 * Page extents are not read yet (image_verify_extents()). Errors have
 * ERR_IMAGE where the file is at fault. *ret is freed by image_close().
 */
int image_open(struct image **ret, const char *path, struct err *e);

/*
 * Of an image that image_open() refuses: what can still be read. The metadata is
 * there, whatever its checksum says; the tables are empty unless they are whole.
 * Negative (with `e` set) where not even the metadata is found.
 */
int image_salvage(struct image **ret, const char *path, struct err *e);

/*
 * Read every extent with `threads` threads (the caller is one of them) and
 * compare its checksum. On return the others are gone, so that unshare() works.
 */
int image_verify_extents(const struct image *img, unsigned threads, struct err *e);

/* Read one extent into `buf`, which has room for it, and compare its checksum. Thread-safe. */
int image_read_extent(const struct image *img, size_t extent, void *buf, struct err *e);

/*
 * The runs of one owner: *ret_n of them from the returned pointer on (NULL and
 * 0 where there is none).
 */
const struct image_run *image_runs_of(const struct image *img, uint32_t owner, size_t *ret_n);

/* Those of them that end behind `addr`; NULL and 0 where there is none. */
const struct image_run *image_runs_from(const struct image *img, uint32_t owner, uint64_t addr, size_t *ret_n);

/* NULL is allowed; returns NULL. */
struct image *image_close(struct image *img);
