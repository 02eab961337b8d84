/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/tcp/reconnect.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "util/clock.h"
#include "util/err.h"
#include "util/fd.h"

enum {
	ANSWER_MS = 2000,    /* within this machine, an answer comes at once */
	PORT_MS = 2500,      /* a port in TIME_WAIT can be had again after a second */
	PORT_POLL_US = 50000,
	ENOUGH_ROOM = 32768, /* bytes that every new socket takes */
	MS = 1000000,
};

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51
#endif
#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

/* ---- one end ---- */

/* What becomes of it when it is closed before it is complete: gone at once, no TIME_WAIT in the way of a second try. */
static int tcp_open(int family)
{
	const struct linger reset = { .l_onoff = 1 };
	cleanup_close int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) < 0)
		return -errno;
	return fd_take(&fd);
}

int tcp_socket_new(int family, struct err *e)
{
	int fd = tcp_open(family);

	return fd < 0 ? err_sys(e, fd, "socket") : fd;
}

static int tcp_set_int(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int tcp_bind(int fd, const struct sockaddr_storage *a)
{
	return bind(fd, (const struct sockaddr *)a, inet_address_size(a)) < 0 ? -errno : 0;
}

/* Someone who is listening, and whom nobody but us knows. */
static int tcp_listen(const struct sockaddr_storage *a, struct err *e)
{
	cleanup_close int fd = tcp_open(a->ss_family);
	int r = fd < 0 ? fd : tcp_set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);

	if (r == 0 && a->ss_family == AF_INET6)
		r = tcp_set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
	if (r == 0)
		r = tcp_bind(fd, a);
	if (r == 0)
		r = listen(fd, 1) < 0 ? -errno : 0;
	if (r == 0)
		return fd_take(&fd);
	return inet_address_fail("making a TCP connection again: listening at", a, r, e);
}

/* ---- the port it comes from ---- */

/*
 * Leave the choice of the port to connect(2), but only this one to choose from.
 * Unlike bind(2) that takes a port in TIME_WAIT, and does not tie the port to the
 * socket; the kernel heeds it within its range of ports for that.
 */
static int tcp_prefer_port(int fd, const struct sockaddr_storage *source)
{
	struct sockaddr_storage any = *source;
	unsigned port = inet_port(source);
	int r = tcp_set_int(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, (int)(port | port << 16));

	if (r == 0)
		r = tcp_set_int(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
	inet_set_port(&any, 0);
	if (r == 0)
		r = tcp_bind(fd, &any);
	return r;
}

static int tcp_connect(int fd, const struct sockaddr_storage *target)
{
	if (connect(fd, (const struct sockaddr *)target, inet_address_size(target)) < 0 && errno != EINPROGRESS)
		return -errno;
	return 0;
}

static bool tcp_has_port(int fd, const struct sockaddr_storage *wanted)
{
	struct sockaddr_storage own = { 0 };
	socklen_t size = sizeof(own);

	return getsockname(fd, (struct sockaddr *)&own, &size) == 0 && inet_port(&own) == inet_port(wanted);
}

static void tcp_forget_preference(int fd)
{
	tcp_set_int(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, 0);
	tcp_set_int(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 0);
}

static int tcp_connect_preferring(const struct sockaddr_storage *source, const struct sockaddr_storage *target)
{
	cleanup_close int fd = tcp_open(source->ss_family);
	int r = fd < 0 ? fd : tcp_prefer_port(fd, source);

	if (r == 0)
		r = tcp_connect(fd, target);
	if (r == 0 && !tcp_has_port(fd, source))
		r = -EADDRNOTAVAIL;
	if (r < 0)
		return r;
	tcp_forget_preference(fd);
	return fd_take(&fd);
}

static int tcp_connect_bound(const struct sockaddr_storage *source, const struct sockaddr_storage *target)
{
	cleanup_close int fd = tcp_open(source->ss_family);
	int r = fd < 0 ? fd : tcp_set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);

	if (r == 0)
		r = tcp_bind(fd, source);
	if (r == 0)
		r = tcp_connect(fd, target);
	return r < 0 ? r : fd_take(&fd);
}

static bool tcp_is_taken(int r)
{
	return r == -EADDRINUSE || r == -EADDRNOTAVAIL;
}

static int tcp_connect_from(const struct sockaddr_storage *source, const struct sockaddr_storage *target, bool patient,
			    struct err *e)
{
	uint64_t until = clock_now_ns(CLOCK_MONOTONIC) + (patient ? (uint64_t)PORT_MS * MS : 0);
	int fd;

	for (;;) {
		fd = inet_port(source) ? tcp_connect_preferring(source, target) : -EINVAL;
		if (fd < 0) /* or the kernel does not know how to prefer */
			fd = tcp_connect_bound(source, target);
		if (!tcp_is_taken(fd) || clock_now_ns(CLOCK_MONOTONIC) > until)
			break;
		usleep(PORT_POLL_US);
	}
	if (fd >= 0)
		return fd;
	return inet_address_fail("making a TCP connection again: connecting from", source, fd, e);
}

