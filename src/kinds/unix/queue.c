/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A peek shows what the next read would give, and with SO_PEEK_OFF what the
 * reads after it would; a guard sees to it that this ends. File descriptors in
 * flight are handed out by it as duplicates of theirs.
 *
 * Not seen: an empty message behind others that was peeked at before with
 * SO_PEEK_OFF. The kernel marks it, and passes over it from then on.
 */

#include "kinds/unix/queue.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "kinds/unix/name.h"
#include "kinds/unix/view.h"
#include "util/arena.h"
#include "util/err.h"
#include "util/fd.h"
#include "util/guard.h"

enum { UNIX_MESSAGE_FDS = 253 }; /* SCM_MAX_FD: more cannot be sent at once */
enum { UNIX_SHUT_RECEIVE = 1 };

#ifndef SCM_PIDFD
#define SCM_PIDFD 4
#endif

struct unix_peek {
	struct arena *arena;
	int fd;
	const struct unix_view *socket;
	unsigned *fd_next;
	char *buffer;
	size_t room;
	struct unix_queue *queue;
};

/* ---- one peek ---- */

/* The fds of a message that is only looked at. */
static void unix_peek_forget(struct unix_peek *p, struct unix_message *m)
{
	for (size_t i = m->n_fds; i > 0; i--) {
		close((int)m->fds[i - 1]);
		*p->fd_next = m->fds[i - 1];
	}
	m->n_fds = 0;
}

/* Take fds out of a control message to where ours are kept. Those that no longer fit are closed. */
static int unix_peek_take_fds(struct unix_peek *p, const struct cmsghdr *c, struct unix_message *m, struct err *e)
{
	size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	int fds[UNIX_MESSAGE_FDS], r = 0;

	memcpy(fds, CMSG_DATA(c), n * sizeof(int));
	for (size_t i = 0; i < n; i++) {
		unsigned *room = arena_grow(p->arena, m->fds, m->n_fds, sizeof(*room));
		int fd = room && r == 0 ? fcntl(fds[i], F_DUPFD_CLOEXEC, *p->fd_next) : -1;

		if (fd < 0 && r == 0)
			r = room ? err_sys(e, errno, "keeping a file descriptor that is in flight") : err_nomem(e);
		close(fds[i]);
		if (fd < 0)
			continue;
		m->fds = room;
		m->fds[m->n_fds++] = (unsigned)fd;
		*p->fd_next = (unsigned)fd + 1;
	}
	return r;
}

static int unix_peek_take_control(struct unix_peek *p, struct msghdr *header, struct unix_message *m, struct err *e)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
		struct ucred creds;

		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_RIGHTS && unix_peek_take_fds(p, c, m, e) < 0)
			return -1;
		if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len >= CMSG_LEN(sizeof(creds))) {
			memcpy(&creds, CMSG_DATA(c), sizeof(creds));
			m->pid = creds.pid;
		}
		if (c->cmsg_type == SCM_PIDFD && c->cmsg_len >= CMSG_LEN(sizeof(int))) {
			int pidfd;

			memcpy(&pidfd, CMSG_DATA(c), sizeof(pidfd));
			fd_closep(&pidfd);
			p->queue->pidfd = true;
		}
	}
	return 0;
}

static int unix_peek_take_sender(struct unix_peek *p, const struct sockaddr_un *from, socklen_t size,
				 struct unix_message *m, struct err *e)
{
	const size_t start = offsetof(struct sockaddr_un, sun_path);

	if (size <= start)
		return 0;
	m->from_size = unix_name_size(from->sun_path, size - start);
	m->from = arena_memdup(p->arena, from->sun_path, m->from_size);
	return m->from ? 0 : err_nomem(e);
}

