/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Unix sockets are made of one another, so all of them are made here, in steps:
 *
 *   find       who was connected to whom; a peer that nobody has open any more is
 *              a ghost: it is made as well, and closed at the end
 *   connect    streams: by socketpair(2) where no end has a name, else through a
 *              listening socket made for the moment, from which one end inherits it
 *   bind       everything else; listening sockets listen
 *   wait       clients connect that had not been accepted
 *   finish     what is in flight is completed: epoll instances
 *   exchange   datagram sockets are filled and connected; streams are filled
 *   end        options, shut directions, ghosts
 *
 * The kernel remembers who connected, listened and sent: stand-ins do that.
 */

#include "kinds/unix/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "kinds/socket/socket_options.h"
#include "kinds/stand_in.h"
#include "kinds/unix/name.h"
#include "util/fd.h"

enum { UNIX_SHUT_RECEIVE = 1, UNIX_SHUT_SEND = 2, UNIX_MESSAGE_FDS = 253, UNIX_NOBODY = UINT32_MAX };

struct unix_item {
	const Pb__UnixSocket *pb;
	uint32_t object;  /* index; UNIX_NOBODY: a ghost */
	uint32_t peer;    /* index of an item; UNIX_NOBODY: none */
	uint32_t waiting; /* datagram: how many must still connect to it before it connects itself */
	int fd;
	int handle;       /* by which its file is reached; -1: it is not bound to one */
};

struct unix_work {
	struct restore_objects *r;
	struct unix_item *v; /* those of the image, ascending by inode; then ghosts */
	size_t n, n_real;
};

static bool unix_is_datagram(const struct unix_item *item)
{
	return item->pb->type == SOCK_DGRAM;
}

static bool unix_is_named(const struct unix_item *item)
{
	return item->pb->name.len > 0;
}

static bool unix_has_name(const struct unix_item *item, const ProtobufCBinaryData *name)
{
	return pb_same_bytes(&item->pb->name, name->data, name->len);
}

static struct unix_item *unix_peer_of(const struct unix_work *w, const struct unix_item *item)
{
	return item->peer == UNIX_NOBODY ? NULL : &w->v[item->peer];
}

static bool unix_is_mutual(const struct unix_work *w, const struct unix_item *item)
{
	const struct unix_item *peer = unix_peer_of(w, item);

	return peer && unix_peer_of(w, peer) == item;
}

/* ---- find ---- */

static int unix_compare(const void *a, const void *b)
{
	const struct unix_item *x = a, *y = b;

	return (x->pb->inode > y->pb->inode) - (x->pb->inode < y->pb->inode);
}

static struct unix_item *unix_find(const struct unix_work *w, uint64_t inode)
{
	const Pb__UnixSocket pb = { .inode = inode };
	const struct unix_item key = { .pb = &pb };

	return w->n_real ? bsearch(&key, w->v, w->n_real, sizeof(key), unix_compare) : NULL;
}

static int unix_check(const Pb__UnixSocket *pb, struct err *e)
{
	if (pb->type != SOCK_STREAM && pb->type != SOCK_DGRAM && pb->type != SOCK_SEQPACKET)
		return err_set(e, ERR_IMAGE, 0, "a unix socket of type %u", pb->type);
	if (pb->shutdown > (UNIX_SHUT_RECEIVE | UNIX_SHUT_SEND))
		return err_set(e, ERR_IMAGE, 0, "a socket is shut down in an unknown way (%u)", pb->shutdown);
	if (pb->name.len > UNIX_NAME_MAX || pb->peer_name.len > UNIX_NAME_MAX || pb->backlog > INT32_MAX)
		return err_set(e, ERR_IMAGE, 0, "a unix socket with a name or a backlog that is too large");
	if (pb->has_backlog && (!pb->name.len || pb->type == SOCK_DGRAM))
		return err_set(e, ERR_IMAGE, 0, "a unix socket listens that cannot");
	return 0;
}

