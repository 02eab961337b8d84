/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The saved pages, from the image into the placed mappings: first all whole huge
 * pages (huge.h), then the rest by scattered reads.
 */

#include <errno.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "memory/huge.h"
#include "memory/memory.h"
#include "proc/maps.h"
#include "util/clock.h"

enum {
	BATCH_IOV = 1024,
	SMALL_PAGE_NS = 2000, /* less than loading a page of 4 KiB costs: huge ones must be worth it */
};

/* One stretch of the image file into many places of memory. */
struct fill_batch {
	struct iovec iov[BATCH_IOV];
	int n;
	uint64_t offset, size;
};

/* A stretch of whole huge pages, all of them stored, in one mapping. Saved addresses. */
struct fill_span {
	uint64_t start, end;
};

struct fill {
	struct memory_load *m;
	struct fill_batch batch;
	struct huge huge;
	struct fill_span *spans; /* ascending */
	size_t n_spans;
	bool pass_huge;          /* load what lies in the spans; else what does not */
	size_t mapping, span;    /* the next that may meet the next run */
	uint64_t staged;         /* bytes in the staging, for ... */
	uint64_t staged_to;      /* ... this place */
	uint64_t staging_size;   /* how much is moved at once */
	uint64_t moved, moved_ns; /* bytes moved so far, and how long that took */
	uint64_t done, total;
};

/* ---- reading ---- */

