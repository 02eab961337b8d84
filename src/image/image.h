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
#include <sys/uio.h>

struct err;

enum {
	IMAGE_PAGE = 4096,
	IMAGE_EXTENT_MAX = 1024 * 1024, /* most bytes of one extent before compression */
	IMAGE_PIECE = 128 * 1024,       /* most that is read of a raw one at a time: it stays in the CPU's cache until it is hashed */
	IMAGE_ID_SIZE = 16,
	IMAGE_CHAIN_MAX = 64, /* most files of one chain */
};

/* How the bytes of an extent are stored. */
enum image_codec {
	IMAGE_CODEC_RAW = 0,
	IMAGE_CODEC_ZSTD = 1, /* one frame (RFC 8878) */
	IMAGE_CODEC_LZ4 = 2,  /* one block, without a frame */
	IMAGE_CODEC_PARENT = 3, /* not in this file: an extent of its parent */
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
	uint64_t offset;   /* in the file, multiple of IMAGE_PAGE; IMAGE_CODEC_PARENT: index into the parent's extents */
	uint32_t stored;   /* bytes in the file */
	uint32_t size;     /* bytes when unpacked, multiple of IMAGE_PAGE */
	uint64_t checksum; /* XXH3-64 of the stored bytes */
	uint32_t codec;    /* enum image_codec */
	uint32_t reserved; /* 0 */
};

/* An image and no other, and with nothing changed. */
struct image_identity {
	uint8_t id[IMAGE_ID_SIZE];
	uint64_t trailer_checksum;
};

/* ---- writing ---- */

struct image;
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

/* An extent that was packed already (codec.h). */
struct image_packed {
	enum image_codec codec; /* RAW, ZSTD or LZ4 */
	const void *data;  /* the stored bytes, with zeros behind them up to a page */
	uint32_t stored;   /* how many of them are no such zeros; RAW: `size` */
	uint32_t size;     /* bytes when unpacked */
	const uint64_t *sums; /* of each page: image_page_sums(), with the writer's seed (layout.h) */
};

uint64_t image_writer_seed(const struct image_writer *w);

/* What has been learned of what to pack its extents with (pace.h); it goes with the writer. */
struct pace;
struct pace *image_writer_pace(struct image_writer *w);

/* Nothing more comes for a while: let the disk begin on what there is, if the commit will wait for that. */
void image_writer_start(struct image_writer *w);

/* What its threads make extents with (kit.h), while they do not. */
struct kits;
struct kits *image_writer_kits(struct image_writer *w);

/* As image_writer_extent(). */
int image_writer_packed(struct image_writer *w, const struct image_packed *x, uint32_t *ret_extent, struct err *e);

/*
 * Let the image be a child of `parent`, of which `path` says where it is, as seen
 * from the folder of the new image. Before the first extent. The parent stays
 * the caller's, and must stay open until the commit.
 */
int image_writer_parent(struct image_writer *w, const struct image *parent, const char *path, struct err *e);

/*
 * The index under which runs refer to an extent of the parent. Thread-safe; the
 * same for each call with the same extent.
 */
int image_writer_parent_extent(struct image_writer *w, uint32_t parent_extent, uint32_t *ret_extent, struct err *e);

/*
 * How many bytes are written, and how many of them wait for the disk. False where
 * that cannot be seen, or nobody will wait for it. For one thread at a time.
 */
bool image_writer_backlog(struct image_writer *w, uint64_t *ret_written, uint64_t *ret_waiting);

/* How many pages the runs so far leave to the parent. */
uint64_t image_writer_parent_pages(const struct image_writer *w);

/* Record where pages are. Thread-safe; any order (the index is sorted at commit). */
int image_writer_run(struct image_writer *w, const struct image_run *run, struct err *e);

/* Forget all runs that were recorded: other ones will be. */
void image_writer_forget_runs(struct image_writer *w);

/* Bytes of page extents stored so far, as they are in the file. Thread-safe. */
uint64_t image_writer_stored(const struct image_writer *w);

/* The commit's first step: write metadata, index and trailer, fsync the file. It still has no name. */
int image_writer_finish(struct image_writer *w, const void *meta, size_t meta_size, struct err *e);

/* It was finished too early: no run is recorded, and more can be stored behind its extents. */
int image_writer_reopen(struct image_writer *w, struct err *e);

/*
 * The second: rename the file to its final name (replacing an older file), fsync the folder. After success the image is
 * whole and, unless the writer was made without `sync`, durable.
 */
int image_writer_publish(struct image_writer *w, struct err *e);

/* Both. */
int image_writer_commit(struct image_writer *w, const void *meta, size_t meta_size, struct err *e);

/* Of what was finished. */
void image_writer_identify(const struct image_writer *w, struct image_identity *ret);

/* NULL is allowed. Removes the file unless it was committed. */
struct image_writer *image_writer_free(struct image_writer *w);

/* ---- reading ---- */

