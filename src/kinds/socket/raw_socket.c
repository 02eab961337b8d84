/* SPDX-License-Identifier: Apache-2.0 */

/*
 * ICMP sockets ("ping") and raw ones. What they have received and the program has
 * not read is lost: nobody can let them receive it again, and they are made for a
 * network that loses packets.
 *
 * A raw socket comes back for whoever could have opened it without torpor.
 */

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "kinds/kind.h"
#include "kinds/socket/inet_socket.h"
#include "kinds/socket/socket_options.h"
#include "util/fd.h"
#include "util/privilege.h"

static bool raw_is_known(int domain, int type, int protocol)
{
	if (domain != AF_INET && domain != AF_INET6)
		return false;
	return type == SOCK_RAW ||
	       (type == SOCK_DGRAM && protocol == (domain == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6));
}

static bool raw_socket_match(const struct fd_view *v)
{
	return raw_is_known(v->sort.domain, v->sort.type, v->sort.protocol);
}

/* What the caller may do without torpor, and no more. */
static uint64_t raw_privilege(uint32_t type)
{
	return type == SOCK_RAW ? PRIVILEGE(CAP_NET_RAW) & privilege_grantable() : 0;
}

/* ---- dump ---- */

/* Returns 1 when it can be saved. */
static int raw_socket_check(struct collect *c, const struct fd_view *v, int fd)
{
	static const char help_close[] = "let the program close it, then try again";

	if (v->sort.type == SOCK_RAW && !raw_privilege(SOCK_RAW))
		return kind_refuse(c, v, "E-FD-RAW", "save and restore it as root, or whoever has CAP_NET_RAW",
				   "is a raw socket (protocol %d), which you may not make again", v->sort.protocol);
	if (v->sort.type == SOCK_RAW && v->sort.protocol == IPPROTO_IGMP)
		return kind_refuse(c, v, "E-FD-RAW", help_close,
				   "is a raw socket of IGMP: torpor cannot see whether it routes multicast");
	if (socket_options_filter(fd) == SOCKET_FILTER_UNREADABLE)
		return kind_refuse(c, v, "E-FD-FILTER", help_close,
				   "is a raw socket with a packet filter that cannot be read (SO_ATTACH_BPF)");
	return 1;
}

/* "0100007F" or four of these: words in the order of this machine, of bytes in that of the network. */
static bool raw_parse_address(const char *text, int family, struct sockaddr_storage *ret)
{
	size_t n = family == AF_INET ? 1 : 4;
	uint32_t words[4];

	if (strlen(text) != n * 8)
		return false;
	for (size_t i = 0; i < n; i++) {
		char word[9] = "";

		memcpy(word, text + i * 8, 8);
		words[i] = (uint32_t)strtoul(word, NULL, 16);
	}
	*ret = (struct sockaddr_storage){ .ss_family = (sa_family_t)family };
	memcpy(family == AF_INET ? (void *)&((struct sockaddr_in *)ret)->sin_addr :
				   (void *)&((struct sockaddr_in6 *)ret)->sin6_addr, words, n * sizeof(*words));
	return true;
}

/* "  1: 0100007F:0001 0100007F:0000 01 ...": of the socket with this inode, whom it is connected to. */
static bool raw_find_remote(const char *text, uint64_t ino, int family, struct sockaddr_storage *ret)
{
	for (const char *line = text; *line; line = *line ? line + 1 : line) {
		char remote[33] = "";
		unsigned state;
		uint64_t of;

		if (sscanf(line, " %*u: %*[0-9A-F]:%*x %32[0-9A-F]:%*x %x %*s %*s %*s %*u %*u %lu", remote, &state, &of) == 3 &&
		    of == ino)
			return state == 1 && raw_parse_address(remote, family, ret);
		line = strchrnul(line, '\n');
	}
	return false;
}

/* getpeername(2) does not tell of a peer without a port, and these have none. */
static int raw_socket_collect_remote(struct collect *c, const struct fd_view *v, Pb__InetSocket *pb, struct err *e)
{
	const char *name = pb->type == SOCK_RAW ? (pb->family == AF_INET ? "/proc/self/net/raw" : "/proc/self/net/raw6")
						: (pb->family == AF_INET ? "/proc/self/net/icmp" : "/proc/self/net/icmp6");
	cleanup_close int file = open(name, O_RDONLY | O_CLOEXEC);
	struct sockaddr_storage remote;
	char *text;
	int r = file < 0 ? -errno : fd_read_all(file, c->arena, &text, NULL);

	if (r < 0)
		return err_sys(e, r, "reading %s", name);
	if (!raw_find_remote(text, v->st.st_ino, v->sort.domain, &remote))
		return 0;
	return pb_set_bytes(c->arena, pb, remote, &remote, inet_address_size(&remote)) ? 0 : err_nomem(e);
}

static int raw_socket_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__InetSocket *pb = (Pb__InetSocket *)m;
	cleanup_close int fd = kind_steal(v, e);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int r;

	if (fd < 0)
		return fd;
	r = raw_socket_check(c, v, fd);
	if (r <= 0)
		return r;
	if (poll(&p, 1, 0) > 0)
		pb_set(pb, unread, true);
	if (inet_socket_collect(c, v, fd, pb, e) < 0)
		return -1;
	return pb->has_remote ? 0 : raw_socket_collect_remote(c, v, pb, e);
}

/* ---- restore ---- */

static int raw_socket_make(struct restore_objects *r, const Pb__InetSocket *pb, const struct inet_socket_ends *ends,
			   struct err *e)
{
	cleanup_privilege struct privilege p = privilege_raise(raw_privilege(pb->type));
	int fd = inet_socket_make(r, pb, ends, e);

	if (fd < 0 && e->reason == ERR_PERMISSION)
		return err_help(e, pb->type == SOCK_RAW ? "restore it as root, or with CAP_NET_RAW" :
				"permit it: net.ipv4.ping_group_range");
	return fd;
}

static int raw_socket_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__InetSocket *pb = (const Pb__InetSocket *)m;
	cleanup_close int fd = -1;
	struct inet_socket_ends ends;

	if (!raw_is_known((int)pb->family, (int)pb->type, (int)pb->protocol))
		return err_set(e, ERR_IMAGE, 0, "a raw socket of family %u, type %u, protocol %u", pb->family, pb->type,
			       pb->protocol);
	if (inet_socket_read(pb, &ends, e) < 0)
		return -1;
	fd = raw_socket_make(r, pb, &ends, e);
	if (fd < 0)
		return -1;
	if (pb->unread && kind_note(r, "N-PACKETS", "none is needed: packets may be lost",
				    "has lost what it had received and the program had not read") < 0)
		return err_nomem(e);
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

const struct kind kind_raw_socket = {
	.name = "raw_socket",
	.tag = 31,
	.message = &pb__inet_socket__descriptor,
	.match = raw_socket_match,
	.collect = raw_socket_collect,
	.restore = raw_socket_restore,
	.last = inet_socket_last,
	.describe = inet_socket_describe,
};
