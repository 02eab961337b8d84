/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Unix sockets: the side of the dump. The kernel tells who is connected to whom
 * (unix_view.c), a peek what is queued (unix_queue.c), the file system whether a
 * path still leads to a socket (unix_name.c). unix_restore.c makes them again.
 *
 * Not kept: connections from outside the tree that wait to be accepted, which are
 * reset as if the program had ended; the inode number of a socket's file; and that
 * SO_PEERPIDFD refers to a living process (SO_PEERCRED tells the right PID).
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "kinds/kind.h"
#include "kinds/peer.h"
#include "kinds/socket/socket_options.h"
#include "kinds/unix/name.h"
#include "kinds/unix/queue.h"
#include "kinds/unix/restore.h"
#include "util/fd.h"

static bool unix_socket_match(const struct fd_view *v)
{
	return v->socket && !(v->info.flags & O_PATH);
}

/* ---- the peer ---- */

/* A datagram socket knows nothing of those that are connected to it: it can be connected to once more. */
static bool unix_socket_is_sender(const struct fd_view *v)
{
	return v->socket->type == SOCK_DGRAM && v->peer && v->peer->name_size && v->peer->peer != v->socket->ino;
}

static int unix_socket_collect_peer_name(struct collect *c, int fd, Pb__UnixSocket *pb, struct err *e)
{
	char room[sizeof(struct sockaddr_un) + 8] = { 0 }; /* a path of 108 bytes comes with its NUL */
	const char *name = room + offsetof(struct sockaddr_un, sun_path);
	socklen_t size = sizeof(room);

	if (getpeername(fd, (struct sockaddr *)room, &size) < 0 || size <= offsetof(struct sockaddr_un, sun_path))
		return 0;
	size = (socklen_t)unix_name_size(name, size - offsetof(struct sockaddr_un, sun_path));
	return pb_set_bytes(c->arena, pb, peer_name, name, size) ? 0 : err_nomem(e);
}

static int unix_socket_collect_peer(struct collect *c, const struct fd_view *v, int fd, Pb__UnixSocket *pb,
				    struct err *e)
{
	struct ucred creds = { 0 };
	socklen_t size = sizeof(creds);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &creds, &size) == 0 && creds.pid > 0)
		pb_set(pb, peer_pid, creds.pid);
	if (!v->socket->connected) {
		pb_set(pb, unconnected, true);
		return 0;
	}
	if (v->waits) {
		int sent = 0;

		pb_set(pb, waits, true);
		pb_set(pb, waiting_pid, view_holder(c, v)->task->pid);
		if (ioctl(fd, SIOCOUTQ, &sent) == 0 && sent)
			return kind_refuse(c, v, "E-FD-UNIX-WAITS", "let the server accept it first",
					   "is a unix socket that has sent something and waits to be accepted");
		return 0;
	}
	if (v->peer_outside && unix_socket_is_sender(v))
		pb_set(pb, outside, true);
	else if (v->peer_outside && !c->choice.external)
		return peer_refuse(c, v, peer_help_let_go);
	else if (!v->peer_outside)
		pb->peer = v->socket->peer;
	return pb->peer ? 0 : unix_socket_collect_peer_name(c, fd, pb, e);
}

/* ---- the queue ---- */

static int unix_socket_add_extra(struct collect *c, const struct unix_message *m, Pb__UnixSocket *pb, struct err *e)
{
	Pb__UnixExtra *extra;

	if (!m->n_fds && !m->pid && !m->from_size)
		return 0;
	extra = pb_new(c->arena, Pb__UnixExtra, pb__unix_extra__init);
	if (!extra || !pb_add(c->arena, pb, extras, extra))
		return err_nomem(e);
	extra->message = (uint32_t)pb->n_queue - 1;
	if (m->pid)
		pb_set(extra, pid, m->pid);
	if (m->from_size && !pb_set_bytes(c->arena, extra, from, m->from, m->from_size))
		return err_nomem(e);
	for (size_t i = 0; i < m->n_fds; i++) {
		const struct fd_view *flying = views_find_fd(&c->views, c->tree->n, m->fds[i]);

		if (!flying)
			return err_set(e, ERR_SYSTEM, 0, "a file descriptor in flight was not seen before");
		if (!pb_add(c->arena, extra, objects, flying->object))
			return err_nomem(e);
	}
	return 0;
}

static int unix_socket_add_message(struct collect *c, const struct unix_message *m, Pb__UnixSocket *pb, struct err *e)
{
	ProtobufCBinaryData element = { .len = m->size, .data = (uint8_t *)m->data };

	return pb_add(c->arena, pb, queue, element) ? unix_socket_add_extra(c, m, pb, e) : err_nomem(e);
}

/* Another fd that leads to the socket may have been the one through which its queue was read. */
static const struct unix_queue *unix_socket_find_queue(const struct collect *c, const struct fd_view *v)
{
	for (size_t i = 0; v->info.scm_fds && i < c->views.n; i++)
		if (c->views.v[i].queue && c->views.v[i].st.st_ino == v->st.st_ino)
			return c->views.v[i].queue;
	return NULL;
}

static int unix_socket_collect_queue(struct collect *c, const struct fd_view *v, int fd, Pb__UnixSocket *pb,
				     struct err *e)
{
	const struct unix_queue *queue = unix_socket_find_queue(c, v);
	struct unix_queue read;
	unsigned ignored = 3;

