/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The container: what goes in comes out, and whatever is done to the file in
 * between is noticed. Hostile images are made by changing a sound one and
 * sealing it again, so that only the check in question stands in the way.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "image/codec.h"
#include "image/image.h"
#include "image/layout.h"
#include "image/pace.h"
#include "image/squash.h"
#include "unit.h"
#include "util/err.h"
#include "util/fd.h"

enum {
	STEP = 512,
	HAMMER_THREADS = 6,
	HAMMER_EXTENTS = 40,
};

static const char meta_text[] = "the metadata, of no size in particular";

/* ---- a folder to work in ---- */

static char folder[64];
static char image_path[128];
static char part_path[160];

static void folder_enter(void)
{
	strcpy(folder, "/tmp/torpor-image-XXXXXX");
	if (!mkdtemp(folder))
		abort();
	snprintf(image_path, sizeof(image_path), "%s/a.torpor", folder);
	snprintf(part_path, sizeof(part_path), "%s/a.torpor.part-%d", folder, (int)getpid());
}

/* Whether there is nothing left in it. */
static bool folder_leave(void)
{
	unlink(image_path);
	return !rmdir(folder);
}

static bool exists(const char *path)
{
	struct stat st;

	return !lstat(path, &st);
}

/* ---- sample images ---- */

static void fill(uint8_t *page, size_t size, unsigned seed)
{
	for (size_t i = 0; i < size; i++)
		page[i] = (uint8_t)(i * 7 + (i >> 8) + seed * 31 + 1);
}

/* Three extents (2, 1 and 2 pages), four runs after merging. */
static int sample_fill(struct image_writer *w, struct err *e)
{
	static const struct image_run runs[] = {
		{ .addr = 0x9000, .owner = IMAGE_OWNER_INODE(1), .pages = 1, .extent = 1, .page = 0 },
		{ .addr = 0x6000, .owner = 0, .pages = 1, .extent = 0, .page = 1 },
		{ .addr = 0x5000, .owner = 0, .pages = 1, .extent = 0, .page = 0 },
		{ .addr = 0x7000, .owner = 0, .pages = 1, .extent = 2, .page = 0 },
		{ .addr = 0x5000, .owner = 2, .pages = 1, .extent = 2, .page = 1 },
	};
	static const size_t pages[] = { 2, 1, 2 };
	uint8_t data[2 * IMAGE_PAGE];
	uint32_t index;
	int r = 0;

	for (unsigned i = 0; !r && i < 3; i++) {
		fill(data, pages[i] * IMAGE_PAGE, i);
		r = image_writer_extent(w, data, pages[i] * IMAGE_PAGE, &index, e);
		if (!r && index != i)
			r = err_set(e, ERR_STATE, 0, "index %u", index);
	}
	for (size_t i = 0; !r && i < sizeof(runs) / sizeof(runs[0]); i++)
		r = image_writer_run(w, &runs[i], e);
	return r;
}

static int sample_write(struct err *e)
{
	struct image_writer *w = NULL;
	int r = image_writer_new(&w, image_path, true, e);

	if (!r)
		r = sample_fill(w, e);
	if (!r)
		r = image_writer_commit(w, meta_text, sizeof(meta_text), e);
	image_writer_free(w);
	return r;
}

/* A file in memory, to be changed and written back. */
struct bytes {
	uint8_t *p;
	size_t size;
};

