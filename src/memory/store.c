/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Copying pages into the image: one worker per CPU takes the next megabyte of
 * ranges (less of a small program), reads it, drops the zero pages and those that are stored already (once.h),
 * and hands the rest to the writer as one extent. Memory use is bounded.
 */

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "image/codec.h"
#include "image/kit.h"
#include "image/layout.h"
#include "image/pace.h"
#include "memory/base.h"
#include "memory/copies.h"
#include "memory/memory.h"
#include "memory/once.h"
#include "util/clock.h"
#include "util/cpu.h"
#include "util/crew.h"
#include "util/fd.h"
#include "util/interrupt.h"

enum {
	CHUNK_PAGES = IMAGE_EXTENT_MAX / MEMORY_PAGE,
	SMALL_CHUNK_PAGES = 128 * 1024 / MEMORY_PAGE,
	SMALL_PAGES = 4 * CHUNK_PAGES, /* a target of less is small */
	WORKERS_MAX = 16,
	WORKERS_MEMORY = 44 * 1024 * 1024, /* for the buffers and packers of all of them */
};

/* What one extent is read from: pieces of one source. */
struct store_chunk {
	const struct page_source *source;
	struct page_range pieces[CHUNK_PAGES];
	size_t n;
	uint64_t pages;
};

struct store_job {
	pthread_mutex_t lock;
	const struct page_source *sources;
	size_t n_sources;
	uint64_t chunk_pages; /* most of one extent */
	const struct memory_shared *shared; /* with other threads (memory_help()); NULL: with nobody */
	size_t source, range; /* the next piece to take */
	uint64_t page;
	struct image_writer *writer;
	struct once *once; /* what is stored already; NULL: nothing can be shared */
	const struct base *base; /* what another image holds */
	const struct image_packing *packing;
	const struct progress *progress;
	uint64_t pages_taken, pages_total;
	unsigned workers; /* that could be made */
	struct memory_stats stats;
	struct err err; /* of the worker that failed first */
};

/* One thread. */
struct store_worker {
	struct store_job *job;
	struct store_chunk chunk;
	struct once_page pages[CHUNK_PAGES]; /* those of the chunk that are not zero */
	size_t n_pages;
	struct memory_stats stats;
	struct kit *kit; /* with room for job->chunk_pages */
};

/* ---- the queue ---- */

static const struct page_range *store_peek(struct store_job *job)
{
	while (job->source < job->n_sources && job->range == job->sources[job->source].n) {
		job->source++;
		job->range = 0;
	}
	return job->source < job->n_sources ? &job->sources[job->source].ranges[job->range] : NULL;
}

/*
 * How many pages of a range go into an extent that holds `held` already. Long
 * ranges are cut at addresses that are multiples of an extent's size: restore can
 * then load two extents as one huge page (fill.c).
 */
static uint64_t store_share(uint64_t chunk_pages, uint64_t addr, uint64_t left, uint64_t held)
{
	uint64_t before = -(addr / MEMORY_PAGE) % chunk_pages, room = chunk_pages - held;

	if (before < left && left - before >= chunk_pages) {
		if (!before)
			return held ? 0 : chunk_pages;
		left = before;
	}
	return left < room ? left : room;
}

static bool store_goes_on(const struct store_job *job)
{
	return !job->err.reason && !(job->shared && atomic_load(&job->shared->abandoned));
}

/* The next piece; NULL when nothing is left, a worker has failed, or all of it is abandoned. */
static const struct page_range *store_next(struct store_job *job)
{
	return store_goes_on(job) ? store_peek(job) : NULL;
}

/* Take the next extent's worth of pieces. False when there is no next. */
static bool store_take(struct store_job *job, struct store_chunk *c)
{
	const struct page_range *range;

	pthread_mutex_lock(&job->lock);
	c->n = 0;
	c->pages = 0;
	range = store_next(job);
	c->source = range ? &job->sources[job->source] : NULL;
	while (range && c->source == &job->sources[job->source]) {
		uint64_t left = range->pages - job->page, skip = job->page * MEMORY_PAGE;
		uint64_t n = store_share(job->chunk_pages, range->addr + skip, left, c->pages);

		if (!n)
			break;
		c->pieces[c->n++] = (struct page_range){ range->addr + skip, range->from + skip, n, range->task,
							 range->keep_zero, range->alone };
		c->pages += n;
		job->page += n;
		if (n == left) {
			job->range++;
			job->page = 0;
		}
		range = store_peek(job);
	}
	progress_step(job->progress, "saving memory", job->pages_taken * MEMORY_PAGE, job->pages_total * MEMORY_PAGE);
	job->pages_taken += c->pages;
	pthread_mutex_unlock(&job->lock);
	return c->n > 0;
}

