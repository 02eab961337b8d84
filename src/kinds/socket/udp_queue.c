/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Dump: with SO_PEEK_OFF, a peek shows the datagram behind those that were
 * looked at before. It is put back when torpor is killed, too.
 *
 * Restore: each datagram is sent once more, by a socket that is bound to the
 * address of its sender. Of several sockets with the same port, the one that is
 * connected to the sender gets it; so that is what the receiver is meanwhile. An
 * address that is not ours, or that somebody has, takes CAP_NET_RAW: then the
 * datagram is sent as a packet. Nothing is ever sent to another machine.
 *
 * Not kept: when a datagram came, and through which interface; whether it was
 * sent to a multicast group; which one of a group of IPv6 sockets (SO_REUSEPORT)
 * has it.
 */

#include "kinds/socket/udp_queue.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sock_diag.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "kinds/socket/inet_address.h"
#include "kinds/socket/inet_packet.h"
#include "kinds/socket/inet_socket.h"
#include "util/fd.h"
#include "util/guard.h"
#include "util/privilege.h"

enum { UDP_ROOM = 1 << 16, UDP_CONTROL = 1024, UDP_PATIENCE_MS = 1000, UDP_BUF_LOCK = 72 };

/* ---- dump ---- */

struct udp_peek {
	struct collect *c;
	int fd;
	Pb__InetSocket *pb;
	uint8_t room[UDP_ROOM];
};

/* Where it was sent to, as far as the program is told. */
static bool udp_peek_destination(const struct cmsghdr *m, unsigned port, struct sockaddr_storage *ret)
{
	*ret = (struct sockaddr_storage){ 0 };
	if (m->cmsg_level == IPPROTO_IP && m->cmsg_type == IP_PKTINFO) {
		const struct in_pktinfo *info = (const void *)CMSG_DATA(m);

		ret->ss_family = AF_INET;
		((struct sockaddr_in *)ret)->sin_addr = info->ipi_addr;
	} else if (m->cmsg_level == IPPROTO_IPV6 && m->cmsg_type == IPV6_PKTINFO) {
		const struct in6_pktinfo *info = (const void *)CMSG_DATA(m);

		ret->ss_family = AF_INET6;
		((struct sockaddr_in6 *)ret)->sin6_addr = info->ipi6_addr;
		if (IN6_IS_ADDR_LINKLOCAL(&info->ipi6_addr))
			((struct sockaddr_in6 *)ret)->sin6_scope_id = info->ipi6_ifindex;
	} else {
		return false;
	}
	inet_set_port(ret, port);
	return true;
}

static int udp_peek_control(struct udp_peek *p, struct msghdr *header, Pb__InetDatagram *d, struct err *e)
{
	struct sockaddr_storage local = { 0 }, to;
	socklen_t size = sizeof(local);

	if (getsockname(p->fd, (struct sockaddr *)&local, &size) < 0)
		return err_sys(e, errno, "getsockname");
	for (struct cmsghdr *m = CMSG_FIRSTHDR(header); m; m = CMSG_NXTHDR(header, m)) {
		int segment;

		if (m->cmsg_level == IPPROTO_UDP && m->cmsg_type == UDP_GRO) {
			memcpy(&segment, CMSG_DATA(m), sizeof(segment));
			pb_set(d, segment, (uint32_t)segment);
		} else if (udp_peek_destination(m, inet_port(&local), &to) &&
			   !pb_set_bytes(p->c->arena, d, destination, &to, inet_address_size(&to))) {
			return err_nomem(e);
		}
	}
	return 0;
}

