/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One table for sockets of every kind: the kernel says which options a socket has,
 * by not telling the values of the others.
 *
 * Not here, as the kernel does not tell them: the programs of SO_REUSEPORT groups,
 * the interface of IP_MULTICAST_IF where it was given by its index.
 */

#include "kinds/socket/socket_options.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "kinds/kind.h"
#include "util/err.h"
#include "util/fd.h"
#include "util/privilege.h"

enum {
	SOCKET_OPTION_MAX = 32,     /* bytes: struct icmp6_filter */
	SOCKET_CONGESTION_MAX = 16, /* the name of a congestion control */
};

/* Names that not every libc or kernel header has. */
enum {
	SOCKET_BUF_LOCK = 72,         /* SO_BUF_LOCK */
	SOCKET_RCVMARK = 75,          /* SO_RCVMARK */
	SOCKET_PASSPIDFD = 76,        /* SO_PASSPIDFD */
	SOCKET_RCVPRIORITY = 82,      /* SO_RCVPRIORITY */
	SOCKET_PASSRIGHTS = 83,       /* SO_PASSRIGHTS */
	SOCKET_INQ = 84,              /* SO_INQ */
	SOCKET_IP_UNICAST_IF = 50,
	SOCKET_UDPLITE = 136,         /* the protocol, and the level of its options */
	SOCKET_UDPLITE_SEND = 10,     /* UDPLITE_SEND_CSCOV */
	SOCKET_UDPLITE_RECEIVE = 11,  /* UDPLITE_RECV_CSCOV */
	SOCKET_ICMP_FILTER = 1,       /* ICMP_FILTER, ICMP6_FILTER */
};

/*
 * In the order in which they are set. Not here: what the kernel changes by itself.
 * `early`: before bind(2), for sockets that were bound themselves; `both`: then,
 * and at the end. `always`: set in any case, as making the socket, or another
 * option, has changed it. `datagrams`: only where there are any; a stream socket
 * that was accepted shows others than a new one has, and none can be set.
 */