/* ---- reading ---- */

/* From a file; what lies beyond its end is zero. */
static int store_read_file(int fd, uint64_t from, char *buf, size_t size, struct err *e)
{
	size_t got = 0;

	while (got < size) {
		ssize_t n = pread(fd, buf + got, size - got, (off_t)(from + got));

		if (n < 0 && errno != EINTR)
			return err_sys(e, errno, "reading the content of a file");
		if (n == 0) {
			memset(buf + got, 0, size - got);
			break;
		}
		got += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/*
 * process_vm_readv(2) is the quicker way, but the kernel pins pages for it, and
 * for that gives the process a copy of its own of all that it shares with others
 * since fork(2). One call for all pieces that may be read so. Returns how many were; *ret_size is what they hold.
 */
static size_t store_read_pinned(const struct page_range *pieces, size_t n, char *buf, size_t *ret_size)
{
	struct iovec to = { .iov_base = buf }, from[CHUNK_PAGES];
	const struct target *task = pieces->task;
	size_t asked, read = 0;
	ssize_t got;

	for (asked = 0; asked < n && task && pieces[asked].task == task && pieces[asked].alone; asked++) {
		from[asked] = (struct iovec){ (void *)pieces[asked].from, pieces[asked].pages * MEMORY_PAGE };
		to.iov_len += from[asked].iov_len;
	}
	got = asked ? process_vm_readv(task->pid, &to, 1, from, asked, 0) : 0;
	for (*ret_size = 0; read < asked && (ssize_t)(*ret_size + from[read].iov_len) <= got; read++)
		*ret_size += from[read].iov_len;
	return read;
}

/* /proc/PID/mem also reads what the program itself may not (PROT_NONE). */
static int store_read_mem(const struct page_range *piece, char *buf, size_t size, struct err *e)
{
	int r = fd_pread_full(piece->task->mem_fd, buf, size, (off_t)piece->from);

	return r < 0 ? err_sys(e, r, "reading %zu bytes at %#lx of task %d", size, piece->from, piece->task->pid) : 0;
}

/* Of a piece that could not be read, some pages may be there, marked as not written. */
static int store_note_lost(const struct store_chunk *c, const struct page_range *piece, struct err *e)
{
	struct image_run run = { .addr = piece->addr, .pages = (uint32_t)piece->pages, .extent = COPIES_LOST };

	return copies_add(c->source->copies, &run, 1, e);
}

/* A task that runs may have unmapped what was there: such a piece is left out. */
static int store_read(struct store_chunk *c, char *buf, struct err *e)
{
	size_t pinned, size;
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->n; i += pinned ?: 1, buf += size) {
		struct page_range *piece = &c->pieces[i];

		pinned = store_read_pinned(piece, c->n - i, buf, &size);
		if (pinned)
			continue;
		size = piece->pages * MEMORY_PAGE;
		r = piece->task ? store_read_mem(piece, buf, size, e)
				: store_read_file(c->source->fd, piece->from, buf, size, e);
		if (r < 0 && c->source->copies) {
			r = store_note_lost(c, piece, e);
			c->pages -= piece->pages;
			piece->pages = size = 0;
		}
	}
	return r;
}

/* ---- writing ---- */

static bool page_is_zero(const char *page)
{
	const uint64_t *w = (const uint64_t *)page;

	/* Most pages that are not zero say so in their first or last words. */
	if (w[0] | w[MEMORY_PAGE / 8 - 1])
		return false;
	return memcmp(page, page + 8, MEMORY_PAGE - 8) == 0;
}

/*
 * Find those of the chunk that are not zero, where zero means nothing. Of memory that is copied while it is written to, it
 * is noted which are zero now.
 */
static int store_find_pages(struct store_worker *w, struct err *e)
{
	const struct store_chunk *c = &w->chunk;
	struct image_run zero[CHUNK_PAGES];
	char *buf = w->kit->room;
	size_t n_zero = 0;

	w->n_pages = 0;
	for (size_t i = 0; i < c->n; i++) {
		const struct page_range *piece = &c->pieces[i];

		for (uint64_t k = 0; k < piece->pages; k++, buf += MEMORY_PAGE) {
			uint64_t addr = piece->addr + k * MEMORY_PAGE;

			if (!piece->keep_zero && page_is_zero(buf))
				copies_put(zero, &n_zero, (struct image_run){ .addr = addr, .pages = 1, .extent = COPIES_ZERO });
			else
				w->pages[w->n_pages++] = (struct once_page){ .data = buf, .addr = addr };
		}
	}
	w->stats.pages_zero += c->pages - w->n_pages;
	return c->source->copies ? copies_add(c->source->copies, zero, n_zero, e) : 0;
}

static bool store_is_new(const struct once_page *p)
{
	return p->state == ONCE_ALONE || p->state == ONCE_FIRST;
}

/* Move the pages that are stored here and now to the front of the buffer. Returns how many there are. */
static uint32_t store_compact(struct once_page *pages, size_t n, char *buf)
{
	uint32_t kept = 0;

	for (size_t i = 0; i < n; i++) {
		char *to = buf + (size_t)kept * MEMORY_PAGE;

		if (!store_is_new(&pages[i]))
			continue;
		if (pages[i].data != to)
			memcpy(to, pages[i].data, MEMORY_PAGE);
		pages[i].page = kept++;
	}
	return kept;
}

/* Say where the pages stand: to the writer, or to who keeps account of what is copied while it is written to. */
static int store_runs(struct store_job *job, const struct page_source *s, const struct once_page *pages, size_t n, struct err *e)
{
	struct image_run runs[CHUNK_PAGES];
	size_t n_runs = 0;
	int r = 0;

	for (size_t i = 0; i < n; i++)
		copies_put(runs, &n_runs, (struct image_run){ .addr = pages[i].addr, .owner = s->owner, .pages = 1,
							      .extent = pages[i].extent, .page = pages[i].page });
	if (s->copies)
		return copies_add(s->copies, runs, n_runs, e);
	for (size_t i = 0; r == 0 && i < n_runs; i++)
		r = image_writer_run(job->writer, &runs[i], e);
	return r;
}

/* False when out of memory. */
static bool store_get_packer(struct store_worker *w)
{
	if (!w->kit->packer)
		w->kit->packer = image_packer_new();
	return w->kit->packer;
}

/* As it is worth while right now. What to pack with is made when it is needed first. */
static int store_paced(struct store_worker *w, struct image_packed *x, uint32_t size, uint32_t *ret_extent, struct err *e)
{
	struct pace *pace = image_writer_pace(w->job->writer);
	struct image_packing packing = pace_choose(pace);
	uint64_t begun;
	int r;

	if (packing.codec != IMAGE_CODEC_RAW && !store_get_packer(w))
		packing.codec = IMAGE_CODEC_RAW;
	begun = clock_now_ns(CLOCK_THREAD_CPUTIME_ID);
	image_pack(w->kit->packer, &packing, w->kit->room, size, x);
	r = image_writer_packed(w->job->writer, x, ret_extent, e);
	pace_note(pace, &packing, size, x->stored, clock_now_ns(CLOCK_THREAD_CPUTIME_ID) - begun);
	return r;
}

/* The first pages of the buffer, as one extent. */
static int store_extent(struct store_worker *w, uint32_t pages, uint32_t *ret_extent, struct err *e)
{
	uint64_t sums[CHUNK_PAGES];
	struct image_packed x = { .sums = sums };

	image_page_sums(image_writer_seed(w->job->writer), w->kit->room, pages, sums);
	if (w->job->packing->automatic)
		return store_paced(w, &x, pages * MEMORY_PAGE, ret_extent, e);
	image_pack(w->kit->packer, w->job->packing, w->kit->room, pages * MEMORY_PAGE, &x);
	return image_writer_packed(w->job->writer, &x, ret_extent, e);
}

/* Store what nobody has stored before, and find out where the rest is. */
static int store_put(struct store_worker *w, struct err *e)
{
	uint32_t kept = store_compact(w->pages, w->n_pages, w->kit->room), extent = 0;
	struct once *once = w->job->once;
	int r = kept ? store_extent(w, kept, &extent, e) : 0;

	if (r < 0)
		return r;
	for (size_t i = 0; i < w->n_pages; i++)
		if (store_is_new(&w->pages[i]))
			w->pages[i].extent = extent;
	w->stats.pages_stored += kept;
	once_tell(once, w->pages, w->n_pages);
	return once_await(once, w->pages, w->n_pages) ? 0 : err_set(e, ERR_SYSTEM, ECANCELED, "another thread has failed");
}

static int store_chunk(struct store_worker *w, struct err *e)
{
	struct store_chunk *c = &w->chunk;
	uint32_t owner = c->source->owner;
	size_t in_base;
	int r = store_read(c, w->kit->room, e);

	if (r < 0)
		return r;
	if (store_find_pages(w, e) < 0)
		return -1;
	r = base_look(w->job->base, owner, w->pages, w->n_pages, &in_base, e);
	if (r < 0)
		return r;
	w->stats.pages_parent += in_base;
	once_look(owner & IMAGE_OWNER_INODE(0) ? NULL : w->job->once, w->pages, w->n_pages);
	r = store_put(w, e);
	return r < 0 ? r : store_runs(w->job, c->source, w->pages, w->n_pages, e);
}

/* ---- the workers ---- */

static struct store_worker *store_worker_free(struct store_worker *w)
{
	if (!w)
		return NULL;
	if (w->kit)
		kits_give(image_writer_kits(w->job->writer), w->kit);
	free(w);
	return NULL;
}

/* NULL when out of memory. */
static struct store_worker *store_worker_new(struct store_job *job)
{
	struct store_worker *w = calloc(1, sizeof(*w));
	bool packs = job->packing->codec != IMAGE_CODEC_RAW;

	if (!w)
		return NULL;
	w->job = job;
	w->kit = kits_take(image_writer_kits(job->writer), job->chunk_pages * MEMORY_PAGE);
	return w->kit && (!packs || store_get_packer(w)) ? w : store_worker_free(w);
}

static void store_account(struct store_job *job, const struct store_worker *w, int r, const struct err *err)
{
	pthread_mutex_lock(&job->lock);
	if (r < 0 && !job->err.reason)
		job->err = *err;
	if (r < 0)
		once_give_up(job->once);
	job->workers++;
	job->stats.pages_stored += w->stats.pages_stored;
	job->stats.pages_zero += w->stats.pages_zero;
	job->stats.pages_parent += w->stats.pages_parent;
	pthread_mutex_unlock(&job->lock);
}

static int store_chunks(struct store_worker *w, struct err *e)
{
	int r = 0;

	while (r == 0 && store_take(w->job, &w->chunk)) {
		r = interrupt_check(e);
		if (r == 0)
			r = store_chunk(w, e);
	}
	return r;
}

/* A worker that cannot be made is not missed, as long as there is another. */
static void store_work(void *arg)
{
	struct store_job *job = arg;
	struct store_worker *w = store_worker_new(job);
	struct err err = ERR_INIT;
	int r = w ? store_chunks(w, &err) : 0;

	if (w)
		store_account(job, w, r, &err);
	store_worker_free(w);
}

static uint64_t store_count_pages(const struct page_source *sources, size_t n)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < sources[i].n; k++)
			pages += sources[i].ranges[k].pages;
	return pages;
}

