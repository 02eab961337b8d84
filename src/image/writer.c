/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Writing an image. Threads reserve their place in the file under the lock and
 * write outside of it; the header goes first, the tables and the trailer last.
 *
 * The file has another name until it is whole, and the trailer is what makes it
 * whole: whatever fails or dies before the rename leaves the older image, if
 * any, as it was. A failed write leaves a gap, so it is remembered and the
 * commit refuses.
 */

#include "image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "image/kit.h"
#include "image/layout.h"
#include "image/pace.h"
#include "sys/memory.h"
#include "util/err.h"
#include "util/fd.h"

enum {
	WRITER_LOOK = 64 * 1024 * 1024, /* bytes that are looked at together: has the disk taken them? */
	WRITER_FIRST_KICK = 512 * 1024, /* bytes after which write-back is started first: so early, that the disk works while a small image is made */
	WRITER_KICK = 8 * 1024 * 1024, /* bytes between two starts of write-back */
	WRITER_AHEAD = 64 * 1024 * 1024, /* bytes that are given their place on the disk at once */
};

struct image_writer {
	char *path; /* as given, for messages */
	char *base; /* final name inside the folder */
	char *part; /* name until then */
	int dir_fd;
	int fd;
	bool unfinished; /* `part` exists and is ours to remove */
	bool finished;   /* but it is whole, and needs no more than its name */
	bool sync;       /* the commit waits for the disk */
	uint64_t header_checksum;
	uint8_t id[IMAGE_ID_SIZE];
	uint64_t trailer_checksum;

	uint64_t safe_to; /* the disk has taken all before that */
	const struct image *parent; /* or NULL */
	char *parent_path;
	uint32_t *parent_extents; /* for each of the parent's, 1 + its index here; 0: it has none yet */

	struct pace pace;
	struct kits kits;
	_Atomic uint64_t stored;
	_Atomic int failure; /* errno of the first write that failed */

	pthread_mutex_t lock; /* for what follows */
	uint64_t end;         /* the next extent begins here */
	uint64_t extents_end; /* as it was before the image was finished */
	uint64_t allocated;   /* up to here the file has its place on the disk; UINT64_MAX: no more of that */
	bool longer;          /* the file may be longer than `end` for that reason */
	uint64_t kick_from;   /* the last stretch given to write-back: [kick_from, kick_to) */
	uint64_t kick_to;
	struct image_extent *extents;
	size_t n_extents;
	size_t room_extents;
	struct image_run *runs;
	size_t n_runs;
	size_t room_runs;
	uint64_t *sums; /* of the pages of all extents, in their order */
	size_t n_sums;
	size_t room_sums;
};

/* ---- failures ---- */

/* Record a failed call on the new file, and what the user can do about it. */
static int writer_fail(const struct image_writer *w, struct err *e, int number, const char *what)
{
	number = abs(number);
	err_sys(e, number, "cannot %s %s", what, w->path);
	err_id(e, "E-IMAGE-WRITE");
	switch (number) {
	case ENOSPC:
		return err_help(e, "free some space on that file system, or write the image to another one");
	case EDQUOT:
		return err_help(e, "the disk quota is used up: remove files, or write the image elsewhere");
	case EFBIG:
		return err_help(e, "raise the limit of file sizes (ulimit -f), or write the image to a file "
				   "system that takes bigger files");
	case EROFS:
	case EACCES:
	case EPERM:
		return err_help(e, "write the image to a folder that this user may write to");
	case ENOENT:
	case ENOTDIR:
		return err_help(e, "the folder must exist, and stay, while the image is written");
	case EEXIST:
		return err_help(e, "a torpor that was killed left %s behind: remove it", w->part);
	}
	return -number;
}

/* ---- beginning ---- */

/* Split the path and open its folder: neither chdir() nor a rename of the folder matters from then on. */
static int writer_open_folder(struct image_writer *w, struct err *e)
{
	const char *slash = strrchr(w->path, '/');
	char *folder;

	w->base = strdup(slash ? slash + 1 : w->path);
	folder = slash ? strndup(w->path, (size_t)(slash - w->path) + 1) : strdup(".");
	if (!w->base || !folder || asprintf(&w->part, "%s.part-%d", w->base, (int)getpid()) < 0) {
		free(folder);
		return err_nomem(e);
	}
	w->dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(folder);
	if (w->dir_fd < 0)
		return writer_fail(w, e, errno, "open the folder of");
	return 0;
}

