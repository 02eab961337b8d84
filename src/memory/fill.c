/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The saved pages, from the image into the placed mappings, in one pass over the
 * file: an extent is read piece by piece, its checksum compared, and its pages are
 * put where they belong, by several threads at once (fresh.h). Two extents that
 * fill one huge page are read into a huge page of a staging mapping. From there all are moved
 * into place when the threads are gone, as each of them would be interrupted for each move.
 * Stretches of small mappings are cut before: each mapping gets its protection, then its pages.
 *
 * The threads are gone, with their TIDs, when memory_fill() returns.
 */

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "memory/fresh.h"
#include "memory/help.h"
#include "memory/memory.h"
#include "memory/piece.h"
#include "proc/maps.h"
#include "sys/memory.h"
#include "util/clock.h"
#include "util/cpu.h"
#include "util/crew.h"

enum {
	EXTENT_PAGES = IMAGE_EXTENT_MAX / MEMORY_PAGE,
	HUGE_EXTENTS = HUGE_PAGE_SIZE / IMAGE_EXTENT_MAX,
	LOST_MAX_NS = 8 * 1000 * 1000,   /* to slow huge pages, of each thread, before it gives them up */
	SMALL_PAGE_NS = 2000,            /* less than loading a page of 4 KiB costs: huge ones must be worth it */
	FRESH_MIN = 64 * 1024,           /* what a mapping must be given at least, to be registered */
	THREAD_SHARE = 4 * 1024 * 1024,  /* what a thread must have to do at least */
	THREADS_MAX = 8,
	POPULATE_MIN = 3 * MEMORY_PAGE,   /* less is not made sooner in one call than by a fault for each page */
};

/* All pieces of one extent; or, for a huge page, one piece of each of its extents. */
struct fill_unit {
	struct piece *pieces;
	size_t n;
	bool huge;
	bool staged;   /* it was read into its huge page of the staging mapping */
	bool helped;   /* another process may take it: */
	uint32_t help; /* by this number (help_take()) */
};

struct fill {
	struct memory_load *m;
	struct fresh fresh;
	bool *is_fresh; /* for the first mapping of each stretch: all of it takes fresh pages */
	bool *is_cut;   /* as well: it is settled before its pages come, so each mapping takes them by itself */
	struct piece *pieces;
	size_t n_pieces;
	struct fill_unit *units; /* huge pages first */
	size_t n_units, n_huge;
	char *staging;           /* a huge page for each huge unit, made when it is touched; NULL: there are none */
	uint64_t total;

	_Atomic uint32_t cutting; /* a thread does that */
	_Atomic size_t cut_to;    /* mapping: it is done with all that begin before this one */
	_Atomic size_t next;      /* unit */
	_Atomic uint32_t failed;
	struct err *err; /* of whoever asked for all this: what the thread has to say that failed first */
};

struct fill_worker {
	char *buf;       /* of IMAGE_EXTENT_MAX bytes; NULL: it was not needed yet */
	bool no_staging; /* huge pages are slow to get */
	uint64_t staged, staged_ns; /* bytes of huge pages so far, and how long they took */
};

/* ---- what belongs where ---- */

/* The saved address where its stretch ends. */
static uint64_t fill_stretch_end(const struct memory_load *m, uint32_t mapping)
{
	return m->space->mappings[memory_stretch_of(m, mapping).end - 1]->end;
}

