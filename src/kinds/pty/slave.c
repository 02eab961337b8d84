/* SPDX-License-Identifier: Apache-2.0 */

/* Slaves of pseudo-terminals whose master is in the tree, or closed. The master has what the pair shares. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <termios.h>

#include "kinds/kind.h"
#include "kinds/pty/pty.h"
#include "sys/tty.h"
#include "util/fd.h"

static bool pty_slave_match(const struct fd_view *v)
{
	return v->pty && v->terminal;
}

static int pty_slave_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__PtySlave *pb = (Pb__PtySlave *)m;
	cleanup_close int fd = kind_steal(v, e);
	int flags;

	(void)c;
	if (fd < 0)
		return fd;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return err_sys(e, errno, "F_GETFL");
	pb->flags = (unsigned)flags;
	pb->index = v->pty->index;
	pb_set(pb, by_tty, v->st.st_rdev == makedev(5, 0));
	if (v->pty->master) {
		pb_set(pb, master, v->pty->master->object);
		pb_set(pb, exclusive, sys_tty_number(fd, TIOCGEXCL) == 1);
	}
	return 0;
}

static int pty_slave_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__PtySlave *pb = (const Pb__PtySlave *)m;
	int master = pb->has_master ? pty_pair(r, pb->master, e) : pty_doomed_pair(r, pb->index, e);
	cleanup_close int fd = master < 0 ? -1 : pty_open_slave(master, pb->flags, pb->by_tty, e);

	if (fd < 0 || kind_set_status_flags(fd, pb->flags, e) < 0)
		return -1;
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

/* From here on nobody else can open it. */
static int pty_slave_last(struct restore_objects *r, int fd, const ProtobufCMessage *m, struct err *e)
{
	(void)r;
	if (((const Pb__PtySlave *)m)->exclusive && ioctl(fd, TIOCEXCL) < 0)
		return err_sys(e, errno, "TIOCEXCL");
	return 0;
}

static void pty_slave_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__PtySlave *pb = (const Pb__PtySlave *)m;

	snprintf(buf, size, "/dev/pts/%u%s%s", pb->index, pb->by_tty ? ", as /dev/tty" : "",
		 pb->has_master ? "" : ", hung up");
}

const struct kind kind_pty_slave = {
	.name = "pty_slave",
	.tag = 23,
	.message = &pb__pty_slave__descriptor,
	.match = pty_slave_match,
	.collect = pty_slave_collect,
	.restore = pty_slave_restore,
	.last = pty_slave_last,
	.describe = pty_slave_describe,
};
