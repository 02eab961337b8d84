/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/tcp/repair.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kinds/tcp/fin.h"
#include "util/err.h"
#include "util/fd.h"
#include "util/guard.h"

enum { REPAIR_CHUNK = 16384 }; /* bytes: the kernel wants each part of a queue in one piece of memory */

/* <linux/tcp.h> has no names for these. */
enum { REPAIR_NO_QUEUE, REPAIR_RECEIVE_QUEUE, REPAIR_SEND_QUEUE };
enum { REPAIR_OPTION_MSS = 2, REPAIR_OPTION_WINDOW = 3, REPAIR_OPTION_SACK = 4, REPAIR_OPTION_TIMESTAMP = 8 };

static int repair_set(int fd, int name, int value)
{
	return setsockopt(fd, IPPROTO_TCP, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int repair_get(int fd, int level, int name, int *ret)
{
	socklen_t size = sizeof(*ret);

	return getsockopt(fd, level, name, ret, &size) < 0 ? -errno : 0;
}

bool tcp_repair_is_permitted(void)
{
	cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd >= 0 && repair_set(fd, TCP_REPAIR, TCP_REPAIR_ON) == 0;
}

/* ---- the guard ---- */

/* What the guard needs: a socket stays in repair when the process that put it there dies. */
struct repair_guarded {
	int fd, reuse;
};

/* Repair takes SO_REUSEADDR away. */
static void repair_leave(void *data)
{
	const struct repair_guarded *g = data;

	repair_set(g->fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
	setsockopt(g->fd, SOL_SOCKET, SO_REUSEADDR, &g->reuse, sizeof(g->reuse));
}

/* ---- dump ---- */

static int repair_get_sequence(int fd, int queue, uint32_t *ret)
{
	int value, r = repair_set(fd, TCP_REPAIR_QUEUE, queue);

	if (r == 0)
		r = repair_get(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &value);
	if (r == 0)
		*ret = (uint32_t)value;
	return r;
}

/* With the send queue selected. An end counts as a byte that nobody can read. */
static int repair_get_unacknowledged(struct arena *arena, int fd, bool ended, Pb__TcpRepair *pb)
{
	int queued, unsent;
	ssize_t n;

	if (ioctl(fd, SIOCOUTQ, &queued) < 0 || ioctl(fd, SIOCOUTQNSD, &unsent) < 0)
		return -errno;
	queued -= ended && queued;
	unsent -= ended && unsent;
	if (!queued)
		return 0;
	pb->unacknowledged.data = arena_alloc(arena, (size_t)queued);
	if (!pb->unacknowledged.data)
		return -ENOMEM;
	n = recv(fd, pb->unacknowledged.data, (size_t)queued, MSG_PEEK | MSG_DONTWAIT);
	if (n != queued)
		return n < 0 ? -errno : -EIO;
	pb->unacknowledged.len = (size_t)queued;
	pb->has_unacknowledged = true;
	pb_set(pb, unsent, (uint32_t)unsent);
	return 0;
}

static int repair_get_parameters(struct arena *arena, int fd, Pb__TcpRepair *pb)
{
	struct tcp_repair_window window;
	struct tcp_info info = { 0 };
	socklen_t n_info = sizeof(info), n_window = sizeof(window);
	int mss, timestamp, r;

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n_info) < 0 ||
	    getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, &n_window) < 0)
		return -errno;
	r = repair_get(fd, IPPROTO_TCP, TCP_MAXSEG, &mss);
	if (r == 0)
		r = repair_get(fd, IPPROTO_TCP, TCP_TIMESTAMP, &timestamp);
	if (r < 0)
		return r;
	pb_set(pb, mss, (uint32_t)mss);
	pb_set(pb, timestamp, (uint32_t)timestamp);
	pb_set(pb, options, info.tcpi_options);
	pb_set(pb, send_scale, info.tcpi_snd_wscale);
	pb_set(pb, receive_scale, info.tcpi_rcv_wscale);
	return pb_set_bytes(arena, pb, window, &window, sizeof(window)) ? 0 : -ENOMEM;
}

