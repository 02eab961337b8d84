/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Packet sockets, which see what passes a network interface. The kernel's
 * sock_diag(7) tells what the socket itself does not. What it has captured and
 * the program has not read is lost.
 *
 * It comes back for whoever could have opened it without torpor. Not with a ring
 * that is shared with the kernel, nor as a member of a fanout group.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/packet_diag.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "kinds/kind.h"
#include "kinds/socket/sock_diag.h"
#include "kinds/socket/socket_options.h"
#include "util/fd.h"
#include "util/privilege.h"

static const char help_close[] = "let the program close it, then try again";

static bool packet_socket_match(const struct fd_view *v)
{
	return v->sort.domain == AF_PACKET;
}

/* What the caller may do without torpor, and no more. */
static uint64_t packet_privilege(void)
{
	return PRIVILEGE(CAP_NET_RAW) & privilege_grantable();
}

/* ---- dump: what sock_diag tells ---- */

static int packet_add_membership(struct collect *c, const struct packet_diag_mclist *one, Pb__PacketSocket *pb,
				 struct err *e)
{
	Pb__PacketMembership *m = pb_new(c->arena, Pb__PacketMembership, pb__packet_membership__init);
	size_t size = one->pdmc_alen < sizeof(one->pdmc_addr) ? one->pdmc_alen : sizeof(one->pdmc_addr);
	char name[IF_NAMESIZE];

	if (!if_indextoname(one->pdmc_index, name))
		return err_sys(e, errno, "the name of network interface %u", one->pdmc_index);
	if (!m || !pb_add(c->arena, pb, memberships, m))
		return err_nomem(e);
	m->type = one->pdmc_type;
	m->interface = arena_strdup(c->arena, name);
	pb_set(m, count, one->pdmc_count);
	return m->interface && pb_set_bytes(c->arena, m, address, one->pdmc_addr, size) ? 0 : err_nomem(e);
}

struct packet_dump {
	struct collect *collect;
	const struct fd_view *view;
	Pb__PacketSocket *pb;
};

static const char *packet_obstacle(unsigned short attribute)
{
	switch (attribute) {
	case PACKET_DIAG_RX_RING:
	case PACKET_DIAG_TX_RING:
		return "is a packet socket that shares a ring with the kernel";
	case PACKET_DIAG_FANOUT:
		return "is a packet socket of a group (PACKET_FANOUT)";
	default:
		return NULL;
	}
}

/* Returns 1 when it was refused. */
static int packet_take_attribute(struct packet_dump *d, const struct rtattr *a, struct err *e)
{
	const struct packet_diag_mclist *list = RTA_DATA(a);
	const char *obstacle = packet_obstacle(a->rta_type);
	int r = 0;

	if (obstacle) {
		r = kind_refuse(d->collect, d->view, "E-FD-PACKET", help_close, "%s", obstacle);
		return r < 0 ? r : 1;
	}
	if (a->rta_type == PACKET_DIAG_MCLIST)
		for (size_t i = 0; r == 0 && i < RTA_PAYLOAD(a) / sizeof(*list); i++)
			r = packet_add_membership(d->collect, &list[i], d->pb, e);
	return r;
}

static int packet_take(void *data, const void *message, const struct rtattr *a, size_t left, struct err *e)
{
	struct packet_dump *d = data;
	int r = 0;

	if (((const struct packet_diag_msg *)message)->pdiag_ino != d->view->st.st_ino)
		return 0;
	for (; r == 0 && RTA_OK(a, left); a = RTA_NEXT(a, left))
		r = packet_take_attribute(d, a, e);
	return r;
}

static int packet_diag(struct collect *c, const struct fd_view *v, Pb__PacketSocket *pb, struct err *e)
{
	const struct packet_diag_req request = {
		.sdiag_family = AF_PACKET,
		.pdiag_show = PACKET_SHOW_MCLIST | PACKET_SHOW_RING_CFG | PACKET_SHOW_FANOUT,
	};
	struct packet_dump dump = { c, v, pb };

	return sock_diag_dump(&request, sizeof(request), sizeof(struct packet_diag_msg), packet_take, &dump, "packet sockets",
			      e);
}

/* ---- dump ---- */

static int packet_socket_collect_address(struct collect *c, int fd, Pb__PacketSocket *pb, struct err *e)
{
	struct sockaddr_ll a = { 0 };
	socklen_t size = sizeof(a);
	char name[IF_NAMESIZE];

	if (getsockname(fd, (struct sockaddr *)&a, &size) < 0)
		return err_sys(e, errno, "getsockname");
	pb->protocol = ntohs(a.sll_protocol);
	if (a.sll_ifindex <= 0)
		return 0;
	if (!if_indextoname((unsigned)a.sll_ifindex, name))
		return err_sys(e, errno, "the name of network interface %d", a.sll_ifindex);
	pb->interface = arena_strdup(c->arena, name);
	return pb->interface ? 0 : err_nomem(e);
}

