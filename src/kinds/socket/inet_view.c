/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/socket/inet_view.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/rtnetlink.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "kinds/socket/sock_diag.h"
#include "util/arena.h"
#include "util/err.h"

enum { INET_VIEW_UDPLITE = 136 };

const int inet_view_tcp[] = { IPPROTO_TCP, 0 };
const int inet_view_udp[] = { IPPROTO_UDP, INET_VIEW_UDPLITE, 0 };

static struct sockaddr_storage inet_view_address(int family, const uint32_t address[4], in_port_t port, uint32_t scope)
{
	struct sockaddr_storage a = { .ss_family = (sa_family_t)family };

	if (family == AF_INET6) {
		struct sockaddr_in6 *v6 = (void *)&a;

		v6->sin6_port = port;
		memcpy(&v6->sin6_addr, address, sizeof(v6->sin6_addr));
		v6->sin6_scope_id = IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr) ? scope : 0;
	} else {
		struct sockaddr_in *v4 = (void *)&a;

		v4->sin_port = port;
		memcpy(&v4->sin_addr, address, sizeof(v4->sin_addr));
	}
	return a;
}

struct inet_view_dump {
	struct arena *arena;
	struct inet_view_table *table;
	int protocol;
};

static int inet_view_take(void *data, const void *message, const struct rtattr *a, size_t left, struct err *e)
{
	const struct inet_diag_msg *m = message;
	const struct inet_diag_sockid *id = &m->id;
	struct inet_view_dump *d = data;
	struct inet_view *v = arena_grow(d->arena, d->table->v, d->table->n, sizeof(*v));

	if (!v)
		return err_nomem(e);
	d->table->v = v;
	v += d->table->n++;
	*v = (struct inet_view){
		.ino = m->idiag_inode,
		.protocol = (uint8_t)d->protocol,
		.state = m->idiag_state,
		.unread = m->idiag_rqueue,
		.unsent = m->idiag_wqueue,
		.local = inet_view_address(m->idiag_family, id->idiag_src, id->idiag_sport, id->idiag_if),
		.remote = inet_view_address(m->idiag_family, id->idiag_dst, id->idiag_dport, id->idiag_if),
	};
	for (; RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == INET_DIAG_SHUTDOWN && RTA_PAYLOAD(a) >= 1)
			v->shutdown = *(const uint8_t *)RTA_DATA(a);
	return 0;
}

static int inet_view_ask(struct arena *arena, struct inet_view_table *table, int family, int protocol, struct err *e)
{
	const struct inet_diag_req_v2 request = {
		.sdiag_family = (uint8_t)family,
		.sdiag_protocol = (uint8_t)protocol,
		.idiag_states = UINT32_MAX,
	};
	struct inet_view_dump dump = { arena, table, protocol };
	int r = sock_diag_dump(&request, sizeof(request), sizeof(struct inet_diag_msg), inet_view_take, &dump, "sockets", e);

	if (r == -ENOENT && protocol != IPPROTO_TCP) { /* this kernel cannot tell */
		*e = ERR_INIT;
		return 0;
	}
	return r;
}

/* ---- one socket ---- */

static int inet_view_option(int fd, int level, int name, void *ret, socklen_t size)
{
	return getsockopt(fd, level, name, ret, &size) < 0 ? -errno : 0;
}

int socket_sort_read(int fd, struct socket_sort *ret, struct err *e)
{
	if (inet_view_option(fd, SOL_SOCKET, SO_DOMAIN, &ret->domain, sizeof(ret->domain)) < 0 ||
	    inet_view_option(fd, SOL_SOCKET, SO_TYPE, &ret->type, sizeof(ret->type)) < 0 ||
	    inet_view_option(fd, SOL_SOCKET, SO_PROTOCOL, &ret->protocol, sizeof(ret->protocol)) < 0)
		return err_sys(e, errno, "asking what socket it is");
	return 0;
}

