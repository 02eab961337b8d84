/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Netlink sockets, by which programs ask the kernel about the network and hear
 * what changes in it. What the kernel has said and the program has not read
 * cannot be said again in its name, so that is refused; it is read in no time by
 * whoever waits for it.
 *
 * Only protocols behind whose sockets the kernel keeps no state of its own. What
 * happens while the program sleeps, it is not told.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "kinds/kind.h"
#include "kinds/socket/socket_options.h"
#include "util/fd.h"
#include "util/privilege.h"

enum { NETLINK_GROUP_WORDS = 64 }; /* of 32 groups each: more than any protocol has */

/* Those that have no more state than is seen here. */
static const struct {
	int number;
	const char *name;
} netlink_protocols[] = {
	{ NETLINK_ROUTE, "route" },
	{ NETLINK_USERSOCK, "usersock" },
	{ NETLINK_SOCK_DIAG, "sock_diag" },
	{ NETLINK_KOBJECT_UEVENT, "uevent" },
	{ NETLINK_GENERIC, "generic" },
};

static const char *netlink_protocol(int number)
{
	for (size_t i = 0; i < sizeof(netlink_protocols) / sizeof(*netlink_protocols); i++)
		if (netlink_protocols[i].number == number)
			return netlink_protocols[i].name;
	return NULL;
}

static bool netlink_socket_match(const struct fd_view *v)
{
	return v->sort.domain == AF_NETLINK;
}

/* ---- dump ---- */

/* Returns 1 when it can be saved. */
static int netlink_socket_check(struct collect *c, const struct fd_view *v, int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (!netlink_protocol(v->sort.protocol))
		return kind_refuse(c, v, "E-FD-NETLINK", "let the program close it, then try again",
				   "is a netlink socket of protocol %d, behind which the kernel may keep state",
				   v->sort.protocol);
	if (socket_options_filter(fd) == SOCKET_FILTER_UNREADABLE)
		return kind_refuse(c, v, "E-FD-FILTER", "let the program close it, then try again",
				   "is a netlink socket with a packet filter that cannot be read (SO_ATTACH_BPF)");
	if (poll(&p, 1, 0) > 0 && (p.revents & (POLLIN | POLLERR)))
		return kind_refuse(c, v, "E-FD-NETLINK-UNREAD", "let the program read it, then try again",
				   "is a netlink socket with unread messages of the kernel");
	return 1;
}

static int netlink_socket_collect_addresses(int fd, Pb__NetlinkSocket *pb, struct err *e)
{
	struct sockaddr_nl a = { 0 };
	socklen_t size = sizeof(a);

	if (getsockname(fd, (struct sockaddr *)&a, &size) < 0)
		return err_sys(e, errno, "getsockname");
	if (a.nl_pid)
		pb_set(pb, port, a.nl_pid);
	size = sizeof(a);
	if (getpeername(fd, (struct sockaddr *)&a, &size) < 0)
		return err_sys(e, errno, "getpeername");
	if (!a.nl_pid && !a.nl_groups) /* the kernel: where everything goes that is not sent elsewhere */
		return 0;
	pb_set(pb, remote_port, a.nl_pid);
	pb_set(pb, remote_groups, a.nl_groups);
	return 0;
}

/* The kernel says how many bytes it would have filled. */
static int netlink_socket_collect_groups(struct collect *c, int fd, Pb__NetlinkSocket *pb, struct err *e)
{
	uint32_t words[NETLINK_GROUP_WORDS] = { 0 };
	socklen_t size = sizeof(words);

	if (getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, words, &size) < 0)
		return err_sys(e, errno, "NETLINK_LIST_MEMBERSHIPS");
	if (size > sizeof(words))
		return err_set(e, ERR_SYSTEM, 0, "a netlink protocol with %u groups", size * 8);
	for (uint32_t group = 0; group < NETLINK_GROUP_WORDS * 32; group++)
		if ((words[group / 32] & 1u << group % 32) && !pb_add(c->arena, pb, groups, group + 1))
			return err_nomem(e);
	return 0;
}

