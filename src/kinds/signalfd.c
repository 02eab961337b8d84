/* SPDX-License-Identifier: Apache-2.0 */

/* signalfd(2): a set of signals. The signals themselves are pending in the tasks. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "util/fd.h"

static bool signalfd_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[signalfd]") == 0;
}

static int signalfd_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__Signalfd *pb = (Pb__Signalfd *)m;

	(void)c, (void)e;
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->mask = v->info.sigmask;
	return 0;
}

static int signalfd_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Signalfd *pb = (const Pb__Signalfd *)m;
	/* By system call: libc's takes a set of its own size, and hides the signals that it uses itself. */
	cleanup_close int fd = (int)syscall(SYS_signalfd4, -1, &pb->mask, sizeof(pb->mask), O_CLOEXEC);

	if (fd < 0)
		return err_sys(e, errno, "signalfd");
	if (kind_set_status_flags(fd, pb->flags, e) < 0)
		return -1;
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

static void signalfd_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	snprintf(buf, size, "signals %016lx", ((const Pb__Signalfd *)m)->mask);
}

const struct kind kind_signalfd = {
	.name = "signalfd",
	.tag = 12,
	.message = &pb__signalfd__descriptor,
	.match = signalfd_match,
	.collect = signalfd_collect,
	.restore = signalfd_restore,
	.describe = signalfd_describe,
};
