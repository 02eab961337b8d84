/* SPDX-License-Identifier: Apache-2.0 */

/*
 * TCP connections: sockets that are connected, or on their way to be, or half
 * closed. What becomes of one depends on its other end (enum TcpWay):
 *
 * - in the tree: both are connected anew, over the loopback, with the bytes that
 *   were queued. The first of the two objects makes both and stashes the other's
 *   end; the listener it needs for that listens before those of the tree do.
 * - closed: an end of ours takes its place, and is closed again.
 * - not there yet (SYN_SENT): it is connected to again.
 * - gone, together with the connection (CLOSE): a socket is made that has been
 *   through the same.
 * - outside the tree: with CAP_NET_ADMIN, it goes on as if nothing had happened
 *   (tcp_repair.c), and meanwhile no packet reaches or leaves it (tcp_lock.c). With
 *   --tcp close, the program finds it reset.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "kinds/socket/inet_view.h"
#include "kinds/tcp/connection.h"
#include "kinds/tcp/lock.h"
#include "kinds/tcp/options.h"
#include "kinds/tcp/queue.h"
#include "kinds/tcp/repair.h"
#include "util/fd.h"

/* It stays where it is: the table of sockets lives as long as the message. */
static ProtobufCBinaryData inet_address_bytes(const struct sockaddr_storage *a)
{
	return (ProtobufCBinaryData){ .len = inet_address_size(a), .data = (uint8_t *)a };
}

static bool tcp_connection_match(const struct fd_view *v)
{
	return v->inet && v->inet->protocol == IPPROTO_TCP && tcp_state_is_known(v->inet->state) &&
	       (v->inet->state != INET_VIEW_CLOSE || v->inet->ended) && !(v->info.flags & O_PATH);
}

/* ---- dump: the other end ---- */

enum tcp_peer {
	TCP_PEER_OUTSIDE,
	TCP_PEER_INSIDE,
	TCP_PEER_CLOSED,
	TCP_PEER_WAITS, /* to be accepted by a listener of the tree */
};

/* Does the tree hold the listener that has made this end, which nobody has accepted yet? */
static bool tcp_has_listener(const struct collect *c, const struct inet_view *end)
{
	for (size_t i = 0; i < c->views.n_objects; i++) {
		const struct inet_view *s = views_find_object(&c->views, (uint32_t)i)->inet;

		if (s && s->state == INET_VIEW_LISTEN && inet_is_at(&s->local, &end->local))
			return true;
	}
	return false;
}

/*
 * An end that no process has was closed, or waits to be accepted; only what was
 * closed has sent its end. One that is gone altogether was closed, if it was on
 * this machine.
 */
static enum tcp_peer tcp_find_peer(const struct collect *c, const struct fd_view *v, const struct inet_view **ret)
{
	const struct inet_view *peer = inet_view_find_peer(&c->inet, v->inet);

	*ret = peer;
	if (peer && peer->ino)
		return peer->holder ? TCP_PEER_INSIDE : TCP_PEER_OUTSIDE;
	if (peer && !tcp_has_sent_end(peer->state) && peer->state != INET_VIEW_TIME_WAIT)
		return tcp_has_listener(c, peer) ? TCP_PEER_WAITS : TCP_PEER_OUTSIDE;
	if (peer || (tcp_has_received_end(v->inet->state) && inet_is_local(&v->inet->local, &v->inet->remote)))
		return TCP_PEER_CLOSED;
	return TCP_PEER_OUTSIDE;
}

static int tcp_refuse_as(struct collect *c, const struct fd_view *v, const char *id, const char *help, const char *why)
{
	char from[INET_ADDRESS_TEXT], to[INET_ADDRESS_TEXT];

	return kind_refuse(c, v, id, help, "is a TCP connection (%s, from %s to %s) %s",
			   tcp_state_name(v->inet->state), inet_address_text(&v->inet->local, from),
			   inet_address_text(&v->inet->remote, to), why);
}

static int tcp_refuse(struct collect *c, const struct fd_view *v, const char *help, const char *why)
{
	return tcp_refuse_as(c, v, "E-FD-TCP", help, why);
}

