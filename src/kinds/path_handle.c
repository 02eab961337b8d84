/* SPDX-License-Identifier: Apache-2.0 */

/* O_PATH: an fd that is only a place in the file system. */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "kinds/place.h"
#include "util/fd.h"

static bool path_handle_match(const struct fd_view *v)
{
	return (v->info.flags & O_PATH) && !place_is_pseudo(v->link);
}

/* Of a symbolic link: what it leads to. NULL: of something else, or out of memory. */
static const char *path_handle_target(struct collect *c, const struct fd_view *v, struct err *e)
{
	cleanup_close int fd = S_ISLNK(v->st.st_mode) ? kind_steal(v, e) : -1;
	char target[PATH_MAX];
	ssize_t n = fd < 0 ? -1 : readlinkat(fd, "", target, sizeof(target));

	return n < 0 ? NULL : arena_printf(c->arena, "%.*s", (int)n, target);
}

/* What was removed, and can be made again. */
static int path_handle_collect_gone(struct collect *c, const struct fd_view *v, Pb__PathHandle *pb, struct err *e)
{
	const char *target = path_handle_target(c, v, e);

	pb_set(pb, inode, 0);
	if (S_ISREG(v->st.st_mode))
		return inode_collect_fd(c->inodes, v->task, v->fd, v->link, &v->st, INODE_READS, &pb->inode, e);
	if (S_ISLNK(v->st.st_mode) && !target)
		return err_nomem(e);
	return inode_collect_gone(c->inodes, v->link, &v->st, target, &pb->inode, e);
}

static bool path_handle_can_be_made(const struct fd_view *v)
{
	mode_t mode = v->st.st_mode;

	return !v->st.st_nlink && (S_ISREG(mode) || S_ISDIR(mode) || S_ISFIFO(mode) || S_ISLNK(mode));
}

static int path_handle_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__PathHandle *pb = (Pb__PathHandle *)m;

	if (path_handle_can_be_made(v)) {
		if (path_handle_collect_gone(c, v, pb, e) < 0)
			return -1;
	} else if (!place_is_there(v)) {
		return kind_refuse(c, v, "E-FD-PATH-GONE", "let the program close it, or put the file back",
				   "is a handle (O_PATH) of a file that is no longer found by this path");
	}
	pb->path = arena_strdup(c->arena, v->link);
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb_set(pb, dev, v->st.st_dev);
	pb_set(pb, ino, v->st.st_ino);
	pb_set(pb, mode, v->st.st_mode);
	return pb->path ? 0 : err_nomem(e);
}

static int path_handle_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__PathHandle *pb = (const Pb__PathHandle *)m;
	int flags = (int)pb->flags | O_PATH;
	int fd = pb->has_inode ? inode_open(r->inodes, pb->inode, flags, e) :
				 place_open(r, pb->path, flags, pb->mode & S_IFMT, pb->ino, e);

	return fd < 0 ? fd : kind_raise_fd(fd, r->fd_base, e);
}

static void path_handle_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	snprintf(buf, size, "%s", ((const Pb__PathHandle *)m)->path);
}

const struct kind kind_path_handle = {
	.name = "path_handle",
	.tag = 2,
	.message = &pb__path_handle__descriptor,
	.match = path_handle_match,
	.collect = path_handle_collect,
	.restore = path_handle_restore,
	.describe = path_handle_describe,
};
