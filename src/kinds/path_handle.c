/* SPDX-License-Identifier: Apache-2.0 */

/* O_PATH: an fd that is only a place in the file system. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "kinds/kind.h"
#include "kinds/place.h"
#include "util/fd.h"

static bool path_handle_match(const struct fd_view *v)
{
	return (v->info.flags & O_PATH) && !place_is_pseudo(v->link);
}

static int path_handle_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__PathHandle *pb = (Pb__PathHandle *)m;

	if (!place_is_there(v))
		return kind_refuse(c, v, "E-FD-PATH-GONE", "let the program close it, or put the file back",
				   "is a handle (O_PATH) of a file that is no longer found by this path");
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
	int fd = place_open(r, pb->path, (int)(pb->flags | O_PATH), pb->mode & S_IFMT, pb->ino, e);

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
