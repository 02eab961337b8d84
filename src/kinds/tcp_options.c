/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/tcp_options.h"

#include <errno.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "util/err.h"
#include "util/fd.h"

enum { TCP_OPTION_MAX = 16 }; /* bytes: a struct timeval, the name of a congestion control */

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

/*
 * In the order in which they are set. Not here: what the kernel changes by itself.
 * `early`: before bind(2), for sockets that were bound themselves; `both`: then,
 * and at the end. `always`: set in any case, as making the socket has changed it.
 */
static const struct tcp_option {
	int level, name;
	socklen_t size;
	bool early, both, always;
	int lock; /* the bit of SO_BUF_LOCK that tells that the program has set it */
} tcp_options[] = {
	{ SOL_SOCKET, SO_REUSEADDR, sizeof(int), .always = true },
	{ SOL_SOCKET, SO_LINGER, sizeof(struct linger), .always = true },
	{ SOL_SOCKET, SO_SNDBUF, sizeof(int), .lock = 1 },
	{ SOL_SOCKET, SO_RCVBUF, sizeof(int), .lock = 2 },
	{ SOL_SOCKET, SO_REUSEPORT, sizeof(int), .both = true },
	{ SOL_SOCKET, SO_BINDTODEVICE, IFNAMSIZ, .early = true },
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
	{ SOL_SOCKET, SO_PRIORITY, sizeof(int) },
	{ SOL_SOCKET, SO_MARK, sizeof(int) },
	{ SOL_SOCKET, SO_RCVLOWAT, sizeof(int) },
	{ SOL_SOCKET, SO_RCVTIMEO, sizeof(struct timeval) },
	{ SOL_SOCKET, SO_SNDTIMEO, sizeof(struct timeval) },
	{ SOL_SOCKET, SO_TIMESTAMP, sizeof(int) },
	{ SOL_SOCKET, SO_TIMESTAMPNS, sizeof(int) },
	{ SOL_SOCKET, SO_PEEK_OFF, sizeof(int) },
	{ SOL_SOCKET, SO_ZEROCOPY, sizeof(int) },
	{ IPPROTO_IP, IP_TOS, sizeof(int) },
	{ IPPROTO_IP, IP_TTL, sizeof(int) },
	{ IPPROTO_IP, IP_MTU_DISCOVER, sizeof(int) },
	{ IPPROTO_IP, IP_RECVERR, sizeof(int) },
	{ IPPROTO_IP, IP_PKTINFO, sizeof(int) },
	{ IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_TCLASS, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_UNICAST_HOPS, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_MTU_DISCOVER, sizeof(int) },
	{ IPPROTO_IPV6, IPV6_RECVERR, sizeof(int) },
	{ IPPROTO_TCP, TCP_CONGESTION, TCP_OPTION_MAX },
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
};

static const size_t n_tcp_options = sizeof(tcp_options) / sizeof(*tcp_options);

static bool tcp_option_get(int fd, const struct tcp_option *o, char value[TCP_OPTION_MAX])
{
	socklen_t size = o->size;

	memset(value, 0, TCP_OPTION_MAX);
	return getsockopt(fd, o->level, o->name, value, &size) == 0;
}

/* A buffer's size counts if the program has chosen it; else the kernel changes it all the time. */
static bool tcp_option_is_set(int fd, int new, const struct tcp_option *o, const char value[TCP_OPTION_MAX])
{
	char usual[TCP_OPTION_MAX];
	int lock = 0;
	socklen_t size = sizeof(lock);

	if (o->lock)
		return getsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &lock, &size) < 0 || (lock & o->lock);
	return !tcp_option_get(new, o, usual) || memcmp(usual, value, sizeof(usual)) != 0;
}

int tcp_options_collect(struct arena *arena, int fd, int family, struct tcp_options to, struct err *e)
{
	cleanup_close int new = socket(family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);

	if (new < 0)
		return err_sys(e, errno, "socket");
	for (size_t i = 0; i < n_tcp_options; i++) {
		const struct tcp_option *o = &tcp_options[i];
		char value[TCP_OPTION_MAX];
		Pb__SocketOption *saved, **v;

		/* Or the kernel has no such option. */
		if (!tcp_option_get(fd, o, value) || !tcp_option_is_set(fd, new, o, value))
			continue;
		saved = pb_new(arena, Pb__SocketOption, pb__socket_option__init);
		v = arena_grow(arena, *to.v, *to.n, sizeof(*v));
		if (!saved || !v)
			return err_nomem(e);
		saved->level = (uint32_t)o->level;
		saved->name = (uint32_t)o->name;
		saved->value = (ProtobufCBinaryData){ .len = o->size, .data = arena_memdup(arena, value, o->size) };
		if (!saved->value.data)
			return err_nomem(e);
		v[(*to.n)++] = saved;
		*to.v = v;
	}
	return 0;
}

const char *tcp_options_obstacle(int fd)
{
	char name[16] = "";
	socklen_t size = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &size) == 0 && size)
		return "with a packet filter (SO_ATTACH_FILTER)";
	size = sizeof(name);
	if (getsockopt(fd, IPPROTO_TCP, TCP_ULP, name, &size) == 0 && size && name[0])
		return "whose bytes the kernel transforms (TCP_ULP), like TLS";
	return NULL;
}

static const Pb__SocketOption *tcp_option_find(struct tcp_options from, const struct tcp_option *o)
{
	for (size_t i = 0; i < *from.n; i++)
		if ((*from.v)[i]->level == (uint32_t)o->level && (*from.v)[i]->name == (uint32_t)o->name)
			return (*from.v)[i];
	return NULL;
}

/* Only if it was saved, or has to be undone. */
static int tcp_option_put(int fd, const struct tcp_option *o, const Pb__SocketOption *saved, struct err *e)
{
	_Alignas(int) char value[TCP_OPTION_MAX] = { 0 };

	if (!saved && !o->always)
		return 0;
	if (saved && saved->value.len != o->size)
		return err_set(e, ERR_IMAGE, 0, "socket option %d of level %d has %zu bytes", o->name, o->level,
			       saved->value.len);
	if (saved)
		memcpy(value, saved->value.data, o->size);
	if (o->lock) /* the kernel doubles it */
		memcpy(value, &(int){ *(int *)value / 2 }, sizeof(int));
	if (setsockopt(fd, o->level, o->name, value, o->size) < 0)
		return err_sys(e, errno, "setting socket option %d of level %d", o->name, o->level);
	return 0;
}

int tcp_options_prepare(int fd, struct tcp_options from, struct err *e)
{
	for (size_t i = 0; i < n_tcp_options; i++) {
		const struct tcp_option *o = &tcp_options[i];

		if ((o->early || o->both) && tcp_option_put(fd, o, tcp_option_find(from, o), e) < 0)
			return -1;
	}
	return 0;
}

int tcp_options_restore(int fd, struct tcp_options from, struct err *e)
{
	for (size_t i = 0; i < n_tcp_options; i++) {
		const struct tcp_option *o = &tcp_options[i];

		if (!o->early && tcp_option_put(fd, o, tcp_option_find(from, o), e) < 0)
			return -1;
	}
	return 0;
}