static const struct socket_option {
	int level, name;
	socklen_t size;
	bool early, both, always, datagrams;
	int lock;  /* the bit of SO_BUF_LOCK that tells that the program has set it */
	int force; /* sets more than the administrator allows everybody; CAP_NET_ADMIN */
} socket_options[] = {
	{ SOL_SOCKET, SO_REUSEADDR, sizeof(int), .both = true, .always = true },
	{ SOL_SOCKET, SO_LINGER, sizeof(struct linger), .always = true },
	{ SOL_SOCKET, SO_SNDBUF, sizeof(int), .lock = 1, .force = SO_SNDBUFFORCE },
	{ SOL_SOCKET, SO_RCVBUF, sizeof(int), .lock = 2, .force = SO_RCVBUFFORCE },
	{ SOL_SOCKET, SO_REUSEPORT, sizeof(int), .both = true },
	{ SOL_SOCKET, SO_BINDTODEVICE, IFNAMSIZ, .both = true },
	{ IPPROTO_IPV6, IPV6_V6ONLY, sizeof(int), .early = true },
	{ IPPROTO_IP, IP_FREEBIND, sizeof(int), .early = true },
	{ IPPROTO_IP, IP_TRANSPARENT, sizeof(int), .early = true },
	{ IPPROTO_TCP, TCP_FASTOPEN, sizeof(int), .early = true },
	{ IPPROTO_TCP, TCP_DEFER_ACCEPT, sizeof(int), .early = true },
	{ IPPROTO_TCP, TCP_SAVE_SYN, sizeof(int), .early = true },
	{ SOL_SOCKET, SO_KEEPALIVE, sizeof(int) },
	{ SOL_SOCKET, SO_DONTROUTE, sizeof(int) },
	{ SOL_SOCKET, SO_BROADCAST, sizeof(int) },
	{ SOL_SOCKET, SO_OOBINLINE, sizeof(int) },
	{ SOL_SOCKET, SO_NO_CHECK, sizeof(int) },
	{ SOL_SOCKET, SO_MARK, sizeof(int) },
	{ SOL_SOCKET, SO_RCVLOWAT, sizeof(int) },
	{ SOL_SOCKET, SO_RCVTIMEO, sizeof(struct timeval) },
	{ SOL_SOCKET, SO_SNDTIMEO, sizeof(struct timeval) },
	{ SOL_SOCKET, SO_TIMESTAMP, sizeof(int) },
	{ SOL_SOCKET, SO_TIMESTAMPNS, sizeof(int) },
	{ SOL_SOCKET, SO_TIMESTAMPING, sizeof(int) },
	{ SOL_SOCKET, SO_PEEK_OFF, sizeof(int) },
	{ SOL_SOCKET, SO_ZEROCOPY, sizeof(int) },
	{ SOL_SOCKET, SO_RXQ_OVFL, sizeof(int) },
	{ SOL_SOCKET, SO_SELECT_ERR_QUEUE, sizeof(int) },
	{ SOL_SOCKET, SO_BUSY_POLL, sizeof(int) },
	{ SOL_SOCKET, SO_PASSCRED, sizeof(int) },
	{ SOL_SOCKET, SOCKET_PASSPIDFD, sizeof(int) },
	{ SOL_SOCKET, SO_PASSSEC, sizeof(int) },
	{ SOL_SOCKET, SOCKET_PASSRIGHTS, sizeof(int) },
	{ SOL_SOCKET, SOCKET_INQ, sizeof(int) },
	{ SOL_SOCKET, SOCKET_RCVMARK, sizeof(int) },
	{ SOL_SOCKET, SOCKET_RCVPRIORITY, sizeof(int) },
	{ SOL_SOCKET, SO_LOCK_FILTER, sizeof(int) },
	{ IPPROTO_IP, IP_TOS, sizeof(int) },
	{ SOL_SOCKET, SO_PRIORITY, sizeof(int), .always = true }, /* IP_TOS sets it, too */
	{ IPPROTO_IP, IP_TTL, sizeof(int) },
	{ IPPROTO_IP, IP_MINTTL, sizeof(int) },
	{ IPPROTO_IP, IP_MTU_DISCOVER, sizeof(int) },
	{ IPPROTO_IP, IP_RECVERR, sizeof(int) },
	{ IPPROTO_IP, IP_PKTINFO, sizeof(int) },
	{ IPPROTO_IP, IP_RECVTTL, sizeof(int) },
	{ IPPROTO_IP, IP_RECVTOS, sizeof(int) },
	{ IPPROTO_IP, IP_RECVOPTS, sizeof(int) },
	{ IPPROTO_IP, IP_RETOPTS, sizeof(int) },
	{ IPPROTO_IP, IP_RECVORIGDSTADDR, sizeof(int) },
	{ IPPROTO_IP, IP_RECVFRAGSIZE, sizeof(int) },
	{ IPPROTO_IP, IP_CHECKSUM, sizeof(int) },
	{ IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, sizeof(int) },
	{ IPPROTO_IP, SOCKET_IP_UNICAST_IF, sizeof(int) },
	{ IPPROTO_IP, IP_MULTICAST_IF, sizeof(struct in_addr), .datagrams = true },
	{ IPPROTO_IP, IP_MULTICAST_TTL, sizeof(int), .datagrams = true },
	{ IPPROTO_IP, IP_MULTICAST_LOOP, sizeof(int) },
	{ IPPROTO_IP, IP_MULTICAST_ALL, sizeof(int) },
	{ IPPROTO_IP, IP_HDRINCL, sizeof(int) },
	{ IPPROTO_IP, IP_NODEFRAG, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_TCLASS, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_UNICAST_HOPS, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_MINHOPCOUNT, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_MTU_DISCOVER, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_DONTFRAG, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_RECVERR, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_RECVPKTINFO, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_RECVHOPLIMIT, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_RECVHOPOPTS, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_RECVRTHDR, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_RECVDSTOPTS, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_RECVPATHMTU, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_RECVTCLASS, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_RECVFRAGSIZE, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_UNICAST_IF, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_MULTICAST_IF, sizeof(int), .datagrams = true },
	{ IPPROTO_IPV6, IPV6_MULTICAST_HOPS, sizeof(int), .datagrams = true },
	{ IPPROTO_IPV6, IPV6_MULTICAST_LOOP, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_MULTICAST_ALL, sizeof(int) },
	{ IPPROTO_TCP, TCP_CONGESTION, SOCKET_CONGESTION_MAX },
	{ IPPROTO_TCP, TCP_NODELAY, sizeof(int) },
	{ IPPROTO_TCP, TCP_CORK, sizeof(int) },
	{ IPPROTO_TCP, TCP_KEEPIDLE, sizeof(int) },
	{ IPPROTO_TCP, TCP_KEEPINTVL, sizeof(int) },
	{ IPPROTO_TCP, TCP_KEEPCNT, sizeof(int) },
	{ IPPROTO_TCP, TCP_SYNCNT, sizeof(int) },
	{ IPPROTO_TCP, TCP_LINGER2, sizeof(int) },
	{ IPPROTO_TCP, TCP_USER_TIMEOUT, sizeof(int) },
	{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, sizeof(int) },
	{ IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, sizeof(int) },
	{ IPPROTO_TCP, TCP_INQ, sizeof(int) },
	{ IPPROTO_UDP, UDP_CORK, sizeof(int) },
	{ IPPROTO_UDP, UDP_NO_CHECK6_TX, sizeof(int) },
	{ IPPROTO_UDP, UDP_NO_CHECK6_RX, sizeof(int) },
	{ IPPROTO_UDP, UDP_SEGMENT, sizeof(int) },
	{ IPPROTO_UDP, UDP_GRO, sizeof(int) },
	{ SOCKET_UDPLITE, SOCKET_UDPLITE_SEND, sizeof(int) },
	{ SOCKET_UDPLITE, SOCKET_UDPLITE_RECEIVE, sizeof(int) },
	{ SOL_RAW, SOCKET_ICMP_FILTER, sizeof(int) },
	{ IPPROTO_ICMPV6, SOCKET_ICMP_FILTER, SOCKET_OPTION_MAX },
	{ IPPROTO_IPV6, IPV6_CHECKSUM, sizeof(int) },
	{ SOL_PACKET, PACKET_AUXDATA, sizeof(int) },
	{ SOL_PACKET, PACKET_ORIGDEV, sizeof(int) },
	{ SOL_PACKET, PACKET_VERSION, sizeof(int) },
	{ SOL_PACKET, PACKET_RESERVE, sizeof(int) },
	{ SOL_PACKET, PACKET_LOSS, sizeof(int) },
	{ SOL_PACKET, PACKET_TIMESTAMP, sizeof(int) },
	{ SOL_PACKET, PACKET_VNET_HDR, sizeof(int) },
	{ SOL_PACKET, PACKET_QDISC_BYPASS, sizeof(int) },
	{ SOL_PACKET, PACKET_IGNORE_OUTGOING, sizeof(int) },
	{ SOL_NETLINK, NETLINK_PKTINFO, sizeof(int) },
	{ SOL_NETLINK, NETLINK_BROADCAST_ERROR, sizeof(int) },
	{ SOL_NETLINK, NETLINK_NO_ENOBUFS, sizeof(int) },
	{ SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, sizeof(int) },
	{ SOL_NETLINK, NETLINK_CAP_ACK, sizeof(int) },
	{ SOL_NETLINK, NETLINK_EXT_ACK, sizeof(int) },
	{ SOL_NETLINK, NETLINK_GET_STRICT_CHK, sizeof(int) },
};