static int unix_list(struct unix_work *w, struct err *e)
{
	for (uint32_t i = 0; i < w->r->n_objects; i++) {
		struct unix_item *v;

		if (w->r->objects[i].kind != &kind_unix_socket)
			continue;
		v = arena_grow(w->r->arena, w->v, w->n, sizeof(*v));
		if (!v)
			return err_nomem(e);
		w->v = v;
		v[w->n] = (struct unix_item){
			.pb = (const Pb__UnixSocket *)w->r->objects[i].m,
			.object = i,
			.peer = UNIX_NOBODY,
			.fd = -1,
			.handle = -1,
		};
		if (unix_check(v[w->n++].pb, e) < 0)
			return -1;
	}
	w->n_real = w->n;
	if (w->n)
		qsort(w->v, w->n, sizeof(*w->v), unix_compare);
	for (size_t i = 1; i < w->n; i++)
		if (w->v[i].pb->inode == w->v[i - 1].pb->inode)
			return err_set(e, ERR_IMAGE, 0, "two unix sockets are the same one");
	return 0;
}

/* Was it connected to something that is no longer, or that is let go? */
static bool unix_lost_its_peer(const struct unix_item *item)
{
	const Pb__UnixSocket *pb = item->pb;

	return !pb->peer && !pb->unconnected && !pb->waits && !pb->outside && !pb->has_backlog;
}

static int unix_add_ghost(struct unix_work *w, uint32_t of, struct err *e)
{
	struct unix_item *v = arena_grow(w->r->arena, w->v, w->n, sizeof(*v));
	Pb__UnixSocket *pb = pb_new(w->r->arena, Pb__UnixSocket, pb__unix_socket__init);

	if (!v || !pb)
		return err_nomem(e);
	w->v = v;
	pb->type = v[of].pb->type;
	pb->name = v[of].pb->peer_name;
	v[of].peer = (uint32_t)w->n;
	/* A datagram socket that is gone has no peer either; one that never had a name was the other end of a pair. */
	v[w->n++] = (struct unix_item){
		.pb = pb,
		.object = UNIX_NOBODY,
		.peer = pb->type == SOCK_DGRAM && pb->name.len ? UNIX_NOBODY : of,
		.fd = -1,
		.handle = -1,
	};
	return 0;
}

static int unix_find_peer(struct unix_work *w, uint32_t index, struct err *e)
{
	struct unix_item *item = &w->v[index], *peer;

	if (unix_lost_its_peer(item))
		return unix_add_ghost(w, index, e);
	if (!item->pb->peer)
		return 0;
	peer = unix_find(w, item->pb->peer);
	if (!peer || peer == item || peer->pb->type != item->pb->type ||
	    (!unix_is_datagram(item) && peer->pb->peer != item->pb->inode))
		return err_set(e, ERR_IMAGE, 0, "a unix socket is connected to nothing it could be");
	item->peer = (uint32_t)(peer - w->v);
	return 0;
}

static int unix_find_peers(struct unix_work *w, struct err *e)
{
	for (uint32_t i = 0; i < w->n_real; i++)
		if (unix_find_peer(w, i, e) < 0)
			return -1;
	return 0;
}

/* ---- connect ---- */

static int unix_socket_new(const struct unix_item *item, struct err *e)
{
	int fd = socket(AF_UNIX, (int)item->pb->type | SOCK_CLOEXEC, 0);

	return fd < 0 ? err_sys(e, errno, "socket") : fd;
}

static int unix_bind(struct unix_work *w, struct unix_item *item, const Pb__UnixFile *file, struct err *e)
{
	int handle = unix_name_bind(w->r, item->fd, &item->pb->name, file, e);

	if (handle > 0)
		item->handle = handle;
	return handle < 0 ? handle : 0;
}

static int unix_do_pair(void *data, int ret_fds[2], struct err *e)
{
	const struct unix_item *item = data;

	if (socketpair(AF_UNIX, (int)item->pb->type | SOCK_CLOEXEC, 0, ret_fds) < 0)
		return err_sys(e, errno, "socketpair");
	return 0;
}