/*
 * Of a small target, the extents are small as well: the buffer stays in a cache of the CPU, and most of the time to copy
 * a megabyte once would go into pages for it. Not where a range may be loaded as a huge page, or packing is asked for, which is
 * better in one go.
 */
static uint64_t store_chunk_pages(const struct store_job *job)
{
	if (job->pages_total >= SMALL_PAGES || (!job->packing->automatic && job->packing->codec != IMAGE_CODEC_RAW))
		return CHUNK_PAGES;
	for (size_t i = 0; i < job->n_sources; i++)
		for (size_t k = 0; k < job->sources[i].n; k++)
			if (job->sources[i].ranges[k].pages >= 2 * CHUNK_PAGES)
				return CHUNK_PAGES;
	return SMALL_CHUNK_PAGES;
}

/*
 * As many as there are CPUs, but none for a target that one of them copies before
 * the other has started; and no more than torpor's own memory is to hold.
 */
static unsigned store_workers(uint64_t pages, const struct image_packing *packing)
{
	unsigned cpus = cpu_count();
	size_t each = IMAGE_EXTENT_MAX + image_packer_size(packing);

	if (cpus > WORKERS_MAX)
		cpus = WORKERS_MAX;
	if (cpus > WORKERS_MEMORY / each)
		cpus = (unsigned)(WORKERS_MEMORY / each);
	return pages < SMALL_PAGES ? 1 : cpus;
}

