/* SPDX-License-Identifier: Apache-2.0 */

/* Open file descriptions of regular files; the files themselves are src/inode's. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "kinds/path_find.h"
#include "kinds/place.h"
#include "util/fd.h"

/*
 * Files of the kernel's inner file systems also have this type: namespaces
 * ("net:[4026531840]"), secret memory, device buffers. They have no path, or
 * one that only looks so.
 */
static bool regular_file_match(const struct fd_view *v)
{
	return S_ISREG(v->st.st_mode) && !v->message_queue && !(v->info.flags & O_PATH) && v->link[0] == '/' &&
	       strcmp(v->link, "/secretmem (deleted)") != 0 && strncmp(v->link, "/dmabuf:", 8) != 0;
}

static bool regular_file_has_lost_its_name(const struct fd_view *v)
{
	return regular_file_match(v) && v->st.st_nlink && !place_is_there(v);
}

/* For all at once, since it means walking through folders. */
static int regular_file_find_names(struct collect *c, struct err *e)
{
	size_t n = c->views.n, *lost = arena_alloc(c->arena, (n + 1) * sizeof(*lost)), n_lost = 0;
	const struct fdinfo_file **files = arena_alloc(c->arena, (n + 1) * sizeof(*files));
	char **paths;

	c->other_names = arena_alloc(c->arena, (n + 1) * sizeof(*c->other_names));
	if (!lost || !files || !c->other_names)
		return err_nomem(e);
	for (size_t i = 0; i < n; i++) {
		const struct fd_view *v = &c->views.v[i];
		const struct fdinfo_file file = { .ino = v->st.st_ino, .dev = v->st.st_dev };

		if (!regular_file_has_lost_its_name(v))
			continue;
		lost[n_lost] = i;
		files[n_lost] = arena_memdup(c->arena, &file, sizeof(file));
		if (!files[n_lost++])
			return err_nomem(e);
	}
	if (path_find(c, files, n_lost, &paths, e) < 0)
		return -1;
	for (size_t i = 0; i < n_lost; i++)
		c->other_names[lost[i]] = paths[i];
	return 0;
}

/*
 * By which path it is found: that of its link, or, where it has lost that name and
 * still has others, one of these. NULL: none was found.
 */
static int regular_file_find(struct collect *c, const struct fd_view *v, const char **ret, struct err *e)
{
	*ret = v->link;
	if (!regular_file_has_lost_its_name(v))
		return 0;
	if (!c->other_names && regular_file_find_names(c, e) < 0)
		return -1;
	*ret = c->other_names[v - c->views.v];
	return 0;
}

static int regular_file_refuse(struct collect *c, const struct fd_view *v)
{
	size_t size = strlen(v->link), suffix = sizeof(" (deleted)") - 1;

	if (size > suffix && strcmp(v->link + size - suffix, " (deleted)") == 0)
		return kind_refuse(c, v, "E-FD-LINKED",
				   "put the file back to that name, or be in the folder of another of its names",
				   "has lost that name, and none of its others was found");
	return kind_refuse(c, v, "E-FD-HIDDEN", "let the program use a file in a folder that you may enter",
			   "is not found by this path");
}

static int regular_file_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__RegularFile *pb = (Pb__RegularFile *)m;
	enum inode_use use = (v->info.flags & O_ACCMODE) == O_RDONLY ? INODE_READS
			     : v->info.flags & O_APPEND		       ? INODE_APPENDS
								       : INODE_WRITES;

	const char *path;

	if (regular_file_find(c, v, &path, e) < 0)
		return -1;
	if (!path)
		return regular_file_refuse(c, v);
	/* How it was made is no property of it any more: an O_TMPFILE file keeps that flag. */
	pb->flags = v->info.flags & ~(O_CLOEXEC | O_TMPFILE);
	pb->offset = v->info.pos;
	return inode_collect_fd(c->inodes, v->task, v->fd, path, &v->st, use, &pb->inode, e);
}

static int regular_file_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__RegularFile *pb = (const Pb__RegularFile *)m;
	cleanup_close int fd = inode_open(r->inodes, pb->inode, (int)pb->flags | O_CLOEXEC, e);

	if (fd < 0)
		return fd;
	if (pb->offset && lseek(fd, (off_t)pb->offset, SEEK_SET) < 0)
		return err_sys(e, errno, "setting a file's offset to %lu", pb->offset);
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

static void regular_file_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__RegularFile *pb = (const Pb__RegularFile *)m;

	snprintf(buf, size, "inode %u, offset %lu, flags %#o", pb->inode, pb->offset, pb->flags);
}

const struct kind kind_regular_file = {
	.name = "regular_file",
	.tag = 6,
	.message = &pb__regular_file__descriptor,
	.match = regular_file_match,
	.collect = regular_file_collect,
	.restore = regular_file_restore,
	.describe = regular_file_describe,
};
