/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Theory of operation: the master's object holds the state of the whole pair.
 * Whichever end comes first in the image has the pair made from it; the others
 * find it in the stash.
 *
 * The kernel gives out the lowest free number. To have the saved one again,
 * masters are opened until it comes up, if it is free; else the terminal gets
 * another name. Everything that looks at open files sees the new name; what a
 * program has noted in its memory may be outdated.
 */

#include "kinds/pty/pty.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "kinds/pty/queue.h"
#include "sys/process.h"
#include "sys/tty.h"
#include "util/fd.h"

enum { PTY_TAG = 22, PTY_SPARES = 128, PTS_MAJOR = 136, PTMX_MAJOR = 5, PTMX_MINOR = 2 };
enum pty_stash { PTY_MASTER = PTY_TAG, PTY_HANDLE = PTY_TAG | 1 << 8 };

/* Of fdinfo: set by open(2), but not by TIOCGPTPEER. */
enum { PTY_KERNEL_LARGEFILE = 0100000 };

#define PTY_DOOMED (1ull << 32) /* in a stash id: with the number of the terminal */

/* ---- a new master ---- */

static const char ptmx[] = "/dev/ptmx";

static bool pty_is_ptmx(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(PTMX_MAJOR, PTMX_MINOR);
}

/* Opening some other device may have effects, and the image may say anything. */
static int pty_open_master(const char *path)
{
	int fd = pty_is_ptmx(path) ? open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC) : -1;

	return fd >= 0 ? fd : open(ptmx, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
}

static bool pty_is_taken(uint32_t index)
{
	struct stat st;
	char path[32];

	snprintf(path, sizeof(path), "/dev/pts/%u", index);
	return stat(path, &st) == 0;
}

static bool pty_has_number(int master, uint32_t index)
{
	return sys_tty_number(master, TIOCGPTN) == (int)index;
}

/* The master of /dev/pts/INDEX if that is free and within reach, else of any other. */
static int pty_new_master(const char *path, uint32_t index, struct err *e)
{
	int spares[PTY_SPARES], n = 0, fd = pty_open_master(path);

	if (fd < 0)
		return err_sys(e, errno, "opening %s", ptmx);
	while (!pty_has_number(fd, index) && !pty_is_taken(index) && n < PTY_SPARES) {
		int next = pty_open_master(path);

		if (next < 0)
			break;
		spares[n++] = fd;
		fd = next;
	}
	while (n > 0)
		close(spares[--n]);
	if (ioctl(fd, TIOCSPTLCK, &(int){ 0 }) < 0) {
		err_sys(e, errno, "unlocking the slave of a terminal");
		close(fd);
		return -1;
	}
	return fd;
}

/* ---- its state ---- */

/* An image may say anything; a queue that does not fit is not one that torpor wrote. */
static int pty_unpack_bytes(const ProtobufCBinaryData *from, uint8_t *to, size_t *n, struct err *e)
{
	if (from->len > PTY_QUEUE_MAX - *n)
		return err_set(e, ERR_IMAGE, 0, "more waits in a terminal than it can hold");
	if (from->len)
		memcpy(to + *n, from->data, from->len);
	*n += from->len;
	return 0;
}

static int pty_unpack_queue(const Pb__PtyMaster *pb, struct pty_queue *q, struct err *e)
{
	if (pb->n_lines > PTY_LINES_MAX || pb->stopped > PTY_STOPPED_BY_CALL)
		return err_set(e, ERR_IMAGE, 0, "what waits in a terminal is damaged");
	q->stopped = pb->stopped;
	for (; q->n_lines < pb->n_lines; q->n_lines++) {
		if (pty_unpack_bytes(&pb->lines[q->n_lines], q->input, &q->n_input, e) < 0)
			return -1;
		q->line_ends[q->n_lines] = (uint32_t)q->n_input;
	}
	if (pty_unpack_bytes(&pb->input, q->input, &q->n_input, e) < 0)
		return -1;
	return pty_unpack_bytes(&pb->output, q->output, &q->n_output, e);
}

