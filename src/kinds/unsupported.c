/* SPDX-License-Identifier: Apache-2.0 */

/* Everything that no other kind takes: say what it is, and what would help. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "kinds/kind.h"
#include "kinds/peer.h"
#include "util/fd.h"

static bool unsupported_match(const struct fd_view *v)
{
	(void)v;
	return true;
}

static const char help_close[] = "let the program close it, then try again";

/* ---- known by the text of the link ---- */

static const struct unsupported_link {
	const char *start, *id, *what, *help;
} unsupported_links[] = {
	{ "anon_inode:[io_uring]", "E-FD-IO-URING", "is an io_uring instance",
	  "start the program with io_uring switched off, if it can be" },
	{ "anon_inode:[userfaultfd]", "E-FD-USERFAULTFD", "handles page faults (userfaultfd)", help_close },
	{ "anon_inode:[perf_event]", "E-FD-PERF", "is a performance counter (perf_event)", "stop the profiler" },
	{ "anon_inode:bpf", "E-FD-BPF", "is a BPF object", help_close },
	{ "anon_inode:btf", "E-FD-BPF", "is a BPF object", help_close },
	{ "anon_inode:kvm", "E-FD-KVM", "is a virtual machine (KVM)", "shut the virtual machine down" },
	{ "anon_inode:[landlock", "E-FD-LANDLOCK", "is a Landlock ruleset", help_close },
	{ "anon_inode:seccomp", "E-FD-SECCOMP", "supervises system calls (seccomp)", help_close },
	{ "anon_inode:[fscontext]", "E-FD-MOUNT", "is a file system being mounted", help_close },
	{ "anon_inode:", "E-FD-ANON", "is a kernel object that torpor does not know", help_close },
	{ "/secretmem (deleted)", "E-FD-SECRETMEM", "is secret memory (memfd_secret)", help_close },
	{ "/dmabuf:", "E-FD-DMABUF", "is a buffer shared with a device (dma-buf)", help_close },
	{ "mnt:[", "E-FD-NAMESPACE", "is a namespace", help_close },
	{ "net:[", "E-FD-NAMESPACE", "is a namespace", help_close },
	{ "pid:[", "E-FD-NAMESPACE", "is a namespace", help_close },
	{ "pid_for_children:[", "E-FD-NAMESPACE", "is a namespace", help_close },
	{ "user:[", "E-FD-NAMESPACE", "is a namespace", help_close },
	{ "uts:[", "E-FD-NAMESPACE", "is a namespace", help_close },
	{ "ipc:[", "E-FD-NAMESPACE", "is a namespace", help_close },
	{ "time", "E-FD-NAMESPACE", "is a namespace", help_close },
	{ "cgroup:[", "E-FD-NAMESPACE", "is a namespace", help_close },
};

static const struct unsupported_link *unsupported_find_link(const char *link)
{
	for (size_t i = 0; i < sizeof(unsupported_links) / sizeof(*unsupported_links); i++)
		if (strncmp(link, unsupported_links[i].start, strlen(unsupported_links[i].start)) == 0)
			return &unsupported_links[i];
	return NULL;
}

/* ---- sockets ---- */

enum { UNSUPPORTED_MPTCP = 262 }; /* IPPROTO_MPTCP, which not every libc knows */

static void unsupported_print_address(const struct sockaddr_storage *a, socklen_t size, char *buf, size_t room)
{
	const struct sockaddr_in *v4 = (const void *)a;
	const struct sockaddr_in6 *v6 = (const void *)a;
	char host[INET6_ADDRSTRLEN];

	snprintf(buf, room, "no address");
	if (a->ss_family == AF_INET && size >= sizeof(*v4)) {
		inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
		snprintf(buf, room, "%s:%u", host, ntohs(v4->sin_port));
	} else if (a->ss_family == AF_INET6 && size >= sizeof(*v6)) {
		inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
		snprintf(buf, room, "[%s]:%u", host, ntohs(v6->sin6_port));
	}
}