/* A run, cut along the stretches; `mapping` is the first that it may meet. */
static int fill_cut_run(struct fill *f, const struct image_run *run, size_t *mapping, struct err *e)
{
	const struct memory_load *m = f->m;
	uint64_t at = run->addr, end = run->addr + (uint64_t)run->pages * MEMORY_PAGE;

	while (at < end) {
		struct piece *v = arena_grow(m->arena, f->pieces, f->n_pieces, sizeof(*v));
		const Pb__Mapping *map;
		uint64_t stop;

		if (!v)
			return err_nomem(e);
		f->pieces = v;
		while (*mapping < m->space->n_mappings && m->space->mappings[*mapping]->end <= at)
			++*mapping;
		map = *mapping < m->space->n_mappings ? m->space->mappings[*mapping] : NULL;
		if (!map || map->start > at || map->kind > PB__MAPPING_KIND__FILE_PRIVATE)
			return err_set(e, ERR_IMAGE, 0, "the image holds pages at %lx, where no private mapping is", at);
		stop = fill_stretch_end(m, (uint32_t)*mapping);
		stop = stop < end ? stop : end;
		v[f->n_pieces++] = (struct piece){
			.to = m->place[*mapping] + (at - map->start), .mapping = (uint32_t)*mapping, .extent = run->extent,
			.page = run->page + (uint32_t)((at - run->addr) / MEMORY_PAGE),
			.pages = (uint32_t)((stop - at) / MEMORY_PAGE),
		};
		f->total += stop - at;
		at = stop;
	}
	return 0;
}

static int fill_cut_runs(struct fill *f, struct err *e)
{
	size_t mapping = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < f->m->n_runs; i++)
		r = fill_cut_run(f, &f->m->runs[i], &mapping, e);
	return r;
}

static bool fill_may_be_fresh(const Pb__Mapping *map)
{
	const uint64_t without = VM_FLAG_HUGETLB | VM_FLAG_DROPPABLE | VM_FLAG_GROWSDOWN;

	return map->kind == PB__MAPPING_KIND__ANON && !(map->flags & without);
}

static bool fill_is_fresh(const struct fill *f, const struct piece *p)
{
	return f->is_fresh[memory_stretch_of(f->m, p->mapping).first];
}

/* The kernel moves pages only where access is equal on both sides. */
static bool fill_may_be_huge(struct fill *f, const struct piece *p)
{
	const Pb__Mapping *map = f->m->space->mappings[p->mapping];

	return fill_is_fresh(f, p) && !(map->flags & VM_FLAG_NOHUGEPAGE) && !(map->prot & PROT_EXEC) &&
	       p->to + HUGE_PAGE_SIZE <= f->m->place[p->mapping] + (map->end - map->start) && fresh_moves_huge(&f->fresh);
}

/*
 * Should this stretch be cut before it is filled? If no huge page has room in any of its mappings, nothing is lost when each is
 * filled by itself. Where that is so, it is given a page for a moment: of one that never had any, the kernel would no longer
 * account the parts that lose their write access.
 */
static bool fill_cuts_first(const struct fill *f, uint32_t first)
{
	static const char page[MEMORY_PAGE];
	const struct memory_stretch s = memory_stretch_of(f->m, first);
	const uint64_t at = f->m->place[first];

	for (uint32_t k = s.first; k < s.end; k++) {
		const Pb__Mapping *map = f->m->space->mappings[k];

		if (map->end - map->start >= HUGE_PAGE_SIZE || map->n_guards || (map->flags & VM_FLAG_LOCKED))
			return false; /* what locks memory fetches it, and that can only be done last */
	}
	return s.end - s.first > 1 && fresh_copy(&f->fresh, at, page, sizeof(page)) == 0 &&
	       madvise((void *)at, sizeof(page), MADV_DONTNEED) == 0;
}

/* Register the stretches that are given enough pages. */
static int fill_add_fresh(struct fill *f, struct err *e)
{
	const struct memory_load *m = f->m;
	bool opened = false;

	f->is_fresh = arena_alloc(m->arena, m->space->n_mappings * sizeof(*f->is_fresh));
	f->is_cut = arena_alloc(m->arena, m->space->n_mappings * sizeof(*f->is_cut));
	if (!f->is_fresh || !f->is_cut)
		return err_nomem(e);
	for (size_t i = 0; i < f->n_pieces;) {
		uint32_t first = memory_stretch_of(m, f->pieces[i].mapping).first;
		const Pb__Mapping *map = m->space->mappings[first];
		uint64_t size = 0;

		for (; i < f->n_pieces && memory_stretch_of(m, f->pieces[i].mapping).first == first; i++)
			size += (uint64_t)f->pieces[i].pages * MEMORY_PAGE;
		if (size < FRESH_MIN || !fill_may_be_fresh(map))
			continue;
		if (!opened)
			fresh_open(&f->fresh);
		opened = true;
		f->is_fresh[first] = fresh_add(&f->fresh, m->place[first], fill_stretch_end(m, first) - map->start);
		f->is_cut[first] = f->is_fresh[first] && fill_cuts_first(f, first);
	}
	return 0;
}

