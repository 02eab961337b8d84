/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Unix sockets without a name: both ends of a socketpair(2) in the tree, an end
 * whose peer is closed, or a socket that was never connected.
 *
 * At restore the first end makes both, fills its own queue from the other and
 * stashes that for its object, together with a duplicate of itself, through
 * which the second end's queue is filled in turn. Shutting down comes last.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "util/fd.h"

enum { UNIX_PAIR_TAG = 10 };
enum unix_pair_stash {
	UNIX_PAIR_END = UNIX_PAIR_TAG,            /* by its own inode number */
	UNIX_PAIR_FIRST = UNIX_PAIR_TAG | 1 << 8, /* a duplicate of the first end, by the second's number */
};

enum { UNIX_PAIR_RECEIVE = 1, UNIX_PAIR_SEND = 2 }; /* bits of shutdown */

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif

static bool unix_pair_match(const struct fd_view *v)
{
	const struct unix_view *s = v->socket, *peer = v->peer;

	if (!s || s->named || s->state == UNIX_VIEW_LISTEN || v->peer_outside || (v->info.flags & O_PATH))
		return false;
	return s->peer ? peer && !peer->named && peer->peer == s->ino : !peer;
}

/* ---- dump: options ---- */

/* Options that a program may have set, with the value of a new socket. The buffers' sizes vary: see below. */
static const struct unix_pair_option {
	int name;
	socklen_t size;
	int64_t usual;
} unix_pair_options[] = {
	{ SO_SNDBUF, sizeof(int), INT64_MIN },
	{ SO_RCVBUF, sizeof(int), INT64_MIN },
	{ SO_PASSCRED, sizeof(int), 0 },
	{ SO_PASSPIDFD, sizeof(int), 0 },
	{ SO_PASSSEC, sizeof(int), 0 },
	{ SO_PRIORITY, sizeof(int), 0 },
	{ SO_RCVLOWAT, sizeof(int), 1 },
	{ SO_PEEK_OFF, sizeof(int), -1 },
	{ SO_RCVTIMEO, sizeof(struct timeval), 0 },
	{ SO_SNDTIMEO, sizeof(struct timeval), 0 },
};

static const size_t unix_pair_n_options = sizeof(unix_pair_options) / sizeof(*unix_pair_options);

static bool unix_pair_is_usual(const struct unix_pair_option *option, const void *value)
{
	static const struct timeval never;
	int number;

	if (option->size == sizeof(never))
		return memcmp(value, &never, sizeof(never)) == 0;
	memcpy(&number, value, sizeof(number));
	return number == option->usual;
}

static int unix_pair_collect_options(struct collect *c, int fd, Pb__UnixPair *pb, struct err *e)
{
	for (size_t i = 0; i < unix_pair_n_options; i++) {
		const struct unix_pair_option *option = &unix_pair_options[i];
		Pb__SocketOption *saved;
		char value[sizeof(struct timeval)];
		socklen_t size = option->size;

		if (getsockopt(fd, SOL_SOCKET, option->name, value, &size) < 0) /* an older kernel */
			continue;
		if (size != option->size || unix_pair_is_usual(option, value))
			continue;
		saved = pb_new(c->arena, Pb__SocketOption, pb__socket_option__init);
		if (!saved || !pb_add(c->arena, pb, options, saved))
			return err_nomem(e);
		saved->level = SOL_SOCKET;
		saved->name = (uint32_t)option->name;
		saved->value.len = size;
		saved->value.data = arena_memdup(c->arena, value, size);
		if (!saved->value.data)
			return err_nomem(e);
	}
	return 0;
}

/* ---- dump: the queue ---- */

/*
 * Look at what comes next in the queue. Returns its size, or -1 and errno.
 * *ret_extra: it carries file descriptors or credentials. There is no room for
 * them, so the kernel does not hand any out.
 */
static ssize_t unix_pair_peek(int fd, void *buffer, size_t size, bool *ret_extra)
{
	struct iovec iov = { .iov_base = buffer, .iov_len = size };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC);

	*ret_extra = n >= 0 && (message.msg_flags & MSG_CTRUNC);
	return n;
}

static int unix_pair_refuse_extra(struct collect *c, const struct fd_view *v)
{
	return kind_refuse(c, v, "E-FD-UNIX-IN-FLIGHT", "let the program receive them first",
			   "is a unix socket with file descriptors or credentials in its queue");
}