static int unix_make_pair(struct unix_item *a, struct unix_item *b, struct err *e)
{
	pid_t maker = a->pb->peer_pid ? a->pb->peer_pid : b->pb->peer_pid;
	int fds[2] = { -1, -1 };
	int r = stand_in_run(maker, unix_do_pair, a, fds, e);

	a->fd = fds[0];
	b->fd = fds[1];
	return r;
}

/* A connection is being made: the client's end connects to a listening socket, and what is accepted is the other. */
struct unix_meeting {
	const struct unix_item *client, *server;
	int listener, handle;
};

static int unix_do_listen(void *data, int ret_fds[2], struct err *e)
{
	const struct unix_meeting *m = data;

	(void)ret_fds;
	return listen(m->listener, 1) < 0 ? err_sys(e, errno, "listen") : 0;
}

static int unix_connect(int fd, int handle, const ProtobufCBinaryData *name, struct err *e)
{
	struct sockaddr_un a;
	socklen_t size = unix_name_reach(handle, name, &a);
	char text[UNIX_NAME_MAX + 1];

	if (connect(fd, (struct sockaddr *)&a, size) == 0)
		return 0;
	unix_name_print(name->data, name->len, text, sizeof(text));
	return err_sys(e, errno, "connecting a unix socket to %s", text);
}

/* Others may connect to an abstract name as well: take what we have connected ourselves. */
static int unix_do_meet(void *data, int ret_fds[2], struct err *e)
{
	const struct unix_meeting *m = data;
	struct ucred creds = { 0 };

	if (unix_connect(m->client->fd, m->handle, &m->server->pb->name, e) < 0)
		return -1;
	do {
		socklen_t size = sizeof(creds);

		fd_closep(&ret_fds[0]);
		ret_fds[0] = accept4(m->listener, NULL, NULL, SOCK_CLOEXEC);
		if (ret_fds[0] < 0 || getsockopt(ret_fds[0], SOL_SOCKET, SO_PEERCRED, &creds, &size) < 0)
			return err_sys(e, errno, "accepting a connection");
	} while (creds.pid != getpid());
	return 0;
}

/* The listening socket that one end had its name from is not touched: others may be connecting to it. */
static int unix_meet(struct unix_work *w, struct unix_item *client, struct unix_item *server, struct err *e)
{
	cleanup_close int listener = unix_socket_new(server, e), handle = -1;
	struct unix_meeting m = { .client = client, .server = server, .listener = listener };
	int fds[2] = { -1, -1 }, ignored[2], r;

	client->fd = unix_socket_new(client, e);
	if (listener < 0 || client->fd < 0)
		return -1;
	if (unix_is_named(client) && unix_bind(w, client, client->pb->file, e) < 0)
		return -1;
	m.handle = unix_name_bind(w->r, listener, &server->pb->name, NULL, e);
	if (m.handle < 0)
		return -1;
	handle = m.handle > 0 ? m.handle : -1;
	if (stand_in_run(client->pb->peer_pid, unix_do_listen, &m, ignored, e) < 0)
		return -1;
	r = stand_in_run(server->pb->peer_pid, unix_do_meet, &m, fds, e);
	server->fd = fds[0];
	return r;
}

static bool unix_is_listened_to(const struct unix_work *w, const struct unix_item *item)
{
	for (size_t i = 0; i < w->n_real; i++)
		if (w->v[i].pb->has_backlog && w->v[i].pb->type == item->pb->type &&
		    unix_has_name(&w->v[i], &item->pb->name))
			return true;
	return false;
}

/*
 * The end that was accepted has its name from the listening socket. Where both
 * have one and nobody listens any more, the one that is younger was accepted.
 */
static bool unix_was_accepted(const struct unix_work *w, const struct unix_item *item, const struct unix_item *peer)
{
	if (!unix_is_named(item) || !unix_is_named(peer))
		return unix_is_named(item);
	if (unix_is_listened_to(w, item) != unix_is_listened_to(w, peer))
		return unix_is_listened_to(w, item);
	return item->object == UNIX_NOBODY || (peer->object != UNIX_NOBODY && item->pb->inode > peer->pb->inode);
}