static int tcp_refuse_room(struct collect *c, const struct fd_view *v, const char *why)
{
	return tcp_refuse_as(c, v, "E-FD-TCP-ROOM",
			     "let the program receive first, or try again in a while; or raise /proc/sys/net/core/rmem_max", why);
}

/* ---- dump: each way ---- */

static const char help_close[] = "dump it with --tcp close, and the program finds the connection reset; "
				 "or give torpor cap_net_admin, and it stays alive";

/* The connection goes without a trace: whoever is restored finds its addresses free. */
static void tcp_end_by_reset(int fd, void *data)
{
	const struct linger reset = { .l_onoff = 1 };

	(void)data;
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
}

static int tcp_keep_for_reset(struct collect *c, int fd, struct err *e)
{
	int copy = tcp_duplicate(fd, 0, e);

	return copy < 0 ? -1 : kind_keep(c, copy, tcp_end_by_reset, NULL, e);
}

static int tcp_collect_pair(struct collect *c, const struct fd_view *v, int fd, const struct inet_view *peer,
			    Pb__TcpConnection *pb, struct err *e)
{
	cleanup_close int other = kind_steal(views_find_object(&c->views, peer->holder - 1), e);
	bool active;
	int64_t left;

	if (other < 0)
		return other;
	if (peer->ino == v->inet->ino)
		return tcp_refuse(c, v, "let the program close it, then try again", "with itself");
	left = tcp_queue_settle(fd, other, &active, e);
	if (left < 0)
		return -1;
	if (left)
		return tcp_refuse_room(c, v, "with more on its way than its other end has room for");
	pb->way = PB__TCP_WAY__TCP_PAIR;
	pb_set(pb, peer, peer->ino);
	pb_set(pb, active, active);
	pb->has_peer_local = pb->has_peer_remote = true;
	pb->peer_local = inet_address_bytes(&peer->local);
	pb->peer_remote = inet_address_bytes(&peer->remote);
	return v->inet->ino < peer->ino ? tcp_keep_for_reset(c, fd, e) : 0; /* one end resets the other */
}

static bool tcp_orphan_is_done(const void *v)
{
	struct arena arena = ARENA_INIT;
	struct inet_view_table now;
	const struct inet_view *peer;
	bool done = false;

	if (inet_view_dump(&arena, inet_view_tcp, &now, &(struct err){ 0 }) == 0) {
		peer = inet_view_find_peer(&now, ((const struct fd_view *)v)->inet);
		done = !peer || peer->state == INET_VIEW_FIN_WAIT2 || peer->state == INET_VIEW_TIME_WAIT;
	}
	arena_done(&arena);
	return done;
}

static int tcp_collect_orphan(struct collect *c, const struct fd_view *v, int fd, Pb__TcpConnection *pb, struct err *e)
{
	if (tcp_queue_settle_orphan(fd, tcp_orphan_is_done, v) < 0)
		return tcp_refuse_room(c, v, "whose other end was closed with more on its way than there is room for");
	pb->way = PB__TCP_WAY__TCP_ORPHAN;
	return tcp_keep_for_reset(c, fd, e);
}

static int tcp_collect_unaccepted(struct collect *c, const struct fd_view *v, Pb__TcpConnection *pb)
{
	static const char help[] = "dump it with --tcp close, and the program finds the connection reset; "
				   "or let the listener accept it first";

	pb->way = PB__TCP_WAY__TCP_RESET;
	if (c->choice.tcp_close)
		return 0;
	return tcp_refuse(c, v, help, "that its listener, which is in the tree, has not accepted yet");
}

/* ---- dump: kept alive ---- */

/* The tree is gone: the lock must stay. It is no longer torpor's to report if it does not: the image is complete. */
static void tcp_end_lock(int fd, void *lock)
{
	(void)fd;
	tcp_lock_persist(lock, &ERR_INIT);
}

static void tcp_end_silently(int fd, void *data)
{
	(void)data;
	tcp_repair_part(fd);
}