/* Returns 1, or 0 when there are no more. */
static int udp_peek_next(struct udp_peek *p, struct err *e)
{
	_Alignas(struct cmsghdr) char control[UDP_CONTROL];
	struct sockaddr_storage from = { 0 };
	struct iovec iov = { .iov_base = p->room, .iov_len = sizeof(p->room) };
	struct msghdr header = {
		.msg_name = &from,
		.msg_namelen = sizeof(from),
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(p->fd, &header, MSG_PEEK | MSG_DONTWAIT);
	Pb__InetDatagram *d;

	if (n < 0)
		return errno == EAGAIN ? 0 : err_sys(e, errno, "looking at what a UDP socket has received");
	d = pb_new(p->c->arena, Pb__InetDatagram, pb__inet_datagram__init);
	if (!d || !pb_add(p->c->arena, p->pb, queue, d))
		return err_nomem(e);
	d->data = (ProtobufCBinaryData){ (size_t)n, arena_memdup(p->c->arena, p->room, (size_t)n) };
	d->source = (ProtobufCBinaryData){ inet_address_size(&from), arena_memdup(p->c->arena, &from, sizeof(from)) };
	if (!d->data.data || !d->source.data)
		return err_nomem(e);
	return udp_peek_control(p, &header, d, e) < 0 ? -1 : 1;
}

static int udp_peek_all(struct udp_peek *p, struct err *e)
{
	int r;

	do
		r = udp_peek_next(p, e);
	while (r > 0);
	return r;
}

struct udp_guarded {
	int fd, offset;
};

static void udp_peek_end(void *data)
{
	const struct udp_guarded *g = data;

	setsockopt(g->fd, SOL_SOCKET, SO_PEEK_OFF, &g->offset, sizeof(g->offset));
}

/* Nothing is changed where nothing is there. */
int udp_queue_collect(struct collect *c, int fd, Pb__InetSocket *pb, struct err *e)
{
	struct pollfd readable = { .fd = fd, .events = POLLIN };
	struct udp_guarded guarded = { .fd = fd };
	socklen_t size = sizeof(guarded.offset);
	struct guard guard;
	struct udp_peek p;
	int r;

	if (poll(&readable, 1, 0) <= 0)
		return 0;
	if (getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &guarded.offset, &size) < 0)
		return err_sys(e, errno, "SO_PEEK_OFF");
	if (guard_begin(&guard, udp_peek_end, &guarded, e) < 0)
		return -1;
	p.c = c;
	p.fd = fd;
	p.pb = pb;
	r = setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &(int){ 0 }, sizeof(int)) < 0 ? err_sys(e, errno, "SO_PEEK_OFF")
										   : udp_peek_all(&p, e);
	guard_end(&guard);
	return r;
}

/* ---- restore: one datagram ---- */

struct udp_delivery {
	const Pb__InetSocket *pb;
	int fd;
	int patience_ms;
	struct sockaddr_storage peer;        /* what it is connected to now */
	struct sockaddr_storage source, to;  /* of the datagram */
};

/* Bytes in the receiver's queue, with what the kernel needs for itself. */
static uint32_t udp_received(int fd)
{
	uint32_t info[SK_MEMINFO_VARS] = { 0 };
	socklen_t size = sizeof(info);

	return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &size) < 0 ? 0 : info[SK_MEMINFO_RMEM_ALLOC];
}

/* Where one was lost, like for want of room, others will be. */
static bool udp_await_more(struct udp_delivery *d, uint32_t before)
{
	const struct timespec moment = { .tv_nsec = 1000000 };

	for (int i = 0; i < d->patience_ms; i++) {
		if (udp_received(d->fd) != before)
			return true;
		nanosleep(&moment, NULL);
	}
	d->patience_ms = 1;
	return false;
}

/* A socket for the sender's side, that shares addresses with whoever permits it. */
static int udp_sender(const Pb__InetSocket *pb)
{
	cleanup_close int fd = socket((int)pb->family, SOCK_DGRAM | SOCK_CLOEXEC, (int)pb->protocol);
	const int yes = 1, no = 0;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0)
		return -1;
	if (pb->family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no)) < 0)
		return -1;
	return fd_take(&fd);
}

static int udp_bind_sender(int sender, const struct sockaddr_storage *a)
{
	struct err ignored = ERR_INIT;

	return inet_address_bind(sender, a, "binding to", &ignored);
}

/* Only an address of this machine can be bound to, and a group is not one. */
static bool udp_is_here(const Pb__InetSocket *pb, const struct sockaddr_storage *a)
{
	const struct in6_addr mapped = inet_mapped(a);
	struct sockaddr_storage any_port = *a;
	cleanup_close int fd = -1;

	if (IN6_IS_ADDR_MULTICAST(&mapped) || (IN6_IS_ADDR_V4MAPPED(&mapped) && mapped.s6_addr[12] >= 224))
		return false;
	inet_set_port(&any_port, 0);
	fd = udp_sender(pb);
	return fd >= 0 && bind(fd, (struct sockaddr *)&any_port, inet_address_size(&any_port)) == 0;
}