static int repair_get_all(struct arena *arena, int fd, bool ended, bool end_received, Pb__TcpRepair *pb)
{
	int r = repair_set(fd, TCP_REPAIR, TCP_REPAIR_ON);

	if (r == 0)
		r = repair_get_sequence(fd, REPAIR_RECEIVE_QUEUE, &pb->receive_sequence);
	if (r == 0)
		r = repair_get_sequence(fd, REPAIR_SEND_QUEUE, &pb->send_sequence);
	if (r == 0)
		r = repair_get_unacknowledged(arena, fd, ended, pb);
	if (r == 0)
		r = repair_get_parameters(arena, fd, pb);
	pb->send_sequence -= ended;
	pb->receive_sequence -= end_received;
	return r;
}

int tcp_repair_collect(struct arena *arena, int fd, bool ended, bool end_received, Pb__TcpRepair *pb, struct err *e)
{
	struct repair_guarded guarded = { .fd = fd };
	struct guard guard;
	int r;

	r = repair_get(fd, SOL_SOCKET, SO_REUSEADDR, &guarded.reuse);
	if (r < 0)
		return err_sys(e, r, "SO_REUSEADDR");
	if (guard_begin(&guard, repair_leave, &guarded, e) < 0)
		return -1;
	r = repair_get_all(arena, fd, ended, end_received, pb);
	guard_end(&guard);
	return r < 0 ? err_sys(e, r, "reading the state of a TCP connection (TCP_REPAIR)") : 0;
}

void tcp_repair_part(int fd)
{
	repair_set(fd, TCP_REPAIR, TCP_REPAIR_ON);
}

/* ---- restore ---- */

static int repair_set_sequence(int fd, int queue, uint32_t sequence)
{
	int r = repair_set(fd, TCP_REPAIR_QUEUE, queue);

	return r < 0 ? r : repair_set(fd, TCP_QUEUE_SEQ, (int)sequence);
}

static int repair_connect(int fd, const struct inet_end *end)
{
	if (bind(fd, (const struct sockaddr *)&end->local, inet_address_size(&end->local)) < 0 ||
	    connect(fd, (const struct sockaddr *)&end->remote, inet_address_size(&end->remote)) < 0)
		return -errno;
	return 0;
}

static int repair_set_options(int fd, const Pb__TcpRepair *pb)
{
	struct tcp_repair_opt options[4];
	size_t n = 0;
	int r;

	if (pb->options & TCPI_OPT_SACK)
		options[n++] = (struct tcp_repair_opt){ .opt_code = REPAIR_OPTION_SACK };
	if (pb->options & TCPI_OPT_WSCALE)
		options[n++] = (struct tcp_repair_opt){ .opt_code = REPAIR_OPTION_WINDOW,
							.opt_val = pb->send_scale | pb->receive_scale << 16 };
	if (pb->options & TCPI_OPT_TIMESTAMPS)
		options[n++] = (struct tcp_repair_opt){ .opt_code = REPAIR_OPTION_TIMESTAMP };
	options[n++] = (struct tcp_repair_opt){ .opt_code = REPAIR_OPTION_MSS, .opt_val = pb->mss };
	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options, (socklen_t)(n * sizeof(*options))) < 0)
		return -errno;
	r = pb->options & TCPI_OPT_TIMESTAMPS ? repair_set(fd, TCP_TIMESTAMP, (int)pb->timestamp) : 0;
	return r;
}

static int repair_fill(int fd, int queue, const char *data, size_t size)
{
	int r = repair_set(fd, TCP_REPAIR_QUEUE, queue);

	while (r == 0 && size) {
		ssize_t n = send(fd, data, size < REPAIR_CHUNK ? size : REPAIR_CHUNK, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0)
			return -errno;
		data += n;
		size -= (size_t)n;
	}
	return r;
}