static bool bytes_load(struct bytes *b)
{
	cleanup_close int fd = open(image_path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return false;
	b->size = (size_t)st.st_size;
	b->p = malloc(b->size);
	return b->p && !fd_pread_full(fd, b->p, b->size, 0);
}

static bool bytes_store(const uint8_t *p, size_t size)
{
	cleanup_close int fd = open(image_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	return fd >= 0 && !fd_write_full(fd, p, size);
}

static bool bytes_sample(struct bytes *b)
{
	struct err e = ERR_INIT;

	return !sample_write(&e) && bytes_load(b);
}

static struct image_header *bytes_header(const struct bytes *b)
{
	return (struct image_header *)b->p;
}

static struct image_trailer *bytes_trailer(const struct bytes *b)
{
	return (struct image_trailer *)(b->p + b->size - IMAGE_PAGE);
}

static struct image_extent *bytes_extents(const struct bytes *b)
{
	return (struct image_extent *)(b->p + bytes_trailer(b)->extents.offset);
}

static struct image_run *bytes_runs(const struct bytes *b)
{
	return (struct image_run *)(b->p + bytes_trailer(b)->runs.offset);
}

static uint64_t *bytes_sums(const struct bytes *b)
{
	return (uint64_t *)(b->p + bytes_trailer(b)->sums.offset);
}

/* Checksums for what was changed, where the trailer still points into the file. */
static void bytes_seal_block(const struct bytes *b, struct image_block *block, size_t each)
{
	if (block->offset <= b->size && block->count <= (b->size - block->offset) / each)
		block->checksum = image_checksum(b->p + block->offset, block->count * each);
}

static void bytes_seal(const struct bytes *b)
{
	struct image_header *header = bytes_header(b);
	struct image_trailer *trailer = bytes_trailer(b);

	header->checksum = image_checksum(header, IMAGE_SEALED);
	trailer->header_checksum = header->checksum;
	bytes_seal_block(b, &trailer->meta, 1);
	bytes_seal_block(b, &trailer->extents, sizeof(struct image_extent));
	bytes_seal_block(b, &trailer->runs, sizeof(struct image_run));
	if (header->version != 1) {
		bytes_seal_block(b, &trailer->sums, sizeof(uint64_t));
		bytes_seal_block(b, &trailer->parent, 1);
	}
	trailer->checksum = image_checksum(trailer, IMAGE_SEALED);
}

/* Open and verify. 0, or what either of the two said. */
static int try_image(struct err *e)
{
	struct image *img = NULL;
	int r = image_open(&img, image_path, e);

	if (!r)
		r = image_verify_pages(img, 1, e);
	image_close(img);
	return r;
}

/* The image is refused as damaged, and the text says `why`. */
static bool refused(const char *why)
{
	struct err e = ERR_INIT;

	if (try_image(&e) < 0 && e.reason == ERR_IMAGE && strstr(e.text, why))
		return true;
	fprintf(stderr, "expected '%s', reason %d, text '%s'\n", why, e.reason, e.text);
	return false;
}

/* Seal what is in memory, store it, and see it refused. */
static bool sealed_refused(const struct bytes *b, const char *why)
{
	bytes_seal(b);
	return bytes_store(b->p, b->size) && refused(why);
}

/* ---- cases: writing and reading ---- */

static void round_trip(void)
{
	uint8_t want[2 * IMAGE_PAGE], got[2 * IMAGE_PAGE];
	struct err e = ERR_INIT;
	struct image *img = NULL;
	const struct image_run *runs;
	size_t n;

	folder_enter();
	UNIT_CHECK_EQ(sample_write(&e), 0);
	UNIT_CHECK(!exists(part_path));
	UNIT_CHECK_EQ(image_open(&img, image_path, &e), 0);
	UNIT_CHECK_EQ(image_verify_extents(img, NULL, 0, &e), 0);
	UNIT_CHECK_EQ(image_verify_extents(img, NULL, 3, &e), 0);
	UNIT_CHECK_STR(img->path, image_path);
	UNIT_CHECK_EQ(img->meta_size, sizeof(meta_text));
	UNIT_CHECK(!memcmp(img->meta, meta_text, sizeof(meta_text)));
	UNIT_CHECK_EQ(img->n_extents, 3);
	UNIT_CHECK_EQ(img->n_runs, 4);
	for (unsigned i = 0; i < img->n_extents; i++) {
		const struct image_extent *extent = &img->extents[i];

		fill(want, extent->size, i);
		UNIT_CHECK_EQ(fd_pread_full(img->fd, got, extent->size, (off_t)extent->offset), 0);
		UNIT_CHECK(!memcmp(got, want, extent->size));
	}
	runs = image_runs_of(img, IMAGE_OWNER_SPACE(0), &n);
	UNIT_CHECK_EQ(n, 2);
	UNIT_CHECK_EQ(runs[0].addr, 0x5000);
	UNIT_CHECK_EQ(runs[0].pages, 2);
	UNIT_CHECK_EQ(runs[1].addr, 0x7000);
	UNIT_CHECK_EQ(runs[1].extent, 2);
	runs = image_runs_of(img, IMAGE_OWNER_SPACE(1), &n);
	UNIT_CHECK(!runs && !n);
	runs = image_runs_of(img, IMAGE_OWNER_SPACE(2), &n);
	UNIT_CHECK_EQ(n, 1);
	UNIT_CHECK_EQ(runs[0].page, 1);
	runs = image_runs_of(img, IMAGE_OWNER_INODE(1), &n);
	UNIT_CHECK_EQ(n, 1);
	UNIT_CHECK_EQ(runs[0].addr, 0x9000);
	runs = image_runs_of(img, UINT32_MAX, &n);
	UNIT_CHECK(!runs && !n);
	img = image_close(img);
	UNIT_CHECK(folder_leave());
}

/* Metadata of 0, 1, and around a page's size, with no pages at all. */
static void round_trip_no_pages(void)
{
	static const size_t sizes[] = { 0, 1, IMAGE_PAGE - 1, IMAGE_PAGE, IMAGE_PAGE + 1 };
	static uint8_t meta[IMAGE_PAGE + 1];
	struct err e = ERR_INIT;
	size_t n;

	fill(meta, sizeof(meta), 5);
	folder_enter();
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct image_writer *w = NULL;
		struct image *img = NULL;

		UNIT_CHECK_EQ(image_writer_new(&w, image_path, false, &e), 0);
		UNIT_CHECK_EQ(image_writer_commit(w, sizes[i] ? meta : NULL, sizes[i], &e), 0);
		image_writer_free(w);
		UNIT_CHECK_EQ(image_open(&img, image_path, &e), 0);
		UNIT_CHECK_EQ(image_verify_extents(img, NULL, 4, &e), 0);
		UNIT_CHECK_EQ(img->meta_size, sizes[i]);
		UNIT_CHECK(!memcmp(img->meta, meta, sizes[i]));
		UNIT_CHECK(!image_runs_of(img, 0, &n) && !n);
		image_close(img);
	}
	UNIT_CHECK(folder_leave());
}

/* The file of a large image is made longer in steps, before it is written: nothing of that is left in the end. */
static void round_trip_large(void)
{
	enum { EXTENTS = 70 };
	static uint8_t data[IMAGE_EXTENT_MAX];
	struct image_writer *w = NULL;
	struct image *img = NULL;
	struct err e = ERR_INIT;

	fill(data, sizeof(data), 6);
	folder_enter();
	UNIT_CHECK_EQ(image_writer_new(&w, image_path, false, &e), 0);
	for (uint32_t i = 0, extent; i < EXTENTS; i++) {
		struct image_run run = { .addr = (uint64_t)i * IMAGE_EXTENT_MAX, .pages = IMAGE_EXTENT_MAX / IMAGE_PAGE, .extent = i };

		UNIT_CHECK_EQ(image_writer_extent(w, data, sizeof(data), &extent, &e), 0);
		UNIT_CHECK_EQ(image_writer_run(w, &run, &e), 0);
	}
	UNIT_CHECK_EQ(image_writer_commit(w, NULL, 0, &e), 0);
	image_writer_free(w);
	UNIT_CHECK_EQ(image_open(&img, image_path, &e), 0);
	UNIT_CHECK_EQ(img->n_extents, EXTENTS);
	UNIT_CHECK(img->size < (uint64_t)(EXTENTS + 1) * IMAGE_EXTENT_MAX);
	UNIT_CHECK_EQ(image_verify_extents(img, NULL, 4, &e), 0);
	image_close(img);
	UNIT_CHECK(folder_leave());
}

/* A relative name, and an older image that is replaced only by the commit. */
static void replaces_at_commit(void)
{
	struct image_writer *w = NULL;
	struct err e = ERR_INIT;
	struct image *img = NULL;
	char before[PATH_MAX];

	folder_enter();
	UNIT_CHECK(getcwd(before, sizeof(before)) && !chdir(folder));
	UNIT_CHECK_EQ(sample_write(&e), 0);
	UNIT_CHECK_EQ(image_writer_new(&w, "a.torpor", true, &e), 0);
	UNIT_CHECK(!chdir(before));
	UNIT_CHECK(exists(part_path));
	UNIT_CHECK_EQ(try_image(&e), 0);
	UNIT_CHECK_EQ(image_writer_commit(w, "new", 3, &e), 0);
	UNIT_CHECK(image_writer_commit(w, "new", 3, &e) < 0);
	image_writer_free(w);
	UNIT_CHECK_EQ(image_open(&img, image_path, &e), 0);
	UNIT_CHECK_EQ(img->meta_size, 3);
	image_close(img);
	UNIT_CHECK(folder_leave());
}

static void uncommitted_leaves_nothing(void)
{
	struct image_writer *w = NULL, *second = NULL;
	struct err e = ERR_INIT;

	folder_enter();
	UNIT_CHECK_EQ(image_writer_new(&w, image_path, false, &e), 0);
	UNIT_CHECK_EQ(sample_fill(w, &e), 0);
	UNIT_CHECK(exists(part_path) && !exists(image_path));
	/* Somebody else's unfinished file is neither used nor removed. */
	UNIT_CHECK_EQ(image_writer_new(&second, image_path, false, &e), -EEXIST);
	UNIT_CHECK(e.help[0] && exists(part_path));
	w = image_writer_free(w);
	UNIT_CHECK(folder_leave());
}

static void refuses_bad_targets(void)
{
	struct image_writer *w = NULL;
	struct err e = ERR_INIT;
	char path[128];

	folder_enter();
	UNIT_CHECK(image_writer_new(&w, folder, false, &e) < 0 && e.reason == ERR_USAGE);
	snprintf(path, sizeof(path), "%s/", folder);
	UNIT_CHECK(image_writer_new(&w, path, false, &e) < 0 && e.reason == ERR_USAGE);
	UNIT_CHECK(image_writer_new(&w, "", false, &e) < 0 && e.reason == ERR_USAGE);
	UNIT_CHECK(image_writer_new(&w, "/dev/null", false, &e) < 0 && e.reason == ERR_USAGE);
	snprintf(path, sizeof(path), "%s/no/a.torpor", folder);
	UNIT_CHECK_EQ(image_writer_new(&w, path, false, &e), -ENOENT);
	UNIT_CHECK(strstr(e.text, path) && e.help[0]);
	UNIT_CHECK(folder_leave());
}

/* Commit with these runs over one extent of two pages. */
static int commit_runs(const struct image_run *runs, size_t n, struct err *e)
{
	static const uint8_t pages[2 * IMAGE_PAGE];
	struct image_writer *w = NULL;
	uint32_t index;
	int r = image_writer_new(&w, image_path, false, e);

	if (!r)
		r = image_writer_extent(w, pages, sizeof(pages), &index, e);
	for (size_t i = 0; !r && i < n; i++)
		r = image_writer_run(w, &runs[i], e);
	if (!r)
		r = image_writer_commit(w, "m", 1, e);
	image_writer_free(w);
	return r;
}

static void writer_refuses_bad_runs(void)
{
	const struct image_run overlap[] = { { .addr = 0x1000, .pages = 2 }, { .addr = 0x2000, .pages = 1 } };
	const struct image_run twice[] = { { .addr = 0x1000, .pages = 1 }, { .addr = 0x1000, .pages = 1 } };
	const struct image_run shared[] = { { .addr = 0x1000, .pages = 2 },
					    { .addr = 0x1000, .pages = 2, .owner = 1 } };
	const struct image_run outside = { .addr = 0x1000, .pages = 2, .page = 1 };
	const struct image_run far = { .addr = 0x1000, .pages = UINT32_MAX, .page = UINT32_MAX };
	const struct image_run no_extent = { .addr = 0x1000, .pages = 1, .extent = 1 };
	const struct image_run unaligned = { .addr = 0x1001, .pages = 1 };
	const struct image_run empty = { .addr = 0x1000 };
	const struct image_run wraps = { .addr = 0xfffffffffffff000, .pages = 2 };
	struct err e = ERR_INIT;

	folder_enter();
	UNIT_CHECK_EQ(commit_runs(overlap, 2, &e), -EINVAL);
	UNIT_CHECK_EQ(commit_runs(twice, 2, &e), -EINVAL);
	UNIT_CHECK_EQ(commit_runs(&outside, 1, &e), -EINVAL);
	UNIT_CHECK_EQ(commit_runs(&far, 1, &e), -EINVAL);
	UNIT_CHECK_EQ(commit_runs(&no_extent, 1, &e), -EINVAL);
	UNIT_CHECK_EQ(commit_runs(&unaligned, 1, &e), -EINVAL);
	UNIT_CHECK_EQ(commit_runs(&empty, 1, &e), -EINVAL);
	UNIT_CHECK_EQ(commit_runs(&wraps, 1, &e), -EINVAL);
	UNIT_CHECK(!exists(image_path));
	/* Two owners may share stored pages. */
	UNIT_CHECK_EQ(commit_runs(shared, 2, &e), 0);
	UNIT_CHECK_EQ(try_image(&e), 0);
	UNIT_CHECK(folder_leave());
}

static void writer_refuses_bad_extents(void)
{
	static const uint8_t pages[IMAGE_EXTENT_MAX + IMAGE_PAGE];
	struct image_writer *w = NULL;
	struct err e = ERR_INIT;
	uint32_t index;

	folder_enter();
	UNIT_CHECK_EQ(image_writer_new(&w, image_path, false, &e), 0);
	UNIT_CHECK_EQ(image_writer_extent(w, pages, 0, &index, &e), -EINVAL);
	UNIT_CHECK_EQ(image_writer_extent(w, pages, 100, &index, &e), -EINVAL);
	UNIT_CHECK_EQ(image_writer_extent(w, pages, sizeof(pages), &index, &e), -EINVAL);
	UNIT_CHECK_EQ(image_writer_extent(w, pages, IMAGE_EXTENT_MAX, &index, &e), 0);
	UNIT_CHECK_EQ(image_writer_stored(w), IMAGE_EXTENT_MAX);
	image_writer_free(w);
	UNIT_CHECK(folder_leave());
}

/* ---- cases: threads ---- */

struct hammer {
	struct image_writer *w;
	unsigned number;
	int result;
};

/* Each page says whose it is, so that any mix-up shows. */
static void hammer_fill(uint64_t *data, size_t size, unsigned owner, uint64_t addr)
{
	memset(data, 0, size);
	for (size_t at = 0; at < size; at += IMAGE_PAGE) {
		data[at / sizeof(*data)] = owner;
		data[at / sizeof(*data) + 1] = addr + at;
	}
}

static void *hammer_main(void *arg)
{
	struct hammer *h = arg;
	uint64_t *data = malloc(IMAGE_EXTENT_MAX);
	struct err e = ERR_INIT;
	uint64_t addr = 0x10000;

	for (unsigned i = 0; data && !h->result && i < HAMMER_EXTENTS; i++) {
		uint32_t pages = 1 + (i * 37 + h->number * 11) % (IMAGE_EXTENT_MAX / IMAGE_PAGE);
		struct image_run run = { .addr = addr, .owner = h->number, .pages = pages };

		hammer_fill(data, pages * (size_t)IMAGE_PAGE, h->number, addr);
		h->result = image_writer_extent(h->w, data, pages * (size_t)IMAGE_PAGE, &run.extent, &e);
		if (!h->result)
			h->result = image_writer_run(h->w, &run, &e);
		addr += pages * (uint64_t)IMAGE_PAGE;
	}
	free(data);
	return NULL;
}

static bool hammer_page_right(const struct image *img, const struct image_run *run, uint32_t page)
{
	uint64_t at = img->extents[run->extent].offset + ((uint64_t)run->page + page) * IMAGE_PAGE;
	uint64_t got[2];

	return !fd_pread_full(img->fd, got, sizeof(got), (off_t)at) && got[0] == run->owner &&
	       got[1] == run->addr + (uint64_t)page * IMAGE_PAGE;
}

static void several_threads(void)
{
	struct hammer hammers[HAMMER_THREADS] = { 0 };
	pthread_t threads[HAMMER_THREADS];
	struct image_writer *w = NULL;
	struct image *img = NULL;
	struct err e = ERR_INIT;
	uint64_t stored;

	folder_enter();
	UNIT_CHECK_EQ(image_writer_new(&w, image_path, true, &e), 0);
	for (unsigned i = 0; i < HAMMER_THREADS; i++) {
		hammers[i] = (struct hammer){ .w = w, .number = i };
		UNIT_CHECK(!pthread_create(&threads[i], NULL, hammer_main, &hammers[i]));
	}
	for (unsigned i = 0; i < HAMMER_THREADS; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < HAMMER_THREADS; i++)
		UNIT_CHECK_EQ(hammers[i].result, 0);
	stored = image_writer_stored(w);
	UNIT_CHECK_EQ(image_writer_commit(w, "m", 1, &e), 0);
	image_writer_free(w);
	UNIT_CHECK_EQ(image_open(&img, image_path, &e), 0);
	UNIT_CHECK_EQ(image_verify_extents(img, NULL, 4, &e), 0);
	UNIT_CHECK_EQ(img->n_extents, HAMMER_THREADS * HAMMER_EXTENTS);
	UNIT_CHECK_EQ(img->size, stored + 5 * IMAGE_PAGE + image_align(img->n_extents * 32) - IMAGE_PAGE +
					 image_align(img->n_runs * 24) - IMAGE_PAGE + image_align(img->n_sums * 8));
	UNIT_CHECK_EQ(img->n_sums, stored / IMAGE_PAGE);
	for (size_t i = 0; i < img->n_runs; i++) {
		for (uint32_t page = 0; page < img->runs[i].pages; page++)
			UNIT_CHECK(hammer_page_right(img, &img->runs[i], page));
	}
	image_close(img);
	UNIT_CHECK(folder_leave());
}

/* What image_stream_extent() hands over must follow on each other. `stop`: fail when so much has been taken. */
struct taker {
	uint8_t got[IMAGE_EXTENT_MAX];
	uint32_t taken, pieces, stop;
};

static int take_piece(void *arg, uint32_t at, const void *data, uint32_t size, struct err *e)
{
	struct taker *t = arg;

	if (at != t->taken || (t->stop && t->taken >= t->stop))
		return err_set(e, ERR_SYSTEM, 0, "no more");
	memcpy(t->got + at, data, size);
	t->taken += size;
	t->pieces++;
	return 0;
}

static void streams_in_pieces(void)
{
	uint8_t *data = malloc(IMAGE_EXTENT_MAX), *buf = malloc(IMAGE_EXTENT_MAX);
	struct taker *t = calloc(1, sizeof(*t));
	struct image_writer *w = NULL;
	struct image *img = NULL;
	struct bytes b = { 0 };
	struct err e = ERR_INIT;
	uint32_t extent;

	folder_enter();
	fill(data, IMAGE_EXTENT_MAX, 7);
	UNIT_CHECK_EQ(image_writer_new(&w, image_path, false, &e), 0);
	UNIT_CHECK_EQ(image_writer_extent(w, data, IMAGE_EXTENT_MAX, &extent, &e), 0);
	UNIT_CHECK_EQ(image_writer_commit(w, "m", 1, &e), 0);
	image_writer_free(w);
	UNIT_CHECK_EQ(image_open(&img, image_path, &e), 0);
	UNIT_CHECK_EQ(image_stream_extent(img, extent, buf, take_piece, t, &e), 0);
	UNIT_CHECK(t->pieces > 1 && t->taken == IMAGE_EXTENT_MAX && !memcmp(t->got, data, IMAGE_EXTENT_MAX));
	*t = (struct taker){ .stop = 1 };
	UNIT_CHECK(image_stream_extent(img, extent, buf, take_piece, t, &e) < 0);
	UNIT_CHECK(t->pieces == 1 && !strcmp(e.text, "no more"));
	UNIT_CHECK(bytes_load(&b));
	b.p[IMAGE_PAGE + IMAGE_EXTENT_MAX - 1] ^= 1;
	UNIT_CHECK(bytes_store(b.p, b.size));
	*t = (struct taker){ 0 };
	e = ERR_INIT;
	UNIT_CHECK(image_stream_extent(img, extent, buf, take_piece, t, &e) < 0);
	UNIT_CHECK(t->taken == IMAGE_EXTENT_MAX && e.reason == ERR_IMAGE);
	image_close(img);
	free(b.p);
	free(t);
	free(buf);
	free(data);
	UNIT_CHECK(folder_leave());
}

/* Who calls, and how often. */
static void note_caller(void *data)
{
	int *seen = data;

	seen[0] = gettid();
	seen[1]++;
}

/* The lowest damaged extent is named, however many threads look. */
static void names_the_lowest_damage(void)
{
	uint8_t data[IMAGE_PAGE];
	struct image_writer *w = NULL;
	struct image *img = NULL;
	struct bytes b = { 0 };
	struct err e = ERR_INIT;
	int seen[2] = { 0 };

	folder_enter();
	UNIT_CHECK_EQ(image_writer_new(&w, image_path, false, &e), 0);
	for (uint32_t i = 0; i < 64; i++) {
		struct image_run run = { .addr = 0x1000000 + i * 0x1000, .owner = 3, .pages = 1 };

		fill(data, sizeof(data), i);
		UNIT_CHECK_EQ(image_writer_extent(w, data, sizeof(data), &run.extent, &e), 0);
		UNIT_CHECK_EQ(image_writer_run(w, &run, &e), 0);
	}
	UNIT_CHECK_EQ(image_writer_commit(w, "m", 1, &e), 0);
	image_writer_free(w);
	UNIT_CHECK(bytes_load(&b));
	for (size_t i = 20; i < 64; i += 5)
		b.p[(1 + i) * IMAGE_PAGE + 5] ^= 1;
	UNIT_CHECK(bytes_store(b.p, b.size));
	for (int threads = 1, times = 0; threads < 100; threads += 7) {
		UNIT_CHECK_EQ(image_open(&img, image_path, &e), 0);
		UNIT_CHECK(image_verify_extents(img, NULL, threads, &e) < 0);
		UNIT_CHECK_EQ(e.reason, ERR_IMAGE);
		UNIT_CHECK(strstr(e.text, "extent 20, at offset 86016,"));
		UNIT_CHECK(strstr(e.text, "address space 3 at 0x1014000-0x1015000"));
		e = ERR_INIT;
		UNIT_CHECK(image_verify_beside(img, threads, note_caller, seen, &e) < 0);
		UNIT_CHECK(strstr(e.text, "extent 20, at offset 86016,"));
		UNIT_CHECK_EQ(seen[0], gettid());
		UNIT_CHECK_EQ(seen[1], ++times);
		img = image_close(img);
	}
	free(b.p);
	UNIT_CHECK(folder_leave());
}

/* Whoever holds it, and also where nobody does. */
static void verifies_each(void)
{
	static const uint32_t owners[][2] = {
		{ 0, 0 },
		{ 0, 1 },
		{ IMAGE_OWNER_INODE(0), IMAGE_OWNER_INODE(0) },
		{ 1, IMAGE_OWNER_INODE(1) },
		{ UINT32_MAX, UINT32_MAX }, /* nobody's */
	};
	enum { N = sizeof(owners) / sizeof(owners[0]) };
	uint8_t data[IMAGE_PAGE], got[IMAGE_PAGE];
	struct image_writer *w = NULL;
	struct image *img = NULL;
	struct bytes b = { 0 };
	struct err e = ERR_INIT;

	folder_enter();
	UNIT_CHECK_EQ(image_writer_new(&w, image_path, false, &e), 0);
	for (uint32_t i = 0; i < N; i++) {
		struct image_run run = { .pages = 1 };

		fill(data, sizeof(data), i);
		UNIT_CHECK_EQ(image_writer_extent(w, data, sizeof(data), &run.extent, &e), 0);
		for (uint32_t k = 0; k < 2 && owners[i][0] != UINT32_MAX; k++) {
			run.owner = owners[i][k];
			run.addr = (1 + 2 * i + k) * 0x1000;
			UNIT_CHECK_EQ(image_writer_run(w, &run, &e), 0);
		}
	}
	UNIT_CHECK_EQ(image_writer_commit(w, "m", 1, &e), 0);
	image_writer_free(w);
	UNIT_CHECK(bytes_load(&b));
	for (uint32_t i = 0; i < N; i++) {
		size_t at = (1 + (size_t)i) * IMAGE_PAGE + 77;

		b.p[at] ^= 4;
		UNIT_CHECK(bytes_store(b.p, b.size));
		b.p[at] ^= 4;
		UNIT_CHECK_EQ(image_open(&img, image_path, &e), 0);
		UNIT_CHECK(image_verify_extents(img, NULL, 2, &e) < 0);
		for (uint32_t k = 0; k < N; k++) {
			bool except[N] = { 0 };

			except[k] = true;
			UNIT_CHECK((image_verify_extents(img, except, 2, &e) == 0) == (k == i));
			e = ERR_INIT;
			fill(data, sizeof(data), k);
			UNIT_CHECK((image_read_extent(img, k, got, &e) < 0) == (k == i));
			UNIT_CHECK(k == i ? e.reason == ERR_IMAGE : !memcmp(got, data, sizeof(got)));
		}
		img = image_close(img);
	}
	free(b.p);
	UNIT_CHECK(folder_leave());
}

/* ---- cases: damage ---- */

/* One bit of each byte from `from` to `to`, in turn; after that the image is as it was. */
static void refuses_flips(int fd, const struct bytes *b, size_t from, size_t to)
{
	struct err e = ERR_INIT;

	for (size_t i = from; i < to; i++) {
		uint8_t flipped = b->p[i] ^ (uint8_t)(1u << (i * 5 + i / 8) % 8);

		UNIT_CHECK_EQ(fd_pwrite_full(fd, &flipped, 1, (off_t)i), 0);
		UNIT_CHECK(try_image(&e) < 0);
		UNIT_CHECK_EQ(e.reason, ERR_IMAGE);
		UNIT_CHECK_EQ(fd_pwrite_full(fd, &b->p[i], 1, (off_t)i), 0);
	}
	UNIT_CHECK_EQ(try_image(&e), 0);
}

/* Every byte of the file, one bit of it at a time (all eight would only take longer). */
static void every_flip_is_refused(void)
{
	cleanup_close int fd = -1;
	struct bytes b = { 0 };

	folder_enter();
	UNIT_CHECK(bytes_sample(&b));
	fd = open(image_path, O_WRONLY | O_CLOEXEC);
	UNIT_CHECK(fd >= 0);
	refuses_flips(fd, &b, 0, b.size);
	free(b.p);
	UNIT_CHECK(folder_leave());
}

/* Eight bits of each byte where the reader takes decisions: the two ends and the tables. */
static void every_bit_of_the_fields_is_refused(void)
{
	cleanup_close int fd = -1;
	struct bytes b = { 0 };
	struct err e = ERR_INIT;

	folder_enter();
	UNIT_CHECK(bytes_sample(&b));
	fd = open(image_path, O_WRONLY | O_CLOEXEC);
	UNIT_CHECK(fd >= 0);
	for (size_t i = 0; i < b.size; i++) {
		if (i % IMAGE_PAGE > 128 && i % IMAGE_PAGE < IMAGE_PAGE - 16)
			continue;
		for (unsigned bit = 0; bit < 8; bit++) {
			uint8_t flipped = b.p[i] ^ (uint8_t)(1u << bit);

			UNIT_CHECK_EQ(fd_pwrite_full(fd, &flipped, 1, (off_t)i), 0);
			UNIT_CHECK(try_image(&e) < 0);
			UNIT_CHECK_EQ(e.reason, ERR_IMAGE);
		}
		UNIT_CHECK_EQ(fd_pwrite_full(fd, &b.p[i], 1, (off_t)i), 0);
	}
	free(b.p);
	UNIT_CHECK(folder_leave());
}

static void every_truncation_is_refused(void)
{
	struct bytes b = { 0 };

	folder_enter();
	UNIT_CHECK(bytes_sample(&b));
	for (size_t size = b.size - STEP; size > 0; size -= STEP) {
		UNIT_CHECK(!truncate(image_path, (off_t)size));
		UNIT_CHECK(refused("was cut off"));
	}
	for (size_t size = 0; size < 16; size++) {
		UNIT_CHECK(bytes_store(b.p, size));
		UNIT_CHECK(refused("was cut off"));
	}
	free(b.p);
	UNIT_CHECK(folder_leave());
}

static void additions_are_refused(void)
{
	struct bytes b = { 0 };
	uint8_t *more;

	folder_enter();
	UNIT_CHECK(bytes_sample(&b));
	more = calloc(3, b.size);
	UNIT_CHECK(more);
	memcpy(more, b.p, b.size);
	UNIT_CHECK(bytes_store(more, b.size + 1) && refused("was cut off"));
	UNIT_CHECK(bytes_store(more, b.size + IMAGE_PAGE) && refused("was cut off"));
	/* Two images one after the other: both ends are in order. */
	memcpy(more + b.size, b.p, b.size);
	UNIT_CHECK(bytes_store(more, 2 * b.size) && refused("was cut off"));
	free(more);
	free(b.p);
	UNIT_CHECK(folder_leave());
}

static void foreign_files_are_refused(void)
{
	static const char text[] = "#!/bin/sh\necho not an image\n";
	struct err e = ERR_INIT;
	struct image *img = NULL;
	uint8_t zeros[2 * IMAGE_PAGE] = { 0 };

	folder_enter();
	UNIT_CHECK_EQ(image_open(&img, image_path, &e), -ENOENT);
	UNIT_CHECK(strstr(e.text, image_path));
	UNIT_CHECK(bytes_store((const uint8_t *)text, sizeof(text)) && refused("not a torpor image"));
	UNIT_CHECK(bytes_store(zeros, sizeof(zeros)) && refused("not a torpor image"));
	unlink(image_path);
	UNIT_CHECK(!mkfifo(image_path, 0600));
	UNIT_CHECK(refused("not a regular file"));
	UNIT_CHECK(image_open(&img, folder, &e) < 0 && e.reason == ERR_IMAGE);
	UNIT_CHECK(image_open(&img, "/dev/zero", &e) < 0 && e.reason == ERR_IMAGE);
	UNIT_CHECK(folder_leave());
}

static void newer_version_is_refused(void)
{
	struct bytes b = { 0 };
	struct err e = ERR_INIT;

	folder_enter();
	UNIT_CHECK(bytes_sample(&b));
	bytes_header(&b)->version = IMAGE_VERSION + 1;
	/* Not sealed, it is damage; sealed, it is news. */
	UNIT_CHECK(bytes_store(b.p, b.size) && refused("checksum of its header"));
	UNIT_CHECK(sealed_refused(&b, "newer torpor"));
	UNIT_CHECK(try_image(&e) < 0 && e.help[0]);
	bytes_header(&b)->version = 0;
	UNIT_CHECK(sealed_refused(&b, "header makes no sense"));
	free(b.p);
	UNIT_CHECK(folder_leave());
}

static void damage_is_named(void)
{
	static const struct {
		size_t page;
		size_t at;
		const char *why;
	} damages[] = {
		{ 0, 3, "not a torpor image" },
		{ 0, 2000, "checksum of its header" },
		{ 1, 0, "address space 0 at 0x5000-0x7000" },
		{ 3, 9, "inode 1 at 0x9000-0xa000" },
		{ 6, 5, "checksum of its metadata" },
		{ 6, 4000, "padding after its metadata" },
		{ 7, 5, "checksum of its index of extents" },
		{ 7, 4000, "padding after its index of extents" },
		{ 8, 5, "checksum of its index of runs" },
		{ 8, 4000, "padding after its index of runs" },
		{ 9, 5, "checksum of its index of page sums" },
		{ 9, 4000, "padding after its index of page sums" },
		{ 10, 2, "was cut off" },
		{ 10, 50, "checksum of its trailer" },
		{ 10, 4095, "checksum of its trailer" },
	};
	struct bytes b = { 0 };

	folder_enter();
	UNIT_CHECK(bytes_sample(&b));
	UNIT_CHECK_EQ(b.size, 11 * IMAGE_PAGE);
	for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
		uint8_t *p = &b.p[damages[i].page * IMAGE_PAGE + damages[i].at];

		*p ^= 0x20;
		UNIT_CHECK(bytes_store(b.p, b.size) && refused(damages[i].why));
		*p ^= 0x20;
	}
	free(b.p);
	UNIT_CHECK(folder_leave());
}