static int unix_make_connection(struct unix_work *w, struct unix_item *a, struct unix_item *b, struct err *e)
{
	if (!unix_is_named(a) && !unix_is_named(b))
		return unix_make_pair(a, b, e);
	return unix_was_accepted(w, a, b) ? unix_meet(w, b, a, e) : unix_meet(w, a, b, e);
}

/* Datagram sockets without a name can only have been connected to by being made as a pair. */
static int unix_make_datagram_pair(struct unix_item *a, struct unix_item *b, bool mutual, struct err *e)
{
	const struct sockaddr nobody = { .sa_family = AF_UNSPEC };
	int ignored;
	socklen_t size = sizeof(ignored);

	if (b->fd >= 0)
		return err_set(e, ERR_IMAGE, 0, "two datagram sockets are connected to one that has no name");
	if (unix_make_pair(a, b, e) < 0 || mutual)
		return b->fd < 0 ? -1 : 0;
	/* That one has left, which the other sees as an error. */
	if (connect(b->fd, &nobody, sizeof(nobody)) < 0 || getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &ignored, &size) < 0)
		return err_sys(e, errno, "disconnecting a datagram socket");
	return 0;
}

static int unix_connect_all(struct unix_work *w, struct err *e)
{
	for (size_t i = 0; i < w->n_real; i++) {
		struct unix_item *item = &w->v[i], *peer = unix_peer_of(w, item);
		int r = 0;

		if (!peer || item->fd >= 0)
			continue;
		if (!unix_is_datagram(item))
			r = unix_make_connection(w, item, peer, e);
		else if (!unix_is_named(peer))
			r = unix_make_datagram_pair(item, peer, unix_is_mutual(w, item), e);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- bind, listen ---- */

static int unix_do_listen_for(void *data, int ret_fds[2], struct err *e)
{
	const struct unix_item *item = data;

	(void)ret_fds;
	return listen(item->fd, (int)item->pb->backlog) < 0 ? err_sys(e, errno, "listen") : 0;
}

/* A ghost's name may be another's by now; then the survivor's peer has none. */
static int unix_bind_ghost(struct unix_work *w, struct unix_item *item)
{
	struct err ignored = ERR_INIT;

	unix_bind(w, item, NULL, &ignored);
	return 0;
}

static int unix_make_alone(struct unix_work *w, struct unix_item *item, struct err *e)
{
	bool fresh = item->fd < 0;
	int ignored[2];

	if (fresh)
		item->fd = unix_socket_new(item, e);
	if (item->fd < 0)
		return -1;
	if (!unix_is_named(item) || (!fresh && !unix_is_datagram(item)))
		return 0;
	if (item->object == UNIX_NOBODY)
		return unix_bind_ghost(w, item);
	if (unix_bind(w, item, item->pb->file, e) < 0)
		return -1;
	return item->pb->has_backlog ? stand_in_run(item->pb->peer_pid, unix_do_listen_for, item, ignored, e) : 0;
}

static int unix_make_rest(struct unix_work *w, struct err *e)
{
	for (size_t i = 0; i < w->n; i++)
		if (unix_make_alone(w, &w->v[i], e) < 0)
			return -1;
	return 0;
}

/* The fds go to where objects live: what is in flight refers to them there. */
static int unix_hand_over(struct unix_work *w, struct err *e)
{
	for (size_t i = 0; i < w->n_real; i++) {
		struct unix_item *item = &w->v[i];

		item->fd = kind_raise_fd(item->fd, w->r->fd_base, e);
		if (item->fd < 0)
			return -1;
		w->r->objects[item->object].fd = item->fd;
	}
	return 0;
}

/* ---- wait ---- */

struct unix_arrival {
	const struct unix_item *listening;
	int client;
};

static int unix_do_arrive(void *data, int ret_fds[2], struct err *e)
{
	const struct unix_arrival *a = data;
	int flags = fcntl(a->client, F_GETFL);

	(void)ret_fds;
	if (flags < 0 || fcntl(a->client, F_SETFL, flags | O_NONBLOCK) < 0) /* it would wait for room in the backlog */
		return err_sys(e, errno, "F_SETFL");
	return unix_connect(a->client, a->listening->handle, &a->listening->pb->name, e);
}

static int unix_wait_one(struct unix_work *w, const struct unix_item *listening, uint64_t inode, struct err *e)
{
	cleanup_close int gone = -1;
	struct unix_arrival a = { .listening = listening };
	struct unix_item *client = NULL;
	int ignored[2];

	if (inode) {
		client = unix_find(w, inode);
		if (!client || !client->pb->waits || client->pb->type != listening->pb->type)
			return err_set(e, ERR_IMAGE, 0, "a unix socket waits that cannot");
		a.client = client->fd;
	} else { /* it connected and was closed */
		gone = unix_socket_new(listening, e);
		if (gone < 0)
			return gone;
		a.client = gone;
	}
	return stand_in_run(client ? client->pb->waiting_pid : 0, unix_do_arrive, &a, ignored, e);
}

static int unix_wait_all(struct unix_work *w, struct err *e)
{
	for (size_t i = 0; i < w->n_real; i++)
		for (size_t k = 0; k < w->v[i].pb->n_waiting && w->v[i].pb->has_backlog; k++)
			if (unix_wait_one(w, &w->v[i], w->v[i].pb->waiting[k], e) < 0)
				return -1;
	return 0;
}

/* ---- exchange: one queue ---- */

struct unix_fill {
	const struct unix_work *w;
	const struct unix_item *to;
	int from;           /* the sending socket */
	bool connected;     /* it needs no address */
	size_t first, end;  /* of the messages */
	size_t extra;       /* of the first message, or of one behind it */
};

static const Pb__UnixExtra *unix_extra_of(const Pb__UnixSocket *pb, size_t message, size_t *cursor)
{
	while (*cursor < pb->n_extras && pb->extras[*cursor]->message < message)
		++*cursor;
	return *cursor < pb->n_extras && pb->extras[*cursor]->message == message ? pb->extras[*cursor] : NULL;
}

static int unix_put_fds(const struct unix_work *w, const Pb__UnixExtra *extra, struct msghdr *header, struct err *e)
{
	struct cmsghdr *c = header->msg_control;

	if (!extra || !extra->n_objects) {
		header->msg_control = NULL;
		header->msg_controllen = 0;
		return 0;
	}
	if (extra->n_objects > UNIX_MESSAGE_FDS)
		return err_set(e, ERR_IMAGE, 0, "a message carries %zu file descriptors", extra->n_objects);
	for (size_t i = 0; i < extra->n_objects; i++) {
		uint32_t object = extra->objects[i];

		if (object >= w->r->n_objects || w->r->objects[object].fd < 0)
			return err_set(e, ERR_IMAGE, 0, "a message carries object %u, which cannot be sent", object);
		memcpy(CMSG_DATA(c) + i * sizeof(int), &w->r->objects[object].fd, sizeof(int));
	}
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(extra->n_objects * sizeof(int));
	header->msg_controllen = CMSG_SPACE(extra->n_objects * sizeof(int));
	return 0;
}

static int unix_send(const struct unix_fill *f, size_t message, const Pb__UnixExtra *extra, struct err *e)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(UNIX_MESSAGE_FDS * sizeof(int))] = { 0 };
	const ProtobufCBinaryData *part = &f->to->pb->queue[message];
	struct iovec iov = { .iov_base = part->data, .iov_len = part->len };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control };
	struct sockaddr_un a;
	ssize_t n;

	if (unix_put_fds(f->w, extra, &header, e) < 0)
		return -1;
	if (!f->connected) {
		header.msg_namelen = unix_name_reach(f->to->handle, &f->to->pb->name, &a);
		header.msg_name = &a;
	}
	n = sendmsg(f->from, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n != (ssize_t)part->len)
		return err_set(e, ERR_SYSTEM, n < 0 ? errno : 0, "a unix socket cannot hold the %zu messages it held",
			       f->to->pb->n_queue);
	return 0;
}