static int fill_flush(struct fill *f, struct err *e)
{
	struct fill_batch *b = &f->batch;
	struct iovec *iov = b->iov;
	int n = b->n;

	while (b->size) {
		ssize_t got = preadv(f->m->image->fd, iov, n, (off_t)b->offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return err_sys(e, got ? errno : EIO, "reading memory from the image");
		b->offset += (uint64_t)got;
		b->size -= (uint64_t)got;
		for (; n && (size_t)got >= iov->iov_len; iov++, n--)
			got -= (ssize_t)iov->iov_len;
		if (n) {
			iov->iov_base = (char *)iov->iov_base + got;
			iov->iov_len -= (size_t)got;
		}
	}
	b->n = 0;
	return 0;
}

static int fill_read(struct fill *f, uint64_t to, uint64_t from, uint64_t size, struct err *e)
{
	struct fill_batch *b = &f->batch;

	if (b->n && (b->offset + b->size != from || b->n == BATCH_IOV) && fill_flush(f, e) < 0)
		return -1;
	if (!b->n)
		b->offset = from;
	b->size += size;
	if (b->n && (char *)b->iov[b->n - 1].iov_base + b->iov[b->n - 1].iov_len == (char *)to)
		b->iov[b->n - 1].iov_len += size;
	else
		b->iov[b->n++] = (struct iovec){ (void *)to, size };
	f->done += size;
	progress_step(f->m->progress, "loading memory", f->done, f->total);
	return 0;
}

/* ---- huge pages ---- */

/*
 * Where huge pages are slow to get (a virtual machine whose host must find the
 * memory first, a fragmented one) small ones, which tend to have been in use
 * lately, are the better choice: give up as soon as those so far took longer than
 * small ones would have. The first staging is a small one, to find out.
 */
static void fill_judge(struct fill *f, uint64_t took_ns)
{
	f->moved_ns += took_ns;
	f->moved += f->staged;
	f->staging_size = HUGE_STAGING_SIZE;
	if (f->moved_ns > f->moved / MEMORY_PAGE * SMALL_PAGE_NS)
		huge_close(&f->huge);
}

static int fill_unstage(struct fill *f, struct err *e)
{
	uint64_t begun = clock_now_ns(CLOCK_MONOTONIC);

	if (!f->staged)
		return 0;
	if (fill_flush(f, e) < 0)
		return -1;
	huge_move(&f->huge, f->staged_to, f->staged);
	fill_judge(f, clock_now_ns(CLOCK_MONOTONIC) - begun);
	f->staged = 0;
	return 0;
}

/* Pages of a span come in ascending order without gaps: collect them in the staging, and move it when it is full. */
static int fill_stage(struct fill *f, uint64_t to, uint64_t from, uint64_t size, struct err *e)
{
	while (size) {
		uint64_t room, n;

		if (f->staged == f->staging_size || (f->staged && f->staged_to + f->staged != to)) {
			if (fill_unstage(f, e) < 0)
				return -1;
		}
		if (!f->staged)
			f->staged_to = to;
		room = f->staging_size - f->staged;
		n = size < room ? size : room;
		if (fill_read(f, f->huge.staging + f->staged, from, n, e) < 0)
			return -1;
		f->staged += n;
		to += n, from += n, size -= n;
	}
	return 0;
}

/* Can pages be moved into this mapping? The kernel wants equal access on both sides. */
static bool fill_may_be_huge(const struct memory_load *m, size_t mapping)
{
	const uint64_t without = VM_FLAG_HUGETLB | VM_FLAG_NOHUGEPAGE | VM_FLAG_DROPPABLE | VM_FLAG_GROWSDOWN;
	const Pb__Mapping *map = m->space->mappings[mapping];

	return map->kind == PB__MAPPING_KIND__ANON && !(map->flags & without) && !(map->prot & PROT_EXEC) &&
	       (m->place[mapping] - map->start) % HUGE_PAGE_SIZE == 0;
}

/* `start` to `end` is stored without a gap, and lies in one mapping. */
static int fill_add_span(struct fill *f, size_t mapping, uint64_t start, uint64_t end, struct err *e)
{
	struct fill_span *v;

	start = (start + HUGE_PAGE_SIZE - 1) & ~(uint64_t)(HUGE_PAGE_SIZE - 1);
	end &= ~(uint64_t)(HUGE_PAGE_SIZE - 1);
	if (start >= end || !fill_may_be_huge(f->m, mapping))
		return 0;
	v = arena_grow(f->m->arena, f->spans, f->n_spans, sizeof(*v));
	if (!v)
		return err_nomem(e);
	f->spans = v;
	v[f->n_spans++] = (struct fill_span){ start, end };
	return 0;
}

static int fill_find_spans(struct fill *f, const struct image_run *runs, size_t n, struct err *e)
{
	const Pb__AddressSpace *s = f->m->space;
	size_t mapping = 0;

	for (size_t i = 0; i < n;) {
		uint64_t start = runs[i].addr, end = start;

		for (; i < n && runs[i].addr == end; i++)
			end += (uint64_t)runs[i].pages * MEMORY_PAGE;
		while (mapping < s->n_mappings && s->mappings[mapping]->end <= start)
			mapping++;
		for (size_t k = mapping; k < s->n_mappings && s->mappings[k]->start < end; k++) {
			const Pb__Mapping *map = s->mappings[k];

			if (fill_add_span(f, k, start > map->start ? start : map->start, end < map->end ? end : map->end, e) < 0)
				return -1;
		}
	}
	return 0;
}

/* ---- runs, cut along mappings and spans ---- */

/* Pages of one mapping; `to` is where `at` stands now. */
static int fill_piece(struct fill *f, uint64_t at, uint64_t to, uint64_t from, uint64_t size, struct err *e)
{
	const Pb__Mapping *map = f->m->space->mappings[f->mapping];

	while (size) {
		const struct fill_span *span;
		uint64_t n = size;
		bool huge;

		while (f->span < f->n_spans && f->spans[f->span].end <= at)
			f->span++;
		span = f->span < f->n_spans ? &f->spans[f->span] : NULL;
		huge = span && span->start <= at;
		if (span && (huge ? span->end : span->start) - at < n)
			n = (huge ? span->end : span->start) - at;
		if (huge && f->pass_huge) {
			if (f->huge.start != f->m->place[f->mapping] && fill_unstage(f, e) < 0)
				return -1;
			if (huge_enter(&f->huge, f->m->place[f->mapping], map->end - map->start)
				    ? fill_stage(f, to, from, n, e) < 0
				    : fill_read(f, to, from, n, e) < 0)
				return -1;
		} else if (!huge && !f->pass_huge && fill_read(f, to, from, n, e) < 0) {
			return -1;
		}
		at += n, to += n, from += n, size -= n;
	}
	return 0;
}

static int fill_run(struct fill *f, const struct image_run *run, struct err *e)
{
	const struct memory_load *m = f->m;
	uint64_t from = m->image->extents[run->extent].offset + (uint64_t)run->page * MEMORY_PAGE;
	uint64_t at = run->addr, end = run->addr + (uint64_t)run->pages * MEMORY_PAGE;

	while (at < end) {
		const Pb__Mapping *map;
		uint64_t size;

		while (f->mapping < m->space->n_mappings && m->space->mappings[f->mapping]->end <= at)
			f->mapping++;
		map = f->mapping < m->space->n_mappings ? m->space->mappings[f->mapping] : NULL;
		if (!map || map->start > at || map->kind > PB__MAPPING_KIND__FILE_PRIVATE)
			return err_set(e, ERR_IMAGE, 0, "the image holds pages at %lx, where no private mapping is", at);
		size = (map->end < end ? map->end : end) - at;
		if (fill_piece(f, at, m->place[f->mapping] + (at - map->start), from, size, e) < 0)
			return -1;
		at += size, from += size;
	}
	return 0;
}

static int fill_pass(struct fill *f, bool huge, const struct image_run *runs, size_t n, struct err *e)
{
	int r = 0;

	f->pass_huge = huge;
	f->mapping = f->span = 0;
	for (size_t i = 0; r == 0 && i < n; i++)
		r = fill_run(f, &runs[i], e);
	if (r == 0)
		r = fill_unstage(f, e);
	return r < 0 ? r : fill_flush(f, e);
}

int memory_fill(struct memory_load *m, struct err *e)
{
	struct fill f = { .m = m, .staging_size = HUGE_PAGE_SIZE };
	size_t n;
	const struct image_run *runs = image_runs_of(m->image, m->owner, &n);
	int r;

	for (size_t i = 0; i < n; i++)
		f.total += (uint64_t)runs[i].pages * MEMORY_PAGE;
	r = fill_find_spans(&f, runs, n, e);
	huge_open(&f.huge, f.n_spans ? region_park(&m->region, HUGE_STAGING_SIZE, 0, HUGE_PAGE_SIZE) : 0);
	if (!huge_works(&f.huge))
		f.n_spans = 0;
	if (r == 0 && f.n_spans)
		r = fill_pass(&f, true, runs, n, e);
	huge_close(&f.huge);
	return r < 0 ? r : fill_pass(&f, false, runs, n, e);
}
