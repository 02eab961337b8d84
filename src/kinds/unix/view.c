/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/unix/view.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <linux/unix_diag.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "kinds/socket/sock_diag.h"
#include "util/arena.h"
#include "util/err.h"

/* A copy of an attribute's payload; NULL when out of memory. */
static const void *unix_view_copy(struct arena *arena, const struct rtattr *a)
{
	return arena_memdup(arena, RTA_DATA(a), RTA_PAYLOAD(a));
}

static int unix_view_take_name(struct arena *arena, const struct rtattr *a, struct unix_view *view)
{
	size_t size = RTA_PAYLOAD(a);

	if (!size)
		return 0;
	view->name = unix_view_copy(arena, a);
	if (!view->name)
		return -ENOMEM;
	if (view->name[0] && !view->name[size - 1])
		size = strlen(view->name);
	view->name_size = size;
	return 0;
}

static int unix_view_take_waiting(struct arena *arena, const struct rtattr *a, struct unix_view *view)
{
	view->waiting = unix_view_copy(arena, a);
	view->n_waiting = RTA_PAYLOAD(a) / sizeof(*view->waiting);
	return view->waiting ? 0 : -ENOMEM;
}

static void unix_view_take_peer(const struct rtattr *a, struct unix_view *view)
{
	view->connected = true;
	memcpy(&view->peer, RTA_DATA(a), sizeof(view->peer));
}

static void unix_view_take_file(const struct rtattr *a, struct unix_view *view)
{
	const struct unix_diag_vfs *vfs = RTA_DATA(a);

	view->file_dev = vfs->udiag_vfs_dev;
	view->file_ino = vfs->udiag_vfs_ino;
}

static void unix_view_take_backlog(const struct rtattr *a, struct unix_view *view)
{
	const struct unix_diag_rqlen *length = RTA_DATA(a);

	view->backlog = length->udiag_wqueue;
}

static int unix_view_take_attribute(struct arena *arena, const struct rtattr *a, struct unix_view *view)
{
	size_t size = RTA_PAYLOAD(a);

	if (a->rta_type == UNIX_DIAG_NAME)
		return unix_view_take_name(arena, a, view);
	if (a->rta_type == UNIX_DIAG_ICONS)
		return unix_view_take_waiting(arena, a, view);
	if (a->rta_type == UNIX_DIAG_PEER && size >= sizeof(view->peer))
		unix_view_take_peer(a, view);
	else if (a->rta_type == UNIX_DIAG_VFS && size >= sizeof(struct unix_diag_vfs))
		unix_view_take_file(a, view);
	else if (a->rta_type == UNIX_DIAG_RQLEN && size >= sizeof(struct unix_diag_rqlen))
		unix_view_take_backlog(a, view);
	else if (a->rta_type == UNIX_DIAG_SHUTDOWN && size >= 1)
		view->shutdown = *(const uint8_t *)RTA_DATA(a);
	return 0;
}

struct unix_view_dump {
	struct arena *arena;
	struct unix_view_table *table;
};

static int unix_view_take(void *data, const void *message, const struct rtattr *a, size_t left, struct err *e)
{
	const struct unix_diag_msg *m = message;
	struct unix_view_dump *d = data;
	struct unix_view *v = arena_grow(d->arena, d->table->v, d->table->n, sizeof(*v));

	if (!v)
		return err_nomem(e);
	d->table->v = v;
	v += d->table->n++;
	*v = (struct unix_view){ .ino = m->udiag_ino, .type = m->udiag_type, .state = m->udiag_state };
	for (; RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (unix_view_take_attribute(d->arena, a, v) < 0)
			return err_nomem(e);
	return 0;
}

static int unix_view_compare(const void *a, const void *b)
{
	const struct unix_view *x = a, *y = b;

	return (x->ino > y->ino) - (x->ino < y->ino);
}

int unix_view_dump(struct arena *arena, struct unix_view_table *ret, struct err *e)
{
	const struct unix_diag_req request = {
		.sdiag_family = AF_UNIX,
		.udiag_states = UINT32_MAX,
		.udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN,
	};
	struct unix_view_dump dump = { arena, ret };
	int r;

	*ret = (struct unix_view_table){ 0 };
	r = sock_diag_dump(&request, sizeof(request), sizeof(struct unix_diag_msg), unix_view_take, &dump, "unix sockets", e);
	if (r == 0 && ret->n)
		qsort(ret->v, ret->n, sizeof(*ret->v), unix_view_compare);
	return r;
}

const struct unix_view *unix_view_find(const struct unix_view_table *table, uint64_t ino)
{
	const struct unix_view key = { .ino = (uint32_t)ino };

	if (!table->n || ino == 0 || ino > UINT32_MAX)
		return NULL;
	return bsearch(&key, table->v, table->n, sizeof(key), unix_view_compare);
}