/* Enough for whatever the queues held; SO_BUF_LOCK lets the kernel change them by itself again. */
static void repair_make_room(int fd)
{
	const int most = INT32_MAX / 2;

	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &most, sizeof(most));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &most, sizeof(most));
	setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &(int){ 0 }, sizeof(int));
}

static int repair_set_window(int fd, const Pb__TcpRepair *pb)
{
	if (pb->window.len != sizeof(struct tcp_repair_window))
		return -EINVAL;
	return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, pb->window.data, (socklen_t)pb->window.len) < 0 ? -errno : 0;
}

static int repair_set_all(int fd, const struct tcp_repaired *c, const Pb__TcpRepair *pb)
{
	const char *unacknowledged = (const char *)pb->unacknowledged.data;
	size_t sent = pb->unacknowledged.len - pb->unsent;
	int r = repair_set(fd, TCP_REPAIR, TCP_REPAIR_ON);

	repair_make_room(fd);
	if (r == 0)
		r = repair_set_sequence(fd, REPAIR_RECEIVE_QUEUE, pb->receive_sequence - (uint32_t)c->n_received);
	if (r == 0)
		r = repair_set_sequence(fd, REPAIR_SEND_QUEUE, pb->send_sequence - (uint32_t)pb->unacknowledged.len);
	if (r == 0)
		r = repair_connect(fd, &c->end);
	if (r == 0)
		r = repair_set_options(fd, pb);
	if (r == 0)
		r = repair_fill(fd, REPAIR_RECEIVE_QUEUE, c->received, c->n_received);
	if (r == 0)
		r = repair_fill(fd, REPAIR_SEND_QUEUE, unacknowledged, sent);
	if (r == 0)
		r = repair_set(fd, TCP_REPAIR_QUEUE, REPAIR_NO_QUEUE);
	return r;
}

/* It acknowledges nothing new. */
static int repair_deliver_end(int fd, const struct tcp_repaired *c, const Pb__TcpRepair *pb, struct err *e)
{
	return tcp_fin_deliver(fd, &c->end, pb->receive_sequence, pb->send_sequence - (uint32_t)pb->unacknowledged.len, e);
}

int tcp_repair_restore(const struct tcp_repaired *c, const Pb__TcpRepair *pb, struct err *e)
{
	cleanup_close int fd = socket(c->end.local.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
	char from[INET_ADDRESS_TEXT], to[INET_ADDRESS_TEXT];
	int r;

	if (fd < 0)
		return err_sys(e, errno, "socket");
	if (pb->unsent > pb->unacknowledged.len)
		return err_set(e, ERR_IMAGE, 0, "a TCP connection has not sent more than it holds");
	r = repair_set_all(fd, c, pb);
	if (r == 0 && c->end_received && repair_deliver_end(fd, c, pb, e) < 0)
		return -1;
	if (r == 0)
		r = repair_set_window(fd, pb);
	if (r == 0)
		return fd_take(&fd);
	err_sys(e, r, "making the TCP connection from %s to %s again (TCP_REPAIR)", inet_address_text(&c->end.local, from),
		inet_address_text(&c->end.remote, to));
	if (r != -EPERM)
		return -1;
	err_id(e, "E-TCP-PRIVILEGE");
	return err_help(e, "restore it with CAP_NET_ADMIN, or as root");
}

/* With the probe that repair ends with, the other end learns that somebody is there again. */
void tcp_repair_release(int fd, const Pb__TcpRepair *pb, bool ended)
{
	size_t sent = pb->unacknowledged.len - pb->unsent;
	int reuse = 0;

	repair_get(fd, SOL_SOCKET, SO_REUSEADDR, &reuse);
	repair_set(fd, TCP_REPAIR, TCP_REPAIR_OFF);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
	if (pb->unsent)
		send(fd, pb->unacknowledged.data + sent, pb->unsent, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (ended)
		shutdown(fd, SHUT_WR);
}