static int unix_pair_add(struct collect *c, Pb__UnixPair *pb, const void *data, size_t size, struct err *e)
{
	ProtobufCBinaryData element = { .len = size, .data = arena_memdup(c->arena, data, size) };

	return element.data && pb_add(c->arena, pb, queue, element) ? 0 : err_nomem(e);
}

/* Peek after peek, each behind the one before; SO_PEEK_OFF makes it so. Stops at what carries more than bytes. */
static int unix_pair_peek_all(struct collect *c, const struct fd_view *v, int fd, void *buffer, size_t room,
			      Pb__UnixPair *pb, struct err *e)
{
	bool stream = v->socket->type == SOCK_STREAM, extra;

	for (;;) {
		ssize_t n = unix_pair_peek(fd, buffer, room, &extra);

		if (n < 0)
			return errno == EAGAIN ? 0 : err_sys(e, errno, "reading the queue of %s", v->link);
		if (extra)
			return unix_pair_refuse_extra(c, v);
		if (n == 0 && (stream || (v->socket->shutdown & UNIX_PAIR_RECEIVE)))
			return 0;
		if ((size_t)n > room)
			return err_set(e, ERR_SYSTEM, 0, "%s: a message of %zd bytes in a queue of %zu", v->link, n, room);
		if (unix_pair_add(c, pb, buffer, (size_t)n, e) < 0)
			return -1;
	}
}

static int unix_pair_set_peek_offset(const struct fd_view *v, int fd, int offset, struct err *e)
{
	if (setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0)
		return err_sys(e, errno, "SO_PEEK_OFF of %s", v->link);
	return 0;
}

/* No message is larger than the buffers of the socket that sent it. */
static size_t unix_pair_room(int fd, int queued)
{
	int size = 0;
	socklen_t n = sizeof(size);

	if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &n) < 0 || size < queued)
		size = queued;
	return (size_t)size + 1;
}

/* With SO_PEEK_OFF unset. A stream of nothing but bytes, the usual case, is read without setting it. */
static int unix_pair_read_queue(struct collect *c, const struct fd_view *v, int fd, int queued, Pb__UnixPair *pb,
				struct err *e)
{
	bool stream = v->socket->type == SOCK_STREAM, extra;
	ssize_t n = unix_pair_peek(fd, &(char){ 0 }, 1, &extra);
	char *buffer;
	size_t room;
	int r;

	if (n < 0) /* nothing, or never connected */
		return errno == EAGAIN || errno == EINVAL || errno == ENOTCONN ? 0 :
									 err_sys(e, errno, "peeking at %s", v->link);
	if (extra)
		return unix_pair_refuse_extra(c, v);
	room = unix_pair_room(fd, queued > n ? queued : (int)n);
	buffer = arena_alloc(c->arena, room);
	if (!buffer)
		return err_nomem(e);
	if (stream && unix_pair_peek(fd, buffer, room, &extra) == queued && !extra)
		return unix_pair_add(c, pb, buffer, (size_t)queued, e);
	if (unix_pair_set_peek_offset(v, fd, 0, e) < 0)
		return -1;
	r = unix_pair_peek_all(c, v, fd, buffer, room, pb, e);
	return unix_pair_set_peek_offset(v, fd, -1, e) < 0 ? -1 : r;
}

static int unix_pair_collect_queue(struct collect *c, const struct fd_view *v, int fd, Pb__UnixPair *pb,
				   struct err *e)
{
	struct pollfd p = { .fd = fd };
	int queued, offset = -1, r;
	socklen_t size = sizeof(offset);

	if (ioctl(fd, FIONREAD, &queued) < 0 || poll(&p, 1, 0) < 0)
		return err_sys(e, errno, "asking for the size of %s", v->link);
	if (p.revents & POLLERR) { /* any look into an empty queue would take the error away */
		if (v->socket->type != SOCK_STREAM)
			return kind_refuse(c, v, "E-FD-UNIX-ERROR", "let the program see the error first",
					   "is a unix socket with an error that the program has not seen yet");
		pb_set(pb, reset, true);
	}
	if (v->socket->type == SOCK_STREAM && !queued)
		return 0;
	getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, &size);
	if (offset >= 0 && unix_pair_set_peek_offset(v, fd, -1, e) < 0)
		return -1;
	r = unix_pair_read_queue(c, v, fd, queued, pb, e);
	if (offset >= 0 && unix_pair_set_peek_offset(v, fd, offset, e) < 0)
		return -1;
	return r;
}

