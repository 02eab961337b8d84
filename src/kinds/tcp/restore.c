/* SPDX-License-Identifier: Apache-2.0 */

/* TCP connections are made again, each in its way (tcp_connection.c says which). */

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kinds/tcp/connection.h"
#include "kinds/tcp/lock.h"
#include "kinds/tcp/reconnect.h"
#include "kinds/tcp/repair.h"
#include "util/fd.h"

enum tcp_connection_stash {
	TCP_END = TCP_CONNECTION_TAG,            /* by its own inode number */
	TCP_FIRST = TCP_CONNECTION_TAG | 1 << 8, /* a duplicate of the first end, by the second's number */
	TCP_REPAIRED = TCP_CONNECTION_TAG | 2 << 8, /* a duplicate of what is still in repair, by its own number */
};

enum { TCP_RECEIVE = 1 }; /* bit of shutdown */

/* ---- what both halves use ---- */

static const char *const tcp_state_names[] = {
	[INET_VIEW_ESTABLISHED] = "established", [INET_VIEW_SYN_SENT] = "SYN_SENT", [INET_VIEW_FIN_WAIT1] = "FIN_WAIT1",
	[INET_VIEW_FIN_WAIT2] = "FIN_WAIT2", [INET_VIEW_CLOSE_WAIT] = "CLOSE_WAIT", [INET_VIEW_LAST_ACK] = "LAST_ACK",
	[INET_VIEW_CLOSING] = "CLOSING", [INET_VIEW_CLOSE] = "ended",
};

bool tcp_state_is_known(uint32_t state)
{
	return state < sizeof(tcp_state_names) / sizeof(*tcp_state_names) && tcp_state_names[state];
}

const char *tcp_state_name(uint32_t state)
{
	return tcp_state_is_known(state) ? tcp_state_names[state] : "?";
}

bool tcp_has_received_end(uint32_t state)
{
	return state == INET_VIEW_CLOSE || state == INET_VIEW_CLOSE_WAIT || state == INET_VIEW_LAST_ACK ||
	       state == INET_VIEW_CLOSING;
}

bool tcp_has_sent_end(uint32_t state)
{
	return state == INET_VIEW_CLOSE || state == INET_VIEW_FIN_WAIT1 || state == INET_VIEW_FIN_WAIT2 ||
	       state == INET_VIEW_LAST_ACK || state == INET_VIEW_CLOSING;
}

int tcp_duplicate(int fd, int base, struct err *e)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, base);

	if (copy >= 0)
		return copy;
	err_sys(e, errno, "duplicating a socket");
	return e->number == EMFILE ? err_help(e, "raise the limit of open files: ulimit -Hn") : -1;
}

int tcp_read_address(const ProtobufCBinaryData *saved, struct sockaddr_storage *ret, struct err *e)
{
	if (inet_address_parse(saved->data, saved->len, ret) < 0)
		return err_set(e, ERR_IMAGE, 0, "a TCP connection has an address of an unknown kind");
	return 0;
}

int tcp_read_end(const Pb__TcpConnection *pb, struct inet_end *ret, struct err *e)
{
	if (!tcp_state_is_known(pb->state))
		return err_set(e, ERR_IMAGE, 0, "a TCP connection in the unknown state %u", pb->state);
	return tcp_read_address(&pb->local, &ret->local, e) < 0 ? -1 : tcp_read_address(&pb->remote, &ret->remote, e);
}

/* ---- shutting down ---- */

static int tcp_shutdown(int fd, int how, struct err *e)
{
	return shutdown(fd, how) < 0 && errno != ENOTCONN ? err_sys(e, errno, "shutdown") : 0;
}

/* As the program had shut it down itself. What its other end did to it comes from there. */
static int tcp_shut(int fd, const Pb__TcpConnection *pb, struct err *e)
{
	if (tcp_has_sent_end(pb->state) && tcp_shutdown(fd, SHUT_WR, e) < 0)
		return -1;
	if ((pb->shutdown & TCP_RECEIVE) && !tcp_has_received_end(pb->state) && tcp_shutdown(fd, SHUT_RD, e) < 0)
		return -1;
	return 0;
}

/* ---- an end that nobody has ---- */

/* An end that is accepted, so that its port is its own only as long as it is connected. */
static int tcp_accept_at(const struct sockaddr_storage *local, const struct sockaddr_storage *remote, int *ret_other,
			 struct err *e)
{
	const struct tcp_route route = { .active = { *remote, *local }, .passive = { *local, *remote } };
	struct tcp_pair pair;