/* ---- cases: hostile images, sealed as if torpor had written them ---- */

static void swapped_extents_are_refused(void)
{
	uint8_t page[IMAGE_PAGE];
	struct image_extent extent;
	struct bytes b = { 0 };

	folder_enter();
	UNIT_CHECK(bytes_sample(&b));
	/* The contents of two pages change places. */
	memcpy(page, b.p + 1 * IMAGE_PAGE, IMAGE_PAGE);
	memcpy(b.p + 1 * IMAGE_PAGE, b.p + 3 * IMAGE_PAGE, IMAGE_PAGE);
	memcpy(b.p + 3 * IMAGE_PAGE, page, IMAGE_PAGE);
	UNIT_CHECK(sealed_refused(&b, "checksum of extent 0"));
	free(b.p);
	/* Two entries of the table do. */
	UNIT_CHECK(bytes_sample(&b));
	extent = bytes_extents(&b)[0];
	bytes_extents(&b)[0] = bytes_extents(&b)[2];
	bytes_extents(&b)[2] = extent;
	UNIT_CHECK(sealed_refused(&b, "not where it must be"));
	/* Their checksums only. */
	bytes_extents(&b)[2].offset = bytes_extents(&b)[0].offset;
	bytes_extents(&b)[0].offset = IMAGE_PAGE;
	UNIT_CHECK(sealed_refused(&b, "checksum of extent 0"));
	free(b.p);
	UNIT_CHECK(folder_leave());
}