static int unix_pair_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__UnixPair *pb = (Pb__UnixPair *)m;
	cleanup_close int fd = kind_steal(v, e);

	if (fd < 0)
		return fd;
	pb->inode = v->socket->ino;
	pb->peer = v->socket->peer;
	pb->type = v->socket->type;
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb_set(pb, shutdown, v->socket->shutdown);
	if (v->peer)
		pb_set(pb, peer_shutdown, v->peer->shutdown);
	if (!v->socket->connected)
		pb_set(pb, unconnected, true);
	if (unix_pair_collect_options(c, fd, pb, e) < 0)
		return -1;
	return unix_pair_collect_queue(c, v, fd, pb, e);
}

/* ---- restore ---- */

/* Send as much as the kernel lets a user have in flight, then give the buffer its size back. */
static int unix_pair_send(int from, const Pb__UnixPair *pb, struct err *e)
{
	int before = 0, most = INT32_MAX / 2;
	socklen_t size = sizeof(before);

	if (!pb->n_queue)
		return 0;
	if (getsockopt(from, SOL_SOCKET, SO_SNDBUF, &before, &size) < 0 ||
	    setsockopt(from, SOL_SOCKET, SO_SNDBUF, &most, sizeof(most)) < 0)
		return err_sys(e, errno, "SO_SNDBUF");
	for (size_t i = 0; i < pb->n_queue; i++) {
		const ProtobufCBinaryData *part = &pb->queue[i];
		ssize_t n = send(from, part->data, part->len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n != (ssize_t)part->len)
			return err_set(e, ERR_SYSTEM, n < 0 ? errno : 0,
				       "a unix socket cannot hold the %zu messages it held", pb->n_queue);
	}
	before /= 2; /* the kernel doubles it */
	if (setsockopt(from, SOL_SOCKET, SO_SNDBUF, &before, sizeof(before)) < 0)
		return err_sys(e, errno, "SO_SNDBUF");
	return 0;
}

static const struct unix_pair_option *unix_pair_find_option(const Pb__SocketOption *saved)
{
	for (size_t i = 0; i < unix_pair_n_options; i++)
		if (saved->level == SOL_SOCKET && saved->name == (uint32_t)unix_pair_options[i].name &&
		    saved->value.len == unix_pair_options[i].size)
			return &unix_pair_options[i];
	return NULL;
}

/* Left alone where a new socket has that size already: more than the administrator allows cannot be set. */
static int unix_pair_set_buffer(int fd, const Pb__SocketOption *saved, struct err *e)
{
	int value, now;
	socklen_t size = sizeof(now);

	memcpy(&value, saved->value.data, sizeof(value));
	if (getsockopt(fd, SOL_SOCKET, (int)saved->name, &now, &size) == 0 && now == value)
		return 0;
	value /= 2; /* the kernel doubles it */
	if (setsockopt(fd, SOL_SOCKET, (int)saved->name, &value, sizeof(value)) < 0)
		return err_sys(e, errno, "setting the size of a socket's buffer to %d", value);
	return 0;
}

static int unix_pair_set_options(int fd, const Pb__UnixPair *pb, struct err *e)
{
	for (size_t i = 0; i < pb->n_options; i++) {
		const Pb__SocketOption *saved = pb->options[i];
		const struct unix_pair_option *option = unix_pair_find_option(saved);

		if (!option)
			return err_set(e, ERR_IMAGE, 0, "a unix socket with the unknown option %u", saved->name);
		if (option->usual == INT64_MIN) {
			if (unix_pair_set_buffer(fd, saved, e) < 0)
				return -1;
		} else if (setsockopt(fd, SOL_SOCKET, option->name, saved->value.data, option->size) < 0) {
			return err_sys(e, errno, "setting socket option %d", option->name);
		}
	}
	return 0;
}

static int unix_pair_shutdown(int fd, unsigned bits, struct err *e)
{
	static const int how[] = { -1, SHUT_RD, SHUT_WR, SHUT_RDWR };

	if (bits > (UNIX_PAIR_RECEIVE | UNIX_PAIR_SEND))
		return err_set(e, ERR_IMAGE, 0, "a socket is shut down in an unknown way (%u)", bits);
	return bits && shutdown(fd, how[bits]) < 0 ? err_sys(e, errno, "shutdown") : 0;
}