/* An address that is not ours, or somebody's own. */
static int udp_send_packet(const struct udp_delivery *d, const void *data, size_t size)
{
	struct {
		struct udphdr header;
		uint8_t data[UDP_ROOM];
	} packet = {
		.header = {
			.source = htons((uint16_t)inet_port(&d->source)),
			.dest = htons((uint16_t)inet_port(&d->to)),
			.len = htons((uint16_t)(sizeof(packet.header) + size)),
		},
	};
	const struct inet_packet p = {
		.from = &d->source,
		.to = &d->to,
		.protocol = IPPROTO_UDP,
		.data = &packet,
		.size = sizeof(packet.header) + size,
		.checksum = &packet.header.check,
	};

	if (size)
		memcpy(packet.data, data, size);
	return d->pb->protocol == IPPROTO_UDP ? inet_packet_send(&p) : -EADDRNOTAVAIL;
}

/* Of a group of sockets (SO_REUSEPORT) that are not connected, the kernel chooses one. */
static bool udp_may_go_astray(const struct udp_delivery *d)
{
	int grouped = 0;
	socklen_t size = sizeof(grouped);

	return !d->peer.ss_family && getsockopt(d->fd, SOL_SOCKET, SO_REUSEPORT, &grouped, &size) == 0 && grouped;
}

static bool udp_send(struct udp_delivery *d, const void *data, size_t size)
{
	const socklen_t to_size = inet_address_size(&d->to);
	cleanup_close int sender = udp_sender(d->pb);
	uint32_t before = udp_received(d->fd);

	/* Nobody can ask for port 0. */
	if (sender >= 0 && inet_port(&d->source) && udp_bind_sender(sender, &d->source) == 0) {
		if (sendto(sender, data, size, 0, (const struct sockaddr *)&d->to, to_size) < 0)
			return false;
	} else if (udp_send_packet(d, data, size) < 0) {
		return false;
	}
	return udp_may_go_astray(d) || udp_await_more(d, before);
}

/* ---- restore: all of them ---- */

/* By way of nobody: connected, it has an address of its own, from which not everything can be reached. */
static bool udp_connect(struct udp_delivery *d, const struct sockaddr_storage *to)
{
	static const struct sockaddr_storage nobody;
	struct err ignored = ERR_INIT;

	if (d->peer.ss_family == to->ss_family && (!to->ss_family || inet_same_address(&d->peer, to)))
		return true;
	if (d->peer.ss_family && inet_socket_connect(d->fd, &nobody, &ignored) < 0)
		return false;
	d->peer = nobody;
	if (to->ss_family && inet_socket_connect(d->fd, to, &ignored) < 0)
		return false;
	d->peer = *to;
	return true;
}

/*
 * An IPv6 socket that was connected and is no more receives only from where it
 * was connected to: the kernel forgets to forget that. So it never is, if it is
 * not to be in the end. Of several with its port, the newest receives, which it is.
 */
static bool udp_may_connect(const struct udp_delivery *d)
{
	return d->pb->family == AF_INET || d->pb->has_remote;
}

/* To the address that it is bound to; or any that the sender can reach. */
static bool udp_aim_unconnected(struct udp_delivery *d)
{
	struct sockaddr_storage local = { 0 }, host;
	socklen_t size = sizeof(local);

	if (getsockname(d->fd, (struct sockaddr *)&local, &size) < 0)
		return false;
	d->to = host = local;
	inet_set_port(&host, 0);
	if (!inet_is_bound(&host)) {
		d->to = d->source;
		if (!udp_is_here(d->pb, &d->source))
			inet_set_loopback(&d->to);
		inet_set_port(&d->to, inet_port(&local));
	}
	return udp_is_here(d->pb, &d->to);
}

/*
 * A socket that is connected has one address. If the datagram was sent to another
 * one, it must not be. What was sent to a group comes to the socket's own address.
 */
static bool udp_aim(struct udp_delivery *d, const struct sockaddr_storage *destination)
{
	static const struct sockaddr_storage nobody;
	socklen_t size = sizeof(d->to);

	if (destination->ss_family && !udp_is_here(d->pb, destination))
		destination = &nobody;
	if (udp_may_connect(d) && udp_connect(d, &d->source)) {
		d->to = (struct sockaddr_storage){ 0 };
		if (getsockname(d->fd, (struct sockaddr *)&d->to, &size) < 0)
			return false;
		if (!destination->ss_family || inet_same_address(destination, &d->to))
			return udp_is_here(d->pb, &d->to);
	}
	if (!udp_connect(d, &nobody))
		return false;
	if (!destination->ss_family)
		return udp_aim_unconnected(d);
	d->to = *destination;
	return true;
}

