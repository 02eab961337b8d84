/* SPDX-License-Identifier: Apache-2.0 */

/*
 * UDP and UDP-Lite sockets. They have no connections: to whom they are
 * "connected" is a setting, whoever it is. What the program has not read is
 * received again (udp_queue.c).
 *
 * While the program sleeps nobody receives for it, and it is not told that a
 * datagram that it had sent was refused: both may happen to datagrams.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "kinds/kind.h"
#include "kinds/socket/inet_socket.h"
#include "kinds/socket/socket_options.h"
#include "kinds/socket/udp_queue.h"
#include "util/fd.h"

enum { UDP_LITE = 136 };

static bool udp_socket_match(const struct fd_view *v)
{
	return (v->sort.domain == AF_INET || v->sort.domain == AF_INET6) && v->sort.type == SOCK_DGRAM &&
	       (v->sort.protocol == IPPROTO_UDP || v->sort.protocol == UDP_LITE);
}

/* ---- dump ---- */

static const char help_close[] = "let the program close it, then try again";

/* An error, or an empty queue: none of both can be looked at without taking it. */
static bool udp_socket_has_error(int fd)
{
	struct pollfd p = { .fd = fd };

	return poll(&p, 1, 0) > 0 && (p.revents & POLLERR);
}

static int udp_socket_option(int fd, int level, int name)
{
	int value = 0;
	socklen_t size = sizeof(value);

	return getsockopt(fd, level, name, &value, &size) < 0 ? 0 : value;
}

/* Returns 1 when it can be saved. */
static int udp_socket_check(struct collect *c, const struct fd_view *v, int fd)
{
	if (udp_socket_option(fd, IPPROTO_UDP, UDP_ENCAP))
		return kind_refuse(c, v, "E-FD-UDP-ENCAP", help_close,
				   "is a UDP socket through which the kernel runs a tunnel (UDP_ENCAP)");
	if (socket_options_filter(fd) == SOCKET_FILTER_UNREADABLE)
		return kind_refuse(c, v, "E-FD-FILTER", help_close,
				   "is a UDP socket with a packet filter that cannot be read (SO_ATTACH_BPF)");
	if (udp_socket_has_error(fd))
		return kind_refuse(c, v, "E-FD-UDP-ERROR", "let the program see the error first",
				   "is a UDP socket with an error that the program has not seen yet");
	if (inet_socket_holds_back(fd))
		return kind_refuse(c, v, "E-FD-UDP-CORK", "let the program complete the datagram first",
				   "is a UDP socket with a datagram that is not complete (UDP_CORK or MSG_MORE)");
	return 1;
}

/* Only the kernel's list tells which directions are shut. */
static int udp_socket_collect_shutdown(struct collect *c, const struct fd_view *v, Pb__InetSocket *pb, struct err *e)
{
	const struct inet_view *s;

	if (!c->udp.by_ends && inet_view_dump(c->arena, inet_view_udp, &c->udp, e) < 0)
		return -1;
	s = inet_view_hold(&c->udp, v->st.st_ino, v->object);
	if (s && s->shutdown)
		pb_set(pb, shutdown, s->shutdown);
	return 0;
}

static int udp_socket_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__InetSocket *pb = (Pb__InetSocket *)m;
	cleanup_close int fd = kind_steal(v, e);
	int r;

	if (fd < 0)
		return fd;
	r = udp_socket_check(c, v, fd);
	if (r <= 0)
		return r;
	if (inet_socket_collect(c, v, fd, pb, e) < 0 || udp_socket_collect_shutdown(c, v, pb, e) < 0)
		return -1;
	return udp_queue_collect(c, fd, pb, e);
}

/* ---- restore ---- */

/*
 * Once it has its address it shares it (SO_REUSEADDR) with the sockets that send
 * to others in its name, until `last`.
 */
static int udp_socket_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__InetSocket *pb = (const Pb__InetSocket *)m;
	cleanup_close int fd = -1;
	struct inet_socket_ends ends;

	if (pb->type != SOCK_DGRAM || (pb->protocol != IPPROTO_UDP && pb->protocol != UDP_LITE))
		return err_set(e, ERR_IMAGE, 0, "a UDP socket of type %u and protocol %u", pb->type, pb->protocol);
	if (inet_socket_read(pb, &ends, e) < 0)
		return -1;
	fd = inet_socket_make(r, pb, &ends, e);
	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)) < 0)
		return err_sys(e, errno, "SO_REUSEADDR");
	return udp_queue_restore(r, fd, pb, e) < 0 ? -1 : kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

const struct kind kind_udp_socket = {
	.name = "udp_socket",
	.tag = 30,
	.message = &pb__inet_socket__descriptor,
	.match = udp_socket_match,
	.collect = udp_socket_collect,
	.restore = udp_socket_restore,
	.last = inet_socket_last,
	.describe = inet_socket_describe,
};
