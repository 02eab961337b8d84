/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The stored content of an inode, from the image into a file or into memory, by
 * several threads at once: each takes one extent after the other, compares its
 * checksum, and puts its pages where they belong.
 */

#include "inode/fill.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "image/image.h"
#include "util/cpu.h"
#include "util/crew.h"
#include "util/fd.h"

enum { THREAD_SHARE = 4 * 1024 * 1024 }; /* what a thread must have to do at least */

struct content {
	const struct inode_restore *r;
	const Pb__Inode *pb;
	int fd;     /* the file; -1: into memory */
	char *addr;
	const struct image_run **runs; /* in the order of extents */
	size_t n;
	_Atomic size_t next; /* run, the first of its extent */
	_Atomic uint32_t failed;
	struct err err; /* of the thread that failed first */
};

/* What one thread has at hand: all runs of one extent. */
struct content_part {
	struct content *c;
	const struct image_run **runs;
	size_t n;
};

static int content_compare(const void *a, const void *b)
{
	const struct image_run *x = *(const struct image_run *const *)a, *y = *(const struct image_run *const *)b;

	return x->extent != y->extent ? (x->extent < y->extent ? -1 : 1) : x->page < y->page ? -1 : x->page > y->page;
}

/* From outside, as it were: where there is no room for it, it is no signal. */
static int content_poke(char *to, const char *from, uint64_t size)
{
	for (uint64_t done = 0; done < size;) {
		struct iovec local = { (void *)(from + done), size - done }, remote = { to + done, size - done };
		ssize_t n = process_vm_writev(getpid(), &local, 1, &remote, 1, 0);

		if (n <= 0)
			return n < 0 ? -errno : -EFAULT;
		done += (uint64_t)n;
	}
	return 0;
}

/* A file may end within its last page. */
static int content_put(const struct content *c, uint64_t to, const char *data, uint64_t size, struct err *e)
{
	int r;

	if (c->fd >= 0 && to + size > c->pb->size)
		size = to < c->pb->size ? c->pb->size - to : 0;
	r = c->fd < 0 ? content_poke(c->addr + to, data, size) : fd_pwrite_full(c->fd, data, size, (off_t)to);
	return r < 0 ? err_sys(e, r, "writing the content of %s", c->pb->path) : 0;
}

/* So much of an extent has been read: what of it belongs where? */
static int content_take(void *arg, uint32_t at, const void *data, uint32_t size, struct err *e)
{
	const struct content_part *part = arg;
	int r = 0;

	for (size_t i = 0; r == 0 && i < part->n; i++) {
		const struct image_run *run = part->runs[i];
		uint64_t first = (uint64_t)run->page * IMAGE_PAGE, last = first + (uint64_t)run->pages * IMAGE_PAGE;
		uint64_t from = first > at ? first : at, to = last < (uint64_t)at + size ? last : (uint64_t)at + size;

		if (from < to)
			r = content_put(part->c, run->addr + (from - first), (const char *)data + (from - at), to - from, e);
	}
	return r;
}

/* The runs of the next extent that nobody has taken; false when none is left. */
static bool content_next(struct content *c, struct content_part *ret)
{
	size_t first = atomic_load(&c->next), end;

	do {
		if (first >= c->n)
			return false;
		for (end = first + 1; end < c->n && c->runs[end]->extent == c->runs[first]->extent;)
			end++;
	} while (!atomic_compare_exchange_weak(&c->next, &first, end));
	*ret = (struct content_part){ c, c->runs + first, end - first };
	return true;
}

static void content_work(void *arg)
{
	struct content *c = arg;
	struct content_part part;
	struct err e = ERR_INIT;
	char *buf = aligned_alloc(IMAGE_PAGE, IMAGE_EXTENT_MAX);
	int r = buf ? 0 : err_nomem(&e);

	while (r == 0 && !atomic_load(&c->failed) && content_next(c, &part))
		r = image_stream_extent(c->r->image, part.runs[0]->extent, buf, content_take, &part, &e);
	if (r < 0 && e.reason == ERR_IMAGE) /* it was whole a moment ago */
		err_wrap(&e, "the image has changed since it was verified");
	if (r < 0 && atomic_exchange(&c->failed, 1) == 0)
		c->err = e;
	free(buf);
}

static unsigned content_threads(const struct content *c)
{
	uint64_t pages = 0, useful;

	for (size_t i = 0; i < c->n; i++)
		pages += c->runs[i]->pages;
	useful = pages * IMAGE_PAGE / THREAD_SHARE;
	return c->r->one_thread || useful < 1 ? 1 : useful < cpu_count() ? (unsigned)useful : cpu_count();
}

/* All runs of the inode, in the order of extents. */
static int content_find(struct content *c, const struct image_run *runs, struct err *e)
{
	c->runs = malloc((c->n + 1) * sizeof(*c->runs));
	if (!c->runs)
		return err_nomem(e);
	for (size_t i = 0; i < c->n; i++) {
		if (runs[i].addr >= c->pb->size)
			return err_set(e, ERR_IMAGE, 0, "the image holds content beyond the end of %s", c->pb->path);
		c->runs[i] = &runs[i];
	}
	qsort(c->runs, c->n, sizeof(*c->runs), content_compare);
	return 0;
}

int inode_fill(struct inode_restore *r, size_t index, int fd, void *addr, struct err *e)
{
	struct content c = { .r = r, .pb = r->v[index].pb, .fd = fd, .addr = addr };
	const struct image_run *runs = image_runs_of(r->image, IMAGE_OWNER_INODE(index), &c.n);
	int result = content_find(&c, runs, e);

	if (result == 0 && c.n)
		crew_run(content_threads(&c), content_work, &c);
	free(c.runs);
	if (!c.failed)
		return result;
	*e = c.err;
	return err_wrap(e, "the content of %s", c.pb->path);
}