/* ---- units ---- */

/* Do whole extents, one after the other, fill the huge page that begins with this piece? */
static bool fill_is_huge(struct fill *f, size_t piece)
{
	const struct piece *p = &f->pieces[piece];

	if (p->to % HUGE_PAGE_SIZE || f->n_pieces - piece < HUGE_EXTENTS || !fill_may_be_huge(f, p))
		return false;
	for (size_t i = 0; i < HUGE_EXTENTS; i++)
		if (p[i].mapping != p->mapping || p[i].to != p->to + i * IMAGE_EXTENT_MAX || p[i].pages != EXTENT_PAGES)
			return false;
	return true;
}

static int fill_compare_pieces(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;

	return x->extent != y->extent ? (x->extent < y->extent ? -1 : 1) : x->page < y->page ? -1 : x->page > y->page;
}

/* Every piece goes into one unit. Those of huge pages stay in the order of addresses, the rest is sorted by extent. */
static int fill_make_units(struct fill *f, struct err *e)
{
	struct piece *rest = arena_alloc(f->m->arena, (f->n_pieces + 1) * sizeof(*rest));
	size_t n_rest = 0;

	f->units = arena_alloc(f->m->arena, (f->n_pieces + 1) * sizeof(*f->units));
	if (!rest || !f->units)
		return err_nomem(e);
	for (size_t i = 0; i < f->n_pieces;) {
		if (fill_is_huge(f, i)) {
			f->units[f->n_units++] = (struct fill_unit){ .pieces = &f->pieces[i], .n = HUGE_EXTENTS, .huge = true };
			f->n_huge++;
			i += HUGE_EXTENTS;
		} else {
			rest[n_rest++] = f->pieces[i++];
		}
	}
	qsort(rest, n_rest, sizeof(*rest), fill_compare_pieces);
	for (size_t i = 0, next; i < n_rest; i = next) {
		for (next = i; next < n_rest && rest[next].extent == rest[i].extent;)
			next++;
		f->units[f->n_units++] = (struct fill_unit){ .pieces = &rest[i], .n = next - i };
	}
	return 0;
}

/* ---- help from outside ---- */

/* All of it is put as fresh pages, which others can do. */
static bool fill_may_be_helped(const struct fill *f, const struct fill_unit *u)
{
	for (size_t i = 0; i < u->n; i++)
		if (!fill_is_fresh(f, &u->pieces[i]) || f->is_cut[memory_stretch_of(f->m, u->pieces[i].mapping).first])
			return false;
	return !u->huge;
}

/* Ask for it. What only we can load comes first, while the helper begins with the rest. */
static int fill_ask_help(struct fill *f, struct err *e)
{
	struct fill_unit *units = arena_alloc(f->m->arena, f->n_units * sizeof(*units));
	struct help *h = f->m->help;
	size_t n = 0;

	if (!units)
		return err_nomem(e);
	for (size_t i = 0; i < f->n_units; i++) {
		struct fill_unit *u = &f->units[i];

		u->help = h->n;
		u->helped = fill_may_be_helped(f, u) && help_add(h, u->pieces, u->n);
	}
	for (int helped = 0; helped < 2; helped++)
		for (size_t i = 0; i < f->n_units; i++)
			if (f->units[i].helped == helped)
				units[n++] = f->units[i];
	f->units = units;
	help_ask(h, f->fresh.fd);
	return 0;
}

/* ---- loading a unit ---- */

/* Into a mapping that does not take fresh pages. From outside, as it were: where that cannot be, it is no signal. */
static int fill_write(uint64_t to, const char *from, uint64_t size)
{
	for (uint64_t done = 0; done < size;) {
		struct iovec local = { (void *)(from + done), size - done }, remote = { (void *)(to + done), size - done };
		ssize_t n = process_vm_writev(getpid(), &local, 1, &remote, 1, 0);

		if (n <= 0)
			return n < 0 ? -errno : -EFAULT;
		done += (uint64_t)n;
	}
	return 0;
}