static int unix_do_send(void *data, int ret_fds[2], struct err *e)
{
	const struct unix_fill *f = data;
	size_t extra = f->extra;

	(void)ret_fds;
	for (size_t i = f->first; i < f->end; i++)
		if (unix_send(f, i, unix_extra_of(f->to->pb, i, &extra), e) < 0)
			return -1;
	return 0;
}

static pid_t unix_pid_of(const Pb__UnixExtra *extra)
{
	return extra && extra->pid > 0 ? extra->pid : 0;
}

/* Messages f->first to f->end, each in the name of the process that sent it. */
static int unix_send_as(struct unix_fill *f, struct err *e)
{
	const Pb__UnixSocket *pb = f->to->pb;
	size_t end = f->end, extra = f->extra;
	int ignored[2], r = 0;

	while (f->first < end && r == 0) {
		pid_t pid = unix_pid_of(unix_extra_of(pb, f->first, &f->extra));

		extra = f->extra;
		for (f->end = f->first + 1; f->end < end; f->end++)
			if (unix_pid_of(unix_extra_of(pb, f->end, &extra)) != pid)
				break;
		r = pid ? stand_in_run(pid, unix_do_send, f, ignored, e) : unix_do_send(f, ignored, e);
		f->first = f->end;
	}
	f->end = end;
	return r;
}