/* The head of one sound image and the tail of another, of the same size. */
static void spliced_images_are_refused(void)
{
	struct bytes a = { 0 }, b = { 0 };

	folder_enter();
	UNIT_CHECK(bytes_sample(&a) && bytes_sample(&b));
	memcpy(bytes_header(&b)->id, bytes_header(&a)->id, IMAGE_ID_SIZE);
	b.p[2 * IMAGE_PAGE] ^= 1;
	bytes_extents(&b)[0].checksum = image_checksum(b.p + IMAGE_PAGE, 2 * IMAGE_PAGE);
	memcpy(bytes_sums(&b), bytes_sums(&a), bytes_trailer(&a)->sums.count * sizeof(uint64_t));
	bytes_sums(&b)[1] = image_page_sum(image_seed(bytes_header(&b)->id), b.p + 2 * IMAGE_PAGE);
	bytes_seal(&b);
	UNIT_CHECK(bytes_store(b.p, b.size));
	UNIT_CHECK_EQ(try_image(&(struct err){ 0 }), 0);
	for (size_t cut = 2; cut < a.size / IMAGE_PAGE; cut++) {
		struct bytes c = { .p = malloc(a.size), .size = a.size };

		UNIT_CHECK(c.p);
		memcpy(c.p, a.p, cut * IMAGE_PAGE);
		memcpy(c.p + cut * IMAGE_PAGE, b.p + cut * IMAGE_PAGE, a.size - cut * IMAGE_PAGE);
		UNIT_CHECK(bytes_store(c.p, c.size));
		/* With the second page from b, and no table from a, it is b. */
		UNIT_CHECK_EQ(try_image(&(struct err){ 0 }) == 0, cut == 2);
		free(c.p);
	}
	free(a.p);
	free(b.p);
	UNIT_CHECK(folder_leave());
}

/* One field of an image gets another value, all checksums are right. */
#define HOSTILE(what, why)                                     \
	do {                                                   \
		struct bytes b = { 0 };                        \
		UNIT_CHECK(bytes_sample(&b));                  \
		{ what; }                                      \
		UNIT_CHECK(sealed_refused(&b, why));           \
		free(b.p);                                     \
	} while (0)

static void hostile_ends_are_refused(void)
{
	folder_enter();
	HOSTILE(bytes_header(&b)->page_size = 8192, "header makes no sense");
	HOSTILE(bytes_header(&b)->zero[7] = 1, "header makes no sense");
	HOSTILE(bytes_trailer(&b)->zero[7] = 1, "trailer makes no sense");
	HOSTILE(bytes_trailer(&b)->file_size += IMAGE_PAGE, "was cut off");
	HOSTILE(bytes_trailer(&b)->file_size = UINT64_MAX, "was cut off");
	folder_leave();
}