	if (tcp_reconnect(&route, &pair, e) < 0)
		return -1;
	*ret_other = pair.active;
	return pair.passive;
}

/* The port may still be in use by what became of the saved connection; to connect elsewhere from it is allowed. */
static int tcp_connect_at(const struct sockaddr_storage *local, const struct sockaddr_storage *any, int *ret_other,
			  struct err *e)
{
	const struct tcp_route route = { .active = { *local, *any }, .passive = { *any, *local }, .impatient = true };
	struct tcp_pair pair;

	if (tcp_reconnect(&route, &pair, e) < 0)
		return -1;
	*ret_other = pair.passive;
	return pair.active;
}

/* Where the address cannot be had, at another: nobody will ever answer at it. `remote` may be NULL: any. */
static int tcp_make_end(struct sockaddr_storage local, const struct sockaddr_storage *remote, int *ret_other,
			struct err *e)
{
	struct sockaddr_storage any = local;
	int fd;

	inet_set_port(&any, 0);
	fd = tcp_accept_at(&local, remote ? remote : &any, ret_other, e);
	if (fd < 0)
		fd = tcp_connect_at(&local, &any, ret_other, e);
	if (fd < 0)
		fd = tcp_accept_at(&any, &any, ret_other, e);
	if (fd < 0) {
		inet_set_loopback(&any);
		fd = tcp_accept_at(&any, &any, ret_other, e);
	}
	if (fd >= 0)
		*e = ERR_INIT;
	return fd;
}

static int tcp_make_orphan(const struct inet_end *own, const Pb__TcpConnection *pb, struct err *e)
{
	cleanup_close int other = -1, fd = tcp_make_end(own->local, &own->remote, &other, e);
	const struct linger orderly = { 0 };

	if (fd < 0 || tcp_feed(other, fd, pb->queue.data, pb->queue.len, e) < 0)
		return -1;
	if (setsockopt(other, SOL_SOCKET, SO_LINGER, &orderly, sizeof(orderly)) < 0)
		return err_sys(e, errno, "SO_LINGER");
	return fd_take(&fd);
}

/* The other end resets the connection when it is closed; unless both have ended it already. */
static int tcp_make_reset(const struct inet_end *own, const Pb__TcpConnection *pb, struct err *e)
{
	cleanup_close int other = -1, fd = tcp_make_end(own->local, NULL, &other, e);

	if (fd < 0 || tcp_feed(other, fd, pb->queue.data, pb->queue.len, e) < 0)
		return -1;
	if (tcp_has_received_end(pb->state) && tcp_shutdown(other, SHUT_WR, e) < 0)
		return -1;
	if (tcp_shut(fd, pb, e) < 0 || tcp_await_unread(fd, pb->queue.len, e) < 0)
		return -1;
	close(fd_take(&other));
	return tcp_await_closed(fd, e) < 0 ? -1 : fd_take(&fd);
}

/* ---- a pair ---- */

static int tcp_pair_route(const Pb__TcpConnection *pb, const struct inet_end *own, struct tcp_route *ret, struct err *e)
{
	struct inet_end peer;

	if (!pb->has_peer_local || !pb->has_peer_remote)
		return err_set(e, ERR_IMAGE, 0, "a TCP connection lacks the addresses of its other end");
	if (tcp_read_address(&pb->peer_local, &peer.local, e) < 0 ||
	    tcp_read_address(&pb->peer_remote, &peer.remote, e) < 0)
		return -1;
	*ret = pb->active ? (struct tcp_route){ .active = *own, .passive = peer }
			  : (struct tcp_route){ .active = peer, .passive = *own };
	return 0;
}

/* The first end: make both. The other one waits for its object, which needs this one to fill its queue. */
static int tcp_make_pair(struct restore_objects *r, const Pb__TcpConnection *pb, const struct tcp_route *route,
			 struct err *e)
{
	cleanup_close int mine = -1, other = -1, copy = -1;
	struct tcp_pair pair;

	if (tcp_reconnect(route, &pair, e) < 0)
		return -1;
	mine = pb->active ? pair.active : pair.passive;
	other = pb->active ? pair.passive : pair.active;
	if (tcp_feed(other, mine, pb->queue.data, pb->queue.len, e) < 0)
		return -1;
	other = fd_raise(fd_take(&other), r->fd_base, e);
	copy = tcp_duplicate(mine, r->fd_base, e);
	if (other < 0 || copy < 0)
		return -1;
	if (kind_stash_put(r, TCP_FIRST, pb->peer, copy, e) < 0)
		return -1;
	copy = -1; /* the stash has it */
	if (kind_stash_put(r, TCP_END, pb->peer, other, e) < 0)
		return -1;
	other = -1;
	return fd_take(&mine);
}