static int unix_set_option(int fd, int option, int value, struct err *e)
{
	if (setsockopt(fd, SOL_SOCKET, option, &value, sizeof(value)) < 0)
		return err_sys(e, errno, "setting socket option %d", option);
	return 0;
}

/* With as much room as the kernel lets a user have, and credentials where they were asked for. */
static int unix_send_all(struct unix_fill *f, struct err *e)
{
	bool credentials = false;
	int before = 0, r;
	socklen_t size = sizeof(before);

	for (size_t i = 0; i < f->to->pb->n_extras; i++)
		credentials |= f->to->pb->extras[i]->pid > 0;
	if (getsockopt(f->from, SOL_SOCKET, SO_SNDBUF, &before, &size) < 0)
		return err_sys(e, errno, "SO_SNDBUF");
	if (unix_set_option(f->from, SO_SNDBUF, INT32_MAX / 2, e) < 0 ||
	    (credentials && unix_set_option(f->to->fd, SO_PASSCRED, 1, e) < 0))
		return -1;
	r = unix_send_as(f, e);
	if (r < 0 || (credentials && unix_set_option(f->to->fd, SO_PASSCRED, 0, e) < 0))
		return -1;
	return unix_set_option(f->from, SO_SNDBUF, before / 2, e); /* the kernel doubles it */
}

static int unix_fill_stream(const struct unix_work *w, const struct unix_item *item, struct err *e)
{
	const struct unix_item *peer = unix_peer_of(w, item);
	struct unix_fill f = { .w = w, .to = item, .connected = true, .end = item->pb->n_queue };

	if (!item->pb->n_queue)
		return 0;
	if (!peer)
		return err_set(e, ERR_IMAGE, 0, "a unix socket that was never connected has received something");
	f.from = peer->fd;
	return unix_send_all(&f, e);
}

/* ---- exchange: datagrams ---- */

static const ProtobufCBinaryData *unix_sender_name(const Pb__UnixExtra *extra)
{
	return extra && extra->from.len ? &extra->from : NULL;
}

/* Who of the tree may have sent this; NULL: nobody of whom we know. */
static const struct unix_item *unix_find_sender(const struct unix_work *w, const struct unix_item *to,
						const ProtobufCBinaryData *name)
{
	const struct unix_item *peer = unix_peer_of(w, to);

	if (peer && (name ? unix_has_name(peer, name) : !unix_is_named(peer)))
		return peer;
	for (size_t i = 0; i < w->n; i++) {
		const struct unix_item *item = &w->v[i];

		if (unix_is_datagram(item) && item != to &&
		    (name ? unix_has_name(item, name) : !unix_is_named(item) && unix_peer_of(w, item) == to))
			return item;
	}
	return NULL;
}

/*
 * A socket that is no longer there, for the moment that its name is needed. It
 * has that unless somebody else does by now. *ret_handle is as of unix_name_bind().
 */
