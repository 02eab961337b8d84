/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Files without a name, made again.
 *
 * The name that /proc shows of a removed file is that of its last entry in a folder. So a
 * file lives again at its old path for a moment: two system calls, in which a torpor
 * that is killed leaves an empty file. Where that path is taken or not to be written
 * to, it gets another one; a regular file then never has a name at all (O_TMPFILE).
 *
 * A file that was made with O_TMPFILE is made so again: it can be given a name
 * (linkat(2)), which one that was removed cannot.
 */

#include "inode/unlinked.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/fd.h"

enum { NEW_FILE = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, NEW_NAMELESS = O_RDWR | O_TMPFILE | O_CLOEXEC };

/* ---- regular files ---- */

/* The kernel names a file that never had a name after its inode number. */
static bool unlinked_is_temporary(const Pb__Inode *pb)
{
	const char *name = strrchr(pb->path, '/');
	char expected[32];

	snprintf(expected, sizeof(expected), "/#%lu", pb->ino);
	return name && strcmp(name, expected) == 0;
}

/* A nameless file in the folder that `path` is in; `flags`: O_EXCL, if it is never to get a name. */
static int unlinked_make_beside(const char *path, int flags)
{
	const char *slash = strrchr(path, '/');
	char folder[4096];

	if (!slash || (size_t)(slash - path) >= sizeof(folder))
		return -1;
	snprintf(folder, sizeof(folder), "%.*s", slash == path ? 1 : (int)(slash - path), path);
	return open(folder, NEW_NAMELESS | flags, 0600);
}

static int unlinked_make_named(const char *path)
{
	int fd = open(path, NEW_FILE, 0600);

	if (fd >= 0)
		unlink(path);
	return fd;
}

static int unlinked_make_anywhere(void)
{
	char path[] = "/tmp/torpor-unlinked-XXXXXX";
	int fd = open("/tmp", NEW_NAMELESS | O_EXCL, 0600);

	if (fd >= 0)
		return fd;
	fd = mkostemp(path, O_CLOEXEC); /* a file system without O_TMPFILE */
	if (fd >= 0)
		unlink(path);
	return fd;
}

static int unlinked_make_file(const Pb__Inode *pb)
{
	int fd = unlinked_is_temporary(pb) ? unlinked_make_beside(pb->path, 0) : unlinked_make_named(pb->path);

	if (fd < 0)
		fd = unlinked_make_beside(pb->path, O_EXCL);
	return fd < 0 ? unlinked_make_anywhere() : fd;
}

/* ---- directories, FIFOs, symbolic links ---- */

static const struct unlinked_type {
	mode_t type;
	int flags; /* to open it with */
} unlinked_types[] = {
	{ S_IFDIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW },
	{ S_IFIFO, O_RDWR | O_NONBLOCK | O_NOFOLLOW },
	{ S_IFLNK, O_PATH | O_NOFOLLOW },
};

static const struct unlinked_type *unlinked_find_type(const Pb__Inode *pb)
{
	for (size_t i = 0; i < sizeof(unlinked_types) / sizeof(*unlinked_types); i++)
		if ((pb->mode & S_IFMT) == unlinked_types[i].type)
			return &unlinked_types[i];
	return NULL;
}

static int unlinked_make_at(const Pb__Inode *pb, const struct unlinked_type *type, const char *path)
{
	int fd, r = type->type == S_IFDIR ? mkdir(path, 0700) :
		    type->type == S_IFIFO ? mkfifo(path, 0600) : symlink(pb->target, path);

	if (r < 0)
		return -1;
	fd = open(path, type->flags | O_CLOEXEC);
	unlinkat(AT_FDCWD, path, type->type == S_IFDIR ? AT_REMOVEDIR : 0);
	return fd;
}

static int unlinked_make_other(const Pb__Inode *pb, const struct unlinked_type *type)
{
	int fd = unlinked_make_at(pb, type, pb->path);
	char path[64];

	snprintf(path, sizeof(path), "/tmp/torpor-unlinked-%d", getpid());
	return fd < 0 ? unlinked_make_at(pb, type, path) : fd;
}

int inode_unlinked_make(const Pb__Inode *pb, struct err *e)
{
	const struct unlinked_type *type = unlinked_find_type(pb);
	int fd;

	if (!type && (pb->mode & S_IFMT) && !S_ISREG(pb->mode))
		return err_set(e, ERR_IMAGE, 0, "%s, which was removed, is a file of an unknown type (mode %#o)", pb->path,
			       pb->mode);
	if (type && type->type == S_IFLNK && !pb->target)
		return err_set(e, ERR_IMAGE, 0, "%s, which was removed, is a symbolic link to nothing", pb->path);
	fd = type ? unlinked_make_other(pb, type) : unlinked_make_file(pb);
	return fd < 0 ? err_sys(e, errno, "making the removed file %s again", pb->path) : fd;
}
