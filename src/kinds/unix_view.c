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
			.udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER,
		},
	};

	return send(fd, &message, sizeof(message), 0) < 0 ? err_sys(e, errno, "asking sock_diag for unix sockets") : 0;
}

static struct unix_view unix_view_parse(const struct nlmsghdr *header)
{
	const struct unix_diag_msg *message = NLMSG_DATA(header);
	size_t left = NLMSG_PAYLOAD(header, sizeof(*message));
	struct unix_view view = {
		.ino = message->udiag_ino,
		.type = message->udiag_type,
		.state = message->udiag_state,
	};

	for (const struct rtattr *a = (const void *)(message + 1); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		if (a->rta_type == UNIX_DIAG_NAME)
			view.named = RTA_PAYLOAD(a) > 0;
		if (a->rta_type == UNIX_DIAG_PEER && RTA_PAYLOAD(a) >= sizeof(view.peer)) {
			view.connected = true;
			memcpy(&view.peer, RTA_DATA(a), sizeof(view.peer));
		}
		if (a->rta_type == UNIX_DIAG_SHUTDOWN && RTA_PAYLOAD(a) >= 1)
			view.shutdown = *(const uint8_t *)RTA_DATA(a);
	}
	return view;
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
		if (h->nlmsg_type == NLMSG_DONE)
			return 1;
		if (h->nlmsg_type == NLMSG_ERROR)
			return err_sys(e, ((const struct nlmsgerr *)NLMSG_DATA(h))->error, "sock_diag of unix sockets");
		if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || h->nlmsg_len < NLMSG_LENGTH(sizeof(struct unix_diag_msg)))
			continue;
		if (unix_view_add(arena, table, unix_view_parse(h)) < 0)
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