/* For so many workers. */
static void store_prepare(struct store_job *job, unsigned workers)
{
	pace_expect(image_writer_pace(job->writer), workers);
	job->chunk_pages = store_chunk_pages(job);
}

/* All workers have ended. */
static int store_result(const struct store_job *job, struct memory_stats *ret, struct err *e)
{
	if (!job->workers)
		return err_nomem(e);
	if (job->err.reason) {
		*e = job->err;
		return e->number ? -e->number : -ECANCELED;
	}
	*ret = job->stats;
	return 0;
}

int memory_store(const struct page_source *sources, size_t n, struct image_writer *w, const struct base *base,
		 const struct image_packing *packing, const struct progress *progress, struct memory_stats *ret, struct err *e)
{
	struct store_job job = {
		.lock = PTHREAD_MUTEX_INITIALIZER, .sources = sources, .n_sources = n, .writer = w, .base = base,
		.packing = packing, .progress = progress, .pages_total = store_count_pages(sources, n), .err = ERR_INIT
	};
	unsigned workers = store_workers(job.pages_total, packing);

	if (once_new(sources, n, &job.once, e) < 0)
		return -1;
	store_prepare(&job, workers);
	crew_run(workers, store_work, &job);
	once_free(job.once);
	return store_result(&job, ret, e);
}

