/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The queues of TCP sockets. What was received and not read can be peeked at.
 * What was sent and not received cannot, not without privilege: but it belongs
 * to the other end's queue, and arrives there when that has room.
 */

#include "kinds/tcp/queue.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/arena.h"
#include "util/err.h"
#include "util/fd.h"

enum { SETTLE_ROUNDS = 1000, SETTLE_US = 1000 };

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#define TCP_QUEUE_LOCK_RECEIVE 2 /* of SO_BUF_LOCK: the program has set the size */

/* ---- how much is on its way ---- */

/* Both since the beginning of the connection; a SYN or FIN counts as a byte that is sent, a FIN as one received. */
struct tcp_account {
	uint64_t sent, received;
};

static int tcp_account_read(int fd, struct tcp_account *ret, struct err *e)
{
	struct tcp_info info = { 0 };
	socklen_t size = sizeof(info);
	int unacknowledged;

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0 || ioctl(fd, SIOCOUTQ, &unacknowledged) < 0)
		return err_sys(e, errno, "asking for the state of a TCP connection");
	*ret = (struct tcp_account){ .sent = info.tcpi_bytes_acked + (unsigned)unacknowledged,
				     .received = info.tcpi_bytes_received };
	return 0;
}

/*
 * The SYN of the end that connected was sent, but is not counted as received; the
 * other end's was acknowledged before that one's count began. So the sum is 1
 * when nothing is on its way, and tells who connected.
 */
static int64_t tcp_queue_under_way(int fd, int peer, bool *ret_active, struct err *e)
{
	struct tcp_account here, there;
	int64_t out, in;

	if (tcp_account_read(fd, &here, e) < 0 || tcp_account_read(peer, &there, e) < 0)
		return -1;
	out = (int64_t)(here.sent - there.received);
	in = (int64_t)(there.sent - here.received);
	*ret_active = out > in;
	return out < 0 || in < 0 || out + in < 1 ? 0 : out + in - 1;
}

/* ---- more room ---- */

struct tcp_room {
	int fd, size, lock;
	bool widened;
};

static int tcp_option(int fd, int name)
{
	int value = 0;
	socklen_t size = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? -1 : value;
}

/*
 * The most that SO_RCVBUF takes, tried with a socket of our own: /proc/sys/net/core/rmem_max says it, but older kernels
 * show that file in the first network namespace only.
 */
static int tcp_room_most(void)
{
	cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){ INT32_MAX / 2 }, sizeof(int)) < 0)
		return 0;
	return tcp_option(fd, SO_RCVBUF) / 2; /* the kernel doubles it */
}

/* Only if it can be put back: a size that grew by itself may be more than can be set. */
static struct tcp_room tcp_room_widen(int fd)
{
	struct tcp_room room = { .fd = fd, .size = tcp_option(fd, SO_RCVBUF), .lock = tcp_option(fd, SO_BUF_LOCK) };
	int most = tcp_room_most();

	if (room.lock >= 0 && room.size > 0 && room.size / 2 < most)
		room.widened = setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &most, sizeof(most)) == 0;
	return room;
}

static void tcp_room_put_back(const struct tcp_room *room)
{
	int size = room->size / 2;

	if (!room->widened)
		return;
	setsockopt(room->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	setsockopt(room->fd, SOL_SOCKET, SO_BUF_LOCK, &room->lock, sizeof(room->lock));
}

/* A look at the queue makes the kernel tell the sender how much room there is. */
static void tcp_announce_room(int fd)
{
	int queued;

	if (ioctl(fd, SIOCINQ, &queued) == 0 && queued > 0)
		recv(fd, &(char){ 0 }, 1, MSG_PEEK | MSG_DONTWAIT);
}

int64_t tcp_queue_settle(int fd, int peer, bool *ret_active, struct err *e)
{
	int64_t left = tcp_queue_under_way(fd, peer, ret_active, e);
	struct tcp_room here, there;

	if (left <= 0)
		return left;
	here = tcp_room_widen(fd);
	there = tcp_room_widen(peer);
	for (int i = 0; left > 0 && i < SETTLE_ROUNDS; i++) {
		tcp_announce_room(fd);
		tcp_announce_room(peer);
		usleep(SETTLE_US);
		left = tcp_queue_under_way(fd, peer, ret_active, e);
	}
	tcp_room_put_back(&here);
	tcp_room_put_back(&there);
	return left;
}

int tcp_queue_settle_orphan(int fd, bool (*delivered)(const void *), const void *data)
{
	struct tcp_room room;
	bool done = delivered(data);

	if (done)
		return 0;
	room = tcp_room_widen(fd);
	for (int i = 0; !done && i < SETTLE_ROUNDS; i++) {
		tcp_announce_room(fd);
		usleep(SETTLE_US);
		done = delivered(data);
	}
	tcp_room_put_back(&room);
	return done ? 0 : -EAGAIN;
}

/* ---- reading ---- */

static int tcp_queue_set_peek_offset(int fd, int offset, struct err *e)
{
	if (setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0)
		return err_sys(e, errno, "SO_PEEK_OFF");
	return 0;
}

int tcp_queue_read(int fd, struct arena *arena, uint8_t **ret, size_t *ret_size, struct err *e)
{
	int queued, offset = tcp_option(fd, SO_PEEK_OFF);
	ssize_t n;

	if (ioctl(fd, SIOCINQ, &queued) < 0)
		return err_sys(e, errno, "asking for the size of a TCP socket's queue");
	*ret_size = (size_t)queued;
	*ret = NULL;
	if (!queued) /* a look into an empty queue would take an error away */
		return 0;
	*ret = arena_alloc(arena, *ret_size);
	if (!*ret)
		return err_nomem(e);
	if (offset >= 0 && tcp_queue_set_peek_offset(fd, -1, e) < 0)
		return -1;
	n = recv(fd, *ret, *ret_size, MSG_PEEK | MSG_DONTWAIT);
	if (n != queued)
		err_set(e, ERR_SYSTEM, n < 0 ? errno : 0, "only %zd of %d bytes in a TCP socket's queue could be read", n,
			queued);
	if (offset >= 0 && tcp_queue_set_peek_offset(fd, offset, e) < 0)
		return -1;
	return n == queued ? 0 : -1;
}
