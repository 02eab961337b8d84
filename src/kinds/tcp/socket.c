/* SPDX-License-Identifier: Apache-2.0 */

/*
 * TCP sockets that are not connected: new ones, bound ones, and those that
 * listen. Who waits to be accepted is dropped: such a connection ends when the
 * tree does.
 *
 * At restore, a listener is bound at once and listens last of all: until then
 * the connections of its address are made (tcp_connection.c), and nobody must
 * connect to a program that may never run.
 */

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "kinds/kind.h"
#include "kinds/socket/inet_address.h"
#include "kinds/socket/socket_options.h"
#include "kinds/tcp/options.h"
#include "util/fd.h"

static bool tcp_socket_match(const struct fd_view *v)
{
	return v->inet && v->inet->protocol == IPPROTO_TCP && !(v->info.flags & O_PATH) &&
	       (v->inet->state == INET_VIEW_LISTEN || (v->inet->state == INET_VIEW_CLOSE && !v->inet->ended));
}

/* ---- dump ---- */

static int tcp_socket_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__TcpSocket *pb = (Pb__TcpSocket *)m;
	const struct inet_view *s = v->inet;
	cleanup_close int fd = kind_steal(v, e);
	const char *why;

	if (fd < 0)
		return fd;
	why = tcp_options_obstacle(fd);
	if (why)
		return kind_refuse(c, v, "E-FD-TCP", "let the program close it, then try again", "is a TCP socket %s", why);
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->family = s->local.ss_family;
	if (inet_is_bound(&s->local) && !pb_set_bytes(c->arena, pb, local, &s->local, inet_address_size(&s->local)))
		return err_nomem(e);
	if (s->state == INET_VIEW_LISTEN) {
		pb_set(pb, listening, true);
		pb_set(pb, backlog, s->unsent);
	}
	return socket_options_collect(c, fd, (struct socket_sort){ s->local.ss_family, SOCK_STREAM, IPPROTO_TCP },
				      socket_options_of(pb), e);
}

/* ---- restore ---- */

static int tcp_socket_bind(int fd, const Pb__TcpSocket *pb, struct err *e)
{
	struct sockaddr_storage a;

	if (!pb->has_local)
		return 0;
	if (inet_address_parse(pb->local.data, pb->local.len, &a) < 0 || a.ss_family != pb->family)
		return err_set(e, ERR_IMAGE, 0, "a TCP socket has an address of an unknown kind");
	return inet_address_bind(fd, &a, "binding a TCP socket to", e);
}

/* With SO_REUSEADDR for the moment: connections of the same address are to come, and may have been there before. */
static int tcp_socket_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__TcpSocket *pb = (const Pb__TcpSocket *)m;
	cleanup_close int fd = -1;

	if (pb->family != AF_INET && pb->family != AF_INET6)
		return err_set(e, ERR_IMAGE, 0, "a TCP socket of the unknown family %u", pb->family);
	fd = socket((int)pb->family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	if (fd < 0)
		return err_sys(e, errno, "socket");
	if (socket_options_prepare(fd, socket_options_of(pb), e) < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)) < 0)
		return err_sys(e, errno, "SO_REUSEADDR");
	if (tcp_socket_bind(fd, pb, e) < 0 ||
	    kind_set_status_flags(fd, pb->flags, e) < 0)
		return -1;
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

static int tcp_socket_last(struct restore_objects *r, int fd, const ProtobufCMessage *m, struct err *e)
{
	const Pb__TcpSocket *pb = (const Pb__TcpSocket *)m;
	struct sockaddr_storage a = { 0 };

	(void)r;
	if (pb->listening && listen(fd, (int)pb->backlog) < 0) {
		inet_address_parse(pb->local.data, pb->local.len, &a);
		return inet_address_fail("listening at", &a, errno, e);
	}
	return socket_options_restore(fd, socket_options_of(pb), e);
}

static void tcp_socket_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__TcpSocket *pb = (const Pb__TcpSocket *)m;
	char text[INET_ADDRESS_TEXT];
	struct sockaddr_storage a;

	if (!pb->has_local)
		snprintf(buf, size, "not bound");
	else if (inet_address_parse(pb->local.data, pb->local.len, &a) < 0)
		snprintf(buf, size, "?");
	else
		snprintf(buf, size, "%s at %s", pb->listening ? "listening" : "bound", inet_address_text(&a, text));
}

const struct kind kind_tcp_socket = {
	.name = "tcp_socket",
	.tag = 15,
	.message = &pb__tcp_socket__descriptor,
	.match = tcp_socket_match,
	.collect = tcp_socket_collect,
	.restore = tcp_socket_restore,
	.last = tcp_socket_last,
	.describe = tcp_socket_describe,
};
