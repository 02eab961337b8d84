/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reading the pages: extent by extent, with their checksums, from whichever file
 * of the chain holds them, and unpacked.
 */

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "image/codec.h"
#include "image/layout.h"
#include "image/reader.h"
#include "util/crew.h"
#include "util/fd.h"

enum {
	VERIFY_THREADS_MAX = 64,
};

/* What is wrong with an extent, where it is not that it cannot be read (-errno). */
enum {
	EXTENT_SUM_DIFFERS = 1,
	EXTENT_PADDING,      /* there is something behind it */
	EXTENT_NOT_UNPACKED, /* its checksum is right, but it is no frame of that size */
	EXTENT_PAGES_DIFFER, /* from what the index of page sums says */
	EXTENT_ELSEWHERE,    /* in a parent that is not open */
	EXTENT_NOT_TAKEN,    /* by whoever it was read for, who has said why */
};

/* Who is given what is read, piece by piece. */
struct extent_taker {
	image_take *take;
	void *arg;
	struct err *e;
};

/* ---- failures ---- */

static const struct image_run *extent_first_run(const struct image *img, size_t extent)
{
	for (size_t i = 0; i < img->n_runs; i++) {
		if (img->runs[i].extent == extent)
			return &img->runs[i];
	}
	return NULL;
}

static int extent_blame(const struct image *img, size_t extent, int what, struct err *e)
{
	unsigned long long at = img->extents[extent].offset;

	switch (what) {
	case EXTENT_SUM_DIFFERS:
		return reader_bad(img, e, "the checksum of extent %zu, at offset %llu, differs", extent, at);
	case EXTENT_PADDING:
		return reader_bad(img, e, "there is something in the padding after extent %zu, at offset %llu", extent, at);
	case EXTENT_NOT_UNPACKED:
		return reader_bad(img, e, "extent %zu, at offset %llu, cannot be unpacked (%s)", extent, at,
				  image_codec_name(img->extents[extent].codec));
	case EXTENT_PAGES_DIFFER:
		return reader_bad(img, e, "the pages of extent %zu, at offset %llu, are not those of its index of page sums",
				  extent, at);
	case EXTENT_ELSEWHERE:
		return reader_bad(img, e, "extent %zu is in its parent, which is not there", extent);
	default:
		return err_sys(e, what, "cannot read extent %zu of %s, at offset %llu", extent, img->path, at);
	}
}

/* `img` is the image that was opened; the extent may stand in one of its parents. `what`: -errno or EXTENT_*. */
static int extent_bad(const struct image *img, size_t extent, int what, struct err *e)
{
	const struct image_run *run = extent_first_run(img, extent);
	size_t index;
	const struct image *holder = image_holder(img, extent, &index);
	int r = extent_blame(holder, index, what, e);

	if (!run)
		return r;
	return err_wrap(e, "memory of " IMAGE_OWNER_FMT " at %#llx-%#llx", IMAGE_OWNER_ARGS(run->owner),
			(unsigned long long)run->addr, (unsigned long long)image_run_end(run));
}

/* ---- reading ---- */

/* Whether `size` bytes of an extent, from `from` on, are what the index of page sums tells of. NULL: there is none. */
static bool extent_pages_right(const struct image *img, const uint8_t *pages, uint32_t from, uint32_t size,
			       const uint64_t *sums)
{
	for (uint32_t at = 0; sums && at < size; at += IMAGE_PAGE)
		if (image_page_sum(image_seed(img->id), pages + at) != sums[(from + at) / IMAGE_PAGE])
			return false;
	return true;
}

/*
 * Read and compare piece by piece. With a `step` as large as a piece they come to
 * lie side by side in the buffer; with 0, each takes the place of the one before.
 * NULL as `taker`: there is none.
 */
static int extent_read_raw(const struct image *img, const struct image_extent *x, uint8_t *buf, size_t step,
			   const uint64_t *sums, const struct extent_taker *taker)
{
	struct xxh3_state state;
	bool right = true;

	xxh3_begin(&state);
	for (uint32_t done = 0; done < x->stored; done += IMAGE_PIECE, buf += step) {
		uint32_t n = x->stored - done < IMAGE_PIECE ? x->stored - done : IMAGE_PIECE;
		int r = fd_pread_full(img->fd, buf, n, (off_t)(x->offset + done));

		if (r < 0)
			return r;
		xxh3_add(&state, buf, n);
		right = right && extent_pages_right(img, buf, done, n, sums);
		if (taker && taker->take(taker->arg, done, buf, n, taker->e) < 0)
			return EXTENT_NOT_TAKEN;
	}
	if (xxh3_end(&state) != x->checksum)
		return EXTENT_SUM_DIFFERS;
	return right ? 0 : EXTENT_PAGES_DIFFER;
}