/* The bytes are in p->buffer. Returns 1, 0 when there is nothing, or negative. */
static int unix_peek_next(struct unix_peek *p, size_t size, struct unix_message *ret, struct err *e)
{
	struct {
		struct sockaddr_un address;
		char more[8]; /* a path of 108 bytes comes with its NUL */
	} from;
	_Alignas(struct cmsghdr) char control[4096];
	struct iovec iov = { .iov_base = p->buffer, .iov_len = size };
	struct msghdr header = {
		.msg_name = &from,
		.msg_namelen = sizeof(from),
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(p->fd, &header, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);

	*ret = (struct unix_message){ .data = p->buffer, .size = n > 0 ? (size_t)n : 0 };
	if (n < 0) /* ENOTCONN, EINVAL: never connected */
		return errno == EAGAIN || errno == ENOTCONN || errno == EINVAL ? 0 : err_sys(e, errno, "peeking");
	if (unix_peek_take_control(p, &header, ret, e) < 0)
		return -1;
	if (header.msg_flags & MSG_CTRUNC)
		return err_set(e, ERR_SYSTEM, 0, "there is no room for the file descriptors in its queue");
	if (p->socket->type == SOCK_DGRAM && unix_peek_take_sender(p, &from.address, header.msg_namelen, ret, e) < 0)
		return -1;
	return n > 0 || (p->socket->type != SOCK_STREAM && !(p->socket->shutdown & UNIX_SHUT_RECEIVE));
}

static int unix_peek_set_offset(const struct unix_peek *p, int offset, struct err *e)
{
	if (setsockopt(p->fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0)
		return err_sys(e, errno, "SO_PEEK_OFF");
	return 0;
}

/* Keep a message whose bytes are in p->buffer. */
static int unix_peek_keep(struct unix_peek *p, struct unix_message m, struct err *e)
{
	struct unix_message *v = arena_grow(p->arena, p->queue->v, p->queue->n, sizeof(*v));

	m.data = arena_memdup(p->arena, m.data, m.size);
	if (!v || !m.data)
		return err_nomem(e);
	p->queue->v = v;
	v[p->queue->n++] = m;
	return 0;
}

/* ---- messages ---- */

/* Each peek goes on behind the one before. */
static int unix_peek_messages(struct unix_peek *p, struct err *e)
{
	struct unix_message m;
	int r;

	if (unix_peek_set_offset(p, 0, e) < 0)
		return -1;
	while ((r = unix_peek_next(p, p->room, &m, e)) > 0) {
		if (m.size > p->room)
			return err_set(e, ERR_SYSTEM, 0, "a message of %zu bytes in a queue of %zu", m.size, p->room);
		if (unix_peek_keep(p, m, e) < 0)
			return -1;
	}
	return r;
}

/* ---- streams ---- */

static int unix_peek_stream_at(struct unix_peek *p, size_t offset, size_t size, struct unix_message *ret, struct err *e)
{
	int r = unix_peek_set_offset(p, (int)offset, e) < 0 ? -1 : unix_peek_next(p, size, ret, e);

	return r ? r : err_set(e, ERR_SYSTEM, 0, "its queue shrank while it was read");
}

/* So many bytes that all but the last of them can be written. */
static char *unix_trap_new(size_t size, size_t *ret_mapped)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), usable = (size - 1 + page - 1) / page * page;
	char *p = mmap(NULL, usable + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	*ret_mapped = usable + page;
	if (mprotect(p + usable, page, PROT_NONE) < 0) {
		munmap(p, *ret_mapped);
		return NULL;
	}
	return p + usable - (size - 1);
}

static void unix_trap_free(char *trap, size_t size, size_t mapped)
{
	munmap(trap + (size - 1) - (mapped - (size_t)sysconf(_SC_PAGESIZE)), mapped);
}

/*
 * A peek ends behind bytes that carry file descriptors, but begins with those
 * before them, and a shorter one hands out the same. How many are before? The
 * kernel copies what was sent at once as a whole, or, if that fails, not at all:
 * where the last byte cannot be written, it gives what is before.
 */
static int unix_peek_before_fds(struct unix_peek *p, size_t offset, size_t size, size_t *ret, struct err *e)
{
	size_t mapped;
	char *trap = unix_trap_new(size, &mapped);
	struct iovec iov = { .iov_base = trap, .iov_len = size };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;
	int number;

	if (!trap)
		return err_nomem(e);
	n = unix_peek_set_offset(p, (int)offset, e) < 0 ? -1 : recvmsg(p->fd, &header, MSG_PEEK | MSG_DONTWAIT);
	number = errno;
	unix_trap_free(trap, size, mapped);
	if (n < 0 && number != EFAULT)
		return err_sys(e, number, "peeking");
	*ret = n < 0 ? 0 : (size_t)n;
	return *ret < size ? 0 : err_set(e, ERR_SYSTEM, 0, "the bytes that carry file descriptors cannot be told from others");
}

/* A stretch of the stream that ends with file descriptors */
static int unix_peek_keep_divided(struct unix_peek *p, size_t offset, struct unix_message m, struct err *e)
{
	struct unix_message plain = { .data = m.data, .pid = m.pid };

	if (unix_peek_before_fds(p, offset, m.size, &plain.size, e) < 0)
		return -1;
	if (plain.size && unix_peek_keep(p, plain, e) < 0)
		return -1;
	m.data = p->buffer + plain.size;
	m.size -= plain.size;
	return unix_peek_keep(p, m, e);
}

static int unix_peek_stream(struct unix_peek *p, size_t queued, struct err *e)
{
	size_t offset = 0;

	while (offset < queued) {
		struct unix_message m;

		if (unix_peek_stream_at(p, offset, p->room, &m, e) < 0)
			return -1;
		if (m.n_fds ? unix_peek_keep_divided(p, offset, m, e) < 0 : unix_peek_keep(p, m, e) < 0)
			return -1;
		offset += m.size;
	}
	return 0;
}

/* Only bytes: one peek shows them all, and no offset needs to be set. Returns 1 when that was all. */
static int unix_peek_plain(struct unix_peek *p, size_t queued, struct err *e)
{
	struct unix_message m;
	int r = unix_peek_next(p, p->room, &m, e);

	if (r <= 0)
		return r;
	if (m.n_fds || m.size != queued) {
		unix_peek_forget(p, &m);
		return 0;
	}
	return unix_peek_keep(p, m, e) < 0 ? -1 : 1;
}

/* ---- all of it ---- */

/* No message is larger than the buffers of the socket that sent it, which has the limits that this one has. */
static size_t unix_peek_room(int fd, size_t queued)
{
	int size = 0;
	socklen_t n = sizeof(size);

	if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &n) < 0 || (size_t)size < queued)
		return queued + 1;
	return (size_t)size + 1;
}