static void hostile_blocks_are_refused(void)
{
	folder_enter();
	HOSTILE(bytes_trailer(&b)->meta.offset = 0, "outside");
	HOSTILE(bytes_trailer(&b)->meta.offset += 1, "outside");
	HOSTILE(bytes_trailer(&b)->meta.offset = 0xfffffffffffff000, "outside");
	HOSTILE(bytes_trailer(&b)->meta.offset = b.size, "outside");
	HOSTILE(bytes_trailer(&b)->meta.offset -= IMAGE_PAGE, "outside");
	HOSTILE(bytes_trailer(&b)->meta.count = UINT64_MAX, "outside");
	HOSTILE(bytes_trailer(&b)->meta.count += IMAGE_PAGE, "outside");
	HOSTILE(bytes_trailer(&b)->extents.offset = 4 * IMAGE_PAGE, "outside");
	HOSTILE(bytes_trailer(&b)->extents.count = UINT64_MAX / 32 + 2, "outside");
	HOSTILE(bytes_trailer(&b)->extents.count = 1000, "outside");
	HOSTILE(bytes_trailer(&b)->extents.count = 0, "outside");
	HOSTILE(bytes_trailer(&b)->extents.count = 2, "padding");
	HOSTILE(bytes_trailer(&b)->runs.offset += IMAGE_PAGE, "outside");
	HOSTILE(bytes_trailer(&b)->runs.count = UINT64_MAX, "outside");
	HOSTILE(bytes_trailer(&b)->runs.count = 171, "outside");
	HOSTILE(bytes_trailer(&b)->runs.count = 0, "outside");
	HOSTILE(bytes_trailer(&b)->runs.count = 170, "makes no sense");
	HOSTILE(bytes_trailer(&b)->sums.offset += IMAGE_PAGE, "outside");
	HOSTILE(bytes_trailer(&b)->sums.count = UINT64_MAX, "outside");
	HOSTILE(bytes_trailer(&b)->sums.count = 0, "outside");
	HOSTILE(bytes_trailer(&b)->sums.count = 4, "padding");
	HOSTILE(bytes_trailer(&b)->sums.count = 6, "is not that of its pages");
	HOSTILE(bytes_sums(&b)[2] ^= 1, "pages of extent 1");
	HOSTILE(bytes_trailer(&b)->parent.offset = 0, "outside");
	HOSTILE(bytes_trailer(&b)->parent.count = IMAGE_PAGE, "outside");
	folder_leave();
}

static void hostile_extents_are_refused(void)
{
	folder_enter();
	HOSTILE(bytes_extents(&b)[1].codec = IMAGE_CODEC_ZSTD, "extent 1 makes no sense");
	HOSTILE(bytes_extents(&b)[1].codec = IMAGE_CODEC_LZ4, "extent 1 makes no sense");
	HOSTILE(bytes_extents(&b)[1].codec = IMAGE_CODEC_PARENT, "extent 1 makes no sense");
	HOSTILE(bytes_extents(&b)[1].codec = IMAGE_CODEC_PARENT + 1, "extent 1 makes no sense");
	HOSTILE(bytes_extents(&b)[2].codec = IMAGE_CODEC_LZ4; bytes_extents(&b)[2].stored = 4096, "belong to nothing");
	HOSTILE(bytes_extents(&b)[1].reserved = 1, "extent 1 makes no sense");
	HOSTILE(bytes_extents(&b)[1].stored = 0, "extent 1 makes no sense");
	HOSTILE(bytes_extents(&b)[1].size = 2 * IMAGE_PAGE, "extent 1 makes no sense");
	HOSTILE(bytes_extents(&b)[1].size = bytes_extents(&b)[1].stored = 0, "extent 1 makes no sense");
	HOSTILE(bytes_extents(&b)[1].size = bytes_extents(&b)[1].stored = 4097, "extent 1 makes no sense");
	HOSTILE(bytes_extents(&b)[1].size = bytes_extents(&b)[1].stored = 0xfffff000,
		"extent 1 makes no sense");
	HOSTILE(bytes_extents(&b)[1].size = bytes_extents(&b)[1].stored = 8192, "extent 2 is not where");
	HOSTILE(bytes_extents(&b)[2].size = bytes_extents(&b)[2].stored = 12288, "extent 2 is not where");
	HOSTILE(bytes_extents(&b)[2].size = bytes_extents(&b)[2].stored = 4096, "belong to nothing");
	HOSTILE(bytes_extents(&b)[1].offset = IMAGE_PAGE, "extent 1 is not where");
	HOSTILE(bytes_extents(&b)[0].offset = 0, "extent 0 is not where");
	HOSTILE(bytes_extents(&b)[2].offset = 0xfffffffffffff000, "extent 2 is not where");
	folder_leave();
}

static void hostile_runs_are_refused(void)
{
	folder_enter();
	HOSTILE(bytes_runs(&b)[1].addr += 1, "run 1 makes no sense");
	HOSTILE(bytes_runs(&b)[1].addr = 0x6000, "run 1 is out of order");
	HOSTILE(bytes_runs(&b)[1].addr = 0x5000, "run 1 is out of order");
	HOSTILE(bytes_runs(&b)[0].addr = 0xffffffffffffe000, "run 0 makes no sense");
	HOSTILE(bytes_runs(&b)[0].pages = 0, "run 0 makes no sense");
	HOSTILE(bytes_runs(&b)[0].pages = 3, "run 0 makes no sense");
	HOSTILE(bytes_runs(&b)[0].page = 1, "run 0 makes no sense");
	HOSTILE(bytes_runs(&b)[0].page = UINT32_MAX, "run 0 makes no sense");
	HOSTILE(bytes_runs(&b)[0].extent = 3, "run 0 makes no sense");
	HOSTILE(bytes_runs(&b)[0].extent = UINT32_MAX, "run 0 makes no sense");
	HOSTILE(bytes_runs(&b)[2].owner = 0xffffffff, "run 3 is out of order");
	folder_leave();
}

/* ---- cases: the older version ---- */

/* A sample as version 1 had it: no id, no sums. */
static bool bytes_sample_old(struct bytes *b)
{
	if (!bytes_sample(b))
		return false;
	memmove(b->p + 9 * IMAGE_PAGE, b->p + 10 * IMAGE_PAGE, IMAGE_PAGE);
	b->size = 10 * IMAGE_PAGE;
	bytes_header(b)->version = 1;
	memset(bytes_header(b)->id, 0, IMAGE_ID_SIZE);
	bytes_trailer(b)->file_size = b->size;
	memset(&bytes_trailer(b)->sums, 0, sizeof(struct image_block));
	memset(&bytes_trailer(b)->parent, 0, sizeof(struct image_block));
	bytes_seal(b);
	return true;
}

static void older_version_is_read(void)
{
	uint8_t want[2 * IMAGE_PAGE], got[2 * IMAGE_PAGE];
	struct image *img = NULL;
	struct bytes b = { 0 };
	struct err e = ERR_INIT;
	uint64_t sum, seed;

	folder_enter();
	UNIT_CHECK(bytes_sample_old(&b) && bytes_store(b.p, b.size));
	UNIT_CHECK_EQ(image_open(&img, image_path, &e), 0);
	UNIT_CHECK_EQ(image_verify_extents(img, NULL, 2, &e), 0);
	fill(want, sizeof(want), 2);
	UNIT_CHECK_EQ(image_read_extent(img, 2, got, &e), 0);
	UNIT_CHECK(!memcmp(got, want, sizeof(got)));
	UNIT_CHECK_EQ(image_read_sums(img, 2, 0, 1, &sum, &seed, &e), -ENODATA);
	image_close(img);
	free(b.p);
#define HOSTILE_OLD(what, why)                                                        \
	do {                                                                          \
		UNIT_CHECK(bytes_sample_old(&b));                                     \
		{ what; }                                                             \
		UNIT_CHECK(sealed_refused(&b, why));                                  \
		free(b.p);                                                            \
	} while (0)
	HOSTILE_OLD(bytes_header(&b)->id[3] = 1, "header makes no sense");
	HOSTILE_OLD(bytes_trailer(&b)->sums.count = 5, "trailer makes no sense");
	HOSTILE_OLD(bytes_trailer(&b)->parent.offset = 9 * IMAGE_PAGE, "trailer makes no sense");
	HOSTILE_OLD(bytes_extents(&b)[2].codec = IMAGE_CODEC_LZ4; bytes_extents(&b)[2].stored = 4096, "extent 2 makes no sense");
	UNIT_CHECK(folder_leave());
}

/* ---- cases: packed extents ---- */

enum { PACKED_PAGES = 20 };

/* Pages that shrink, with something of their own in each. */
static void packed_fill(uint8_t *pages, unsigned seed)
{
	for (size_t i = 0; i < PACKED_PAGES * IMAGE_PAGE; i++)
		pages[i] = (uint8_t)(i % 61 + (i / IMAGE_PAGE) * 3 + seed);
}

/* An image with one extent of each of the packings given. */
static int packed_write(const char *const *texts, size_t n, struct err *e)
{
	static uint8_t pages[PACKED_PAGES * IMAGE_PAGE];
	uint64_t sums[PACKED_PAGES];
	struct image_packer *p = image_packer_new();
	struct image_writer *w = NULL;
	int r = image_writer_new(&w, image_path, false, e);

	for (size_t i = 0; !r && i < n; i++) {
		struct image_packed x = { .sums = sums };
		struct image_run run = { .addr = 0x10000, .owner = (uint32_t)i, .pages = PACKED_PAGES };
		struct image_packing packing;

		packed_fill(pages, (unsigned)i);
		image_page_sums(image_writer_seed(w), pages, PACKED_PAGES, sums);
		r = image_packing_parse(texts[i], &packing) ? 0 : err_set(e, ERR_USAGE, 0, "%s", texts[i]);
		image_pack(p, &packing, pages, sizeof(pages), &x);
		if (!r && x.codec != packing.codec)
			r = err_set(e, ERR_STATE, 0, "%s was not used", texts[i]);
		r = r ?: image_writer_packed(w, &x, &run.extent, e);
		r = r ?: image_writer_run(w, &run, e);
	}
	r = r ?: image_writer_commit(w, "m", 1, e);
	image_writer_free(w);
	image_packer_free(p);
	return r;
}

static const char *const packings[] = { "zstd", "lz4", "none", "zstd:7" };
enum { PACKINGS = sizeof(packings) / sizeof(packings[0]) };

static void packed_round_trip(void)
{
	static uint8_t want[PACKED_PAGES * IMAGE_PAGE], got[PACKED_PAGES * IMAGE_PAGE];
	struct image *img = NULL;
	struct err e = ERR_INIT;

	folder_enter();
	UNIT_CHECK_EQ(packed_write(packings, PACKINGS, &e), 0);
	UNIT_CHECK_EQ(image_open(&img, image_path, &e), 0);
	UNIT_CHECK_EQ(image_verify_extents(img, NULL, 3, &e), 0);
	UNIT_CHECK_EQ(image_verify_pages(img, 3, &e), 0);
	for (unsigned i = 0; i < PACKINGS; i++) {
		struct image_cursor cursor = { .img = img };

		packed_fill(want, i);
		UNIT_CHECK_EQ(image_read_extent(img, i, got, &e), 0);
		UNIT_CHECK(!memcmp(got, want, sizeof(got)));
		UNIT_CHECK((img->extents[i].codec == IMAGE_CODEC_RAW) == (i == 2));
		memset(got, 0, sizeof(got));
		UNIT_CHECK_EQ(image_cursor_read(&cursor, &img->runs[i], 3 * IMAGE_PAGE, got, 2 * IMAGE_PAGE, &e), 0);
		UNIT_CHECK_EQ(image_cursor_read(&cursor, &img->runs[i], 0, got + 2 * IMAGE_PAGE, IMAGE_PAGE, &e), 0);
		UNIT_CHECK(!memcmp(got, want + 3 * IMAGE_PAGE, 2 * IMAGE_PAGE));
		UNIT_CHECK(!memcmp(got + 2 * IMAGE_PAGE, want, IMAGE_PAGE));
		image_cursor_done(&cursor);
	}
	img = image_close(img);
	UNIT_CHECK(folder_leave());
}