static int unix_make_absent(struct unix_work *w, const ProtobufCBinaryData *name, int *ret_handle, struct err *e)
{
	struct err ignored = ERR_INIT;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	*ret_handle = fd >= 0 && name ? unix_name_bind(w->r, fd, name, NULL, &ignored) : -1;
	return fd < 0 ? err_sys(e, errno, "socket") : fd;
}

static void unix_close_handle(int handle)
{
	if (handle > 0)
		close(handle);
}

static int unix_fill_datagram(struct unix_work *w, const struct unix_item *item, size_t message, struct err *e)
{
	size_t cursor = 0;
	const ProtobufCBinaryData *name = unix_sender_name(unix_extra_of(item->pb, message, &cursor));
	const struct unix_item *sender = unix_find_sender(w, item, name);
	cleanup_close int absent = -1;
	struct unix_fill f = { .w = w, .to = item, .first = message, .end = message + 1, .extra = cursor };
	int handle = -1;

	f.connected = !unix_is_named(item);
	if (!sender)
		absent = unix_make_absent(w, name, &handle, e);
	unix_close_handle(handle);
	f.from = sender ? sender->fd : absent;
	return f.from < 0 ? -1 : unix_send_all(&f, e);
}

static int unix_fill_datagrams(struct unix_work *w, const struct unix_item *item, size_t first, size_t end, struct err *e)
{
	for (size_t i = first; i < end; i++)
		if (unix_fill_datagram(w, item, i, e) < 0)
			return -1;
	return 0;
}

/* A socket that is connected takes messages from its peer only; how many came before? */
static size_t unix_count_foreign(const struct unix_work *w, const struct unix_item *item)
{
	const struct unix_item *peer = unix_peer_of(w, item);
	size_t foreign = 0, cursor = 0;

	for (size_t i = 0; peer && i < item->pb->n_queue; i++) {
		const ProtobufCBinaryData *name = unix_sender_name(unix_extra_of(item->pb, i, &cursor));

		if (unix_find_sender(w, item, name) != peer)
			foreign = i + 1;
	}
	return foreign;
}

static int unix_connect_by_name(int fd, const ProtobufCBinaryData *name)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	if (name->data[0] && name->data[0] != '/') /* from where? */
		return -1;
	memcpy(a.sun_path, name->data, name->len);
	return connect(fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name->len));
}

/* Its peer is outside the tree. Where that is not to be found, it is as if that had been closed. */
static int unix_connect_outside(struct unix_work *w, struct unix_item *item, struct err *e)
{
	const ProtobufCBinaryData *name = &item->pb->peer_name;
	struct err ignored = ERR_INIT;
	cleanup_close int absent = -1;
	int handle;

	if (!name->len)
		return err_set(e, ERR_IMAGE, 0, "a unix socket is connected to one outside the tree that has no name");
	if (unix_connect_by_name(item->fd, name) == 0)
		return 0;
	absent = unix_make_absent(w, name, &handle, e);
	if (absent >= 0 && handle >= 0)
		unix_connect(item->fd, handle, name, &ignored);
	unix_close_handle(handle);
	return absent < 0 ? -1 : 0;
}

static int unix_connect_datagram(struct unix_work *w, struct unix_item *item, struct err *e)
{
	const struct unix_item *peer = unix_peer_of(w, item);

	if (item->pb->outside)
		return unix_connect_outside(w, item, e);
	if (!peer || !unix_is_named(peer) || (peer->handle < 0 && peer->pb->name.data[0]))
		return 0; /* a pair is connected by being made; a ghost may have been left without its name */
	return unix_connect(item->fd, peer->handle, &peer->pb->name, e);
}

static int unix_exchange_datagrams(struct unix_work *w, struct unix_item *item, struct err *e)
{
	size_t foreign = unix_count_foreign(w, item), end = item->pb->n_queue;

	if (!unix_peer_of(w, item))
		foreign = end;
	if (unix_fill_datagrams(w, item, 0, foreign, e) < 0 || unix_connect_datagram(w, item, e) < 0)
		return -1;
	return unix_fill_datagrams(w, item, foreign, end, e);
}