static const size_t n_socket_options = sizeof(socket_options) / sizeof(*socket_options);

/* ---- dump ---- */

static bool socket_option_get(int fd, const struct socket_option *o, char value[SOCKET_OPTION_MAX])
{
	socklen_t size = o->size;

	memset(value, 0, SOCKET_OPTION_MAX);
	return getsockopt(fd, o->level, o->name, value, &size) == 0;
}

/* What a new socket of some sort has. */
struct socket_defaults {
	struct socket_sort sort;
	struct socket_defaults *next;
	struct socket_default {
		bool known; /* or such a socket, or this kernel, has no such option */
		char value[SOCKET_OPTION_MAX];
	} v[sizeof(socket_options) / sizeof(*socket_options)];
};

static const struct socket_defaults *socket_defaults_of(struct collect *c, struct socket_sort sort, struct err *e)
{
	cleanup_close int new = -1;
	struct socket_defaults *d;

	for (d = c->socket_defaults; d; d = d->next)
		if (d->sort.domain == sort.domain && d->sort.type == sort.type && d->sort.protocol == sort.protocol)
			return d;
	new = socket(sort.domain, sort.type | SOCK_CLOEXEC, sort.protocol);
	d = arena_new(c->arena, struct socket_defaults);
	if (new < 0 || !d) {
		err_sys(e, new < 0 ? errno : ENOMEM, "making a socket to compare with");
		return NULL;
	}
	for (size_t i = 0; i < n_socket_options; i++)
		d->v[i].known = !(socket_options[i].datagrams && sort.type == SOCK_STREAM) &&
				socket_option_get(new, &socket_options[i], d->v[i].value);
	d->sort = sort;
	d->next = c->socket_defaults;
	c->socket_defaults = d;
	return d;
}

