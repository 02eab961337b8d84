/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Masters of pseudo-terminals, and with them all that a pair has. A master can
 * be opened only once, so each is one object.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>

#include "kinds/kind.h"
#include "kinds/pty/pty.h"
#include "kinds/pty/queue.h"
#include "sys/tty.h"
#include "util/fd.h"
#include "util/privilege.h"

static bool pty_master_match(const struct fd_view *v)
{
	return v->pty && !v->terminal;
}

/* ---- dump ---- */

/* Both ends; slave -1: the tree holds none. */
struct pty_fds {
	int master, slave;
};

static void pty_fds_closep(struct pty_fds *fds)
{
	fd_closep(&fds->master);
	fd_closep(&fds->slave);
}

/* Obstacles. Returns 1 when there is none, 0 when one was reported. */
static int pty_master_check(struct collect *c, const struct fd_view *v, const struct pty_fds *fds)
{
	int discipline = sys_tty_number(fds->slave >= 0 ? fds->slave : fds->master, TIOCGETD);
	struct pollfd p = { .fd = fds->master, .events = POLLPRI };
	int r = 1;

	if (discipline != N_TTY)
		r = kind_refuse(c, v, "E-FD-PTY-LINE", "let the program end the connection on it",
				"is the master of a terminal with line discipline %d", discipline);
	else if ((v->info.flags & O_ACCMODE) != O_RDWR)
		r = kind_refuse(c, v, "E-FD-PTY-MODE", "let the program close it",
				"is the master of a terminal, but not open for reading and writing");
	else if (poll(&p, 1, 0) > 0 && (p.revents & POLLPRI))
		r = kind_refuse(c, v, "E-FD-PTY-PACKET", "try again when the program has read it",
				"is the master of a terminal in packet mode, with an unread event");
	return r;
}

static int pty_master_collect_modes(struct collect *c, const struct pty_fds *fds, Pb__PtyMaster *pb,
				    struct err *e)
{
	uint8_t locked[SYS_TERMIOS_SIZE], none[SYS_TERMIOS_SIZE] = { 0 };
	struct sys_termios2 modes;
	struct winsize size;
	int r = sys_tty_modes(fds->master, &modes);

	if (r == 0)
		r = sys_tty_locked_modes(fds->master, locked);
	if (r == 0)
		r = (int)SYS_RESULT(ioctl(fds->master, TIOCGWINSZ, &size));
	if (r < 0)
		return err_sys(e, r, "asking for its modes");
	pb->termios.len = sizeof(modes);
	pb->termios.data = arena_memdup(c->arena, &modes, sizeof(modes));
	if (!pb->termios.data)
		return err_nomem(e);
	if (memcmp(locked, none, sizeof(none)) != 0 &&
	    !pb_set_bytes(c->arena, pb, locked_termios, locked, sizeof(locked)))
		return err_nomem(e);
	pb_set(pb, rows, size.ws_row);
	pb_set(pb, columns, size.ws_col);
	pb_set(pb, width, size.ws_xpixel);
	pb_set(pb, height, size.ws_ypixel);
	pb_set(pb, packet, sys_tty_number(fds->master, TIOCGPKT) == 1);
	pb_set(pb, locked, sys_tty_number(fds->master, TIOCGPTLCK) == 1);
	pb_set(pb, exclusive, sys_tty_number(fds->master, TIOCGEXCL) == 1);
	return 0;
}

/* The node, wherever it is mounted, is only known by a slave that is open; by its usual name, else. */
static void pty_master_collect_node(const struct fd_view *v, Pb__PtyMaster *pb)
{
	struct stat st;
	char path[32];

	snprintf(path, sizeof(path), "/dev/pts/%u", v->pty->index);
	if (stat(path, &st) < 0 || !S_ISCHR(st.st_mode) || minor(st.st_rdev) != v->pty->index)
		return;
	pb_set(pb, mode, st.st_mode);
	pb_set(pb, uid, st.st_uid);
	pb_set(pb, gid, st.st_gid);
}

/* A session outside the tree does not get it back. */
static void pty_master_collect_session(const struct collect *c, const struct pty_fds *fds, Pb__PtyMaster *pb)
{
	int session = sys_tty_number(fds->master, TIOCGSID), group = sys_tty_number(fds->master, TIOCGPGRP);

	if (session <= 0 || !target_find(c->tree, session))
		return;
	pb_set(pb, session, session);
	if (group > 0)
		pb_set(pb, foreground, group);
}

static int pty_master_store_queue(struct collect *c, const struct pty_queue *q, Pb__PtyMaster *pb,
				  struct err *e)
{
	size_t from = 0;

	for (size_t i = 0; i < q->n_lines; i++) {
		size_t size = q->line_ends[i] - from;
		ProtobufCBinaryData line = { .len = size,
					     .data = arena_memdup(c->arena, q->input + from, size) };

		if (!line.data || !pb_add(c->arena, pb, lines, line))
			return err_nomem(e);
		from = q->line_ends[i];
	}
	if (q->n_input > from && !pb_set_bytes(c->arena, pb, input, q->input + from, q->n_input - from))
		return err_nomem(e);
	if (q->n_output && !pb_set_bytes(c->arena, pb, output, q->output, q->n_output))
		return err_nomem(e);
	if (q->stopped)
		pb_set(pb, stopped, q->stopped);
	return 0;
}

/*
 * What waits in it. To look there takes a slave, and to open one that nobody has
 * open is only harmless when that has happened before: the master shows it by
 * POLLHUP.
 */