static int packet_socket_collect_options(struct collect *c, int fd, Pb__PacketSocket *pb, struct err *e)
{
	cleanup_privilege struct privilege p = privilege_raise(packet_privilege());
	const struct socket_sort sort = { AF_PACKET, (int)pb->type, 0 };

	return socket_options_collect(c, fd, sort, socket_options_of(pb), e);
}

static int packet_socket_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__PacketSocket *pb = (Pb__PacketSocket *)m;
	cleanup_close int fd = kind_steal(v, e);
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (fd < 0)
		return fd;
	if (!packet_privilege())
		return kind_refuse(c, v, "E-FD-PACKET", "save and restore it as root, or whoever has CAP_NET_RAW",
				   "captures packets, and you may not make it again");
	if (v->sort.type != SOCK_RAW && v->sort.type != SOCK_DGRAM)
		return kind_refuse(c, v, "E-FD-PACKET", help_close, "captures packets in an outdated way (SOCK_PACKET)");
	if (socket_options_filter(fd) == SOCKET_FILTER_UNREADABLE)
		return kind_refuse(c, v, "E-FD-FILTER", help_close,
				   "is a packet socket with a filter that cannot be read (SO_ATTACH_BPF)");
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->type = (uint32_t)v->sort.type;
	if (poll(&p, 1, 0) > 0)
		pb_set(pb, unread, true);
	if (packet_socket_collect_address(c, fd, pb, e) < 0 || packet_socket_collect_options(c, fd, pb, e) < 0)
		return -1;
	return packet_diag(c, v, pb, e);
}

/* ---- restore ---- */

static int packet_find_interface(const char *name, unsigned *ret, struct err *e)
{
	*ret = if_nametoindex(name);
	if (*ret)
		return 0;
	return err_state(e, "E-INTERFACE", 0, "a packet socket of the network interface %s, which is not there", name);
}

/* It is for no protocol yet, so that it captures nothing. */
static int packet_socket_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	cleanup_privilege struct privilege p = privilege_raise(packet_privilege());
	const Pb__PacketSocket *pb = (const Pb__PacketSocket *)m;
	cleanup_close int fd = -1;

	if ((pb->type != SOCK_RAW && pb->type != SOCK_DGRAM) || pb->protocol > UINT16_MAX)
		return err_set(e, ERR_IMAGE, 0, "a packet socket of type %u and protocol %u", pb->type, pb->protocol);
	fd = socket(AF_PACKET, (int)pb->type | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		err_sys(e, errno, "making a packet socket");
		return err_help(e, "restore it as root, or with CAP_NET_RAW");
	}
	if (pb->unread && kind_note(r, "N-PACKETS", "none is needed: packets may be lost",
				    "has lost what it had captured and the program had not read") < 0)
		return err_nomem(e);
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

static int packet_restore_membership(int fd, const Pb__PacketMembership *saved, struct err *e)
{
	struct packet_mreq request = { .mr_type = (unsigned short)saved->type };
	unsigned interface;

	if (packet_find_interface(saved->interface, &interface, e) < 0)
		return -1;
	if (saved->address.len > sizeof(request.mr_address))
		return err_set(e, ERR_IMAGE, 0, "a packet socket with an address of %zu bytes", saved->address.len);
	request.mr_ifindex = (int)interface;
	request.mr_alen = (unsigned short)saved->address.len;
	if (saved->address.len)
		memcpy(request.mr_address, saved->address.data, saved->address.len);
	for (uint32_t i = 0; i < saved->count && i < UINT16_MAX; i++)
		if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof(request)) < 0)
			return err_sys(e, errno, "PACKET_ADD_MEMBERSHIP at %s", saved->interface);
	return 0;
}

static int packet_socket_last(struct restore_objects *r, int fd, const ProtobufCMessage *m, struct err *e)
{
	const Pb__PacketSocket *pb = (const Pb__PacketSocket *)m;
	struct sockaddr_ll a = { .sll_family = AF_PACKET, .sll_protocol = htons((uint16_t)pb->protocol) };
	unsigned interface = 0;

	(void)r;
	if (socket_options_restore(fd, socket_options_of(pb), e) < 0)
		return -1;
	for (size_t i = 0; i < pb->n_memberships; i++)
		if (packet_restore_membership(fd, pb->memberships[i], e) < 0)
			return -1;
	if (pb->interface && packet_find_interface(pb->interface, &interface, e) < 0)
		return -1;
	a.sll_ifindex = (int)interface;
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return err_sys(e, errno, "binding a packet socket");
	return kind_set_status_flags(fd, pb->flags, e);
}

static void packet_socket_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__PacketSocket *pb = (const Pb__PacketSocket *)m;

	snprintf(buf, size, "protocol %#x at %s", pb->protocol, pb->interface ? pb->interface : "all interfaces");
}

const struct kind kind_packet_socket = {
	.name = "packet_socket",
	.tag = 33,
	.message = &pb__packet_socket__descriptor,
	.match = packet_socket_match,
	.collect = packet_socket_collect,
	.restore = packet_socket_restore,
	.last = packet_socket_last,
	.describe = packet_socket_describe,
};