/* ---- with a helper ---- */

/* False: there is enough. */
static bool store_offer(struct memory_shared *shared, struct store_job *job)
{
	bool enough;

	pthread_mutex_lock(&shared->lock);
	enough = atomic_load(&shared->enough);
	if (!enough)
		shared->job = job;
	pthread_mutex_unlock(&shared->lock);
	return !enough;
}

/* Nobody begins to help any more, and who helps has come to the end. */
static void store_withdraw(struct memory_shared *shared)
{
	pthread_mutex_lock(&shared->lock);
	shared->job = NULL;
	while (shared->helpers)
		pthread_cond_wait(&shared->left, &shared->lock);
	pthread_mutex_unlock(&shared->lock);
}

static bool store_is_left(struct store_job *job)
{
	bool left;

	pthread_mutex_lock(&job->lock);
	left = store_next(job);
	pthread_mutex_unlock(&job->lock);
	return left;
}

void memory_help(struct memory_shared *shared)
{
	struct store_job *job;

	pthread_mutex_lock(&shared->lock);
	atomic_store(&shared->enough, true);
	job = shared->job;
	shared->helpers += job != NULL;
	pthread_mutex_unlock(&shared->lock);
	if (!job)
		return;
	if (store_is_left(job))
		store_work(job);
	pthread_mutex_lock(&shared->lock);
	shared->helpers--;
	pthread_cond_signal(&shared->left);
	pthread_mutex_unlock(&shared->lock);
}

void memory_abandon(struct memory_shared *shared)
{
	atomic_store(&shared->abandoned, true);
}

int memory_store_shared(struct memory_shared *shared, const struct page_source *source, struct image_writer *w,
			const struct image_packing *packing, struct memory_stats *ret, struct err *e)
{
	static const struct base none;
	struct store_job job = {
		.lock = PTHREAD_MUTEX_INITIALIZER, .sources = source, .n_sources = 1, .writer = w, .base = &none,
		.packing = packing, .pages_total = store_count_pages(source, 1), .shared = shared, .err = ERR_INIT
	};

	store_prepare(&job, store_workers(UINT64_MAX, packing)); /* what it is to keep up with will be all of them */
	if (!store_offer(shared, &job))
		return 0;
	store_work(&job);
	store_withdraw(shared);
	return store_result(&job, ret, e);
}
