/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Open directories, also those that were removed.
 *
 * Not kept, since nothing shows it: what F_NOTIFY (dnotify) was to tell of.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "kinds/place.h"
#include "util/fd.h"

static bool directory_match(const struct fd_view *v)
{
	return S_ISDIR(v->st.st_mode) && !(v->info.flags & O_PATH) && !place_is_pseudo(v->link);
}

static int directory_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__Directory *pb = (Pb__Directory *)m;

	if (!v->st.st_nlink) {
		pb_set(pb, inode, 0);
		if (inode_collect_gone(c->inodes, v->link, &v->st, NULL, &pb->inode, e) < 0)
			return -1;
	} else if (!place_is_there(v)) {
		return kind_refuse(c, v, "E-FD-DIRECTORY-GONE", "let the program close it, or put the directory back",
				   "is a directory that is no longer found by this path");
	}
	pb->path = arena_strdup(c->arena, v->link);
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->offset = v->info.pos;
	pb_set(pb, dev, v->st.st_dev);
	pb_set(pb, ino, v->st.st_ino);
	return pb->path ? 0 : err_nomem(e);
}

static int directory_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Directory *pb = (const Pb__Directory *)m;
	int flags = (int)pb->flags | O_DIRECTORY;
	cleanup_close int fd = pb->has_inode ? inode_open(r->inodes, pb->inode, flags, e) :
					       place_open(r, pb->path, flags, S_IFDIR, pb->ino, e);

	if (fd < 0)
		return fd;
	if (pb->offset && !pb->has_inode && lseek(fd, (off_t)pb->offset, SEEK_SET) < 0)
		return err_sys(e, errno, "%s: going to directory offset %lu", pb->path, pb->offset);
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

static void directory_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	snprintf(buf, size, "%s", ((const Pb__Directory *)m)->path);
}

const struct kind kind_directory = {
	.name = "directory",
	.tag = 3,
	.message = &pb__directory__descriptor,
	.match = directory_match,
	.collect = directory_collect,
	.restore = directory_restore,
	.describe = directory_describe,
};