/* What is stored of it, and the padding behind it, as it is: `packed` has room for that. */
static int extent_read_stored(const struct image *img, const struct image_extent *x, uint8_t *packed)
{
	uint32_t padded = (uint32_t)image_align(x->stored);
	int r = fd_pread_full(img->fd, packed, padded, (off_t)x->offset);

	if (!r && image_checksum(packed, x->stored) != x->checksum)
		r = EXTENT_SUM_DIFFERS;
	for (uint32_t i = x->stored; !r && i < padded; i++)
		if (packed[i])
			r = EXTENT_PADDING;
	return r;
}

static int extent_read_packed(const struct image *img, const struct image_extent *x, uint8_t *buf, const uint64_t *sums)
{
	uint8_t *packed = aligned_alloc(IMAGE_PAGE, image_align(x->stored));
	int r = packed ? extent_read_stored(img, x, packed) : -ENOMEM;

	if (!r && !image_unpack(x->codec, packed, x->stored, buf, x->size))
		r = EXTENT_NOT_UNPACKED;
	if (!r && !extent_pages_right(img, buf, 0, x->size, sums))
		r = EXTENT_PAGES_DIFFER;
	free(packed);
	return r;
}

static int extent_read(const struct image *img, size_t extent, void *buf, size_t step, const struct extent_taker *taker,
		       struct err *e)
{
	size_t index;
	const struct image *holder = image_holder(img, extent, &index);
	const struct image_extent *x = &holder->extents[index];
	int r;

	if (x->codec == IMAGE_CODEC_RAW)
		r = extent_read_raw(holder, x, buf, step, NULL, taker);
	else
		r = x->codec == IMAGE_CODEC_PARENT ? EXTENT_ELSEWHERE : extent_read_packed(holder, x, buf, NULL);
	if (!r && taker && x->codec != IMAGE_CODEC_RAW && taker->take(taker->arg, 0, buf, x->size, e) < 0)
		r = EXTENT_NOT_TAKEN;
	if (r == EXTENT_NOT_TAKEN)
		return -1;
	return r ? extent_bad(img, extent, r, e) : 0;
}

int image_read_extent(const struct image *img, size_t extent, void *buf, struct err *e)
{
	return extent_read(img, extent, buf, IMAGE_PIECE, NULL, e);
}

int image_stream_extent(const struct image *img, size_t extent, void *buf, image_take *take, void *arg, struct err *e)
{
	return extent_read(img, extent, buf, 0, &(struct extent_taker){ take, arg, e }, e);
}

/*
 * As preadv(2). In libc, that is a place where a thread can be cancelled; where there have been several, it writes down that it is
 * there, into a page that each task of a restore would have to copy for it.
 */
static ssize_t extent_preadv(int fd, const struct iovec *to, size_t n, uint64_t offset)
{
	return syscall(SYS_preadv, fd, to, n, offset, 0);
}

/* All of it at once; what comes short (a signal) is read again. */
static int extent_read_scattered(const struct image *img, const struct image_extent *x, const struct iovec *to, size_t n)
{
	struct xxh3_state state;
	uint64_t offset = x->offset;
	int r = 0;
	bool whole = n <= IOV_MAX && extent_preadv(img->fd, to, n, offset) == (ssize_t)x->stored;

	xxh3_begin(&state);
	for (size_t i = 0; r == 0 && i < n; i++) {
		if (!whole)
			r = fd_pread_full(img->fd, to[i].iov_base, to[i].iov_len, (off_t)offset);
		if (r == 0)
			xxh3_add(&state, to[i].iov_base, to[i].iov_len);
		offset += to[i].iov_len;
	}
	if (r == 0 && xxh3_end(&state) != x->checksum)
		r = EXTENT_SUM_DIFFERS;
	return r;
}

int image_read_extent_to(const struct image *img, size_t extent, const struct iovec *to, size_t n, struct err *e)
{
	size_t index;
	const struct image *holder = image_holder(img, extent, &index);
	const struct image_extent *x = &holder->extents[index];
	uint64_t size = 0;
	int r;

	for (size_t i = 0; i < n; i++)
		size += to[i].iov_len;
	if (x->codec != IMAGE_CODEC_RAW || size != x->stored)
		return 1;
	r = extent_read_scattered(holder, x, to, n);
	return r ? extent_bad(img, extent, r, e) : 0;
}