static void packing_words(void)
{
	static const char *const bad[] = { "", "zst", "zstd:", "zstd:0", "zstd:20", "zstd:-1", "zstd:1x", "lz4:1", "auto " };
	struct image_packing packing;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		UNIT_CHECK(!image_packing_parse(bad[i], &packing));
	UNIT_CHECK(image_packing_parse("zstd:19", &packing) && packing.codec == IMAGE_CODEC_ZSTD && packing.level == 19);
	UNIT_CHECK(image_packing_parse("lz4", &packing) && packing.codec == IMAGE_CODEC_LZ4);
	UNIT_CHECK(image_packing_parse("none", &packing) && packing.codec == IMAGE_CODEC_RAW && !packing.automatic);
	UNIT_CHECK(image_packing_parse("auto", &packing) && packing.automatic);
}

enum { MIB = 1024 * 1024 };

/* One extent of memory that packs like a heap: to so many percent, in so much CPU time: raw, lz4, zstd. */
static const struct { uint32_t percent; uint64_t ns; } heap[] = {
	[IMAGE_CODEC_RAW] = { 100, 300000 }, [IMAGE_CODEC_LZ4] = { 42, 1500000 }, [IMAGE_CODEC_ZSTD] = { 28, 3200000 },
}, sparse[] = {
	[IMAGE_CODEC_RAW] = { 100, 300000 }, [IMAGE_CODEC_LZ4] = { 6, 320000 }, [IMAGE_CODEC_ZSTD] = { 4, 900000 },
};

/* So many extents of such memory, each as pace_choose() says. Returns how many were not raw. */
static int pace_run(struct pace *p, const typeof(heap[0]) *memory, int extents)
{
	int packed = 0;

	for (int i = 0; i < extents; i++) {
		struct image_packing how = pace_choose(p);

		packed += how.codec != IMAGE_CODEC_RAW;
		pace_note(p, &how, MIB, MIB * memory[how.codec].percent / 100, memory[how.codec].ns);
	}
	return packed;
}

static void pace_begin(struct pace *p, struct image_writer *w)
{
	pace_init(p, w);
	pace_expect(p, 2);
	p->looked_at = 1ull << 60; /* no look of its own */
}

/* What is chosen after such looks, the second of them at a disk of so many bytes per second, 0: as before. */
static enum image_codec pace_for(struct image_writer *w, uint64_t disk, uint64_t waiting, uint64_t ns)
{
	struct pace p;

	pace_begin(&p, w);
	pace_see(&p, 1000ull * MIB, waiting, ns);
	p.looked_at = 1ull << 60;
	pace_run(&p, heap, 30);
	pace_see(&p, 1000ull * MIB, waiting, disk ? (1000ull * MIB - waiting) * 1000000000 / disk : ns);
	return p.codecs[p.choice].packing.codec;
}

/* Packed where the disk lags behind, and would be done sooner. */
static void packing_keeps_pace(void)
{
	struct image_writer *w = NULL;
	struct err e = ERR_INIT;
	uint64_t waiting;

	folder_enter();
	UNIT_CHECK_EQ(image_writer_new(&w, image_path, true, &e), 0);
	waiting = 500ull * MIB;
	/* 100 MB/s: the denser the better. 500 MB/s: zstd would not keep up. 2 GB/s: nothing would. */
	UNIT_CHECK_EQ(pace_for(w, 0, waiting, 5000000000), IMAGE_CODEC_ZSTD);
	UNIT_CHECK_EQ(pace_for(w, 0, waiting, 1000000000), IMAGE_CODEC_LZ4);
	UNIT_CHECK_EQ(pace_for(w, 0, waiting, 250000000), IMAGE_CODEC_RAW);
	/* It takes all, it has hardly begun, or it was faster at last. */
	UNIT_CHECK_EQ(pace_for(w, 0, 2 * MIB, 5000000000), IMAGE_CODEC_RAW);
	UNIT_CHECK_EQ(pace_for(w, 0, waiting, 100000000), IMAGE_CODEC_RAW);
	UNIT_CHECK_EQ(pace_for(w, 2000000000, waiting, 5000000000), IMAGE_CODEC_RAW);
	image_writer_free(w);
	UNIT_CHECK(folder_leave());
}

/* Whatever the disk does: packed where that takes hardly more than to write it raw, and only as long as the memory is like that. */
static void packing_follows_the_memory(void)
{
	struct image_writer *w = NULL;
	struct err e = ERR_INIT;
	struct pace p;

	folder_enter();
	UNIT_CHECK_EQ(image_writer_new(&w, image_path, false, &e), 0);
	pace_begin(&p, w);
	UNIT_CHECK_EQ(pace_run(&p, sparse, 4), 0); /* a small target is raw */
	UNIT_CHECK_EQ(pace_run(&p, sparse, 100) > 90, 1);
	UNIT_CHECK_EQ(p.codecs[p.choice].packing.codec, IMAGE_CODEC_LZ4);
	pace_run(&p, heap, 30);
	UNIT_CHECK_EQ(p.codecs[p.choice].packing.codec, IMAGE_CODEC_RAW);

	pace_begin(&p, w);
	UNIT_CHECK_EQ(pace_run(&p, heap, 1000) < 10, 1); /* trials */
	pace_run(&p, sparse, 2000); /* the next trials find it */
	UNIT_CHECK_EQ(p.codecs[p.choice].packing.codec, IMAGE_CODEC_LZ4);
	image_writer_free(w);
	UNIT_CHECK(folder_leave());
}

/* What does not shrink is stored as it is. */
static void random_pages_stay_raw(void)
{
	static uint8_t pages[8 * IMAGE_PAGE];
	struct image_packer *p = image_packer_new();
	struct image_packing packing;
	struct image_packed x;
	uint64_t state = 1;

	for (size_t i = 0; i < sizeof(pages); i++) {
		state = state * 6364136223846793005ull + 1442695040888963407ull;
		pages[i] = (uint8_t)(state >> 56);
	}
	UNIT_CHECK(p);
	for (size_t i = 0; i < PACKINGS; i++) {
		UNIT_CHECK(image_packing_parse(packings[i], &packing));
		image_pack(p, &packing, pages, sizeof(pages), &x);
		UNIT_CHECK(x.codec == IMAGE_CODEC_RAW && x.data == pages && x.stored == sizeof(pages) && x.size == sizeof(pages));
	}
	image_packer_free(p);
}

/* Every byte of packed extents and of the zeros behind them. */
static void every_flip_of_packed_is_refused(void)
{
	cleanup_close int fd = -1;
	struct bytes b = { 0 };
	struct err e = ERR_INIT;

	folder_enter();
	UNIT_CHECK(packed_write(packings, 2, &e) == 0 && bytes_load(&b));
	fd = open(image_path, O_WRONLY | O_CLOEXEC);
	UNIT_CHECK(fd >= 0);
	refuses_flips(fd, &b, IMAGE_PAGE, bytes_trailer(&b)->meta.offset);
	free(b.p);
	UNIT_CHECK(folder_leave());
}

/* As if torpor had written it: with a checksum that is right. */
static void packed_seal(const struct bytes *b, size_t extent)
{
	struct image_extent *x = &bytes_extents(b)[extent];

	x->checksum = image_checksum(b->p + x->offset, x->stored);
}

#define HOSTILE_PACKED(what, why)                                                     \
	do {                                                                          \
		struct bytes b = { 0 };                                               \
		struct err e = ERR_INIT;                                              \
		UNIT_CHECK(packed_write(packings, PACKINGS, &e) == 0 && bytes_load(&b)); \
		{ what; }                                                             \
		UNIT_CHECK(sealed_refused(&b, why));                                  \
		free(b.p);                                                            \
	} while (0)

/* No frame may unpack to more, or less, than the table says, whatever the frame itself says. */
static void hostile_packed_extents_are_refused(void)
{
	folder_enter();
	for (size_t i = 0; i < 2; i++) {
		const size_t most = IMAGE_EXTENT_MAX;

		HOSTILE_PACKED(bytes_extents(&b)[i].size -= IMAGE_PAGE, "is not that of its pages");
		HOSTILE_PACKED(bytes_extents(&b)[i].size = IMAGE_PAGE, "makes no sense");
		HOSTILE_PACKED(bytes_extents(&b)[i].size = most + IMAGE_PAGE, "makes no sense");
		HOSTILE_PACKED(bytes_extents(&b)[i].stored = 0, "makes no sense");
		HOSTILE_PACKED(bytes_extents(&b)[i].stored = bytes_extents(&b)[i].size, "makes no sense");
		HOSTILE_PACKED(bytes_extents(&b)[i].stored += IMAGE_PAGE, "is not where it must be");
		/* A frame that is cut off; one with something behind it; one of the other sort; none. */
		HOSTILE_PACKED(bytes_extents(&b)[i].stored--; packed_seal(&b, i), "padding");
		HOSTILE_PACKED(b.p[bytes_extents(&b)[i].offset + --bytes_extents(&b)[i].stored] = 0; packed_seal(&b, i),
			       "cannot be unpacked");
		HOSTILE_PACKED(bytes_extents(&b)[i].stored++; packed_seal(&b, i), "cannot be unpacked");
		HOSTILE_PACKED(bytes_extents(&b)[i].codec ^= 3, "cannot be unpacked");
		HOSTILE_PACKED(memset(b.p + bytes_extents(&b)[i].offset, 0xff, 16); packed_seal(&b, i), "cannot be unpacked");
		/* It unpacks to other pages than those that were packed. */
		HOSTILE_PACKED(bytes_sums(&b)[i * PACKED_PAGES + 7] ^= 1, "are not those of its index of page sums");
	}
	folder_leave();
}