	if (!queue && unix_queue_read(c->arena, fd, v->socket, &ignored, &read, e) < 0)
		return -1;
	if (!queue)
		queue = &read;
	if (queue->error && v->socket->type != SOCK_STREAM)
		return kind_refuse(c, v, "E-FD-UNIX-ERROR", "let the program see the error first",
				   "is a unix socket with an error that the program has not seen yet");
	if (queue->urgent)
		return kind_refuse(c, v, "E-FD-UNIX-URGENT", "let the program receive it first",
				   "is a unix socket with urgent data (MSG_OOB)");
	/* A stand-in that sends it once more is gone when it is received. */
	if (queue->pidfd)
		return kind_refuse(c, v, "E-FD-UNIX-PIDFD", "let the program receive it first",
				   "is a unix socket with messages that come with a pidfd of their sender (SO_PASSPIDFD)");
	if (queue->error)
		pb_set(pb, reset, true);
	for (size_t i = 0; i < queue->n; i++)
		if (unix_socket_add_message(c, &queue->v[i], pb, e) < 0)
			return -1;
	return 0;
}

/* ---- those that wait to be accepted ---- */

static bool unix_socket_holds(const struct collect *c, uint32_t ino)
{
	for (size_t i = 0; i < c->views.n; i++)
		if (c->views.v[i].waits && c->views.v[i].socket->ino == ino)
			return true;
	return false;
}

static bool unix_socket_has_closed_client(const struct unix_view *listening)
{
	for (size_t i = 0; i < listening->n_waiting; i++)
		if (!listening->waiting[i])
			return true;
	return false;
}

/*
 * The accepting ends are nowhere to be had yet: nobody can read their queues.
 * That of a client in the tree is known to be empty by what the client has sent.
 */
static int unix_socket_collect_listening(struct collect *c, const struct fd_view *v, Pb__UnixSocket *pb, struct err *e)
{
	const struct unix_view *s = v->socket;

	pb_set(pb, backlog, s->backlog);
	if (!c->choice.external && unix_socket_has_closed_client(s))
		return kind_refuse(c, v, "E-FD-UNIX-WAITS",
				   "let the program accept it first, or let go of what it may have sent (--external)",
				   "is a unix socket with a connection that was closed before it was accepted");
	for (size_t i = 0; i < s->n_waiting; i++) {
		if (s->waiting[i] && !unix_socket_holds(c, s->waiting[i]))
			continue;
		if (!pb_add(c->arena, pb, waiting, s->waiting[i]))
			return err_nomem(e);
	}
	return 0;
}

/* ---- all of it ---- */

static int unix_socket_collect_name(struct collect *c, const struct fd_view *v, Pb__UnixSocket *pb, struct err *e)
{
	if (!v->socket->name_size)
		return 0;
	if (!pb_set_bytes(c->arena, pb, name, v->socket->name, v->socket->name_size))
		return err_nomem(e);
	return unix_name_find_file(c, v, &pb->file, e);
}

static int unix_socket_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__UnixSocket *pb = (Pb__UnixSocket *)m;
	cleanup_close int fd = kind_steal(v, e);

	if (fd < 0)
		return fd;
	pb->inode = v->socket->ino;
	pb->type = v->socket->type;
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb_set(pb, shutdown, v->socket->shutdown);
	if (unix_socket_collect_name(c, v, pb, e) < 0 || unix_socket_collect_peer(c, v, fd, pb, e) < 0 ||
	    socket_options_collect(c, fd, (struct socket_sort){ AF_UNIX, (int)pb->type, 0 }, socket_options_of(pb), e) < 0)
		return -1;
	if (v->socket->state == UNIX_VIEW_LISTEN)
		return unix_socket_collect_listening(c, v, pb, e);
	return unix_socket_collect_queue(c, v, fd, pb, e);
}

/* ---- for people ---- */

static void unix_socket_describe_peer(const Pb__UnixSocket *pb, char *buf, size_t size)
{
	char name[UNIX_NAME_MAX + 1];

	unix_name_print(pb->peer_name.data, pb->peer_name.len, name, sizeof(name));
	if (pb->has_backlog)
		snprintf(buf, size, "listening, %zu waiting", pb->n_waiting);
	else if (pb->peer)
		snprintf(buf, size, "to %lu", pb->peer);
	else if (pb->waits)
		snprintf(buf, size, "waits to be accepted");
	else if (pb->unconnected)
		snprintf(buf, size, "not connected");
	else
		snprintf(buf, size, "%s%s%s", pb->outside ? "to" : "its other end is closed", *name ? " " : "", name);
}

static void unix_socket_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__UnixSocket *pb = (const Pb__UnixSocket *)m;
	const char *type = pb->type == SOCK_STREAM ? "stream" : pb->type == SOCK_DGRAM ? "datagram" : "seqpacket";
	char name[UNIX_NAME_MAX + 1], peer[UNIX_NAME_MAX + 64];
	size_t queued = 0, flying = 0;
	int used;

	for (size_t i = 0; i < pb->n_queue; i++)
		queued += pb->queue[i].len;
	for (size_t i = 0; i < pb->n_extras; i++)
		flying += pb->extras[i]->n_objects;
	unix_name_print(pb->name.data, pb->name.len, name, sizeof(name));
	unix_socket_describe_peer(pb, peer, sizeof(peer));
	used = snprintf(buf, size, "%s, %lu%s%s%s, %s, %zu bytes queued", type, pb->inode, *name ? ", " : "", name,
			pb->name.len && !pb->file && *name != '@' ? " (gone)" : "", peer, queued);
	if (flying && (size_t)used < size)
		snprintf(buf + used, size - (size_t)used, ", %zu fds in flight", flying);
}

const struct kind kind_unix_socket = {
	.name = "unix_socket",
	.tag = 10,
	.message = &pb__unix_socket__descriptor,
	.match = unix_socket_match,
	.collect = unix_socket_collect,
	.restore_all = unix_restore_all,
	.describe = unix_socket_describe,
};
