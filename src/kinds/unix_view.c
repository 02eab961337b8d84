/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/unix_view.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "util/arena.h"
#include "util/err.h"
#include "util/fd.h"

enum { UNIX_VIEW_BUFFER = 64 * 1024 };

static int unix_view_request(int fd, struct err *e)
{
	struct {
		struct nlmsghdr header;
		struct unix_diag_req request;
	} message = {
		.header = {
			.nlmsg_len = sizeof(message),
			.nlmsg_type = SOCK_DIAG_BY_FAMILY,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
		},
		.request = {
			.sdiag_family = AF_UNIX,
			.udiag_states = UINT32_MAX,
			.udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS |
				       UDIAG_SHOW_RQLEN,
		},
	};

	return send(fd, &message, sizeof(message), 0) < 0 ? err_sys(e, errno, "asking sock_diag for unix sockets") : 0;
}

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

static int unix_view_parse(struct arena *arena, const struct nlmsghdr *header, struct unix_view *ret)
{
	const struct unix_diag_msg *message = NLMSG_DATA(header);
	size_t left = NLMSG_PAYLOAD(header, sizeof(*message));

	*ret = (struct unix_view){
		.ino = message->udiag_ino,
		.type = message->udiag_type,
		.state = message->udiag_state,
	};
	for (const struct rtattr *a = (const void *)(message + 1); RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (unix_view_take_attribute(arena, a, ret) < 0)
			return -ENOMEM;
	return 0;
}

static int unix_view_add(struct arena *arena, struct unix_view_table *table, struct unix_view view)
{
	struct unix_view *v = arena_grow(arena, table->v, table->n, sizeof(view));

	if (!v)
		return -ENOMEM;
	v[table->n++] = view;
	table->v = v;
	return 0;
}

/* One datagram of the answer. Returns 1 after the last, 0 when more will come. */
static int unix_view_take(struct arena *arena, struct unix_view_table *table, const void *data, size_t size,
			  struct err *e)
{
	for (const struct nlmsghdr *h = data; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
		struct unix_view view;

		if (h->nlmsg_type == NLMSG_DONE)
			return 1;
		if (h->nlmsg_type == NLMSG_ERROR)
			return err_sys(e, ((const struct nlmsgerr *)NLMSG_DATA(h))->error, "sock_diag of unix sockets");
		if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || h->nlmsg_len < NLMSG_LENGTH(sizeof(struct unix_diag_msg)))
			continue;
		if (unix_view_parse(arena, h, &view) < 0 || unix_view_add(arena, table, view) < 0)
			return err_nomem(e);
	}
	return 0;
}

static int unix_view_compare(const void *a, const void *b)
{
	const struct unix_view *x = a, *y = b;

	return (x->ino > y->ino) - (x->ino < y->ino);
}

int unix_view_dump(struct arena *arena, struct unix_view_table *ret, struct err *e)
{
	cleanup_close int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	void *buffer = arena_alloc(arena, UNIX_VIEW_BUFFER);
	struct unix_view_table table = { 0 };
	int r;

	if (fd < 0)
		return err_sys(e, errno, "opening sock_diag");
	if (!buffer)
		return err_nomem(e);
	r = unix_view_request(fd, e);
	while (r == 0) {
		ssize_t n = recv(fd, buffer, UNIX_VIEW_BUFFER, 0);

		if (n < 0 && errno == EINTR)
			continue;
		r = n < 0 ? err_sys(e, errno, "reading from sock_diag") :
			    unix_view_take(arena, &table, buffer, (size_t)n, e);
	}
	if (r < 0)
		return r;
	if (table.n)
		qsort(table.v, table.n, sizeof(*table.v), unix_view_compare);
	*ret = table;
	return 0;
}

const struct unix_view *unix_view_find(const struct unix_view_table *table, uint64_t ino)
{
	const struct unix_view key = { .ino = (uint32_t)ino };

	if (!table->n || ino == 0 || ino > UINT32_MAX)
		return NULL;
	return bsearch(&key, table->v, table->n, sizeof(key), unix_view_compare);
}