/* Both the modes and what waits. */
static int pty_restore_queue(int master, const Pb__PtyMaster *pb, struct err *e)
{
	cleanup_pty_queue struct pty_queue *q = NULL;
	cleanup_close int slave = -1;
	struct sys_termios2 modes;
	int error;

	if (pb->termios.len != sizeof(modes))
		return err_set(e, ERR_IMAGE, 0, "the modes of a terminal are damaged");
	memcpy(&modes, pb->termios.data, sizeof(modes));
	if (pb->opened) { /* a master whose slave was closed hangs up, one whose slave was never open waits */
		slave = pty_open_slave(master, O_RDWR | O_NONBLOCK, false, e);
		if (slave < 0)
			return slave;
	}
	if (pb->n_lines || pb->input.len || pb->output.len || pb->stopped) {
		q = pty_queue_new();
		if (!q)
			return err_nomem(e);
		return pty_unpack_queue(pb, q, e) < 0 ? -1 : pty_queue_put(master, slave, &modes, q, e);
	}
	error = sys_tty_set_modes(master, &modes);
	return error < 0 ? err_sys(e, error, "setting terminal modes") : 0;
}

/*
 * Who may use it. Where the owner cannot be given, nobody but us may. EINVAL: it is
 * one whom this user namespace does not know, the group of all terminals.
 */
static int pty_restore_node(int master, const Pb__PtyMaster *pb, struct err *e)
{
	mode_t mode = (mode_t)pb->mode & 07777;
	struct stat st;
	char path[32];

	if (!pb->has_mode)
		return 0;
	snprintf(path, sizeof(path), "/dev/pts/%u", (unsigned)sys_tty_number(master, TIOCGPTN));
	if (stat(path, &st) < 0 || !S_ISCHR(st.st_mode) || major(st.st_rdev) != PTS_MAJOR)
		return 0; /* another instance of devpts */
	if ((st.st_uid != pb->uid || st.st_gid != pb->gid) && chown(path, pb->uid, pb->gid) < 0 &&
	    errno != EINVAL)
		mode &= 0700;
	if ((st.st_mode & 07777) != mode && chmod(path, mode) < 0)
		return err_sys(e, errno, "setting the permissions of %s", path);
	return 0;
}

static int pty_restore_state(int master, const Pb__PtyMaster *pb, struct err *e)
{
	const struct winsize size = { (unsigned short)pb->rows, (unsigned short)pb->columns,
				      (unsigned short)pb->width, (unsigned short)pb->height };

	if (pty_restore_queue(master, pb, e) < 0 || pty_restore_node(master, pb, e) < 0)
		return -1;
	if (ioctl(master, TIOCSWINSZ, &size) < 0)
		return err_sys(e, errno, "setting the size of a terminal");
	/* Last: our own changes are no events for the program to read. */
	if (pb->packet && ioctl(master, TIOCPKT, &(int){ 1 }) < 0)
		return err_sys(e, errno, "setting packet mode");
	return 0;
}

/* ---- pairs ---- */

/* The stash keeps the handle, by which slaves are opened, and the master until its object takes it. */
static int pty_keep(struct restore_objects *r, uint64_t id, int master, struct err *e)
{
	int handle = fcntl(master, F_DUPFD_CLOEXEC, r->fd_base);

	if (handle < 0) {
		close(master);
		return err_sys(e, errno, "duplicating the master of a terminal");
	}
	if (kind_stash_put(r, PTY_MASTER, id, master, e) < 0) {
		close(master);
		close(handle);
		return -1;
	}
	if (kind_stash_put(r, PTY_HANDLE, id, handle, e) < 0) {
		close(handle);
		return -1;
	}
	return handle;
}

/* The handle, which stays in the stash; -1: nobody has asked for this pair before. */
static int pty_find(struct restore_objects *r, uint64_t id, struct err *e)
{
	int handle = kind_stash_take(r, PTY_HANDLE, id);

	if (handle < 0)
		return -1;
	return kind_stash_put(r, PTY_HANDLE, id, handle, e) < 0 ? -1 : handle;
}