/* The kernel takes fresh pages for one mapping at a time. */
static int fill_put_fresh(const struct fill *f, const struct piece *p, const char *from, uint64_t size)
{
	const struct memory_load *m = f->m;
	uint64_t done = 0;
	int r = 0;

	if (!f->is_cut[memory_stretch_of(m, p->mapping).first])
		return fresh_copy(&f->fresh, p->to, from, size);
	for (uint32_t k = p->mapping; r == 0 && done < size; k++) {
		uint64_t at = p->to + done, end = m->place[k] + (m->space->mappings[k]->end - m->space->mappings[k]->start);
		uint64_t part = at >= end ? 0 : end - at < size - done ? end - at : size - done;

		if (part)
			r = fresh_copy(&f->fresh, at, from + done, part);
		done += part;
	}
	return r;
}

/* `data` is where the piece's pages are counted from. */
static int fill_put(const struct fill *f, const struct piece *p, const char *data, struct err *e)
{
	const char *from = data + (size_t)p->page * MEMORY_PAGE;
	uint64_t size = (uint64_t)p->pages * MEMORY_PAGE;
	int r = fill_is_fresh(f, p) ? fill_put_fresh(f, p, from, size) : fill_write(p->to, from, size);

	if (r == 0)
		return 0;
	err_sys(e, r, "loading %lu bytes of memory to %lx", size, p->to);
	return r == -EFAULT ? err_help(e, "see whether the disk fails: a page of the file that is mapped there cannot be read") : -1;
}

struct fill_taking {
	const struct fill *f;
	const struct fill_unit *u;
};

/* So much of an extent has been read: what of it belongs where? */
static int fill_take(void *arg, uint32_t at, const void *data, uint32_t size, struct err *e)
{
	const struct fill_taking *t = arg;
	struct piece p;
	int r = 0;

	for (size_t i = 0; r == 0 && i < t->u->n; i++)
		if (piece_part(&t->u->pieces[i], at, size, &p))
			r = fill_put(t->f, &p, data, e);
	return r;
}

/* Only a favour: what is not there when it is read to is made then. */
static void fill_populate(const struct iovec *to, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (to[i].iov_len >= POPULATE_MIN)
			madvise(to[i].iov_base, to[i].iov_len, MADV_POPULATE_WRITE);
}

enum { DIRECT_MAX = 64 };

/*
 * Small mappings, of which each has some pages in one extent: all of it is read to where it belongs, in one call. Returns 1
 * where that cannot be: fresh pages are put there otherwise, or only a part of the extent is wanted here.
 */
static int fill_load_directly(const struct fill *f, const struct fill_unit *u, struct err *e)
{
	struct iovec to[DIRECT_MAX];

	for (size_t i = 0; i < u->n; i++) {
		const struct piece *p = &u->pieces[i];

		if (u->n > DIRECT_MAX || fill_is_fresh(f, p) ||
		    p->page != (i ? u->pieces[i - 1].page + u->pieces[i - 1].pages : 0))
			return 1;
		to[i] = (struct iovec){ (void *)p->to, (size_t)p->pages * MEMORY_PAGE };
	}
	fill_populate(to, u->n);
	return image_read_extent_to(f->m->image, u->pieces[0].extent, to, u->n, e);
}

