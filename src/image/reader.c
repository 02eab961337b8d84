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
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "image/layout.h"
#include "util/err.h"
#include "util/fd.h"
#include "util/privilege.h"

enum {
	VERIFY_THREADS_MAX = 64,
	CACHED_PIECE = 256 * 1024, /* stays in the CPU's cache between reading and hashing */
};

/* What a block is called when its checksum differs. */
struct reader_block {
	const char *name;
	const struct image_block *block;
	size_t each; /* bytes of one entry */
};

/* ---- failures ---- */

#define reader_bad(img, e, fmt, ...) \
	err_set((e), ERR_IMAGE, 0, "%s is damaged: " fmt, (img)->path __VA_OPT__(,) __VA_ARGS__)

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

static int reader_read(const struct image *img, void *buf, size_t size, uint64_t offset, struct err *e)
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
static int reader_check_header(const struct image *img, struct image_header *header, struct err *e)
{
	int r = reader_read(img, header, sizeof(*header), 0, e);

	if (r)
		return r;
	if (header->checksum != image_checksum(header, IMAGE_SEALED))
		return reader_bad(img, e, "the checksum of its header differs");
	if (header->version > IMAGE_VERSION)
		return reader_too_new(img, header->version, e);
	if (header->version != IMAGE_VERSION || header->page_size != IMAGE_PAGE ||
	    memcmp(header->magic, IMAGE_MAGIC, IMAGE_MAGIC_SIZE) ||
	    !reader_is_zero(header->zero, sizeof(header->zero)))
		return reader_bad(img, e, "its header makes no sense");
	return 0;
}

static int reader_check_trailer(const struct image *img, const struct image_header *header,
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
	if (!reader_is_zero(trailer->zero, sizeof(trailer->zero)))
		return reader_bad(img, e, "its trailer makes no sense");
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
	if (b->block->checksum != image_checksum(buf, size))
		return reader_bad(img, e, "the checksum of its %s differs", b->name);
	if (!reader_is_zero(buf + size, padded - size))
		return reader_bad(img, e, "there is something in the padding after its %s", b->name);
	return 0;
}

static int reader_load_blocks(struct image *img, const struct image_trailer *trailer, struct err *e)
{
	const struct reader_block blocks[] = {
		{ "metadata", &trailer->meta, 1 },
		{ "index of extents", &trailer->extents, sizeof(struct image_extent) },
		{ "index of runs", &trailer->runs, sizeof(struct image_run) },
	};
	const void *loaded[3] = { NULL };
	int r = reader_check_places(img, blocks, 3, e);

	for (size_t i = 0; !r && i < 3; i++)
		r = reader_load_block(img, &blocks[i], &loaded[i], e);
	img->meta = loaded[0];
	img->extents = loaded[1];
	img->runs = loaded[2];
	if (r)
		return r;
	img->meta_size = trailer->meta.count;
	img->n_extents = trailer->extents.count;
	img->n_runs = trailer->runs.count;
	return 0;
}

/* ---- the index ---- */

static bool reader_extent_valid(const struct image_extent *extent)
{
	return extent->codec == IMAGE_CODEC_RAW && !extent->reserved && extent->stored == extent->size &&
	       extent->size && extent->size % IMAGE_PAGE == 0 && extent->size <= IMAGE_EXTENT_MAX;
}

/* The extents fill the file from the header to the metadata, in the order of the table. */
static int reader_check_extents(const struct image *img, uint64_t end, struct err *e)
{
	uint64_t pos = sizeof(struct image_header);

	for (size_t i = 0; i < img->n_extents; i++) {
		const struct image_extent *extent = &img->extents[i];

		if (!reader_extent_valid(extent))
			return reader_bad(img, e, "extent %zu makes no sense", i);
		if (extent->offset != pos || extent->stored > end - pos)
			return reader_bad(img, e, "extent %zu is not where it must be", i);
		pos += image_align(extent->stored);
	}
	if (pos != end)
		return reader_bad(img, e, "there are bytes before its metadata that belong to nothing");
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

/* ---- opening ---- */

static int reader_load(struct image *img, struct err *e)
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
		r = reader_load_blocks(img, &trailer, e);
	if (!r)
		r = reader_check_extents(img, trailer.meta.offset, e);
	if (!r)
		r = reader_check_runs(img, e);
	return r;
}