/* Every connection that leads outside, unless nothing is to be saved: then none is disturbed. */
static int tcp_list_outside(struct collect *c, struct inet_end **ret, size_t *ret_n, struct err *e)
{
	const struct inet_view *peer;
	struct inet_end *ends = NULL;
	size_t n = 0;

	for (uint32_t i = 0; !c->look_only && i < c->views.n_objects; i++) {
		const struct fd_view *v = views_find_object(&c->views, i);

		if (!tcp_connection_match(v) || v->inet->state == INET_VIEW_SYN_SENT ||
		    tcp_find_peer(c, v, &peer) != TCP_PEER_OUTSIDE)
			continue;
		ends = arena_grow(c->arena, ends, n, sizeof(*ends));
		if (!ends)
			return err_nomem(e);
		ends[n++] = (struct inet_end){ v->inet->local, v->inet->remote };
	}
	*ret = ends;
	*ret_n = n;
	return 0;
}

/* One lock for all. It is kept before what it locks, and so is opened after that is closed. */
static int tcp_begin_lock(struct collect *c, struct err *e)
{
	struct tcp_lock *lock = arena_new(c->arena, struct tcp_lock);
	struct inet_end *ends = NULL;
	size_t n = 0;

	if (!lock)
		return err_nomem(e);
	if (tcp_list_outside(c, &ends, &n, e) < 0 || tcp_lock_begin(lock, c->arena, ends, n, e) < 0 ||
	    kind_keep(c, lock->fd, tcp_end_lock, lock, e) < 0)
		return -1;
	c->tcp_lock = lock;
	return 0;
}

/* Now that it is locked; it may have changed until then. */
static int tcp_read_state(int fd, uint32_t *ret, struct err *e)
{
	struct tcp_info info;
	socklen_t size = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
		return err_sys(e, errno, "TCP_INFO");
	*ret = info.tcpi_state;
	return 0;
}

static int tcp_collect_repair(struct collect *c, const struct fd_view *v, int fd, Pb__TcpConnection *pb, struct err *e)
{
	int copy;

	if (tcp_read_state(fd, &pb->state, e) < 0)
		return -1;
	if (!tcp_state_is_known(pb->state))
		return tcp_refuse(c, v, "try again", "that has ended just now");
	pb->repair = pb_new(c->arena, Pb__TcpRepair, pb__tcp_repair__init);
	if (!pb->repair)
		return err_nomem(e);
	pb->repair->lock = (char *)c->tcp_lock->name;
	if (tcp_repair_collect(c->arena, fd, tcp_has_sent_end(pb->state), tcp_has_received_end(pb->state), pb->repair,
			       e) < 0)
		return -1;
	copy = tcp_duplicate(fd, 0, e);
	return copy < 0 ? -1 : kind_keep(c, copy, tcp_end_silently, NULL, e);
}

static int tcp_collect_outside(struct collect *c, const struct fd_view *v, int fd, Pb__TcpConnection *pb, struct err *e)
{
	static const char why[] = "whose other end is outside the tree";
	struct err lock = ERR_INIT;

	pb->way = c->choice.tcp_close ? PB__TCP_WAY__TCP_RESET : PB__TCP_WAY__TCP_REPAIR;
	if (c->choice.tcp_close)
		return 0;
	if (!tcp_repair_is_permitted())
		return tcp_refuse(c, v, help_close, why);
	if (!c->tcp_lock && tcp_begin_lock(c, &lock) < 0)
		return tcp_refuse(c, v, "dump it with --tcp close, and the program finds the connection reset",
				  "whose other end is outside the tree, on a kernel that cannot lock it (nf_tables)");
	return c->look_only ? 0 : tcp_collect_repair(c, v, fd, pb, e);
}

/* An error that the program has not seen comes back with a reset; which one it is cannot be seen without taking it. */
static int tcp_collect_ended(int fd, Pb__TcpConnection *pb, struct err *e)
{
	struct pollfd p = { .fd = fd };

	if (poll(&p, 1, 0) < 0)
		return err_sys(e, errno, "poll");
	pb->way = PB__TCP_WAY__TCP_RESET;
	if (p.revents & POLLERR)
		pb->state = INET_VIEW_ESTABLISHED;
	return 0;
}