/* A buffer's size counts if the program has chosen it; else the kernel changes it all the time. */
static bool socket_option_is_set(int fd, const struct socket_option *o, const char *usual,
				 const char value[SOCKET_OPTION_MAX])
{
	int lock = 0;
	socklen_t size = sizeof(lock);

	if (o->lock)
		return getsockopt(fd, SOL_SOCKET, SOCKET_BUF_LOCK, &lock, &size) < 0 || (lock & o->lock);
	return memcmp(usual, value, SOCKET_OPTION_MAX) != 0;
}

static int socket_option_add(struct arena *arena, struct socket_options to, int level, int name, const void *value,
			     size_t size, struct err *e)
{
	Pb__SocketOption *saved = pb_new(arena, Pb__SocketOption, pb__socket_option__init);
	Pb__SocketOption **v = arena_grow(arena, *to.v, *to.n, sizeof(*v));

	if (!saved || !v)
		return err_nomem(e);
	saved->level = (uint32_t)level;
	saved->name = (uint32_t)name;
	saved->value = (ProtobufCBinaryData){ .len = size, .data = arena_memdup(arena, value, size) };
	if (!saved->value.data)
		return err_nomem(e);
	v[(*to.n)++] = saved;
	*to.v = v;
	return 0;
}

/* The kernel counts a filter in instructions. */
static int socket_filter_collect(struct arena *arena, int fd, struct socket_options to, struct err *e)
{
	struct sock_filter code[BPF_MAXINSNS];
	socklen_t n = BPF_MAXINSNS;

	if (socket_options_filter(fd) != SOCKET_FILTER_CLASSIC)
		return 0;
	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, code, &n) < 0)
		return err_sys(e, errno, "SO_GET_FILTER");
	return socket_option_add(arena, to, SOL_SOCKET, SO_ATTACH_FILTER, code, n * sizeof(*code), e);
}

enum socket_filter socket_options_filter(int fd)
{
	socklen_t n = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &n) < 0)
		return errno == EACCES ? SOCKET_FILTER_UNREADABLE : SOCKET_FILTER_NONE;
	return n ? SOCKET_FILTER_CLASSIC : SOCKET_FILTER_NONE;
}

int socket_options_collect(struct collect *c, int fd, struct socket_sort sort, struct socket_options to, struct err *e)
{
	const struct socket_defaults *usual = socket_defaults_of(c, sort, e);

	if (!usual)
		return -1;
	for (size_t i = 0; i < n_socket_options; i++) {
		const struct socket_option *o = &socket_options[i];
		char value[SOCKET_OPTION_MAX];

		if (!usual->v[i].known || !socket_option_get(fd, o, value) ||
		    !socket_option_is_set(fd, o, usual->v[i].value, value))
			continue;
		if (socket_option_add(c->arena, to, o->level, o->name, value, o->size, e) < 0)
			return -1;
	}
	return socket_filter_collect(c->arena, fd, to, e);
}

/* ---- restore ---- */