static const Pb__PtyMaster *pty_unpack(struct restore_objects *r, uint32_t object, struct err *e)
{
	const Pb__Object *o = object < r->image->n_objects ? r->image->objects[object] : NULL;
	const Pb__PtyMaster *pb = NULL;

	if (o && o->kind == kind_pty_master.tag)
		pb = (const Pb__PtyMaster *)pb_unpack(r->arena, kind_pty_master.message, o->body.data,
						      o->body.len);
	if (!pb)
		err_set(e, ERR_IMAGE, 0, "the master of a terminal is missing or damaged");
	return pb;
}

int pty_pair(struct restore_objects *r, uint32_t object, struct err *e)
{
	const Pb__PtyMaster *pb;
	int master = pty_find(r, object, e);

	if (master >= 0)
		return master;
	pb = pty_unpack(r, object, e);
	if (!pb)
		return -1;
	master = kind_raise_fd(pty_new_master(pb->path, pb->index, e), r->fd_base, e);
	if (master < 0)
		return -1;
	if (pty_restore_state(master, pb, e) < 0) {
		close(master);
		return -1;
	}
	return pty_keep(r, object, master, e);
}

int pty_take_master(struct restore_objects *r, uint32_t object)
{
	return kind_stash_take(r, PTY_MASTER, object);
}

int pty_doomed_pair(struct restore_objects *r, uint32_t index, struct err *e)
{
	int master = pty_find(r, PTY_DOOMED | index, e);

	if (master >= 0)
		return master;
	master = kind_raise_fd(pty_new_master(ptmx, index, e), r->fd_base, e);
	return master < 0 ? -1 : pty_keep(r, PTY_DOOMED | index, master, e);
}

/* ---- slaves ---- */

/*
 * Only a process whose controlling terminal it is gets one through /dev/tty. A
 * child that shares our file descriptors becomes such a process for a moment, and
 * puts the outcome at the place of an fd that we have open.
 */
static int pty_open_tty(int master, int place, int flags, struct err *e)
{
	struct clone_args args = { .flags = CLONE_FILES, .exit_signal = SIGCHLD };
	pid_t pid = sys_clone3(&args);
	int status;

	if (pid == 0) {
		int fd = -1;

		if (setsid() > 0 && ioctl(master, TIOCSCTTY, 0) == 0)
			fd = open("/dev/tty", flags);
		status = fd < 0 || dup3(fd, place, O_CLOEXEC) < 0 ? errno : 0;
		if (fd >= 0)
			close(fd);
		_exit(status);
	}
	if (pid < 0)
		return err_sys(e, pid, "making a process");
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return err_sys(e, WIFEXITED(status) ? WEXITSTATUS(status) : EIO, "opening /dev/tty");
	return 0;
}

/* Another open file description; open(2) leaves a flag behind that programs can see. */
static int pty_reopen(int slave, int flags, struct err *e)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", slave);
	fd = open(path, flags);
	return fd < 0 ? err_sys(e, errno, "opening the slave of a terminal") : fd;
}

int pty_open_slave(int master, unsigned flags, bool by_tty, struct err *e)
{
	int wanted = (int)(flags & (O_ACCMODE | O_NONBLOCK)) | O_NOCTTY;
	/* What is told to TIOCGPTPEER stays in the description, O_CLOEXEC too. */
	cleanup_close int fd = ioctl(master, TIOCGPTPEER, wanted | (int)(flags & O_CLOEXEC));

	if (fd < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(e, errno, "opening the slave of a terminal");
	if (by_tty)
		return pty_open_tty(master, fd, wanted | O_CLOEXEC, e) < 0 ? -1 : fd_take(&fd);
	return flags & PTY_KERNEL_LARGEFILE ? pty_reopen(fd, wanted | O_CLOEXEC, e) : fd_take(&fd);
}