/*
 * Said now rather than by the rename at the end, when all the work is done; and
 * root's rename would put an image in the place of a device.
 */
static int writer_check_target(const struct image_writer *w, struct err *e)
{
	struct stat st;

	if (!w->base[0] || !strcmp(w->base, ".") || !strcmp(w->base, ".."))
		return err_set(e, ERR_USAGE, EISDIR, "cannot write an image to '%s'", w->path);
	if (fstatat(w->dir_fd, w->base, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : writer_fail(w, e, errno, "look at");
	if (S_ISREG(st.st_mode) || S_ISLNK(st.st_mode))
		return 0;
	return err_set(e, ERR_USAGE, 0, "cannot write an image to %s: it exists and is not a regular file",
		       w->path);
}

static int writer_create(struct image_writer *w, struct err *e)
{
	w->fd = openat(w->dir_fd, w->part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (w->fd < 0)
		return writer_fail(w, e, errno, "create");
	w->unfinished = true;
	return 0;
}

static int writer_put_header(struct image_writer *w, struct err *e)
{
	struct image_header header = { .version = IMAGE_VERSION, .page_size = IMAGE_PAGE };
	int r;

	memcpy(header.magic, IMAGE_MAGIC, IMAGE_MAGIC_SIZE);
	memcpy(header.id, w->id, IMAGE_ID_SIZE);
	header.checksum = image_checksum(&header, IMAGE_SEALED);
	r = fd_pwrite_full(w->fd, &header, sizeof(header), 0);
	if (r)
		return writer_fail(w, e, r, "write");
	w->header_checksum = header.checksum;
	w->end = w->kick_from = w->kick_to = sizeof(header);
	w->allocated = WRITER_AHEAD; /* a small file is not worth it */
	return 0;
}

int image_writer_new(struct image_writer **ret, const char *path, bool sync, struct err *e)
{
	struct image_writer *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return err_nomem(e);
	w->dir_fd = w->fd = -1;
	w->sync = sync;
	pthread_mutex_init(&w->lock, NULL);
	pace_init(&w->pace, w);
	kits_init(&w->kits);
	w->path = strdup(path);
	r = w->path ? writer_open_folder(w, e) : err_nomem(e);
	if (!r)
		r = writer_check_target(w, e);
	if (!r && getrandom(w->id, sizeof(w->id), 0) != sizeof(w->id))
		r = err_sys(e, errno, "getrandom");
	if (!r)
		r = writer_create(w, e);
	if (!r)
		r = writer_put_header(w, e);
	if (r) {
		image_writer_free(w);
		return r;
	}
	*ret = w;
	return 0;
}

struct image_writer *image_writer_free(struct image_writer *w)
{
	if (!w)
		return NULL;
	if (w->unfinished)
		unlinkat(w->dir_fd, w->part, 0);
	fd_closep(&w->fd);
	fd_closep(&w->dir_fd);
	pthread_mutex_destroy(&w->lock);
	kits_done(&w->kits);
	free(w->extents);
	free(w->runs);
	free(w->sums);
	free(w->parent_extents);
	free(w->parent_path);
	free(w->part);
	free(w->base);
	free(w->path);
	free(w);
	return NULL;
}

/* ---- pages ---- */

/* Make room for `n` elements of `size` bytes in all. The vector, or NULL: then the old one stays valid. */
static void *writer_grow(void *vec, size_t n, size_t *room, size_t size)
{
	size_t more = *room ? *room * 2 : 256;
	void *bigger;

	if (n <= *room)
		return vec;
	if (more < n)
		more = n;
	bigger = reallocarray(vec, more, size);
	if (bigger)
		*room = more;
	return bigger;
}

/*
 * Under the lock: give a large file its place on the disk in large pieces, before
 * it is written. The file system then has less to do for each page, and the disk
 * gets long stretches. Only a favour: where it is refused, each write does it.
 */
static void writer_allocate(struct image_writer *w)
{
	if (w->end <= w->allocated)
		return;
	w->longer = true;
	if (fallocate(w->fd, 0, (off_t)w->end, WRITER_AHEAD))
		w->allocated = UINT64_MAX;
	else
		w->allocated = w->end + WRITER_AHEAD;
}

/* Under the lock: an entry in the table of extents. */
static int writer_add_extent(struct image_writer *w, const struct image_extent *extent, uint32_t *ret_extent, struct err *e)
{
	struct image_extent *extents;

	if (w->n_extents >= UINT32_MAX)
		return writer_fail(w, e, EFBIG, "write");
	extents = writer_grow(w->extents, w->n_extents + 1, &w->room_extents, sizeof(*extents));
	if (!extents)
		return err_nomem(e);
	w->extents = extents;
	w->extents[w->n_extents] = *extent;
	*ret_extent = (uint32_t)w->n_extents++;
	return 0;
}

/* Under the lock: give the extent its index and its place. */
static int writer_reserve(struct image_writer *w, struct image_extent *extent, const uint64_t *sums, uint32_t *ret_extent,
			  struct err *e)
{
	size_t pages = extent->size / IMAGE_PAGE;
	uint64_t *all;

	if (w->end > (uint64_t)INT64_MAX - 2 * IMAGE_EXTENT_MAX)
		return writer_fail(w, e, EFBIG, "write");
	all = writer_grow(w->sums, w->n_sums + pages, &w->room_sums, sizeof(*all));
	if (!all)
		return err_nomem(e);
	w->sums = all;
	extent->offset = w->end;
	if (writer_add_extent(w, extent, ret_extent, e) < 0)
		return -1;
	memcpy(w->sums + w->n_sums, sums, pages * sizeof(*sums));
	w->n_sums += pages;
	w->end += image_align(extent->stored);
	writer_allocate(w);
	return 0;
}

/* Under the lock: so many bytes are waited for before the disk is to begin on them. */
static uint64_t writer_kick_size(const struct image_writer *w)
{
	return w->kick_from == w->kick_to ? WRITER_FIRST_KICK : WRITER_KICK;
}

/*
 * Let the disk begin on what is in the page cache: when that is worth while, or `now`. Other threads may not have filled
 * their part of the stretch yet: the next kick covers it once more, and pages on their way already cost nothing then.
 */
static void writer_kick(struct image_writer *w, bool now)
{
	uint64_t from = 0, to = 0;

	pthread_mutex_lock(&w->lock);
	if (w->end - w->kick_to >= (now ? IMAGE_PAGE : writer_kick_size(w))) {
		from = w->kick_from;
		to = w->end;
		w->kick_from = w->kick_to;
		w->kick_to = to;
	}
	pthread_mutex_unlock(&w->lock);
	/* Only a hint: fsync() reports what goes wrong. */
	if (to)
		(void)sync_file_range(w->fd, (off_t)from, (off_t)(to - from), SYNC_FILE_RANGE_WRITE);
}

void image_writer_start(struct image_writer *w)
{
	if (w->sync)
		writer_kick(w, true);
}

int image_writer_packed(struct image_writer *w, const struct image_packed *x, uint32_t *ret_extent, struct err *e)
{
	struct image_extent extent = { .codec = x->codec, .stored = x->stored, .size = x->size };
	int none = 0;
	int r;

	if (!x->size || x->size % IMAGE_PAGE || x->size > IMAGE_EXTENT_MAX || !x->stored || x->stored > x->size)
		return err_set(e, ERR_SYSTEM, EINVAL, "%s: an extent of %u bytes", w->path, x->size);
	extent.checksum = image_checksum(x->data, x->stored);
	pthread_mutex_lock(&w->lock);
	r = writer_reserve(w, &extent, x->sums, ret_extent, e);
	pthread_mutex_unlock(&w->lock);
	if (r)
		return r;
	r = fd_pwrite_full(w->fd, x->data, image_align(x->stored), (off_t)extent.offset);
	if (r) {
		atomic_compare_exchange_strong(&w->failure, &none, -r);
		return writer_fail(w, e, r, "write");
	}
	atomic_fetch_add(&w->stored, x->stored);
	if (w->sync)
		writer_kick(w, false);
	return 0;
}

int image_writer_extent(struct image_writer *w, const void *data, size_t size, uint32_t *ret_extent,
			struct err *e)
{
	uint64_t sums[IMAGE_EXTENT_MAX / IMAGE_PAGE];
	struct image_packed x = { .codec = IMAGE_CODEC_RAW, .data = data, .sums = sums };

	if (size > IMAGE_EXTENT_MAX)
		return err_set(e, ERR_SYSTEM, EINVAL, "%s: an extent of %zu bytes", w->path, size);
	x.stored = x.size = (uint32_t)size;
	image_page_sums(image_seed(w->id), data, size / IMAGE_PAGE, sums);
	return image_writer_packed(w, &x, ret_extent, e);
}

int image_writer_run(struct image_writer *w, const struct image_run *run, struct err *e)
{
	struct image_run *runs;

	if (!image_run_valid(run))
		return err_set(e, ERR_SYSTEM, EINVAL, "%s: a run of %u pages at %#llx of " IMAGE_OWNER_FMT,
			       w->path, run->pages, (unsigned long long)run->addr,
			       IMAGE_OWNER_ARGS(run->owner));
	pthread_mutex_lock(&w->lock);
	runs = writer_grow(w->runs, w->n_runs + 1, &w->room_runs, sizeof(*runs));
	if (runs) {
		w->runs = runs;
		w->runs[w->n_runs++] = *run;
	}
	pthread_mutex_unlock(&w->lock);
	return runs ? 0 : err_nomem(e);
}

/* Other threads may not have filled the last stretch yet: nothing is said of that. */
bool image_writer_backlog(struct image_writer *w, uint64_t *ret_written, uint64_t *ret_waiting)
{
	struct sys_cachestat stat;
	uint64_t end, waiting = 0;

	pthread_mutex_lock(&w->lock);
	end = w->end;
	pthread_mutex_unlock(&w->lock);
	for (uint64_t at = w->safe_to; w->sync && at + WRITER_LOOK <= end; at += WRITER_LOOK) {
		if (sys_cachestat(w->fd, at, WRITER_LOOK, &stat) < 0)
			return false;
		waiting += (stat.dirty + stat.writeback) * IMAGE_PAGE;
		if (!waiting && at + 2 * WRITER_LOOK <= end)
			w->safe_to = at + WRITER_LOOK;
	}
	*ret_written = end;
	*ret_waiting = waiting;
	return w->sync;
}

uint64_t image_writer_seed(const struct image_writer *w)
{
	return image_seed(w->id);
}

struct pace *image_writer_pace(struct image_writer *w)
{
	return &w->pace;
}

struct kits *image_writer_kits(struct image_writer *w)
{
	return &w->kits;
}

void image_writer_forget_runs(struct image_writer *w)
{
	pthread_mutex_lock(&w->lock);
	w->n_runs = 0;
	pthread_mutex_unlock(&w->lock);
}

uint64_t image_writer_stored(const struct image_writer *w)
{
	return atomic_load(&w->stored);
}

/* ---- the parent ---- */

int image_writer_parent(struct image_writer *w, const struct image *parent, const char *path, struct err *e)
{
	w->parent_path = strdup(path);
	w->parent_extents = calloc(parent->n_extents + 1, sizeof(*w->parent_extents));
	if (!w->parent_path || !w->parent_extents)
		return err_nomem(e);
	w->parent = parent;
	return 0;
}

int image_writer_parent_extent(struct image_writer *w, uint32_t parent_extent, uint32_t *ret_extent, struct err *e)
{
	const struct image_extent *of = &w->parent->extents[parent_extent];
	struct image_extent extent = { .codec = IMAGE_CODEC_PARENT, .offset = parent_extent, .size = of->size,
				       .checksum = of->checksum };
	uint32_t *known = &w->parent_extents[parent_extent];
	int r = 0;

	pthread_mutex_lock(&w->lock);
	if (!*known) {
		r = writer_add_extent(w, &extent, known, e);
		*known += r == 0;
	}
	*ret_extent = *known - 1;
	pthread_mutex_unlock(&w->lock);
	return r;
}

uint64_t image_writer_parent_pages(const struct image_writer *w)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < w->n_runs; i++)
		if (w->extents[w->runs[i].extent].codec == IMAGE_CODEC_PARENT)
			pages += w->runs[i].pages;
	return pages;
}

/* What the image says of it: *ret_size bytes, the caller's to free; none without a parent. NULL when out of memory. */
static struct image_parent *writer_describe_parent(const struct image_writer *w, size_t *ret_size)
{
	size_t length = w->parent ? strlen(w->parent_path) : 0;
	struct image_parent *parent = malloc(sizeof(*parent) + length);

	*ret_size = 0;
	if (!parent || !w->parent)
		return parent;
	memcpy(parent->id, w->parent->id, IMAGE_ID_SIZE);
	parent->trailer_checksum = w->parent->trailer_checksum;
	memcpy(parent->path, w->parent_path, length);
	*ret_size = sizeof(*parent) + length;
	return parent;
}

/* ---- the index ---- */

static int writer_compare_runs(const void *left, const void *right)
{
	const struct image_run *a = left, *b = right;

	if (a->owner != b->owner)
		return a->owner < b->owner ? -1 : 1;
	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

/* Whether `next` goes on where `run` ends, both in memory and in the extent. */
static bool writer_run_continues(const struct image_run *run, const struct image_run *next)
{
	return run->owner == next->owner && image_run_end(run) == next->addr && run->extent == next->extent &&
	       run->page + run->pages == next->page;
}

static int writer_bad_run(const struct image_writer *w, const struct image_run *run, const char *why,
			  struct err *e)
{
	return err_set(e, ERR_SYSTEM, EINVAL, "%s: the memory of " IMAGE_OWNER_FMT " at %#llx %s", w->path,
		       IMAGE_OWNER_ARGS(run->owner), (unsigned long long)run->addr, why);
}

/* Sort the runs, refuse what the reader would refuse, and merge neighbours. */
static int writer_finish_runs(struct image_writer *w, struct err *e)
{
	struct image_run *last = NULL;
	size_t n = 0;

	if (w->n_runs)
		qsort(w->runs, w->n_runs, sizeof(*w->runs), writer_compare_runs);
	for (size_t i = 0; i < w->n_runs; i++) {
		const struct image_run run = w->runs[i];

		if (!image_run_fits(&run, w->extents, w->n_extents))
			return writer_bad_run(w, &run, "is outside of its extent", e);
		if (last && last->owner == run.owner && image_run_end(last) > run.addr)
			return writer_bad_run(w, &run, "was stored twice", e);
		if (last && writer_run_continues(last, &run)) {
			last->pages += run.pages;
		} else {
			last = &w->runs[n++];
			*last = run;
		}
	}
	w->n_runs = n;
	return 0;
}

/* ---- the commit ---- */

/* Append a block and fill its last page with zeros. */
static int writer_put_block(struct image_writer *w, struct image_block *block, const void *data,
			    size_t count, size_t each, struct err *e)
{
	static const uint8_t zeros[IMAGE_PAGE];
	size_t size = count * each;
	int r;

	block->offset = w->end;
	block->count = count;
	block->checksum = image_checksum(data, size);
	r = fd_pwrite_full(w->fd, data, size, (off_t)w->end);
	if (!r)
		r = fd_pwrite_full(w->fd, zeros, image_align(size) - size, (off_t)(w->end + size));
	if (r)
		return writer_fail(w, e, r, "write");
	w->end += image_align(size);
	return 0;
}

static int writer_put_trailer(struct image_writer *w, struct image_trailer *trailer, struct err *e)
{
	int r;

	memcpy(trailer->magic, IMAGE_TRAILER_MAGIC, IMAGE_MAGIC_SIZE);
	trailer->file_size = w->end + sizeof(*trailer);
	trailer->header_checksum = w->header_checksum;
	trailer->checksum = w->trailer_checksum = image_checksum(trailer, IMAGE_SEALED);
	r = fd_pwrite_full(w->fd, trailer, sizeof(*trailer), (off_t)w->end);
	if (!r && w->longer && ftruncate(w->fd, (off_t)trailer->file_size))
		r = -errno;
	return r ? writer_fail(w, e, r, "write") : 0;
}

static int writer_put_tail(struct image_writer *w, const void *meta, size_t meta_size, struct err *e)
{
	struct image_trailer trailer = { 0 };
	size_t parent_size;
	struct image_parent *parent = writer_describe_parent(w, &parent_size);
	int r;

	if (!parent)
		return err_nomem(e);
	r = writer_put_block(w, &trailer.meta, meta, meta_size, 1, e);
	if (!r)
		r = writer_put_block(w, &trailer.extents, w->extents, w->n_extents, sizeof(*w->extents), e);
	if (!r)
		r = writer_put_block(w, &trailer.runs, w->runs, w->n_runs, sizeof(*w->runs), e);
	if (!r)
		r = writer_put_block(w, &trailer.sums, w->sums, w->n_sums, sizeof(*w->sums), e);
	if (!r)
		r = writer_put_block(w, &trailer.parent, parent, parent_size, 1, e);
	if (!r)
		r = writer_put_trailer(w, &trailer, e);
	free(parent);
	return r;
}

static int writer_flush(struct image_writer *w, struct err *e)
{
	return w->sync && fsync(w->fd) ? writer_fail(w, e, errno, "flush") : 0;
}

int image_writer_finish(struct image_writer *w, const void *meta, size_t meta_size, struct err *e)
{
	int r;

	if (!w->unfinished || w->finished)
		return err_set(e, ERR_SYSTEM, EINVAL, "%s: committed twice", w->path);
	if (w->failure)
		return writer_fail(w, e, w->failure, "write");
	w->failure = ECANCELED; /* whatever fails now, there is no second attempt */
	w->extents_end = w->end;
	r = writer_finish_runs(w, e);
	if (!r)
		r = writer_put_tail(w, meta, meta_size, e);
	if (!r)
		r = writer_flush(w, e);
	w->finished = !r;
	return r;
}

int image_writer_reopen(struct image_writer *w, struct err *e)
{
	if (ftruncate(w->fd, (off_t)w->extents_end))
		return writer_fail(w, e, errno, "write");
	w->end = w->extents_end;
	if (w->allocated != UINT64_MAX)
		w->allocated = w->end;
	w->finished = false;
	w->failure = 0;
	image_writer_forget_runs(w);
	return 0;
}

int image_writer_publish(struct image_writer *w, struct err *e)
{
	int number;

	if (!w->unfinished || !w->finished)
		return err_set(e, ERR_SYSTEM, EINVAL, "%s: it has no end yet", w->path);
	/* On some network file systems this is the first to say that there was no room. */
	if (close(fd_take(&w->fd)) && errno != EINTR)
		return writer_fail(w, e, errno, "close");
	if (renameat(w->dir_fd, w->part, w->dir_fd, w->base))
		return writer_fail(w, e, errno, "rename the finished image to");
	w->unfinished = false;
	/* EINVAL: a file system without a way to flush folders, so there is nothing to wait for. */
	if (!w->sync || !fsync(w->dir_fd) || errno == EINVAL)
		return 0;
	number = errno;
	unlinkat(w->dir_fd, w->base, 0); /* the program runs on: no image of a dump that failed */
	return writer_fail(w, e, number, "flush the folder of");
}

int image_writer_commit(struct image_writer *w, const void *meta, size_t meta_size, struct err *e)
{
	int r = image_writer_finish(w, meta, meta_size, e);

	return r ? r : image_writer_publish(w, e);
}

void image_writer_identify(const struct image_writer *w, struct image_identity *ret)
{
	memcpy(ret->id, w->id, IMAGE_ID_SIZE);
	ret->trailer_checksum = w->trailer_checksum;
}
