/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Pipes and FIFOs. The object is one open end. The ends of a pipe find each
 * other by its inode number; what is in the pipe is saved with the first end.
 *
 * At restore the first end makes the pipe and stashes its two native ends and a
 * handle, by which further ends are opened. A native end that no object takes
 * was closed in the saved tree: the engine closes it, and the program finds end
 * of file or EPIPE as before. So does a program whose pipe led outside the tree
 * and was let go.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "kinds/peer.h"
#include "kinds/place.h"
#include "util/fd.h"

enum { PIPE_TAG = 7 };
enum pipe_stash { PIPE_READER = PIPE_TAG, PIPE_WRITER = PIPE_TAG | 1 << 8, PIPE_HANDLE = PIPE_TAG | 2 << 8 };

/* As fdinfo shows it: open(2) adds it, pipe(2) does not. libc's O_LARGEFILE is 0 on 64-bit machines. */
enum { PIPE_KERNEL_LARGEFILE = 0100000 };

/* A write of at most this size in packet mode is one packet. */
enum { PIPE_PACKET_MAX = 4096 };

static bool pipe_match(const struct fd_view *v)
{
	return S_ISFIFO(v->st.st_mode) && !(v->info.flags & O_PATH);
}

/* ---- dump ---- */

static int pipe_reader(const struct fd_view *v, struct err *e)
{
	if ((v->info.flags & O_ACCMODE) == O_WRONLY)
		return kind_reopen(v, O_RDONLY | O_NONBLOCK, e);
	return kind_steal(v, e);
}

/* A copy of what is in the pipe, in a pipe of ours; the original keeps it. */
static int pipe_copy(const struct fd_view *v, int capacity, int size, struct err *e)
{
	cleanup_close int source = pipe_reader(v, e), reader = -1, writer = -1;
	ssize_t copied;
	int ends[2];

	if (source < 0)
		return source;
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(e, errno, "pipe");
	reader = ends[0];
	writer = ends[1];
	fcntl(writer, F_SETPIPE_SZ, capacity); /* where not permitted, tee falls short */
	copied = tee(source, writer, (size_t)size, SPLICE_F_NONBLOCK);
	if (copied < 0)
		return err_sys(e, errno, "tee of %s", v->link);
	if (copied != size) {
		err_set(e, ERR_SYSTEM, 0, "%s: only %zd of %d bytes in it could be copied", v->link, copied, size);
		return err_help(e, "raise /proc/sys/fs/pipe-user-pages-soft");
	}
	return fd_take(&reader);
}

/* A read ends where a packet ends; without packets one read yields all. */
static int pipe_read_content(struct collect *c, const struct fd_view *v, int reader, size_t size, Pb__Pipe *pb,
			     struct err *e)
{
	uint8_t *content = arena_alloc(c->arena, size);
	size_t used = 0;

	if (!content)
		return err_nomem(e);
	while (used < size) {
		ssize_t n = read(reader, content + used, size - used);

		if (n <= 0)
			return err_sys(e, n ? errno : EIO, "reading a copy of %s", v->link);
		if ((size_t)n == size)
			break;
		if (n > PIPE_PACKET_MAX)
			return kind_refuse(c, v, "E-FD-PIPE-PACKETS", "let the reader empty the pipe first",
					   "is a pipe that holds both packets and a stream of bytes");
		if (!pb_add(c->arena, pb, packets, (uint32_t)n))
			return err_nomem(e);
		used += (size_t)n;
	}
	pb->has_content = true;
	pb->content = (ProtobufCBinaryData){ .len = size, .data = content };
	return 0;
}

static int pipe_collect_content(struct collect *c, const struct fd_view *v, Pb__Pipe *pb, struct err *e)
{
	cleanup_close int fd = kind_steal(v, e), reader = -1;
	int size, capacity;

	if (fd < 0)
		return fd;
	capacity = fcntl(fd, F_GETPIPE_SZ);
	if (capacity < 0 || ioctl(fd, FIONREAD, &size) < 0)
		return err_sys(e, errno, "asking for the size of %s", v->link);
	pb_set(pb, capacity, (uint32_t)capacity);
	if (size <= 0)
		return 0;
	reader = pipe_copy(v, capacity, size, e);
	return reader < 0 ? reader : pipe_read_content(c, v, reader, (size_t)size, pb, e);
}

static int pipe_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__Pipe *pb = (Pb__Pipe *)m;

	if (v->peer_outside && !c->choice.external)
		return peer_refuse(c, v, peer_help_let_go);
	pb->pipe_id = v->st.st_ino;
	pb->flags = v->info.flags & ~O_CLOEXEC;
	if (v->link[0] == '/' && !v->st.st_nlink) {
		pb_set(pb, inode, 0);
		if (inode_collect_gone(c->inodes, v->link, &v->st, NULL, &pb->inode, e) < 0)
			return -1;
	} else if (v->link[0] == '/') {
		if (!place_is_there(v))
			return kind_refuse(c, v, "E-FD-FIFO-GONE", "let the program close it",
					   "is a FIFO that is no longer found by this path");
		pb->path = arena_strdup(c->arena, v->link);
		if (!pb->path)
			return err_nomem(e);
		pb_set(pb, dev, v->st.st_dev);
		pb_set(pb, ino, v->st.st_ino);
	}
	/* What was written into a pipe that leads outside is no longer ours, and nobody will read our copy. */
	if (!v->first_end || (v->peer_outside && (pb->flags & O_ACCMODE) == O_WRONLY))
		return 0;
	return pipe_collect_content(c, v, pb, e);
}

/* ---- restore ---- */

static bool pipe_is_fifo(const Pb__Pipe *pb)
{
	return pb->path || pb->has_inode;
}

