/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/pty/terminal_view.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <termios.h>

#include "kinds/kind.h"
#include "sys/tty.h"
#include "util/fd.h"

enum {
	MAJOR_MEM = 1,
	MAJOR_TTY_AUX = 5,
	MINOR_TTY = 0,
	MINOR_PTMX = 2,
	MAJOR_PTS_FIRST = 136,
	MAJOR_PTS_LAST = 143,
};

#define TERMINAL_HUNG_UP (1ull << 32)  /* with the number: the index may be in use again */
#define TERMINAL_NAMELESS (1ull << 33) /* with the object: a hung up /dev/tty, whose number nobody knows */

/* A master or a slave. Equal keys: two ends of one pseudo-terminal. */
struct terminal_end {
	struct fd_view *v;
	uint64_t key;
	bool master;
};

static bool terminal_is_candidate(const struct fd_view *v)
{
	return S_ISCHR(v->st.st_mode) && major(v->st.st_rdev) != MAJOR_MEM && !(v->info.flags & O_PATH);
}

static bool terminal_is_pts(dev_t dev)
{
	return major(dev) >= MAJOR_PTS_FIRST && major(dev) <= MAJOR_PTS_LAST;
}

static uint32_t terminal_pts_index(dev_t dev)
{
	return (major(dev) - MAJOR_PTS_FIRST) * 256 + minor(dev);
}

/* TIOCGDEV answers with a number like that of stat(2) for machines with 32-bit device numbers. */
static dev_t terminal_decode_dev(unsigned dev)
{
	return makedev(dev >> 8 & 0xfff, (dev & 0xff) | (dev >> 12 & 0xfff00));
}

/* Of which pseudo-terminal is it an end? False: of none. A slave whose master is gone answers no ioctl. */
static bool terminal_find_key(const struct fd_view *v, int fd, uint64_t *ret_key)
{
	int dev = sys_tty_number(fd, TIOCGDEV);
	dev_t node = v->st.st_rdev, slave = dev < 0 ? 0 : terminal_decode_dev((unsigned)dev);

	if (dev >= 0 && terminal_is_pts(slave))
		*ret_key = terminal_pts_index(slave);
	else if (dev == -EIO && terminal_is_pts(node))
		*ret_key = TERMINAL_HUNG_UP | terminal_pts_index(node);
	else if (dev == -EIO && node == makedev(MAJOR_TTY_AUX, MINOR_TTY))
		*ret_key = TERMINAL_NAMELESS | v->object;
	else
		return false;
	return true;
}

/* 1: it is the end of a pseudo-terminal. 0: it is not; a terminal of another sort is always outside. */
static int terminal_classify(struct fd_view *v, struct terminal_end *ret, struct err *e)
{
	cleanup_close int fd = kind_steal(v, e);

	if (fd < 0)
		return fd;
	*ret = (struct terminal_end){ .v = v, .master = v->st.st_rdev == makedev(MAJOR_TTY_AUX, MINOR_PTMX) };
	if (terminal_find_key(v, fd, &ret->key))
		return 1;
	v->terminal = v->peer_outside = isatty(fd);
	return 0;
}

static int terminal_compare_ends(const void *a, const void *b)
{
	const struct terminal_end *x = a, *y = b;

	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	if (x->master != y->master)
		return x->master ? -1 : 1;
	return x->v < y->v ? -1 : x->v > y->v;
}

/* Every object that is the end of a pseudo-terminal, sorted so that the ends of each stand together. */
static struct terminal_end *terminal_ends(struct collect *c, size_t *ret_n, struct err *e)
{
	struct terminal_end *ends = arena_alloc(c->arena, (c->views.n_objects + 1) * sizeof(*ends));
	size_t n = 0;

	if (!ends) {
		err_nomem(e);
		return NULL;
	}
	for (size_t i = 0; i < c->views.n_objects; i++) {
		struct fd_view *v = &c->views.v[c->views.first[i]];
		int r = terminal_is_candidate(v) ? terminal_classify(v, &ends[n], e) : 0;

		if (r < 0)
			return NULL;
		n += (size_t)r;
	}
	qsort(ends, n, sizeof(*ends), terminal_compare_ends);
	*ret_n = n;
	return ends;
}

/* The ends of one pseudo-terminal, the master first if it is in the tree. */
static int terminal_join(struct collect *c, const struct terminal_end *ends, size_t n, struct err *e)
{
	bool outside = !ends[0].master && !(ends[0].key & (TERMINAL_HUNG_UP | TERMINAL_NAMELESS));
	struct pty_view *pty = NULL;

	if (!outside) {
		pty = arena_new(c->arena, struct pty_view);
		if (!pty)
			return err_nomem(e);
		pty->index = ends[0].key & TERMINAL_NAMELESS ? PTY_NO_INDEX : (uint32_t)ends[0].key;
		pty->master = ends[0].master ? ends[0].v : NULL;
		pty->slave = !ends[0].master ? ends[0].v : n > 1 ? ends[1].v : NULL;
	}
	for (size_t i = 0; i < n; i++) {
		ends[i].v->pty = pty;
		ends[i].v->terminal = !ends[i].master;
		ends[i].v->peer_outside = outside;
	}
	return 0;
}

/*
 * A slave that was opened by TIOCGPTPEER with O_CLOEXEC has that flag in its
 * description for ever, and fdinfo shows it for all duplicates, whether they are
 * close-on-exec or not. Only the task itself knows.
 */
static int terminal_ask_cloexec(const struct collect *c, struct fd_view *v, struct err *e)
{
	cleanup_close int fd = -1;
	struct remote remote;
	int64_t flags = 0;
	int r;

	if (!(v->info.flags & O_CLOEXEC))
		return 0;
	fd = kind_steal(v, e);
	if (fd < 0)
		return fd;
	if (!(fcntl(fd, F_GETFL) & O_CLOEXEC))
		return 0;
	r = remote_open(&remote, c->tree->tasks[v->task_index], e);
	if (r == 0)
		r = remote_call(&remote, &flags, e, SYS_fcntl, v->fd, F_GETFD);
	if (r == 0 && !(flags & FD_CLOEXEC))
		v->info.flags &= ~(unsigned)O_CLOEXEC;
	return remote_close_after(&remote, r, e);
}

int terminal_views(struct collect *c, struct err *e)
{
	size_t n = 0;
	struct terminal_end *ends = terminal_ends(c, &n, e);

	if (!ends)
		return -1;
	for (size_t i = 0, next; i < n; i = next) {
		for (next = i + 1; next < n && ends[next].key == ends[i].key; next++)
			;
		if (terminal_join(c, ends + i, next - i, e) < 0)
			return -1;
	}
	for (size_t i = 0; i < c->views.n; i++) {
		struct fd_view *v = &c->views.v[i];
		const struct fd_view *first = &c->views.v[c->views.first[v->object]];

		if (terminal_is_candidate(v)) {
			v->pty = first->pty;
			v->terminal = first->terminal;
			v->peer_outside = first->peer_outside;
			if (v->terminal && terminal_ask_cloexec(c, v, e) < 0)
				return -1;
		}
	}
	return 0;
}