int tcp_connect_again(int fd, const struct inet_end *end, struct err *e)
{
	char text[INET_ADDRESS_TEXT];
	int r = tcp_prefer_port(fd, &end->local);

	if (r == 0)
		r = tcp_connect(fd, &end->remote);
	tcp_forget_preference(fd);
	if (tcp_is_taken(r))
		r = tcp_connect(fd, &end->remote);
	return r < 0 ? err_sys(e, r, "connecting to %s again", inet_address_text(&end->remote, text)) : 0;
}

/* ---- both ends ---- */

/* The connection that came from `active`; others do not belong here. */
static int tcp_accept(int listener, int active, struct err *e)
{
	struct sockaddr_storage own = { 0 }, peer;
	socklen_t size = sizeof(own);

	if (getsockname(active, (struct sockaddr *)&own, &size) < 0)
		return err_sys(e, errno, "getsockname");
	for (;;) {
		struct pollfd p = { .fd = listener, .events = POLLIN };
		int fd;

		if (poll(&p, 1, ANSWER_MS) == 0)
			return err_set(e, ERR_SYSTEM, ETIMEDOUT, "a connection to this machine itself was not answered");
		size = sizeof(peer);
		fd = accept4(listener, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			return err_sys(e, errno, "accepting a connection");
		if (fd >= 0 && inet_same_address(&peer, &own))
			return fd;
		if (fd >= 0)
			close(fd);
	}
}

int tcp_reconnect(const struct tcp_route *route, struct tcp_pair *ret, struct err *e)
{
	cleanup_close int listener = tcp_listen(&route->passive.local, e), active = -1;
	struct sockaddr_storage bound = { 0 }, target = route->active.remote;
	socklen_t size = sizeof(bound);

	*ret = (struct tcp_pair){ .active = -1, .passive = -1 };
	if (listener < 0)
		return -1;
	if (getsockname(listener, (struct sockaddr *)&bound, &size) < 0)
		return err_sys(e, errno, "getsockname");
	inet_set_port(&target, inet_port(&bound));
	active = tcp_connect_from(&route->active.local, &target, !route->impatient, e);
	if (active < 0)
		return -1;
	ret->passive = tcp_accept(listener, active, e);
	if (ret->passive < 0)
		return -1;
	ret->active = fd_take(&active);
	return 0;
}

/* ---- what is queued ---- */

static int tcp_get_int(int fd, int name)
{
	int value = 0;
	socklen_t size = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? 0 : value;
}

/* The buffer's size as it was, and free to grow by itself as it is on a new socket. */
static void tcp_reset_buffer(int fd, int name, int size)
{
	tcp_set_int(fd, SOL_SOCKET, name, size / 2); /* the kernel doubles it */
	tcp_set_int(fd, SOL_SOCKET, SO_BUF_LOCK, 0);
}

static int tcp_send(int fd, const char *data, size_t size)
{
	while (size) {
		struct pollfd p = { .fd = fd, .events = POLLOUT };
		ssize_t n = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			return -errno;
		if (n < 0 && poll(&p, 1, ANSWER_MS) == 0)
			return -ENOBUFS;
		if (n > 0)
			data += n, size -= (size_t)n;
	}
	return 0;
}

int tcp_feed(int from, int to, const void *data, size_t size, struct err *e)
{
	int receive = tcp_get_int(to, SO_RCVBUF), send_size = tcp_get_int(from, SO_SNDBUF), r;
	bool much = size > ENOUGH_ROOM;

	if (much) {
		tcp_set_int(to, SOL_SOCKET, SO_RCVBUF, INT32_MAX / 2);
		tcp_set_int(from, SOL_SOCKET, SO_SNDBUF, INT32_MAX / 2);
	}
	r = tcp_send(from, data, size);
	if (much) {
		tcp_reset_buffer(to, SO_RCVBUF, receive);
		tcp_reset_buffer(from, SO_SNDBUF, send_size);
	}
	if (r == 0)
		return 0;
	err_sys(e, r, "a TCP connection cannot hold the %zu bytes it held", size);
	return r == -ENOBUFS ? err_help(e, "raise /proc/sys/net/core/rmem_max and wmem_max") : -1;
}

/* ---- what comes of itself ---- */

int tcp_await_unread(int fd, size_t size, struct err *e)
{
	int queued = 0;

	for (int ms = 0; ms < ANSWER_MS; ms++) {
		if (ioctl(fd, SIOCINQ, &queued) == 0 && (size_t)queued == size)
			return 0;
		usleep(1000);
	}
	return err_set(e, ERR_SYSTEM, 0, "a TCP connection has only %d of the %zu bytes it held", queued, size);
}

int tcp_await_closed(int fd, struct err *e)
{
	struct pollfd p = { .fd = fd };

	if (poll(&p, 1, ANSWER_MS) != 1 || !(p.revents & POLLHUP))
		return err_set(e, ERR_SYSTEM, 0, "a TCP connection could not be closed");
	return 0;
}