/* "from ADDRESS to ADDRESS", as far as it has any. */
static void unsupported_addresses(int fd, char *buf, size_t room)
{
	struct sockaddr_storage local = { 0 }, remote = { 0 };
	socklen_t n_local = sizeof(local), n_remote = sizeof(remote);
	char from[160], to[160];

	buf[0] = '\0';
	if (getsockname(fd, (struct sockaddr *)&local, &n_local) < 0)
		return;
	unsupported_print_address(&local, n_local, from, sizeof(from));
	snprintf(buf, room, ", %s", from);
	if (getpeername(fd, (struct sockaddr *)&remote, &n_remote) < 0)
		return;
	unsupported_print_address(&remote, n_remote, to, sizeof(to));
	snprintf(buf, room, ", from %s to %s", from, to);
}

static int unsupported_option(int fd, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? -1 : value;
}

static int unsupported_inet(struct collect *c, const struct fd_view *v, int fd, const char *addresses)
{
	int protocol = unsupported_option(fd, SO_PROTOCOL), type = unsupported_option(fd, SO_TYPE);

	if (protocol == UNSUPPORTED_MPTCP)
		return kind_refuse(c, v, "E-FD-MPTCP", "start the program with plain TCP (for Go: GODEBUG=multipathtcp=0)",
				   "is a Multipath TCP socket%s", addresses);
	if (type == SOCK_DGRAM)
		return kind_refuse(c, v, "E-FD-UDP", help_close, "is a UDP socket (protocol %d%s)", protocol, addresses);
	return kind_refuse(c, v, "E-FD-INET", help_close, "is an internet socket of protocol %d%s", protocol, addresses);
}

static int unsupported_socket(struct collect *c, const struct fd_view *v, struct err *e)
{
	cleanup_close int fd = kind_steal(v, e);
	char addresses[400];
	int domain;

	if (fd < 0)
		return fd;
	domain = unsupported_option(fd, SO_DOMAIN);
	unsupported_addresses(fd, addresses, sizeof(addresses));
	if (domain == AF_INET || domain == AF_INET6)
		return unsupported_inet(c, v, fd, addresses);
	if (domain == AF_UNIX)
		return kind_refuse(c, v, "E-FD-UNIX", help_close, "is a unix socket of another network namespace");
	if (domain == AF_NETLINK)
		return kind_refuse(c, v, "E-FD-NETLINK", help_close, "is a netlink socket (protocol %d)",
				   unsupported_option(fd, SO_PROTOCOL));
	if (domain == AF_PACKET)
		return kind_refuse(c, v, "E-FD-PACKET", help_close, "captures packets");
	return kind_refuse(c, v, "E-FD-SOCKET", help_close, "is a socket of family %d", domain);
}

/* ---- devices and the rest ---- */

static int unsupported_device(struct collect *c, const struct fd_view *v)
{
	bool block = S_ISBLK(v->st.st_mode);

	return kind_refuse(c, v, "E-FD-DEVICE", help_close, "is a device (%s %u:%u) whose state torpor cannot read",
			   block ? "block" : "character", major(v->st.st_rdev), minor(v->st.st_rdev));
}

static int unsupported_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	const struct unsupported_link *known = unsupported_find_link(v->link);

	(void)m;
	if (v->peer_outside)
		return peer_refuse(c, v, "end that process, or save a tree that includes it");
	if (S_ISSOCK(v->st.st_mode))
		return unsupported_socket(c, v, e);
	if (S_ISCHR(v->st.st_mode) || S_ISBLK(v->st.st_mode))
		return unsupported_device(c, v);
	if (known)
		return kind_refuse(c, v, known->id, known->help, "%s", known->what);
	return kind_refuse(c, v, "E-FD-UNKNOWN", help_close, "is of a kind that torpor does not know (mode %#o)",
			   v->st.st_mode);
}

/* No image that torpor writes holds one. */
static int unsupported_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	(void)r, (void)m;
	return err_set(e, ERR_IMAGE, 0, "the image holds an object of no supported kind");
}

const struct kind kind_unsupported = {
	.name = "unsupported",
	.tag = 255,
	.message = &pb__outside__descriptor, /* never filled */
	.match = unsupported_match,
	.collect = unsupported_collect,
	.restore = unsupported_restore,
};
