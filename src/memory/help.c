/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/help.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "memory/fresh.h"
#include "sys/process.h"
#include "util/clock.h"
#include "util/fd.h"

enum { PATIENCE_NS = 2000000, GLANCES = 200 };

static bool help_turn(struct help *h, enum help_state from, enum help_state to)
{
	uint32_t state = from;

	return atomic_compare_exchange_strong(&h->state, &state, to);
}

bool help_take(struct help *h, uint32_t extent)
{
	return !atomic_exchange(&h->extents[extent].taken, 1);
}

/* ---- in the loader ---- */

bool help_add(struct help *h, const struct piece *pieces, size_t n)
{
	if (h->n == HELP_EXTENTS_MAX || n > HELP_PIECES_MAX - h->n_pieces)
		return false;
	h->extents[h->n].first = h->n_pieces;
	h->extents[h->n++].n = (uint32_t)n;
	memcpy(&h->pieces[h->n_pieces], pieces, n * sizeof(*pieces));
	h->n_pieces += (uint32_t)n;
	return true;
}

void help_ask(struct help *h, int userfaultfd)
{
	h->fd = userfaultfd;
	atomic_store(&h->state, h->n ? HELP_WANTED : HELP_OVER);
}

void help_await(struct help *h)
{
	if (help_turn(h, HELP_WANTED, HELP_OVER))
		return; /* nobody has come */
	for (int i = 0; i < GLANCES && atomic_load(&h->state) == HELP_GIVEN; i++)
		sched_yield();
	while (atomic_load(&h->state) == HELP_GIVEN)
		syscall(SYS_futex, &h->state, FUTEX_WAIT, HELP_GIVEN, NULL, NULL, 0);
}

/* ---- in the helper ---- */

struct help_giving {
	struct help *help;
	const struct help_extent *extent; /* at which it is */
	struct fresh fresh;
};

/* Loading begins with a few dozen calls for the mappings. To be woken would take nearly as long. */
static bool help_is_wanted(struct help *h)
{
	const uint64_t begun = clock_now_ns(CLOCK_MONOTONIC);

	while (atomic_load(&h->state) == HELP_UNKNOWN && clock_now_ns(CLOCK_MONOTONIC) - begun < PATIENCE_NS)
		sched_yield();
	return help_turn(h, HELP_WANTED, HELP_GIVEN);
}

static int help_put(void *arg, uint32_t at, const void *data, uint32_t size, struct err *e)
{
	const struct help_giving *g = arg;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < g->extent->n; i++) {
		struct piece p;

		if (!piece_part(&g->help->pieces[g->extent->first + i], at, size, &p))
			continue;
		r = fresh_copy(&g->fresh, p.to, (const char *)data + (size_t)p.page * MEMORY_PAGE, (uint64_t)p.pages * MEMORY_PAGE);
		if (r < 0)
			err_sys(e, r, "loading %lu bytes of memory to %lx, from outside", (uint64_t)p.pages * MEMORY_PAGE, p.to);
	}
	return r;
}

/* `buf` has IMAGE_EXTENT_MAX bytes. */
static int help_put_all(struct help *h, const struct image *image, pid_t loader, void *buf, struct err *e)
{
	cleanup_close int pidfd = sys_pidfd_open(loader, 0), userfaultfd = pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, h->fd);
	struct help_giving g = { .help = h, .fresh = { .fd = userfaultfd, .pid = loader } };
	int r = 0;

	if (userfaultfd < 0)
		return 0; /* it can do without us */
	for (uint32_t i = h->n; r == 0 && i-- > 0 && help_take(h, i);) {
		g.extent = &h->extents[i];
		r = image_stream_extent(image, h->pieces[g.extent->first].extent, buf, help_put, &g, e);
	}
	if (r < 0 && e->number == ESRCH) { /* the loader has ended, and has said why */
		*e = ERR_INIT;
		r = 0;
	}
	return r;
}

int help_give(struct help *h, const struct image *image, pid_t loader, struct err *e)
{
	char *buf = mmap(NULL, IMAGE_EXTENT_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int r = 0;

	if (buf == MAP_FAILED)
		return 0;
	madvise(buf, IMAGE_PIECE, MADV_POPULATE_WRITE);
	if (help_is_wanted(h))
		r = help_put_all(h, image, loader, buf, e);
	if (r == 0 && help_turn(h, HELP_GIVEN, HELP_OVER))
		syscall(SYS_futex, &h->state, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	munmap(buf, IMAGE_EXTENT_MAX);
	return r;
}