/* With SO_PEEK_OFF unset. Returns 1 when that was all. */
static int unix_peek_without_offset(struct unix_peek *p, size_t queued, struct err *e)
{
	return p->socket->type == SOCK_STREAM ? unix_peek_plain(p, queued, e) : 0;
}

struct unix_guarded {
	int fd, offset;
};

static void unix_peek_end(void *data)
{
	const struct unix_guarded *g = data;

	setsockopt(g->fd, SOL_SOCKET, SO_PEEK_OFF, &g->offset, sizeof(g->offset));
}

/* `offset`: what it is, and will be again, also if torpor is killed. */
static int unix_peek_with_offset(struct unix_peek *p, size_t queued, int offset, struct err *e)
{
	struct unix_guarded guarded = { p->fd, offset };
	struct guard guard;
	int r;

	if (guard_begin(&guard, unix_peek_end, &guarded, e) < 0)
		return -1;
	r = offset >= 0 ? unix_peek_set_offset(p, -1, e) : 0;
	if (r == 0 && offset >= 0)
		r = unix_peek_without_offset(p, queued, e);
	if (r == 0)
		r = p->socket->type == SOCK_STREAM ? unix_peek_stream(p, queued, e) : unix_peek_messages(p, e);
	guard_end(&guard);
	return r < 0 ? r : 0;
}

int unix_queue_read(struct arena *arena, int fd, const struct unix_view *socket, unsigned *fd_next,
		    struct unix_queue *ret, struct err *e)
{
	struct unix_peek p = { .arena = arena, .fd = fd, .socket = socket, .fd_next = fd_next, .queue = ret };
	struct pollfd polled = { .fd = fd, .events = POLLIN | POLLPRI };
	int queued, offset = -1, r;
	socklen_t size = sizeof(offset);

	*ret = (struct unix_queue){ 0 };
	if (ioctl(fd, FIONREAD, &queued) < 0 || poll(&polled, 1, 0) < 0)
		return err_sys(e, errno, "asking for the size of its queue");
	ret->error = polled.revents & POLLERR;
	ret->urgent = polled.revents & POLLPRI;
	/* A look into an empty queue would take the error away; into one of messages, always. */
	if (socket->type == SOCK_STREAM ? !queued : ret->error || !(polled.revents & POLLIN))
		return 0;
	p.room = unix_peek_room(fd, (size_t)queued);
	p.buffer = arena_alloc(arena, p.room);
	if (!p.buffer)
		return err_nomem(e);
	getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, &size);
	r = offset < 0 ? unix_peek_without_offset(&p, (size_t)queued, e) : 0;
	if (r)
		return r < 0 ? r : 0;
	return unix_peek_with_offset(&p, (size_t)queued, offset, e);
}