/* ---- verifying ---- */

/*
 * The threads take extents in ascending order, and one that has taken an extent
 * finishes it. So when one fails, all lower ones are checked as well, and the
 * lowest failure is the same in every run.
 */
struct verify {
	const struct image *img;
	const bool *except; /* for each extent: it is left out; NULL: none is */
	bool pages; /* unpack, and compare the sums of the pages as well */
	pthread_t caller; /* does meanwhile(data), if there is anything to do, before it joins in */
	void (*meanwhile)(void *data);
	void *data;
	atomic_size_t next;
	atomic_bool stop;
	pthread_mutex_t lock; /* for what follows */
	size_t failed;        /* lowest extent that failed; SIZE_MAX: none */
	int what;             /* -errno or EXTENT_* */
};

static void verify_failed(struct verify *v, size_t extent, int what)
{
	atomic_store(&v->stop, true);
	pthread_mutex_lock(&v->lock);
	if (extent < v->failed) {
		v->failed = extent;
		v->what = what;
	}
	pthread_mutex_unlock(&v->lock);
}

/*
 * *buf has IMAGE_EXTENT_MAX bytes, or is NULL before it is needed. To a page the kernel copies faster. Not of the heap: what is made
 * later would inherit that of this thread.
 */
static bool verify_get_buffer(uint8_t **buf)
{
	void *p = *buf;

	if (!p)
		p = mmap(NULL, IMAGE_EXTENT_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*buf = p == MAP_FAILED ? NULL : p;
	return *buf;
}

/* `buf` has IMAGE_EXTENT_MAX bytes. 0, -errno or EXTENT_*. */
static int verify_extent(const struct verify *v, size_t extent, uint8_t *buf)
{
	uint64_t sums[IMAGE_EXTENT_MAX / IMAGE_PAGE];
	size_t index;
	const struct image *img = image_holder(v->img, extent, &index);
	const struct image_extent *x = &img->extents[index];
	bool pages = v->pages && img->n_sums;
	int r;

	if (x->codec == IMAGE_CODEC_PARENT)
		return EXTENT_ELSEWHERE;
	r = pages ? reader_pread_sums(img, index, 0, x->size / IMAGE_PAGE, sums) : 0;
	if (r)
		return r;
	if (x->codec == IMAGE_CODEC_RAW)
		return extent_read_raw(img, x, buf, 0, pages ? sums : NULL, NULL);
	/* Packed, it is smaller than the extent that it is (reader_extent_valid()). */
	return v->pages ? extent_read_packed(img, x, buf, pages ? sums : NULL) : extent_read_stored(img, x, buf);
}

static void verify_run(void *arg)
{
	struct verify *v = arg;
	uint8_t *buf = NULL;

	if (v->meanwhile && pthread_equal(pthread_self(), v->caller))
		v->meanwhile(v->data);
	while (!atomic_load(&v->stop)) {
		size_t i = atomic_fetch_add(&v->next, 1);
		int r;

		if (i >= v->img->n_extents)
			break;
		if (v->except && v->except[i])
			continue;
		r = verify_get_buffer(&buf) ? verify_extent(v, i, buf) : -ENOMEM;
		if (r)
			verify_failed(v, i, r);
	}
	if (buf)
		munmap(buf, IMAGE_EXTENT_MAX);
}

static int verify_all(struct verify *v, unsigned threads, struct err *e)
{
	size_t n = threads < VERIFY_THREADS_MAX ? threads : VERIFY_THREADS_MAX;

	if (n > v->img->n_extents)
		n = v->img->n_extents;
	v->failed = SIZE_MAX;
	pthread_mutex_init(&v->lock, NULL);
	crew_run((unsigned)n, verify_run, v);
	return v->failed == SIZE_MAX ? 0 : extent_bad(v->img, v->failed, v->what, e);
}

int image_verify_extents(const struct image *img, const bool *except, unsigned threads, struct err *e)
{
	struct verify v = { .img = img, .except = except };

	return verify_all(&v, threads, e);
}

int image_verify_beside(const struct image *img, unsigned threads, void (*meanwhile)(void *data), void *data, struct err *e)
{
	struct verify v = { .img = img, .caller = pthread_self(), .meanwhile = meanwhile, .data = data };

	return verify_all(&v, threads, e);
}

int image_verify_pages(const struct image *img, unsigned threads, struct err *e)
{
	struct verify v = { .img = img, .pages = true };

	return verify_all(&v, threads, e);
}