/* Checksums are not looked at, but no offset or size is taken for granted. */
static int reader_load_damaged(struct image *img, struct err *e)
{
	struct image_trailer trailer;
	struct err ignored;
	cleanup_privilege struct privilege none = { 0 };
	int r = reader_open_file(img, e);

	none = privilege_none();
	if (r)
		return r;
	if (img->size % IMAGE_PAGE || img->size < sizeof(trailer))
		return reader_cut_off(img, e);
	r = reader_read(img, &trailer, sizeof(trailer), img->size - sizeof(trailer), e);
	if (r)
		return r;
	r = reader_load_blocks(img, &trailer, &ignored);
	if (!r && !reader_check_extents(img, trailer.meta.offset, &ignored) && !reader_check_runs(img, &ignored))
		return 0;
	img->n_extents = img->n_runs = 0;
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

int image_open(struct image **ret, const char *path, struct err *e)
{
	return reader_new(ret, path, reader_load, e);
}

int image_salvage(struct image **ret, const char *path, struct err *e)
{
	return reader_new(ret, path, reader_load_damaged, e);
}

struct image *image_close(struct image *img)
{
	if (!img)
		return NULL;
	fd_closep(&img->fd);
	free((void *)img->meta);
	free((void *)img->extents);
	free((void *)img->runs);
	free((void *)img->path);
	free(img);
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

/* ---- page extents ---- */

static const struct image_run *reader_first_run(const struct image *img, size_t extent)
{
	for (size_t i = 0; i < img->n_runs; i++) {
		if (img->runs[i].extent == extent)
			return &img->runs[i];
	}
	return NULL;
}

/* `number` is the errno of the failure; 0: its checksum differs. */
static int reader_bad_extent(const struct image *img, size_t extent, int number, struct err *e)
{
	unsigned long long at = img->extents[extent].offset;
	const struct image_run *run = reader_first_run(img, extent);
	int r;

	if (number)
		r = err_sys(e, number, "cannot read extent %zu of %s, at offset %llu", extent, img->path, at);
	else
		r = reader_bad(img, e, "the checksum of extent %zu, at offset %llu, differs", extent, at);
	if (!run)
		return r;
	return err_wrap(e, "memory of " IMAGE_OWNER_FMT " at %#llx-%#llx", IMAGE_OWNER_ARGS(run->owner),
			(unsigned long long)run->addr, (unsigned long long)image_run_end(run));
}

/*
 * Read and compare piece by piece. With a `step` as large as a piece they come to
 * lie side by side in the buffer; with 0, each takes the place of the one before.
 * 0, -errno, or 1 where the checksum differs.
 */
static int reader_hash_extent(const struct image *img, const struct image_extent *extent, char *buf, size_t step,
			      XXH3_state_t *state)
{
	XXH3_64bits_reset(state);
	for (uint32_t done = 0; done < extent->stored; done += CACHED_PIECE, buf += step) {
		uint32_t n = extent->stored - done < CACHED_PIECE ? extent->stored - done : CACHED_PIECE;
		int r = fd_pread_full(img->fd, buf, n, (off_t)(extent->offset + done));

		if (r < 0)
			return r;
		XXH3_64bits_update(state, buf, n);
	}
	return XXH3_64bits_digest(state) != extent->checksum;
}

int image_read_extent(const struct image *img, size_t extent, void *buf, struct err *e)
{
	XXH3_state_t *state = XXH3_createState();
	int r = state ? reader_hash_extent(img, &img->extents[extent], buf, CACHED_PIECE, state) : -ENOMEM;

	XXH3_freeState(state);
	return r ? reader_bad_extent(img, extent, r < 0 ? -r : 0, e) : 0;
}

/*
 * The threads take extents in ascending order, and one that has taken an extent
 * finishes it. So when one fails, all lower ones are checked as well, and the
 * lowest failure is the same in every run.
 */
struct verify {
	const struct image *img;
	atomic_size_t next;
	atomic_bool stop;
	pthread_mutex_t lock; /* for what follows */
	size_t failed;        /* lowest extent that failed; SIZE_MAX: none */
	int number;           /* errno of the failure; 0: its checksum differs */
};

struct verify_thread {
	struct verify *verify;
	pthread_t thread;
	pid_t tid; /* set by the thread itself, before it ends */
};

static void verify_failed(struct verify *v, size_t extent, int number)
{
	atomic_store(&v->stop, true);
	pthread_mutex_lock(&v->lock);
	if (extent < v->failed) {
		v->failed = extent;
		v->number = number;
	}
	pthread_mutex_unlock(&v->lock);
}

static void verify_run(struct verify *v)
{
	void *buf = malloc(CACHED_PIECE);
	XXH3_state_t *state = XXH3_createState();

	while (!atomic_load(&v->stop)) {
		size_t i = atomic_fetch_add(&v->next, 1);
		int r;

		if (i >= v->img->n_extents)
			break;
		r = buf && state ? reader_hash_extent(v->img, &v->img->extents[i], buf, 0, state) : -ENOMEM;
		if (r)
			verify_failed(v, i, r < 0 ? -r : 0);
	}
	XXH3_freeState(state);
	free(buf);
}

static void *verify_thread_main(void *arg)
{
	struct verify_thread *t = arg;

	t->tid = gettid();
	verify_run(t->verify);
	return NULL;
}

/*
 * pthread_join() returns a moment before the kernel has let go of the thread;
 * unshare() and setns() for a user namespace would refuse a caller who still
 * counts as two threads.
 */
static void verify_join(struct verify_thread *t)
{
	pthread_join(t->thread, NULL);
	while (!syscall(SYS_tgkill, getpid(), t->tid, 0))
		sched_yield();
}

/* The calling thread works as well. Where no more threads can be had, those that are there do it all. */
static void verify_in_parallel(struct verify *v, size_t others)
{
	struct verify_thread threads[VERIFY_THREADS_MAX];
	size_t n = 0;

	while (n < others) {
		threads[n].verify = v;
		if (pthread_create(&threads[n].thread, NULL, verify_thread_main, &threads[n]))
			break;
		n++;
	}
	verify_run(v);
	while (n > 0)
		verify_join(&threads[--n]);
}

int image_verify_extents(const struct image *img, unsigned threads, struct err *e)
{
	struct verify v = { .img = img, .failed = SIZE_MAX };
	size_t n = threads < VERIFY_THREADS_MAX ? threads : VERIFY_THREADS_MAX;

	if (n > img->n_extents)
		n = img->n_extents;
	pthread_mutex_init(&v.lock, NULL);
	verify_in_parallel(&v, n > 1 ? n - 1 : 0);
	return v.failed == SIZE_MAX ? 0 : reader_bad_extent(img, v.failed, v.number, e);
}