static int netlink_socket_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__NetlinkSocket *pb = (Pb__NetlinkSocket *)m;
	cleanup_close int fd = kind_steal(v, e);
	int r;

	if (fd < 0)
		return fd;
	r = netlink_socket_check(c, v, fd);
	if (r <= 0)
		return r;
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->type = (uint32_t)v->sort.type;
	pb->protocol = (uint32_t)v->sort.protocol;
	if (netlink_socket_collect_addresses(fd, pb, e) < 0 || netlink_socket_collect_groups(c, fd, pb, e) < 0)
		return -1;
	return socket_options_collect(c, fd, v->sort, socket_options_of(pb), e);
}

/* ---- restore ---- */

static int netlink_socket_address(int fd, const Pb__NetlinkSocket *pb, struct err *e)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_pid = pb->port };

	if (pb->has_port && bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		if (errno != EADDRINUSE)
			return err_sys(e, errno, "binding a netlink socket to port %u", pb->port);
		err_state(e, "E-NETLINK-PORT", errno, "binding a netlink socket to port %u", pb->port);
		return err_help(e, "end the program that has this port, which is usually its PID");
	}
	if (!pb->has_remote_port)
		return 0;
	a.nl_pid = pb->remote_port;
	a.nl_groups = pb->remote_groups;
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return err_sys(e, errno, "connecting a netlink socket to port %u", pb->remote_port);
	return 0;
}

/* Some protocols permit some groups only to the privileged: to the caller, not to torpor. */
static int netlink_socket_join(int fd, const Pb__NetlinkSocket *pb, struct err *e)
{
	cleanup_privilege struct privilege p = privilege_raise(PRIVILEGE(CAP_NET_ADMIN) & privilege_grantable());

	for (size_t i = 0; i < pb->n_groups; i++)
		if (setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &pb->groups[i], sizeof(int)) < 0)
			return err_sys(e, errno, "joining netlink group %u of protocol %u", pb->groups[i], pb->protocol);
	return 0;
}

static int netlink_socket_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__NetlinkSocket *pb = (const Pb__NetlinkSocket *)m;
	cleanup_close int fd = -1;

	if ((pb->type != SOCK_RAW && pb->type != SOCK_DGRAM) || !netlink_protocol((int)pb->protocol))
		return err_set(e, ERR_IMAGE, 0, "a netlink socket of type %u and protocol %u", pb->type, pb->protocol);
	fd = socket(AF_NETLINK, (int)pb->type | SOCK_CLOEXEC, (int)pb->protocol);
	if (fd < 0)
		return err_sys(e, errno, "making a netlink socket of protocol %u", pb->protocol);
	if (netlink_socket_address(fd, pb, e) < 0)
		return -1;
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

/* It hears nothing before its filter and options are set, and the program is there. */
static int netlink_socket_last(struct restore_objects *r, int fd, const ProtobufCMessage *m, struct err *e)
{
	const Pb__NetlinkSocket *pb = (const Pb__NetlinkSocket *)m;

	(void)r;
	if (socket_options_restore(fd, socket_options_of(pb), e) < 0 || netlink_socket_join(fd, pb, e) < 0)
		return -1;
	return kind_set_status_flags(fd, pb->flags, e);
}

static void netlink_socket_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__NetlinkSocket *pb = (const Pb__NetlinkSocket *)m;
	const char *name = netlink_protocol((int)pb->protocol);
	int used = snprintf(buf, size, "%s", name ? name : "?");

	if (pb->has_port)
		used += snprintf(buf + used, size - (size_t)used, ", port %u", pb->port);
	if (pb->n_groups)
		snprintf(buf + used, size - (size_t)used, ", %zu groups", pb->n_groups);
}

const struct kind kind_netlink_socket = {
	.name = "netlink_socket",
	.tag = 32,
	.message = &pb__netlink_socket__descriptor,
	.match = netlink_socket_match,
	.collect = netlink_socket_collect,
	.restore = netlink_socket_restore,
	.last = netlink_socket_last,
	.describe = netlink_socket_describe,
};
