/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/socket/inet_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include "kinds/socket/inet_group.h"
#include "kinds/socket/socket_options.h"
#include "util/privilege.h"

enum { INET_SEND_PATIENCE_MS = 100, INET_UDPLITE = 136 };

/* ---- dump ---- */

/* It may be in the queue of a network card. */
bool inet_socket_holds_back(int fd)
{
	const struct timespec moment = { .tv_nsec = 1000000 };
	int unsent = 0;

	for (int i = 0; i < INET_SEND_PATIENCE_MS; i++) {
		if (ioctl(fd, SIOCOUTQ, &unsent) < 0 || !unsent)
			return false;
		nanosleep(&moment, NULL);
	}
	return true;
}

/* The port of a raw socket is its protocol. */
static bool inet_socket_is_bound(const Pb__InetSocket *pb, const struct sockaddr_storage *local)
{
	struct sockaddr_storage a = *local;

	if (pb->type == SOCK_RAW)
		inet_set_port(&a, 0);
	return inet_is_bound(&a);
}

static int inet_socket_collect_addresses(struct collect *c, int fd, Pb__InetSocket *pb, struct err *e)
{
	struct sockaddr_storage local = { 0 }, remote = { 0 };
	socklen_t n_local = sizeof(local), n_remote = sizeof(remote);

	if (getsockname(fd, (struct sockaddr *)&local, &n_local) < 0)
		return err_sys(e, errno, "getsockname");
	if (inet_socket_is_bound(pb, &local) && !pb_set_bytes(c->arena, pb, local, &local, inet_address_size(&local)))
		return err_nomem(e);
	if (getpeername(fd, (struct sockaddr *)&remote, &n_remote) < 0)
		return 0;
	return pb_set_bytes(c->arena, pb, remote, &remote, inet_address_size(&remote)) ? 0 : err_nomem(e);
}

static int inet_socket_collect_options(struct collect *c, const struct fd_view *v, int fd, Pb__InetSocket *pb,
				       struct err *e)
{
	cleanup_privilege struct privilege p = privilege_raise(pb->type == SOCK_RAW ? PRIVILEGE(CAP_NET_RAW) : 0);

	return socket_options_collect(c, fd, v->sort, socket_options_of(pb), e);
}

int inet_socket_collect(struct collect *c, const struct fd_view *v, int fd, Pb__InetSocket *pb, struct err *e)
{
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->family = (uint32_t)v->sort.domain;
	pb->type = (uint32_t)v->sort.type;
	pb->protocol = (uint32_t)v->sort.protocol;
	if (inet_socket_collect_addresses(c, fd, pb, e) < 0 || inet_socket_collect_options(c, v, fd, pb, e) < 0)
		return -1;
	return inet_group_collect(c, fd, pb, e);
}

/* ---- restore ---- */

static int inet_socket_read_address(const Pb__InetSocket *pb, const ProtobufCBinaryData *saved,
				    struct sockaddr_storage *ret, struct err *e)
{
	if (inet_address_parse(saved->data, saved->len, ret) < 0 || ret->ss_family != pb->family)
		return err_set(e, ERR_IMAGE, 0, "an internet socket has an address of an unknown kind");
	return 0;
}

int inet_socket_read(const Pb__InetSocket *pb, struct inet_socket_ends *ret, struct err *e)
{
	*ret = (struct inet_socket_ends){ 0 };
	if (pb->has_local && inet_socket_read_address(pb, &pb->local, &ret->local, e) < 0)
		return -1;
	return pb->has_remote ? inet_socket_read_address(pb, &pb->remote, &ret->remote, e) : 0;
}

int inet_socket_connect(int fd, const struct sockaddr_storage *remote, struct err *e)
{
	const struct sockaddr nobody = { .sa_family = AF_UNSPEC };

	if (!remote->ss_family)
		return connect(fd, &nobody, sizeof(nobody)) < 0 ? err_sys(e, errno, "connecting a socket to nobody") : 0;
	if (connect(fd, (const struct sockaddr *)remote, inet_address_size(remote)) < 0)
		return inet_address_fail("connecting a socket to", remote, errno, e);
	return 0;
}