struct image {
	const char *path; /* as given to image_open(), for messages */
	int fd;
	uint64_t size;
	uint32_t version;
	uint8_t id[IMAGE_ID_SIZE]; /* zero in version 1 */
	uint64_t trailer_checksum; /* stands for the whole file */
	const void *meta;
	size_t meta_size;
	const struct image_extent *extents;
	size_t n_extents;
	const struct image_run *runs; /* ascending by owner, then address; never overlapping */
	size_t n_runs;
	uint64_t sums_offset; /* in the file: the sum of each page (layout.h) of its own extents, in their order */
	size_t n_sums;        /* version 1: 0 */
	const uint64_t *first_sums; /* for each extent, the place of its first sum; for image_read_sums() */
	const char *parent_path; /* from the folder of this file, or absolute; NULL: it has no parent */
	uint8_t parent_id[IMAGE_ID_SIZE];
	uint64_t parent_checksum; /* of its trailer */
	struct image *parent; /* opened, its extents compared with what is said of them here; NULL: there is none. It has no meta, and no runs */
};

/*
 * Open and check the structure: header, trailer, checksums of metadata and
 * index, and that every offset, size and index in them is inside its bounds; and
 * so of the parent, and its parent, up to the first of the chain, but there of no index than that of extents.
 * Page extents are not read yet (image_verify_extents()). Errors have
 * ERR_IMAGE where the file is at fault. *ret is freed by image_close().
 */
int image_open(struct image **ret, const char *path, struct err *e);

bool image_is(const struct image *img, const struct image_identity *identity);

/*
 * Of an image that image_open() refuses: what can still be read. The metadata is
 * there, whatever its checksum says; the tables are empty unless they are whole.
 * Its parent is not opened.
 * Negative (with `e` set) where not even the metadata is found.
 */
int image_salvage(struct image **ret, const char *path, struct err *e);

/*
 * Read every extent, those of its parents included, with `threads` threads (the
 * caller is one of them), and compare its checksum. On return the others are gone, so that unshare() works.
 * `except` says for each extent whether it is left out; NULL: none is.
 */
int image_verify_extents(const struct image *img, const bool *except, unsigned threads, struct err *e);

/* All of them; the caller calls meanwhile(data) before it joins in. */
int image_verify_beside(const struct image *img, unsigned threads, void (*meanwhile)(void *data), void *data, struct err *e);

/* As above, and unpack every extent and compare the sums of its pages. */
int image_verify_pages(const struct image *img, unsigned threads, struct err *e);

/*
 * Read one extent, from whichever file of the chain holds it, compare its
 * checksum and unpack it into `buf`, which has room for `size` bytes of it. Thread-safe.
 */
int image_read_extent(const struct image *img, size_t extent, void *buf, struct err *e);

/* Takes `size` bytes of an extent, from `at` on. 0, or negative with `e` set: that ends the reading. */
typedef int image_take(void *arg, uint32_t at, const void *data, uint32_t size, struct err *e);

/*
 * As above, but hand it over in pieces (IMAGE_PIECE) of whole pages, while they are in the CPU's
 * cache: before the checksum is known. What was taken must not be used if this
 * fails. `buf` is only there to be read into; best it begins on a page.
 */
int image_stream_extent(const struct image *img, size_t extent, void *buf, image_take *take, void *arg, struct err *e);

/*
 * As above, but straight to where its pages belong, whose sizes make up the extent's.
 * Returns 1, and reads nothing, where that cannot be: it is packed.
 */
int image_read_extent_to(const struct image *img, size_t extent, const struct iovec *to, size_t n, struct err *e);

/* The file of the chain that holds an extent; *ret_extent is its index there. */
const struct image *image_holder(const struct image *img, size_t extent, size_t *ret_extent);

/*
 * Reads pages of runs. The last packed extents are kept as they were unpacked:
 * in a chain, neighbouring pages stand in several. For one thread.
 */
enum { IMAGE_CURSOR_SLOTS = 8 };

struct image_cursor {
	const struct image *img;
	struct image_cursor_slot {
		size_t extent;
		uint64_t used; /* when: `reads` of that moment; 0: never */
		uint8_t *buf;
	} slots[IMAGE_CURSOR_SLOTS];
	uint64_t reads;
};

/*
 * `size` bytes of a run, from `skip` bytes behind its beginning. Of raw extents
 * no checksum is compared. Begin with a cursor of which only `img` is set.
 */
int image_cursor_read(struct image_cursor *c, const struct image_run *run, uint64_t skip, void *buf, size_t size,
		      struct err *e);

void image_cursor_done(struct image_cursor *c);

/*
 * The sums of `n` pages of an extent, from `page` on, and the seed that they were
 * made with (layout.h); from whichever file of the chain holds them. -ENODATA (and
 * no error set) where that is of version 1.
 */
int image_read_sums(const struct image *img, size_t extent, uint32_t page, uint32_t n, uint64_t *ret, uint64_t *ret_seed,
		    struct err *e);

/*
 * The runs of one owner: *ret_n of them from the returned pointer on (NULL and
 * 0 where there is none).
 */
const struct image_run *image_runs_of(const struct image *img, uint32_t owner, size_t *ret_n);

/* How many pages of one owner are stored. */
uint64_t image_pages_of(const struct image *img, uint32_t owner);

/* Those of them that end behind `addr`; NULL and 0 where there is none. */
const struct image_run *image_runs_from(const struct image *img, uint32_t owner, uint64_t addr, size_t *ret_n);

/* NULL is allowed; returns NULL. */
struct image *image_close(struct image *img);

/* The packed metadata have been unpacked and are not needed any more. */
void image_forget_meta(struct image *img);