/*
 * Nobody but its own peer can connect to a datagram socket that is connected: a
 * socket's turn comes when all that are connected to it have had theirs.
 */
static int unix_exchange_all_datagrams(struct unix_work *w, struct err *e)
{
	uint32_t *ready = arena_alloc(w->r->arena, (w->n + 1) * sizeof(*ready));
	size_t n = 0, n_datagrams = 0;

	if (!ready)
		return err_nomem(e);
	for (uint32_t i = 0; i < w->n; i++)
		if (unix_is_datagram(&w->v[i]) && unix_peer_of(w, &w->v[i]) && !unix_is_mutual(w, &w->v[i]))
			unix_peer_of(w, &w->v[i])->waiting++;
	for (uint32_t i = 0; i < w->n; i++) {
		n_datagrams += unix_is_datagram(&w->v[i]);
		if (unix_is_datagram(&w->v[i]) && !w->v[i].waiting)
			ready[n++] = i;
	}
	for (size_t i = 0; i < n; i++) {
		struct unix_item *item = &w->v[ready[i]], *peer = unix_peer_of(w, item);

		if (unix_exchange_datagrams(w, item, e) < 0)
			return -1;
		if (peer && !unix_is_mutual(w, item) && --peer->waiting == 0)
			ready[n++] = item->peer;
	}
	return n == n_datagrams ? 0 : err_set(e, ERR_IMAGE, 0, "datagram sockets are connected in a circle");
}

static int unix_exchange(struct unix_work *w, struct err *e)
{
	if (unix_exchange_all_datagrams(w, e) < 0)
		return -1;
	for (size_t i = 0; i < w->n; i++)
		if (!unix_is_datagram(&w->v[i]) && unix_fill_stream(w, &w->v[i], e) < 0)
			return -1;
	return 0;
}

/* ---- end ---- */

static int unix_shut(const struct unix_item *item, struct err *e)
{
	static const int how[] = { -1, SHUT_RD, SHUT_WR, SHUT_RDWR };
	const Pb__UnixSocket *pb = item->pb;

	/* Its peer is about to be closed; with something unread in it, that resets the connection. */
	if (pb->reset && item->peer != UNIX_NOBODY && send(item->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return err_sys(e, errno, "send");
	return pb->shutdown && shutdown(item->fd, how[pb->shutdown]) < 0 ? err_sys(e, errno, "shutdown") : 0;
}

static int unix_end(struct unix_work *w, struct err *e)
{
	for (size_t i = 0; i < w->n_real; i++) {
		const struct unix_item *item = &w->v[i];

		if (unix_shut(item, e) < 0 || socket_options_restore(item->fd, socket_options_of(item->pb), e) < 0 ||
		    kind_set_status_flags(item->fd, item->pb->flags, e) < 0)
			return -1;
	}
	return 0;
}

/* What is not among the objects: ghosts, handles, and on failure what was not handed over. */
static void unix_close_rest(struct unix_work *w)
{
	for (size_t i = 0; i < w->n; i++) {
		struct unix_item *item = &w->v[i];

		unix_close_handle(item->handle);
		if (item->object == UNIX_NOBODY || w->r->objects[item->object].fd != item->fd)
			fd_closep(&item->fd);
	}
}

static int unix_make_all(struct unix_work *w, struct err *e)
{
	if (unix_list(w, e) < 0 || unix_find_peers(w, e) < 0 || unix_connect_all(w, e) < 0 || unix_make_rest(w, e) < 0 ||
	    unix_hand_over(w, e) < 0 || unix_wait_all(w, e) < 0 || kind_finish_flying(w->r, e) < 0 || unix_exchange(w, e) < 0)
		return -1;
	return unix_end(w, e);
}

int unix_restore_all(struct restore_objects *r, struct err *e)
{
	struct unix_work w = { .r = r };
	int result = unix_make_all(&w, e);

	unix_close_rest(&w);
	return result < 0 ? err_wrap(e, "unix sockets") : 0;
}