/* The peer is about to be closed; with something unread in it, that resets the connection. */
static int unix_pair_lose_peer(int fd, const Pb__UnixPair *pb, struct err *e)
{
	if (pb->reset && send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return err_sys(e, errno, "send");
	return unix_pair_shutdown(fd, pb->shutdown, e);
}

/* The first end: make both. The other one, unless it was closed, waits for its object. */
static int unix_pair_make(struct restore_objects *r, const Pb__UnixPair *pb, struct err *e)
{
	cleanup_close int mine = -1, other = -1, copy = -1;
	int ends[2];

	if (socketpair(AF_UNIX, (int)pb->type | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(e, errno, "socketpair");
	mine = ends[0];
	other = ends[1];
	if (unix_pair_send(other, pb, e) < 0)
		return -1;
	if (!pb->peer) /* it is closed on return */
		return unix_pair_lose_peer(mine, pb, e) < 0 ? -1 : fd_take(&mine);
	copy = fcntl(mine, F_DUPFD_CLOEXEC, r->fd_base);
	if (copy < 0)
		return err_sys(e, errno, "duplicating a socket");
	if (kind_stash_put(r, UNIX_PAIR_FIRST, pb->peer, copy, e) < 0)
		return -1;
	copy = -1; /* the stash has it */
	if (kind_stash_put(r, UNIX_PAIR_END, pb->peer, other, e) < 0)
		return -1;
	other = -1;
	return fd_take(&mine);
}

/* The second end has been made; complete both. */
static int unix_pair_complete(struct restore_objects *r, int fd, const Pb__UnixPair *pb, struct err *e)
{
	cleanup_close int first = kind_stash_take(r, UNIX_PAIR_FIRST, pb->inode);

	if (first < 0)
		return err_set(e, ERR_IMAGE, 0, "two unix sockets are the same end of a pair");
	if (unix_pair_send(first, pb, e) < 0 || unix_pair_shutdown(first, pb->peer_shutdown, e) < 0)
		return -1;
	return unix_pair_shutdown(fd, pb->shutdown, e);
}

static int unix_pair_make_alone(const Pb__UnixPair *pb, struct err *e)
{
	int fd = socket(AF_UNIX, (int)pb->type | SOCK_CLOEXEC, 0);

	return fd < 0 ? err_sys(e, errno, "socket") : fd;
}

static int unix_pair_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__UnixPair *pb = (const Pb__UnixPair *)m;
	cleanup_close int fd = -1;

	if (pb->type != SOCK_STREAM && pb->type != SOCK_DGRAM && pb->type != SOCK_SEQPACKET)
		return err_set(e, ERR_IMAGE, 0, "a unix socket of type %u", pb->type);
	fd = kind_stash_take(r, UNIX_PAIR_END, pb->inode);
	if (fd >= 0) {
		if (unix_pair_complete(r, fd, pb, e) < 0)
			return -1;
	} else {
		fd = pb->unconnected ? unix_pair_make_alone(pb, e) : unix_pair_make(r, pb, e);
	}
	if (fd < 0 || unix_pair_set_options(fd, pb, e) < 0 || kind_set_status_flags(fd, pb->flags, e) < 0)
		return -1;
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

static void unix_pair_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__UnixPair *pb = (const Pb__UnixPair *)m;
	const char *type = pb->type == SOCK_STREAM ? "stream" : pb->type == SOCK_DGRAM ? "datagram" : "seqpacket";
	size_t queued = 0;

	for (size_t i = 0; i < pb->n_queue; i++)
		queued += pb->queue[i].len;
	if (pb->peer)
		snprintf(buf, size, "%s, %lu to %lu, %zu bytes queued", type, pb->inode, pb->peer, queued);
	else
		snprintf(buf, size, "%s, %lu, %s, %zu bytes queued", type, pb->inode,
			 pb->unconnected ? "not connected" : "its other end is closed", queued);
}

const struct kind kind_unix_pair = {
	.name = "unix_pair",
	.tag = UNIX_PAIR_TAG,
	.message = &pb__unix_pair__descriptor,
	.match = unix_pair_match,
	.collect = unix_pair_collect,
	.restore = unix_pair_restore,
	.describe = unix_pair_describe,
};