static int pty_master_collect_queue(struct collect *c, const struct fd_view *v, const struct pty_fds *fds,
				    Pb__PtyMaster *pb, struct err *e)
{
	struct pollfd p = { .fd = fds->master, .events = POLLIN };
	cleanup_pty_queue struct pty_queue *q = NULL;

	if (poll(&p, 1, 0) < 0)
		return err_sys(e, errno, "poll");
	pb_set(pb, opened, fds->slave >= 0 || (p.revents & POLLHUP));
	if (!pb->opened || (fds->slave < 0 && pb->locked)) {
		if (!(p.revents & POLLIN) || sys_tty_number(fds->master, FIONREAD) == 0)
			return 0;
		return kind_refuse(c, v, "E-FD-PTY-QUEUE", "let the program read it, or open the slave",
				   "is the master of a terminal with unread output, "
				   "whose slave torpor cannot open");
	}
	if (pty_queue_peek(fds->master, fds->slave, &q, e) < 0)
		return -1;
	return q ? pty_master_store_queue(c, q, pb, e) : 0;
}

static int pty_master_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	__attribute__((cleanup(pty_fds_closep))) struct pty_fds fds = { -1, -1 };
	Pb__PtyMaster *pb = (Pb__PtyMaster *)m;
	int r;

	fds.master = kind_steal(v, e);
	if (fds.master >= 0 && v->pty->slave)
		fds.slave = kind_steal(v->pty->slave, e);
	if (fds.master < 0 || (v->pty->slave && fds.slave < 0))
		return -1;
	pb->path = arena_strdup(c->arena, v->link);
	if (!pb->path)
		return err_nomem(e);
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->index = v->pty->index;
	r = pty_master_check(c, v, &fds);
	if (r <= 0)
		return r;
	if (pty_master_collect_modes(c, &fds, pb, e) < 0)
		return -1;
	pty_master_collect_node(v, pb);
	pty_master_collect_session(c, &fds, pb);
	return pty_master_collect_queue(c, v, &fds, pb, e);
}

/* ---- restore ---- */

static int pty_master_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__PtyMaster *pb = (const Pb__PtyMaster *)m;
	cleanup_close int fd = -1;

	if (pty_pair(r, r->object, e) < 0)
		return -1;
	fd = pty_take_master(r, r->object);
	if (fd < 0)
		return err_set(e, ERR_IMAGE, 0, "a terminal has two masters");
	return kind_set_status_flags(fd, pb->flags, e) < 0 ? -1 : fd_take(&fd);
}

/* Its session has no other members yet: they inherit the controlling terminal. */
static int pty_master_lead(struct restore_task *r, int fd, const ProtobufCMessage *m, struct err *e)
{
	if (((const Pb__PtyMaster *)m)->session != r->task->pid)
		return 0;
	if (ioctl(fd, TIOCSCTTY, 0) < 0)
		return err_sys(e, errno, "getting its controlling terminal (TIOCSCTTY)");
	return 0;
}

/* A foreground group may have outlived its last member; then it cannot be had again. */
static bool pty_master_has_group(const Pb__Image *image, int32_t group)
{
	for (size_t i = 0; i < image->n_tasks; i++)
		if (image->tasks[i]->pgid == group)
			return true;
	return false;
}

static int pty_master_group(struct restore_task *r, int fd, const ProtobufCMessage *m, struct err *e)
{
	const Pb__PtyMaster *pb = (const Pb__PtyMaster *)m;

	if (pb->session != r->task->pid || !pty_master_has_group(r->image, pb->foreground))
		return 0;
	if (ioctl(fd, TIOCSPGRP, &pb->foreground) < 0)
		return err_sys(e, errno, "making %d the foreground process group of its terminal",
			       pb->foreground);
	return 0;
}

/* What would have kept the tree from being made. */
static int pty_master_last(struct restore_objects *r, int fd, const ProtobufCMessage *m, struct err *e)
{
	const Pb__PtyMaster *pb = (const Pb__PtyMaster *)m;
	int error;

	(void)r;
	if (pb->locked_termios.len) {
		cleanup_privilege struct privilege p = privilege_raise(PRIVILEGE_CHECKPOINT);

		if (pb->locked_termios.len != SYS_TERMIOS_SIZE)
			return err_set(e, ERR_IMAGE, 0, "the locked modes of a terminal are damaged");
		error = sys_tty_lock_modes(fd, pb->locked_termios.data);
		if (error < 0)
			return err_sys(e, error, "locking terminal modes (TIOCSLCKTRMIOS)");
	}
	if (pb->locked && ioctl(fd, TIOCSPTLCK, &(int){ 1 }) < 0)
		return err_sys(e, errno, "locking the slave of a terminal (TIOCSPTLCK)");
	if (pb->exclusive && ioctl(fd, TIOCEXCL) < 0)
		return err_sys(e, errno, "TIOCEXCL");
	return 0;
}

static void pty_master_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__PtyMaster *pb = (const Pb__PtyMaster *)m;
	int used = snprintf(buf, size, "of /dev/pts/%u, %ux%u", pb->index, pb->columns, pb->rows);

	if (pb->session && (size_t)used < size)
		used += snprintf(buf + used, size - (size_t)used, ", terminal of session %d", pb->session);
	if (pb->output.len && (size_t)used < size)
		snprintf(buf + used, size - (size_t)used, ", %zu bytes unread", pb->output.len);
}

const struct kind kind_pty_master = {
	.name = "pty_master",
	.tag = 22,
	.message = &pb__pty_master__descriptor,
	.match = pty_master_match,
	.collect = pty_master_collect,
	.restore = pty_master_restore,
	.lead = pty_master_lead,
	.group = pty_master_group,
	.last = pty_master_last,
	.describe = pty_master_describe,
};