static const Pb__SocketOption *socket_option_find(struct socket_options from, int level, int name)
{
	for (size_t i = 0; i < *from.n; i++)
		if ((*from.v)[i]->level == (uint32_t)level && (*from.v)[i]->name == (uint32_t)name)
			return (*from.v)[i];
	return NULL;
}

/* The kernel doubles what it is told, and silently takes less than was asked for. */
static int socket_option_put_buffer(int fd, const struct socket_option *o, const char value[SOCKET_OPTION_MAX])
{
	cleanup_privilege struct privilege p = privilege_raise(PRIVILEGE(CAP_NET_ADMIN));
	int size;

	memcpy(&size, value, sizeof(size));
	size /= 2;
	if (setsockopt(fd, SOL_SOCKET, o->force, &size, sizeof(size)) == 0)
		return 0;
	return setsockopt(fd, SOL_SOCKET, o->name, &size, sizeof(size));
}

/* What is free for all is not done with a privilege; and what a program may be given is what the caller has. */
static int socket_option_put(int fd, const struct socket_option *o, const char value[SOCKET_OPTION_MAX])
{
	cleanup_privilege struct privilege p = { 0 };

	if (o->lock)
		return socket_option_put_buffer(fd, o, value);
	if (setsockopt(fd, o->level, o->name, value, o->size) == 0)
		return 0;
	if (errno != EPERM)
		return -1;
	p = privilege_raise((PRIVILEGE(CAP_NET_ADMIN) | PRIVILEGE(CAP_NET_RAW)) & privilege_grantable());
	return setsockopt(fd, o->level, o->name, value, o->size);
}

/* Only if it was saved, or has to be undone; and is not so already. */
static int socket_option_restore(int fd, const struct socket_option *o, struct socket_options from, struct err *e)
{
	const Pb__SocketOption *saved = socket_option_find(from, o->level, o->name);
	char value[SOCKET_OPTION_MAX] = { 0 }, now[SOCKET_OPTION_MAX];

	if (!saved && !o->always)
		return 0;
	if (saved && saved->value.len != o->size)
		return err_set(e, ERR_IMAGE, 0, "socket option %d of level %d has %zu bytes", o->name, o->level,
			       saved->value.len);
	if (saved)
		memcpy(value, saved->value.data, o->size);
	if (!o->lock && socket_option_get(fd, o, now) && memcmp(now, value, sizeof(now)) == 0)
		return 0;
	if (socket_option_put(fd, o, value) < 0)
		return err_sys(e, errno, "setting socket option %d of level %d", o->name, o->level);
	return 0;
}

static int socket_filter_restore(int fd, struct socket_options from, struct err *e)
{
	cleanup_privilege struct privilege p = { 0 };
	const Pb__SocketOption *saved = socket_option_find(from, SOL_SOCKET, SO_ATTACH_FILTER);
	struct sock_fprog program = { 0 };

	if (!saved)
		return 0;
	if (saved->value.len % sizeof(*program.filter) || saved->value.len / sizeof(*program.filter) > BPF_MAXINSNS)
		return err_set(e, ERR_IMAGE, 0, "a packet filter has %zu bytes", saved->value.len);
	p = privilege_raise(PRIVILEGE(CAP_NET_ADMIN)); /* of a TCP socket */
	program.len = (unsigned short)(saved->value.len / sizeof(*program.filter));
	program.filter = (struct sock_filter *)(void *)saved->value.data;
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0)
		return err_sys(e, errno, "SO_ATTACH_FILTER");
	return 0;
}

int socket_options_prepare(int fd, struct socket_options from, struct err *e)
{
	for (size_t i = 0; i < n_socket_options; i++) {
		const struct socket_option *o = &socket_options[i];

		if ((o->early || o->both) && socket_option_restore(fd, o, from, e) < 0)
			return -1;
	}
	return 0;
}

int socket_options_restore(int fd, struct socket_options from, struct err *e)
{
	if (socket_filter_restore(fd, from, e) < 0)
		return -1;
	for (size_t i = 0; i < n_socket_options; i++) {
		const struct socket_option *o = &socket_options[i];

		if (!o->early && socket_option_restore(fd, o, from, e) < 0)
			return -1;
	}
	return 0;
}