int inet_view_read(int fd, uint64_t ino, struct inet_view *ret, struct err *e)
{
	struct pollfd p = { .fd = fd, .events = POLLRDHUP };
	socklen_t size = sizeof(ret->local);
	struct tcp_info info = { 0 };

	*ret = (struct inet_view){ .ino = (uint32_t)ino, .protocol = IPPROTO_TCP };
	if (inet_view_option(fd, IPPROTO_TCP, TCP_INFO, &info, sizeof(info)) < 0 || poll(&p, 1, 0) < 0 ||
	    getsockname(fd, (struct sockaddr *)&ret->local, &size) < 0)
		return err_sys(e, errno, "asking about a TCP socket");
	ret->state = info.tcpi_state;
	ret->ended = p.revents & POLLRDHUP; /* a socket that was never connected is not shut down */
	ret->remote.ss_family = ret->local.ss_family;
	return 0;
}

/* ---- order ---- */

static int inet_view_compare(const void *a, const void *b)
{
	const struct inet_view *x = a, *y = b;

	return (x->ino > y->ino) - (x->ino < y->ino);
}

struct inet_view_end {
	struct in6_addr address;
	in_port_t port;
};

/* IPv4 addresses as IPv6 sockets show them: a connection may have ends of both families. */
static struct inet_view_end inet_view_end_of(const struct sockaddr_storage *a)
{
	const struct sockaddr_in6 *v6 = (const void *)a;
	const struct sockaddr_in *v4 = (const void *)a;
	struct inet_view_end end = { 0 };

	if (a->ss_family == AF_INET6) {
		end.address = v6->sin6_addr;
		end.port = v6->sin6_port;
	} else {
		end.address.s6_addr[10] = end.address.s6_addr[11] = 0xff;
		memcpy(&end.address.s6_addr[12], &v4->sin_addr, sizeof(v4->sin_addr));
		end.port = v4->sin_port;
	}
	return end;
}

static int inet_view_compare_ends(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	struct inet_view_end x = inet_view_end_of(a), y = inet_view_end_of(b);

	if (x.port != y.port)
		return x.port < y.port ? -1 : 1;
	return memcmp(&x.address, &y.address, sizeof(x.address));
}

static int inet_view_compare_connections(const void *a, const void *b)
{
	const struct inet_view *x = *(const struct inet_view *const *)a, *y = *(const struct inet_view *const *)b;
	int r = inet_view_compare_ends(&x->local, &y->local);

	return r ? r : inet_view_compare_ends(&x->remote, &y->remote);
}

int inet_view_dump(struct arena *arena, const int *protocols, struct inet_view_table *ret, struct err *e)
{
	struct inet_view_table table = { 0 };

	for (; *protocols; protocols++)
		if (inet_view_ask(arena, &table, AF_INET, *protocols, e) < 0 ||
		    inet_view_ask(arena, &table, AF_INET6, *protocols, e) < 0)
			return -1;
	table.by_ends = arena_alloc(arena, (table.n + 1) * sizeof(*table.by_ends));
	if (!table.by_ends)
		return err_nomem(e);
	if (table.n)
		qsort(table.v, table.n, sizeof(*table.v), inet_view_compare);
	for (size_t i = 0; i < table.n; i++)
		table.by_ends[i] = &table.v[i];
	if (table.n)
		qsort(table.by_ends, table.n, sizeof(*table.by_ends), inet_view_compare_connections);
	*ret = table;
	return 0;
}

const struct inet_view *inet_view_hold(const struct inet_view_table *table, uint64_t ino, uint32_t object)
{
	const struct inet_view key = { .ino = (uint32_t)ino };
	struct inet_view *v = NULL;

	if (table->n && ino != 0 && ino <= UINT32_MAX)
		v = bsearch(&key, table->v, table->n, sizeof(key), inet_view_compare);
	if (v)
		v->holder = object + 1;
	return v;
}

const struct inet_view *inet_view_find_peer(const struct inet_view_table *table, const struct inet_view *end)
{
	const struct inet_view mirrored = { .local = end->remote, .remote = end->local }, *key = &mirrored;
	const struct inet_view **found;

	if (!table->n)
		return NULL;
	found = bsearch(&key, table->by_ends, table->n, sizeof(*table->by_ends), inet_view_compare_connections);
	return found ? *found : NULL;
}