static int tcp_collect_way(struct collect *c, const struct fd_view *v, int fd, Pb__TcpConnection *pb, struct err *e)
{
	const struct inet_view *peer;

	if (v->inet->state == INET_VIEW_CLOSE)
		return tcp_collect_ended(fd, pb, e);
	if (v->inet->state == INET_VIEW_SYN_SENT) {
		pb->way = PB__TCP_WAY__TCP_CONNECTING;
		return 0;
	}
	switch (tcp_find_peer(c, v, &peer)) {
	case TCP_PEER_INSIDE:
		return tcp_collect_pair(c, v, fd, peer, pb, e);
	case TCP_PEER_CLOSED:
		return tcp_collect_orphan(c, v, fd, pb, e);
	case TCP_PEER_WAITS:
		return tcp_collect_unaccepted(c, v, pb);
	case TCP_PEER_OUTSIDE:
	default:
		return tcp_collect_outside(c, v, fd, pb, e);
	}
}

/* ---- dump ---- */

/* Urgent data cannot be put back, and an error that the program has not seen would be gone after a look at it. */
static int tcp_check(struct collect *c, const struct fd_view *v, int fd, struct err *e)
{
	struct pollfd p = { .fd = fd, .events = POLLPRI };
	const char *obstacle = tcp_options_obstacle(fd);
	int at_mark = 0;

	if (obstacle)
		return tcp_refuse(c, v, "let the program close it, then try again", obstacle);
	if (poll(&p, 1, 0) < 0)
		return err_sys(e, errno, "poll of %s", v->link);
	if ((p.revents & POLLPRI) || (ioctl(fd, SIOCATMARK, &at_mark) == 0 && at_mark))
		return tcp_refuse(c, v, "let the program receive it first", "with urgent data");
	if ((p.revents & POLLERR) && v->inet->state != INET_VIEW_CLOSE)
		return tcp_refuse(c, v, "let the program see to it first",
				  "with an error or a notification that the program has not seen yet");
	return 0;
}

static int tcp_collect_queue(struct collect *c, int fd, Pb__TcpConnection *pb, struct err *e)
{
	if (tcp_queue_read(fd, c->arena, &pb->queue.data, &pb->queue.len, e) < 0)
		return -1;
	pb->has_queue = pb->queue.len > 0;
	return 0;
}

static int tcp_connection_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	const struct inet_view *s = v->inet;
	Pb__TcpConnection *pb = (Pb__TcpConnection *)m;
	cleanup_close int fd = kind_steal(v, e);
	size_t before = c->obstacles->n;

	if (fd < 0)
		return fd;
	pb->inode = s->ino;
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->state = s->state;
	pb_set(pb, shutdown, s->shutdown);
	pb->local = inet_address_bytes(&s->local);
	pb->remote = inet_address_bytes(&s->remote);
	if (tcp_check(c, v, fd, e) < 0 || tcp_collect_way(c, v, fd, pb, e) < 0 ||
	    socket_options_collect(c, fd, (struct socket_sort){ s->local.ss_family, SOCK_STREAM, IPPROTO_TCP },
				   socket_options_of(pb), e) < 0)
		return -1;
	return c->obstacles->n > before ? 0 : tcp_collect_queue(c, fd, pb, e);
}

/* ---- both ---- */

static void tcp_connection_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	static const char *const ways[] = {
		"?", "other end in the tree", "other end closed", "connecting", "reset at restore", "kept alive",
	};
	const Pb__TcpConnection *pb = (const Pb__TcpConnection *)m;
	char from[INET_ADDRESS_TEXT], to[INET_ADDRESS_TEXT];
	struct inet_end own;

	if ((unsigned)pb->way >= sizeof(ways) / sizeof(*ways) || tcp_read_end(pb, &own, &ERR_INIT) < 0) {
		snprintf(buf, size, "?");
		return;
	}
	snprintf(buf, size, "%s, %s to %s, %s, %zu bytes queued", tcp_state_name(pb->state),
		 inet_address_text(&own.local, from), inet_address_text(&own.remote, to), ways[pb->way], pb->queue.len);
}

const struct kind kind_tcp_connection = {
	.name = "tcp_connection",
	.tag = TCP_CONNECTION_TAG,
	.message = &pb__tcp_connection__descriptor,
	.match = tcp_connection_match,
	.collect = tcp_connection_collect,
	.restore = tcp_connection_restore,
	.last = tcp_connection_last,
	.release = tcp_connection_release,
	.describe = tcp_connection_describe,
};
