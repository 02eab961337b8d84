/* SPDX-License-Identifier: Apache-2.0 */

/* Everything that no other kind takes: say what it is, and what would help. */

#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "kinds/kind.h"
#include "kinds/peer.h"
#include "kinds/socket/inet_address.h"
#include "kinds/unsupported.h"
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

const char *unsupported_by_link(const char *link, const struct stat *st, const char **ret_what)
{
	const struct fd_view v = { .link = link, .st = *st, .stream = -1, .carrier = VIEW_IN_TASK };
	const struct unsupported_link *known = unsupported_find_link(link);
	size_t i = 0;

	if (S_ISSOCK(st->st_mode) || strncmp(link, "/dev/pts/", 9) == 0 || strncmp(link, "/dev/tty", 8) == 0)
		return NULL; /* only its other end tells */
	while (kinds[i] && !kinds[i]->match(&v))
		i++;
	if (kinds[i] != &kind_unsupported)
		return NULL;
	*ret_what = known ? known->what : "is a device with state of its own";
	return known ? known->id : "E-FD-DEVICE";
}

/* ---- sockets ---- */

enum { UNSUPPORTED_MPTCP = 262 }; /* IPPROTO_MPTCP, which not every libc knows */

/* Families and, of the internet, protocols: what a program would call them. */
static const struct unsupported_name {
	int number;
	const char *name;
} unsupported_families[] = {
	{ AF_AX25, "AX.25 (amateur radio)" },
	{ AF_X25, "X.25" },
	{ AF_KEY, "IPsec keys (AF_KEY)" },
	{ AF_PPPOX, "PPP (AF_PPPOX)" },
	{ AF_LLC, "LLC" },
	{ AF_CAN, "CAN buses (AF_CAN)" },
	{ AF_TIPC, "TIPC" },
	{ AF_BLUETOOTH, "Bluetooth" },
	{ AF_RXRPC, "RxRPC" },
	{ AF_PHONET, "Phonet" },
	{ AF_IEEE802154, "IEEE 802.15.4" },
	{ AF_ALG, "the kernel's cryptography (AF_ALG)" },
	{ AF_NFC, "NFC" },
	{ AF_VSOCK, "virtual machines and their host (AF_VSOCK)" },
	{ AF_KCM, "the kernel's connection multiplexor (AF_KCM)" },
	{ AF_QIPCRTR, "Qualcomm's IPC router (AF_QIPCRTR)" },
	{ AF_SMC, "SMC" },
	{ AF_XDP, "packets past the kernel (AF_XDP)" },
}, unsupported_protocols[] = {
	{ IPPROTO_SCTP, "SCTP" },
	{ IPPROTO_DCCP, "DCCP" },
	{ 115, "L2TP" },
	{ 256, "SMC" }, /* IPPROTO_SMC */
};

static const char *unsupported_find_name(const struct unsupported_name *names, size_t n, int number)
{
	for (size_t i = 0; i < n; i++)
		if (names[i].number == number)
			return names[i].name;
	return NULL;
}

#define unsupported_name(names, number) unsupported_find_name(names, sizeof(names) / sizeof(*(names)), number)

/* "at ADDRESS, to ADDRESS", as far as it has any. */
static void unsupported_addresses(int fd, char *buf, size_t room)
{
	struct sockaddr_storage local = { 0 }, remote = { 0 };
	socklen_t n_local = sizeof(local), n_remote = sizeof(remote);
	char from[INET_ADDRESS_TEXT], to[INET_ADDRESS_TEXT];

	buf[0] = '\0';
	if (getsockname(fd, (struct sockaddr *)&local, &n_local) < 0)
		return;
	if (getpeername(fd, (struct sockaddr *)&remote, &n_remote) < 0)
		snprintf(buf, room, ", at %s", inet_address_text(&local, from));
	else
		snprintf(buf, room, ", from %s to %s", inet_address_text(&local, from), inet_address_text(&remote, to));
}

static int unsupported_inet(struct collect *c, const struct fd_view *v, struct err *e)
{
	const char *name = unsupported_name(unsupported_protocols, v->sort.protocol);
	cleanup_close int fd = kind_steal(v, e);
	char addresses[2 * INET_ADDRESS_TEXT + 16];

	if (fd < 0)
		return fd;
	unsupported_addresses(fd, addresses, sizeof(addresses));
	if (v->sort.protocol == UNSUPPORTED_MPTCP)
		return kind_refuse(c, v, "E-FD-MPTCP", "start the program with plain TCP (for Go: GODEBUG=multipathtcp=0)",
				   "is a Multipath TCP socket%s", addresses);
	if (name)
		return kind_refuse(c, v, "E-FD-INET", help_close, "is a socket of %s%s", name, addresses);
	return kind_refuse(c, v, "E-FD-INET", help_close, "is an internet socket of protocol %d%s", v->sort.protocol, addresses);
}

static int unsupported_socket(struct collect *c, const struct fd_view *v, struct err *e)
{
	const char *name = unsupported_name(unsupported_families, v->sort.domain);

	if (v->sort.domain == AF_INET || v->sort.domain == AF_INET6)
		return unsupported_inet(c, v, e);
	if (v->sort.domain == AF_UNIX)
		return kind_refuse(c, v, "E-FD-UNIX", help_close, "is a unix socket of another network namespace");
	if (name)
		return kind_refuse(c, v, "E-FD-SOCKET", help_close, "is a socket for %s", name);
	return kind_refuse(c, v, "E-FD-SOCKET", help_close, "is a socket of family %d", v->sort.domain);
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