/* The address may have been the choice of the kernel, on the way to whom it is connected to. The port stays. */
static int inet_socket_bind_anywhere(struct restore_objects *r, int fd, const struct sockaddr_storage *local,
				     struct err *e)
{
	struct sockaddr_storage any = { .ss_family = local->ss_family };
	char text[INET_ADDRESS_TEXT];

	*e = ERR_INIT;
	inet_set_port(&any, inet_port(local));
	if (inet_address_bind(fd, &any, "binding a socket to", e) < 0)
		return -1;
	if (kind_note(r, "N-ADDRESS", "restore it where the machine has this address",
		      "has another address than %s, which is not there", inet_address_text(local, text)) < 0)
		return err_nomem(e);
	return 0;
}

static int inet_socket_place(struct restore_objects *r, int fd, const struct inet_socket_ends *ends, struct err *e)
{
	if (ends->local.ss_family && inet_address_bind(fd, &ends->local, "binding a socket to", e) < 0) {
		if (e->number != EADDRNOTAVAIL || !ends->remote.ss_family)
			return -1;
		if (inet_socket_bind_anywhere(r, fd, &ends->local, e) < 0)
			return -1;
	}
	return ends->remote.ss_family ? inet_socket_connect(fd, &ends->remote, e) : 0;
}

int inet_socket_make(struct restore_objects *r, const Pb__InetSocket *pb, const struct inet_socket_ends *ends,
		     struct err *e)
{
	cleanup_close int fd = -1;

	if (pb->family != AF_INET && pb->family != AF_INET6)
		return err_set(e, ERR_IMAGE, 0, "an internet socket of the unknown family %u", pb->family);
	fd = socket((int)pb->family, (int)pb->type | SOCK_CLOEXEC, (int)pb->protocol);
	if (fd < 0)
		return err_sys(e, errno, "making a socket of family %u, type %u, protocol %u", pb->family, pb->type,
			       pb->protocol);
	if (socket_options_prepare(fd, socket_options_of(pb), e) < 0 || inet_socket_place(r, fd, ends, e) < 0)
		return -1;
	return fd_take(&fd);
}

/* A socket that is not connected is shut all the same, and connect(2) says that it is not connected. */
static int inet_socket_shut(int fd, uint32_t directions, struct err *e)
{
	static const int how[] = { -1, SHUT_RD, SHUT_WR, SHUT_RDWR };

	if (directions >= sizeof(how) / sizeof(*how))
		return err_set(e, ERR_IMAGE, 0, "a socket that is shut in unknown directions");
	if (directions && shutdown(fd, how[directions]) < 0 && errno != ENOTCONN)
		return err_sys(e, errno, "shutdown");
	return 0;
}

int inet_socket_last(struct restore_objects *r, int fd, const ProtobufCMessage *m, struct err *e)
{
	const Pb__InetSocket *pb = (const Pb__InetSocket *)m;

	(void)r;
	if (socket_options_restore(fd, socket_options_of(pb), e) < 0 || inet_group_restore(fd, pb, e) < 0)
		return -1;
	return inet_socket_shut(fd, pb->shutdown, e) < 0 ? -1 : kind_set_status_flags(fd, pb->flags, e);
}

/* ---- for people ---- */

static const char *inet_socket_protocol(const Pb__InetSocket *pb)
{
	if (pb->type == SOCK_RAW)
		return "raw";
	return pb->protocol == IPPROTO_UDP ? "UDP" : pb->protocol == INET_UDPLITE ? "UDP-Lite" : "ICMP";
}

void inet_socket_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__InetSocket *pb = (const Pb__InetSocket *)m;
	struct err ignored = ERR_INIT;
	struct inet_socket_ends ends;
	char text[INET_ADDRESS_TEXT];
	int used;

	used = snprintf(buf, size, "%s", inet_socket_protocol(pb));
	if (inet_socket_read(pb, &ends, &ignored) < 0)
		return;
	if (ends.local.ss_family)
		used += snprintf(buf + used, size - (size_t)used, " at %s", inet_address_text(&ends.local, text));
	if (ends.remote.ss_family)
		used += snprintf(buf + used, size - (size_t)used, ", to %s", inet_address_text(&ends.remote, text));
	if (pb->n_queue)
		snprintf(buf + used, size - (size_t)used, ", %zu datagrams queued", pb->n_queue);
}