/* Frames of other sizes than the table says: one that unpacks to more is not followed beyond it. */
static void bombs_are_refused(void)
{
	static const char *const other[] = { "zstd", "lz4" };

	folder_enter();
	for (size_t i = 0; i < 2; i++) {
		struct bytes b = { 0 };
		struct image *img = NULL;
		struct err e = ERR_INIT;
		uint8_t *buf = malloc(IMAGE_EXTENT_MAX);

		UNIT_CHECK(buf && packed_write(&other[i], 1, &e) == 0 && bytes_load(&b));
		/* The sums say the same, so that the size stands alone against the frame. */
		bytes_extents(&b)[0].size -= IMAGE_PAGE;
		bytes_trailer(&b)->sums.count--;
		bytes_sums(&b)[PACKED_PAGES - 1] = 0;
		bytes_runs(&b)[0].pages--;
		UNIT_CHECK(sealed_refused(&b, "cannot be unpacked"));
		UNIT_CHECK_EQ(image_open(&img, image_path, &e), 0);
		memset(buf, 0xa5, IMAGE_EXTENT_MAX);
		UNIT_CHECK(image_read_extent(img, 0, buf, &e) < 0 && e.reason == ERR_IMAGE);
		for (size_t at = (PACKED_PAGES - 1) * IMAGE_PAGE; at < IMAGE_EXTENT_MAX; at++)
			UNIT_CHECK_EQ(buf[at], 0xa5);
		image_close(img);
		/* And to less. */
		bytes_extents(&b)[0].size += 2 * IMAGE_PAGE;
		bytes_trailer(&b)->sums.count += 2;
		UNIT_CHECK(sealed_refused(&b, "cannot be unpacked"));
		free(buf);
		free(b.p);
	}
	UNIT_CHECK(folder_leave());
}

/* ---- cases: chains ---- */

static char parent_path[160], third_path[160];

static void chain_enter(void)
{
	folder_enter();
	snprintf(parent_path, sizeof(parent_path), "%s/parent.torpor", folder);
	snprintf(third_path, sizeof(third_path), "%s/third.torpor", folder);
}

static bool chain_leave(void)
{
	unlink(parent_path);
	unlink(third_path);
	return folder_leave();
}

/* Two extents, one packed, and a run over each. */
static int parent_write(struct err *e)
{
	int r = packed_write(packings + 1, 2, e);

	return r ?: rename(image_path, parent_path) ? -errno : 0;
}

/*
 * The child of an image at `of` that has an extent 0: of that, all but page 3; that
 * is its own. Its extent 1 is that of the parent.
 */
static int child_write(const char *path, const char *of, const char *name, struct err *e)
{
	uint8_t page[IMAGE_PAGE];
	struct image_writer *w = NULL;
	struct image *parent = NULL;
	struct image_run runs[] = { { .addr = 0x10000, .pages = 3 }, { .addr = 0x13000, .pages = 1 },
				    { .addr = 0x14000, .pages = PACKED_PAGES - 4, .page = 4 } };
	int r = image_open(&parent, of, e) ?: image_writer_new(&w, path, false, e);

	fill(page, sizeof(page), 77);
	r = r ?: image_writer_parent(w, parent, name, e);
	r = r ?: image_writer_extent(w, page, sizeof(page), &runs[1].extent, e);
	r = r ?: image_writer_parent_extent(w, 0, &runs[0].extent, e);
	r = r ?: image_writer_parent_extent(w, 0, &runs[2].extent, e);
	for (size_t i = 0; !r && i < 3; i++)
		r = image_writer_run(w, &runs[i], e);
	r = r ?: image_writer_commit(w, "child", 5, e);
	image_writer_free(w);
	image_close(parent);
	return r;
}

/* What the run says is in memory, from whichever file. */
static bool child_right(const struct image *img)
{
	static uint8_t want[PACKED_PAGES * IMAGE_PAGE], got[PACKED_PAGES * IMAGE_PAGE];
	struct image_cursor cursor = { .img = img };
	struct err e = ERR_INIT;
	bool right = true;
	size_t n;
	const struct image_run *runs = image_runs_of(img, 0, &n);

	packed_fill(want, 0);
	fill(want + 3 * IMAGE_PAGE, IMAGE_PAGE, 77);
	memset(got, 0, sizeof(got));
	for (size_t i = 0; i < n; i++)
		right = right && !image_cursor_read(&cursor, &runs[i], 0, got + runs[i].addr - 0x10000,
						    runs[i].pages * (size_t)IMAGE_PAGE, &e);
	image_cursor_done(&cursor);
	return right && !memcmp(want, got, sizeof(got));
}

static void chain_round_trip(void)
{
	static uint8_t want[PACKED_PAGES * IMAGE_PAGE], got[PACKED_PAGES * IMAGE_PAGE];
	uint64_t sums[2], seed;
	struct image *img = NULL;
	struct err e = ERR_INIT;

	chain_enter();
	UNIT_CHECK_EQ(parent_write(&e), 0);
	UNIT_CHECK_EQ(child_write(image_path, parent_path, "parent.torpor", &e), 0);
	UNIT_CHECK_EQ(image_open(&img, image_path, &e), 0);
	UNIT_CHECK_EQ(image_verify_pages(img, 2, &e), 0);
	UNIT_CHECK(img->parent && !img->parent->parent);
	UNIT_CHECK_EQ(img->n_extents, 2);
	UNIT_CHECK_EQ(img->n_sums, 1);
	UNIT_CHECK(child_right(img));
	packed_fill(want, 0);
	UNIT_CHECK_EQ(image_read_extent(img, 1, got, &e), 0);
	UNIT_CHECK(!memcmp(want, got, sizeof(got)));
	UNIT_CHECK_EQ(image_read_sums(img, 1, 5, 2, sums, &seed, &e), 0);
	UNIT_CHECK_EQ(seed, image_seed(img->parent->id));
	UNIT_CHECK_EQ(sums[1], image_page_sum(seed, want + 6 * IMAGE_PAGE));
	img = image_close(img);
	UNIT_CHECK(chain_leave());
}

/* Joined, it is the same; what nobody refers to is not in it, and runs that share pages still do. */
static void chain_is_squashed(void)
{
	struct image_writer *w = NULL;
	struct image *img = NULL;
	struct err e = ERR_INIT;

	chain_enter();
	UNIT_CHECK(parent_write(&e) == 0 && child_write(image_path, parent_path, parent_path, &e) == 0);
	UNIT_CHECK_EQ(image_open(&img, image_path, &e), 0);
	UNIT_CHECK_EQ(image_writer_new(&w, third_path, false, &e), 0);
	UNIT_CHECK_EQ(image_squash(img, w, NULL, NULL, &e), 0);
	UNIT_CHECK_EQ(image_writer_commit(w, img->meta, img->meta_size, &e), 0);
	image_writer_free(w);
	img = image_close(img);
	unlink(parent_path);
	UNIT_CHECK(try_image(&e) < 0);
	UNIT_CHECK_EQ(image_open(&img, third_path, &e), 0);
	UNIT_CHECK_EQ(image_verify_pages(img, 2, &e), 0);
	UNIT_CHECK(!img->parent_path && child_right(img));
	UNIT_CHECK_EQ(img->n_sums, PACKED_PAGES);
	UNIT_CHECK(img->meta_size == 5 && !memcmp(img->meta, "child", 5));
	UNIT_CHECK_EQ(img->extents[0].codec, IMAGE_CODEC_LZ4);
	image_close(img);
	UNIT_CHECK(chain_leave());
}

/* The image at image_path is refused for its parent's sake, with the id and the name of that. */
static bool parent_refused(const char *why)
{
	struct err e = ERR_INIT;

	if (try_image(&e) < 0 && e.reason == ERR_IMAGE && !strcmp(e.id, "E-IMAGE-PARENT") && strstr(e.text, why) &&
	    strstr(e.text, "parent.torpor"))
		return true;
	fprintf(stderr, "expected '%s', reason %d, id %s, text '%s'\n", why, e.reason, e.id, e.text);
	return false;
}