static int udp_read_datagram(struct udp_delivery *d, const Pb__InetDatagram *saved, struct sockaddr_storage *destination,
			     struct err *e)
{
	*destination = (struct sockaddr_storage){ 0 };
	if (inet_address_parse(saved->source.data, saved->source.len, &d->source) < 0 ||
	    d->source.ss_family != d->pb->family || saved->data.len >= UDP_ROOM)
		return err_set(e, ERR_IMAGE, 0, "a datagram of an unknown kind");
	if (saved->has_destination &&
	    inet_address_parse(saved->destination.data, saved->destination.len, destination) < 0)
		return err_set(e, ERR_IMAGE, 0, "a datagram to an address of an unknown kind");
	/* An IPv6 socket is told IPv4 addresses in two ways. */
	if (destination->ss_family && destination->ss_family != d->pb->family)
		*destination = (struct sockaddr_storage){ 0 };
	return 0;
}

/* Returns 1 when it is there again, 0 when it is lost. */
static int udp_deliver(struct udp_delivery *d, const Pb__InetDatagram *saved, struct err *e)
{
	size_t step = saved->segment ? saved->segment : UDP_ROOM, sent = 0;
	struct sockaddr_storage destination;

	if (udp_read_datagram(d, saved, &destination, e) < 0)
		return -1;
	if (!udp_aim(d, &destination))
		return 0;
	do {
		size_t size = saved->data.len - sent < step ? saved->data.len - sent : step;

		if (!udp_send(d, saved->data.data + sent, size))
			return 0;
		sent += size;
	} while (sent < saved->data.len);
	return 1;
}

static int udp_deliver_all(struct udp_delivery *d, size_t *ret_lost, struct err *e)
{
	for (size_t i = 0; i < d->pb->n_queue; i++) {
		int r = udp_deliver(d, d->pb->queue[i], e);

		if (r < 0)
			return -1;
		*ret_lost += r == 0;
	}
	return 0;
}

/* As much room as anybody may have, while it is filled. */
static int udp_widen(int fd, int *ret_before, int *ret_lock, struct err *e)
{
	cleanup_privilege struct privilege p = privilege_raise(PRIVILEGE(CAP_NET_ADMIN));
	const int most = INT_MAX / 2;
	socklen_t size = sizeof(int);

	*ret_lock = -1;
	if (getsockopt(fd, SOL_SOCKET, SO_RCVBUF, ret_before, &size) < 0)
		return err_sys(e, errno, "SO_RCVBUF");
	if (getsockopt(fd, SOL_SOCKET, UDP_BUF_LOCK, ret_lock, &size) < 0)
		*ret_lock = -1;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &most, sizeof(most)) < 0 &&
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &most, sizeof(most)) < 0)
		return err_sys(e, errno, "SO_RCVBUF");
	return 0;
}

/* The kernel doubles what it is told. */
static int udp_narrow(int fd, int before, int lock, struct err *e)
{
	before /= 2;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &before, sizeof(before)) < 0 ||
	    (lock >= 0 && setsockopt(fd, SOL_SOCKET, UDP_BUF_LOCK, &lock, sizeof(lock)) < 0))
		return err_sys(e, errno, "SO_RCVBUF");
	return 0;
}

int udp_queue_restore(struct restore_objects *r, int fd, const Pb__InetSocket *pb, struct err *e)
{
	struct udp_delivery d = { .pb = pb, .fd = fd, .patience_ms = UDP_PATIENCE_MS };
	struct inet_socket_ends ends;
	int room, lock;
	size_t lost = 0;

	if (!pb->n_queue)
		return 0;
	if (inet_socket_read(pb, &ends, e) < 0 || udp_widen(fd, &room, &lock, e) < 0)
		return -1;
	/* That also takes it from the network interface that it is bound to; `last` puts it back. */
	if (inet_socket_connect(fd, &d.peer, e) < 0)
		return -1;
	if (udp_deliver_all(&d, &lost, e) < 0)
		return -1;
	if (!udp_connect(&d, &ends.remote))
		return err_set(e, ERR_SYSTEM, 0, "a UDP socket cannot be connected to what it was connected to");
	if (udp_narrow(fd, room, lock, e) < 0)
		return -1;
	if (lost && kind_note(r, "N-DATAGRAM", "none is needed: datagrams may be lost",
			      "has lost %zu of %zu unread datagrams: their senders' addresses cannot be had", lost,
			      pb->n_queue) < 0)
		return err_nomem(e);
	return 0;
}