static int fill_get_buffer(struct fill_worker *w, struct err *e)
{
	char *p;

	if (w->buf)
		return 0;
	p = mmap(NULL, IMAGE_EXTENT_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return err_nomem(e);
	w->buf = p;
	fill_populate(&(struct iovec){ w->buf, IMAGE_PIECE }, 1);
	return 0;
}

/* ... by the buffer, piece by piece. */
static int fill_load_buffered(const struct fill *f, struct fill_worker *w, const struct fill_unit *u, struct err *e)
{
	if (fill_get_buffer(w, e) < 0)
		return -1;
	return image_stream_extent(f->m->image, u->pieces[0].extent, w->buf, fill_take, &(struct fill_taking){ f, u }, e);
}

static int fill_load_extent(const struct fill *f, struct fill_worker *w, const struct fill_unit *u, struct err *e)
{
	int r = fill_load_directly(f, u, e);

	if (r < 0 && e->number == EFAULT) { /* it is not the image that cannot be read: fill_put() tells what it is */
		*e = ERR_INIT;
		r = 1;
	}
	return r <= 0 ? r : fill_load_buffered(f, w, u, e);
}

/*
 * Where huge pages are slow to get (a virtual machine whose host must find the
 * memory first, a fragmented one) small ones, which tend to have been in use
 * lately, are the better choice: give up when those so far took longer than small
 * ones would have, and by more than one slow page at the beginning, which says
 * little of those that follow. Measured in CPU time: others may be running as well.
 */
static void fill_judge(struct fill_worker *w, uint64_t took_ns)
{
	w->staged_ns += took_ns;
	w->staged += HUGE_PAGE_SIZE;
	w->no_staging = w->staged_ns > w->staged / MEMORY_PAGE * SMALL_PAGE_NS + LOST_MAX_NS;
}

static char *fill_staging_of(const struct fill *f, const struct fill_unit *u)
{
	return f->staging + (size_t)(u - f->units) * HUGE_PAGE_SIZE;
}

/* Into its huge page of the staging mapping; or, as small pages, into place, extent by extent. */
static int fill_load_huge(const struct fill *f, struct fill_worker *w, struct fill_unit *u, struct err *e)
{
	char *at = f->staging && !w->no_staging ? fill_staging_of(f, u) : NULL;
	uint64_t begun = clock_now_ns(CLOCK_THREAD_CPUTIME_ID);
	int r = 0;

	for (size_t i = 0; r == 0 && i < u->n; i++) {
		struct fill_unit one = { .pieces = &u->pieces[i], .n = 1 };

		r = at ? image_read_extent(f->m->image, u->pieces[i].extent, at + i * IMAGE_EXTENT_MAX, e)
			  : fill_load_buffered(f, w, &one, e);
	}
	u->staged = at;
	if (at)
		fill_judge(w, clock_now_ns(CLOCK_THREAD_CPUTIME_ID) - begun);
	return r;
}

/* ---- the staging mapping ---- */

/* Without it, or where it holds no huge pages, they become small ones. */
static void fill_make_staging(struct fill *f)
{
	if (f->n_huge)
		f->staging = huge_map(f->n_huge * HUGE_PAGE_SIZE, MAP_NORESERVE);
}

/* What stands side by side on both sides is moved in one call. */
static int fill_move_staging(const struct fill *f, struct err *e)
{
	for (size_t i = 0, next; i < f->n_huge; i = next) {
		const struct fill_unit *u = &f->units[i];
		const uint64_t to = u->pieces[0].to;
		int r = 0;

		for (next = i + 1; u->staged && next < f->n_huge && f->units[next].staged; next++)
			if (f->units[next].pieces[0].to != to + (next - i) * HUGE_PAGE_SIZE)
				break;
		if (u->staged)
			r = fresh_move(&f->fresh, to, fill_staging_of(f, u), (next - i) * HUGE_PAGE_SIZE);
		if (r < 0)
			return err_sys(e, r, "loading huge pages to %lx", to);
	}
	return 0;
}

static void fill_drop_staging(struct fill *f)
{
	if (f->staging)
		munmap(f->staging, f->n_huge * HUGE_PAGE_SIZE);
	f->staging = NULL;
}

/* ---- the threads ---- */

static void fill_fail(struct fill *f, const struct err *e)
{
	if (atomic_exchange(&f->failed, 1) == 0 && e != f->err)
		*f->err = *e;
}

static void fill_count(const struct fill *f, const struct fill_unit *u)
{
	uint64_t done = 0;

	for (size_t i = 0; i < u->n; i++)
		done += (uint64_t)u->pieces[i].pages * MEMORY_PAGE;
	atomic_fetch_add(f->m->loaded, done);
}

/*
 * Settle the stretches for which that comes first: the kernel cuts a mapping more quickly that has no pages, and other CPUs have
 * nothing to forget. It makes one such call at a time, so one thread does it all, in the order of addresses; others load already.
 */
static int fill_cut(struct fill *f, struct err *e)
{
	size_t n = f->m->space->n_mappings;
	int r = 0;

	for (size_t i = 0; r == 0 && i < n; i = memory_stretch_of(f->m, (uint32_t)i).end) {
		if (f->is_cut[i])
			r = memory_settle_stretch(f->m, (uint32_t)i, e);
		atomic_store(&f->cut_to, i + 1);
	}
	return r;
}

/* A unit must wait until that is done for all of it. As a rule it is: units tend to come in the same order, and take longer. */
static void fill_await_cut(struct fill *f, const struct fill_unit *u)
{
	for (size_t i = 0; i < u->n; i++) {
		uint32_t first = memory_stretch_of(f->m, u->pieces[i].mapping).first;

		while (f->is_cut[first] && atomic_load(&f->cut_to) <= first && !atomic_load(&f->failed))
			sched_yield();
	}
}

/* What goes wrong is put into `e`, which is the thread's own. */
static void fill_run(struct fill *f, struct err *e)
{
	struct fill_worker w = { 0 };
	size_t i;

	if (atomic_exchange(&f->cutting, 1) == 0 && fill_cut(f, e) < 0)
		fill_fail(f, e);
	while (!atomic_load(&f->failed) && (i = atomic_fetch_add(&f->next, 1)) < f->n_units) {
		struct fill_unit *u = &f->units[i];

		fill_await_cut(f, u);
		if ((!u->helped || help_take(f->m->help, u->help)) &&
		    (u->huge ? fill_load_huge(f, &w, u, e) : fill_load_extent(f, &w, u, e)) < 0)
			fill_fail(f, e);
		fill_count(f, u);
	}
	if (w.buf)
		munmap(w.buf, IMAGE_EXTENT_MAX);
}

static void fill_work(void *arg)
{
	struct err e = ERR_INIT;

	fill_run(arg, &e);
}

/* This task's share of the CPUs: others load at the same time. */
static unsigned fill_threads(const struct fill *f)
{
	const struct image *image = f->m->image;
	uint64_t all = 0, useful = f->total / THREAD_SHARE, share;

	if (f->m->one_thread || useful < 2)
		return 1;
	for (size_t i = 0; i < image->n_extents; i++)
		all += image->extents[i].size;
	share = all ? (cpu_count() * f->total + all - 1) / all : 1;
	if (share > useful)
		share = useful;
	return share < 1 ? 1 : share < THREADS_MAX ? (unsigned)share : THREADS_MAX;
}

static int fill_in_parallel(struct fill *f, struct err *e)
{
	const unsigned threads = fill_threads(f);
	const bool helped = f->m->help && threads == 1;

	if (helped && fill_ask_help(f, e) < 0)
		return -1;
	fill_make_staging(f);
	f->err = e;
	if (threads > 1)
		crew_run(threads, fill_work, f);
	else
		fill_run(f, e); /* without an error of its own, which would be a page of the stack */
	if (!f->failed) {
		if (helped)
			help_await(f->m->help);
		return fill_move_staging(f, e);
	}
	if (e->reason == ERR_IMAGE && !f->m->verifies) /* it was whole a moment ago */
		err_wrap(e, "the image has changed since it was verified");
	return e->number ? -e->number : -ECANCELED;
}

int memory_fill(struct memory_load *m, struct err *e)
{
	struct fill f = { .m = m, .fresh.fd = -1 };
	int r = fill_cut_runs(&f, e);

	if (r < 0 || !f.n_pieces)
		return r;
	r = fill_add_fresh(&f, e);
	if (r == 0)
		r = fill_make_units(&f, e);
	if (r == 0)
		r = fill_in_parallel(&f, e);
	fresh_close(&f.fresh);
	fill_drop_staging(&f);
	return r;
}