static void missing_and_replaced_parents_are_refused(void)
{
	struct bytes b = { 0 };
	struct err e = ERR_INIT;
	cleanup_close int fd = -1;
	char kept[160];

	chain_enter();
	snprintf(kept, sizeof(kept), "%s/kept", folder);
	UNIT_CHECK(parent_write(&e) == 0 && child_write(image_path, parent_path, "parent.torpor", &e) == 0);
	UNIT_CHECK_EQ(try_image(&e), 0);
	UNIT_CHECK(!rename(parent_path, third_path));
	UNIT_CHECK(parent_refused("is not there"));
	/* The same content, but another image. */
	UNIT_CHECK(!rename(image_path, kept));
	UNIT_CHECK_EQ(parent_write(&e), 0);
	UNIT_CHECK(!rename(kept, image_path));
	UNIT_CHECK(parent_refused("is another image"));
	UNIT_CHECK(!truncate(parent_path, 3 * IMAGE_PAGE));
	UNIT_CHECK(parent_refused("has no valid end"));
	fd = open(parent_path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	UNIT_CHECK(!fd_write_full(fd, "#!/bin/sh\n", 10));
	UNIT_CHECK(parent_refused("not a torpor image"));
	/* Itself, in a circle. */
	UNIT_CHECK(!unlink(parent_path) && !link(image_path, parent_path));
	UNIT_CHECK(parent_refused("is another image"));
	/* A page of it that the child needs has changed. */
	UNIT_CHECK(!unlink(parent_path) && !rename(third_path, parent_path));
	UNIT_CHECK(!rename(image_path, kept) && !rename(parent_path, image_path) && bytes_load(&b));
	b.p[IMAGE_PAGE + 20] ^= 1;
	UNIT_CHECK(bytes_store(b.p, b.size) && !rename(image_path, parent_path) && !rename(kept, image_path));
	e = ERR_INIT;
	UNIT_CHECK(try_image(&e) < 0 && e.reason == ERR_IMAGE);
	UNIT_CHECK(strstr(e.text, "parent.torpor is damaged") && strstr(e.text, "address space 0 at 0x10000"));
	free(b.p);
	UNIT_CHECK(chain_leave());
}

static struct image_parent *bytes_parent(const struct bytes *b)
{
	return (struct image_parent *)(b->p + bytes_trailer(b)->parent.offset);
}

#define HOSTILE_CHILD(what, why)                                                                            \
	do {                                                                                                \
		struct bytes b = { 0 };                                                                     \
		struct err e = ERR_INIT;                                                                    \
		UNIT_CHECK(child_write(image_path, parent_path, "parent.torpor", &e) == 0 && bytes_load(&b)); \
		{ what; }                                                                                   \
		UNIT_CHECK(sealed_refused(&b, why));                                                        \
		free(b.p);                                                                                  \
	} while (0)

static void hostile_children_are_refused(void)
{
	struct err e = ERR_INIT;

	chain_enter();
	UNIT_CHECK_EQ(parent_write(&e), 0);
	HOSTILE_CHILD(bytes_extents(&b)[1].offset = 2, "does not hold the extents");
	HOSTILE_CHILD(bytes_extents(&b)[1].offset = UINT64_MAX, "does not hold the extents");
	HOSTILE_CHILD(bytes_extents(&b)[1].offset = 1, "does not hold the extents");
	HOSTILE_CHILD(bytes_extents(&b)[1].size += IMAGE_PAGE, "does not hold the extents");
	HOSTILE_CHILD(bytes_extents(&b)[1].checksum ^= 1, "does not hold the extents");
	HOSTILE_CHILD(bytes_extents(&b)[1].stored = 1, "makes no sense");
	HOSTILE_CHILD(bytes_extents(&b)[1].codec = IMAGE_CODEC_LZ4, "makes no sense");
	HOSTILE_CHILD(bytes_parent(&b)->id[0] ^= 1, "is another image");
	HOSTILE_CHILD(bytes_parent(&b)->trailer_checksum ^= 1, "is another image");
	HOSTILE_CHILD(bytes_parent(&b)->path[3] = 0, "what it says of its parent makes no sense");
	HOSTILE_CHILD(bytes_trailer(&b)->parent.count = sizeof(struct image_parent), "padding after its parent");
	HOSTILE_CHILD(memset(bytes_parent(&b)->path, 0, 13); bytes_trailer(&b)->parent.count = sizeof(struct image_parent),
		      "what it says of its parent makes no sense");
	HOSTILE_CHILD(memset(bytes_parent(&b), 0, 40); bytes_trailer(&b)->parent.count = 0, "belong to nothing");
	UNIT_CHECK(chain_leave());
}

/* A chain as long as it may be, and one that is longer. */
static void long_chains_are_refused(void)
{
	struct err e = ERR_INIT;
	char path[160], name[32] = "";

	chain_enter();
	for (int i = 0; i <= IMAGE_CHAIN_MAX; i++) {
		struct image_writer *w = NULL;
		struct image *parent = NULL;

		snprintf(path, sizeof(path), "%s/%s", folder, name);
		UNIT_CHECK(!i || image_open(&parent, path, &e) == 0);
		snprintf(name, sizeof(name), "%d.torpor", i);
		snprintf(path, sizeof(path), "%s/%s", folder, name);
		UNIT_CHECK_EQ(image_writer_new(&w, path, false, &e), 0);
		if (i) {
			snprintf(name, sizeof(name), "%d.torpor", i - 1);
			UNIT_CHECK_EQ(image_writer_parent(w, parent, name, &e), 0);
			snprintf(name, sizeof(name), "%d.torpor", i);
		}
		UNIT_CHECK_EQ(image_writer_commit(w, "m", 1, &e), 0);
		image_writer_free(w);
		image_close(parent);
	}
	UNIT_CHECK(!rename(path, image_path));
	UNIT_CHECK(refused("is one too many"));
	for (int i = 0; i < IMAGE_CHAIN_MAX; i++) {
		snprintf(path, sizeof(path), "%s/%d.torpor", folder, i);
		unlink(path);
	}
	UNIT_CHECK(chain_leave());
}

/* What was finished too early is forgotten, but for its extents: more can be stored behind them. */
static void reopened(void)
{
	uint8_t page[IMAGE_PAGE];
	struct image_run run = { .addr = 0x1000, .pages = 1 }, wrong = { .addr = 0x9000, .pages = 1 };
	struct image_writer *w = NULL;
	struct image *img = NULL;
	struct err e = ERR_INIT;
	size_t n;

	folder_enter();
	UNIT_CHECK_EQ(image_writer_new(&w, image_path, true, &e), 0);
	UNIT_CHECK(image_writer_publish(w, &e) < 0);
	fill(page, sizeof(page), 1);
	UNIT_CHECK_EQ(image_writer_extent(w, page, sizeof(page), &wrong.extent, &e), 0);
	UNIT_CHECK_EQ(image_writer_run(w, &wrong, &e), 0);
	UNIT_CHECK_EQ(image_writer_finish(w, "a long text, so that there is something to cut off", 50, &e), 0);
	UNIT_CHECK(image_writer_finish(w, "twice", 5, &e) < 0);
	UNIT_CHECK(!exists(image_path));
	UNIT_CHECK_EQ(image_writer_reopen(w, &e), 0);
	fill(page, sizeof(page), 2);
	UNIT_CHECK_EQ(image_writer_extent(w, page, sizeof(page), &run.extent, &e), 0);
	UNIT_CHECK_EQ(image_writer_run(w, &run, &e), 0);
	UNIT_CHECK_EQ(image_writer_commit(w, "right", 5, &e), 0);
	image_writer_free(w);
	UNIT_CHECK_EQ(image_open(&img, image_path, &e), 0);
	UNIT_CHECK_EQ(image_verify_pages(img, 1, &e), 0);
	UNIT_CHECK(img->meta_size == 5 && !memcmp(img->meta, "right", 5));
	UNIT_CHECK_EQ(img->n_extents, 2);
	UNIT_CHECK(image_runs_of(img, 0, &n)->addr == 0x1000 && n == 1);
	image_close(img);
	UNIT_CHECK(folder_leave());
}

/* ---- cases: no room ---- */

/*
 * Below some limit of file sizes the image cannot be written; each possible one
 * gives a clean error and leaves no file. In a child: the limit cannot be taken back.
 */
static int no_room_child(void)
{
	struct rlimit limit;
	struct err e = ERR_INIT;
	int r;

	signal(SIGXFSZ, SIG_IGN);
	snprintf(part_path, sizeof(part_path), "%s.part-%d", image_path, (int)getpid());
	for (size_t room = 11 * IMAGE_PAGE; room > 0; room -= STEP) {
		limit.rlim_cur = limit.rlim_max = room - 1;
		if (setrlimit(RLIMIT_FSIZE, &limit))
			return 2;
		r = sample_write(&e);
		if (r != -EFBIG || e.reason != ERR_SYSTEM || !strstr(e.text, image_path) || !e.help[0])
			return 3;
		if (exists(image_path) || exists(part_path))
			return 4;
	}
	return 0;
}

static void no_room_is_a_clean_error(void)
{
	pid_t child;
	int status = -1;

	folder_enter();
	fflush(stdout);
	child = fork();
	UNIT_CHECK(child >= 0);
	if (!child)
		_exit(no_room_child());
	UNIT_CHECK_EQ(waitpid(child, &status, 0), child);
	UNIT_CHECK_EQ(status, 0);
	UNIT_CHECK(folder_leave());
}

/* A caller who goes on after a failed write does not get an image with a gap. */
static int gap_child(void)
{
	uint8_t data[IMAGE_PAGE] = { 0 };
	struct rlimit limit;
	struct image_writer *w = NULL;
	struct err e = ERR_INIT;
	uint32_t index;
	int r;

	signal(SIGXFSZ, SIG_IGN);
	if (getrlimit(RLIMIT_FSIZE, &limit))
		return 2;
	limit.rlim_cur = 2 * IMAGE_PAGE;
	if (setrlimit(RLIMIT_FSIZE, &limit) || image_writer_new(&w, image_path, false, &e))
		return 3;
	if (image_writer_extent(w, data, sizeof(data), &index, &e))
		return 4;
	if (image_writer_extent(w, data, sizeof(data), &index, &e) != -EFBIG)
		return 5;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_FSIZE, &limit))
		return 6;
	r = image_writer_commit(w, "m", 1, &e);
	image_writer_free(w);
	return r == -EFBIG && !exists(image_path) ? 0 : 7;
}

static void no_commit_after_a_failed_write(void)
{
	pid_t child;
	int status = -1;

	folder_enter();
	fflush(stdout);
	child = fork();
	UNIT_CHECK(child >= 0);
	if (!child)
		_exit(gap_child());
	UNIT_CHECK_EQ(waitpid(child, &status, 0), child);
	UNIT_CHECK_EQ(status, 0);
	UNIT_CHECK(folder_leave());
}

UNIT_MAIN(UNIT_CASE(round_trip),
	  UNIT_CASE(round_trip_no_pages), UNIT_CASE(round_trip_large),
	  UNIT_CASE(replaces_at_commit),
	  UNIT_CASE(reopened),
	  UNIT_CASE(uncommitted_leaves_nothing),
	  UNIT_CASE(refuses_bad_targets),
	  UNIT_CASE(writer_refuses_bad_runs),
	  UNIT_CASE(writer_refuses_bad_extents),
	  UNIT_CASE(several_threads),
	  UNIT_CASE(names_the_lowest_damage),
	  UNIT_CASE(verifies_each),
	  UNIT_CASE(streams_in_pieces),
	  UNIT_CASE(every_flip_is_refused),
	  UNIT_CASE(every_bit_of_the_fields_is_refused),
	  UNIT_CASE(every_truncation_is_refused),
	  UNIT_CASE(additions_are_refused),
	  UNIT_CASE(foreign_files_are_refused),
	  UNIT_CASE(newer_version_is_refused),
	  UNIT_CASE(damage_is_named),
	  UNIT_CASE(swapped_extents_are_refused),
	  UNIT_CASE(spliced_images_are_refused),
	  UNIT_CASE(hostile_ends_are_refused),
	  UNIT_CASE(hostile_blocks_are_refused),
	  UNIT_CASE(hostile_extents_are_refused),
	  UNIT_CASE(hostile_runs_are_refused),
	  UNIT_CASE(older_version_is_read),
	  UNIT_CASE(packed_round_trip),
	  UNIT_CASE(packing_words),
	  UNIT_CASE(packing_keeps_pace),
	  UNIT_CASE(packing_follows_the_memory),
	  UNIT_CASE(random_pages_stay_raw),
	  UNIT_CASE(every_flip_of_packed_is_refused),
	  UNIT_CASE(hostile_packed_extents_are_refused),
	  UNIT_CASE(bombs_are_refused),
	  UNIT_CASE(chain_round_trip),
	  UNIT_CASE(chain_is_squashed),
	  UNIT_CASE(missing_and_replaced_parents_are_refused),
	  UNIT_CASE(hostile_children_are_refused),
	  UNIT_CASE(long_chains_are_refused),
	  UNIT_CASE(no_room_is_a_clean_error),
	  UNIT_CASE(no_commit_after_a_failed_write))