static int tcp_restore_pair(struct restore_objects *r, const Pb__TcpConnection *pb, const struct inet_end *own,
			    struct err *e)
{
	cleanup_close int fd = kind_stash_take(r, TCP_END, pb->inode), first = kind_stash_take(r, TCP_FIRST, pb->inode);
	struct tcp_route route;

	if (fd >= 0 && first >= 0)
		return tcp_feed(first, fd, pb->queue.data, pb->queue.len, e) < 0 ? -1 : fd_take(&fd);
	if (tcp_pair_route(pb, own, &route, e) < 0)
		return -1;
	return tcp_make_pair(r, pb, &route, e);
}

/* ---- every way ---- */

static int tcp_restore_repair(const struct inet_end *own, const Pb__TcpConnection *pb, struct err *e)
{
	const struct tcp_repaired c = {
		.end = *own,
		.received = pb->queue.data,
		.n_received = pb->queue.len,
		.end_received = tcp_has_received_end(pb->state),
	};

	if (!pb->repair)
		return err_set(e, ERR_IMAGE, 0, "a TCP connection lacks its state");
	return tcp_repair_restore(&c, pb->repair, e);
}

static int tcp_restore_way(struct restore_objects *r, const Pb__TcpConnection *pb, struct err *e)
{
	struct inet_end own;

	if (tcp_read_end(pb, &own, e) < 0)
		return -1;
	switch (pb->way) {
	case PB__TCP_WAY__TCP_PAIR:
		return tcp_restore_pair(r, pb, &own, e);
	case PB__TCP_WAY__TCP_ORPHAN:
		return tcp_make_orphan(&own, pb, e);
	case PB__TCP_WAY__TCP_CONNECTING:
		return tcp_socket_new(own.local.ss_family, e);
	case PB__TCP_WAY__TCP_RESET:
		return tcp_make_reset(&own, pb, e);
	case PB__TCP_WAY__TCP_REPAIR:
		return tcp_restore_repair(&own, pb, e);
	case PB__TCP_WAY__TCP_UNKNOWN:
	default:
		return err_set(e, ERR_IMAGE, 0, "a TCP connection is to come back in an unknown way (%d)", (int)pb->way);
	}
}

int tcp_connection_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	int fd = tcp_restore_way(r, (const Pb__TcpConnection *)m, e);

	return fd < 0 ? -1 : kind_raise_fd(fd, r->fd_base, e);
}

/* It stays in repair until nothing can fail any more: so it has no trace if something does. */
static int tcp_keep_in_repair(struct restore_objects *r, int fd, const Pb__TcpConnection *pb, struct err *e)
{
	int copy = tcp_duplicate(fd, r->fd_base, e);

	return copy < 0 ? -1 : kind_stash_put(r, TCP_REPAIRED, pb->inode, copy, e);
}

void tcp_connection_release(struct restore_objects *r, const ProtobufCMessage *m)
{
	const Pb__TcpConnection *pb = (const Pb__TcpConnection *)m;
	cleanup_close int fd = -1;

	if (pb->way != PB__TCP_WAY__TCP_REPAIR)
		return;
	fd = kind_stash_take(r, TCP_REPAIRED, pb->inode);
	if (pb->repair->lock)
		tcp_lock_open(pb->repair->lock, &ERR_INIT);
	tcp_repair_release(fd, pb->repair, tcp_has_sent_end(pb->state));
}

/* Now that every queue is full and the listeners listen. */
int tcp_connection_last(struct restore_objects *r, int fd, const ProtobufCMessage *m, struct err *e)
{
	const Pb__TcpConnection *pb = (const Pb__TcpConnection *)m;
	struct inet_end own;

	if (tcp_read_end(pb, &own, e) < 0)
		return -1;
	if (pb->way == PB__TCP_WAY__TCP_CONNECTING && tcp_connect_again(fd, &own, e) < 0)
		return -1;
	if ((pb->way == PB__TCP_WAY__TCP_PAIR || pb->way == PB__TCP_WAY__TCP_ORPHAN) && tcp_shut(fd, pb, e) < 0)
		return -1;
	if (socket_options_restore(fd, socket_options_of(pb), e) < 0 || kind_set_status_flags(fd, pb->flags, e) < 0)
		return -1;
	return pb->way == PB__TCP_WAY__TCP_REPAIR ? tcp_keep_in_repair(r, fd, pb, e) : 0;
}