/* Another open file description of the file behind an fd of ours. */
static int pipe_open_again(int fd, int flags, struct err *e)
{
	char path[64];
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, flags | O_CLOEXEC);
	return again < 0 ? err_sys(e, errno, "opening another end of a pipe") : again;
}

static int pipe_make_anonymous(struct restore_objects *r, const Pb__Pipe *pb, struct err *e)
{
	cleanup_close int reader = -1, writer = -1;
	int ends[2], handle;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(e, errno, "pipe");
	reader = ends[0];
	writer = ends[1];
	handle = pipe_open_again(reader, O_PATH, e);
	if (handle < 0)
		return handle;
	if (kind_stash_put(r, PIPE_HANDLE, pb->pipe_id, handle, e) < 0 ||
	    kind_stash_put(r, PIPE_READER, pb->pipe_id, reader, e) < 0)
		return -1;
	reader = -1; /* the stash has it */
	if (kind_stash_put(r, PIPE_WRITER, pb->pipe_id, writer, e) < 0)
		return -1;
	writer = -1;
	return handle;
}

/* Open in both directions: no end that is opened now has to wait for another. */
static int pipe_open_fifo(struct restore_objects *r, const Pb__Pipe *pb, struct err *e)
{
	int flags = O_RDWR | O_NONBLOCK;
	int handle = pb->has_inode ? inode_open(r->inodes, pb->inode, flags, e) :
				     place_open(r, pb->path, flags, S_IFIFO, pb->ino, e);

	if (handle < 0 || kind_stash_put(r, PIPE_HANDLE, pb->pipe_id, handle, e) < 0)
		return -1;
	return handle;
}

/* The stash keeps the handle. */
static int pipe_handle(struct restore_objects *r, const Pb__Pipe *pb, struct err *e)
{
	int handle = kind_stash_take(r, PIPE_HANDLE, pb->pipe_id);

	if (handle >= 0)
		return kind_stash_put(r, PIPE_HANDLE, pb->pipe_id, handle, e) < 0 ? -1 : handle;
	return pipe_is_fifo(pb) ? pipe_open_fifo(r, pb, e) : pipe_make_anonymous(r, pb, e);
}

static int pipe_write(int fd, const Pb__Pipe *pb, struct err *e)
{
	size_t used = 0, part = pb->content.len;

	for (size_t i = 0; used < pb->content.len; i++, used += part) {
		if (pb->n_packets)
			part = i < pb->n_packets ? pb->packets[i] : 0;
		if (part == 0 || part > pb->content.len - used)
			return err_set(e, ERR_IMAGE, 0, "the packets of a pipe do not agree with its content");
		if (write(fd, pb->content.data + used, part) != (ssize_t)part) {
			err_set(e, ERR_SYSTEM, errno, "a pipe cannot hold the %zu bytes it held", pb->content.len);
			return err_help(e, "raise /proc/sys/fs/pipe-user-pages-soft");
		}
	}
	return 0;
}

/* A FIFO that was never closed by others still holds its bytes. */
static int pipe_fill(int handle, const Pb__Pipe *pb, struct err *e)
{
	cleanup_close int fd = pipe_open_again(handle, O_WRONLY | O_NONBLOCK, e);
	int size;

	if (fd < 0)
		return fd;
	if (pb->has_capacity && pb->capacity && fcntl(fd, F_GETPIPE_SZ) != (int)pb->capacity)
		fcntl(fd, F_SETPIPE_SZ, (int)pb->capacity); /* not more than its content needs it */
	if (!pb->content.len || (pb->path && ioctl(fd, FIONREAD, &size) == 0 && size))
		return 0;
	if (pb->n_packets && fcntl(fd, F_SETFL, O_NONBLOCK | O_DIRECT) < 0)
		return err_sys(e, errno, "setting packet mode");
	return pipe_write(fd, pb, e);
}

/* A native end where the saved one was native: they differ in a flag that programs can see. */
static int pipe_take_native(struct restore_objects *r, const Pb__Pipe *pb)
{
	if (pipe_is_fifo(pb) || (pb->flags & PIPE_KERNEL_LARGEFILE) || (pb->flags & O_ACCMODE) == O_RDWR)
		return -1;
	return kind_stash_take(r, (pb->flags & O_ACCMODE) == O_RDONLY ? PIPE_READER : PIPE_WRITER, pb->pipe_id);
}

static int pipe_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Pipe *pb = (const Pb__Pipe *)m;
	cleanup_close int fd = -1;
	int handle = pipe_handle(r, pb, e);

	if (handle < 0)
		return handle;
	if ((pb->has_capacity || pb->has_content) && pipe_fill(handle, pb, e) < 0)
		return -1;
	fd = pipe_take_native(r, pb);
	if (fd < 0)
		fd = pipe_open_again(handle, (int)pb->flags & O_ACCMODE, e);
	if (fd < 0 || kind_set_status_flags(fd, pb->flags, e) < 0)
		return -1;
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

static void pipe_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__Pipe *pb = (const Pb__Pipe *)m;
	static const char *const sides[] = { "reads", "writes", "both ends", "?" };
	int used = snprintf(buf, size, "%lu, %s", pb->pipe_id, sides[pb->flags & O_ACCMODE]);

	if (pb->content.len && (size_t)used < size)
		used += snprintf(buf + used, size - (size_t)used, ", %zu bytes queued", pb->content.len);
	if (pb->path && (size_t)used < size)
		snprintf(buf + used, size - (size_t)used, ", %s", pb->path);
}

const struct kind kind_pipe = {
	.name = "pipe",
	.tag = PIPE_TAG,
	.message = &pb__pipe__descriptor,
	.match = pipe_match,
	.collect = pipe_collect,
	.restore = pipe_restore,
	.describe = pipe_describe,
};
