/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Files without a name, made again.
 *
 * The name that /proc shows of a removed file is that of its last entry in a folder. So a
 * file lives again at its old path for a moment, and not even a torpor that is killed in
 * that moment leaves it there: see unlinked_run(). Where that path is taken or not to be
 * written to, it gets another one; a regular file then never has a name at all (O_TMPFILE).
 *
 * A file that was made with O_TMPFILE is made so again: it can be given a name
 * (linkat(2)), which one that was removed cannot.
 */

#include "inode/unlinked.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/fd.h"

enum { NEW_FILE = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, NEW_NAMELESS = O_RDWR | O_TMPFILE | O_CLOEXEC };

/* ---- a moment in which no kill may come ---- */

/* A name is made, opened and removed. */
struct unlinked_work {
	int (*make)(const struct unlinked_work *w); /* an fd, or -1 with errno set */
	const Pb__Inode *pb;
	const char *path;
	int fd, number;
};

static int unlinked_do(void *data)
{
	struct unlinked_work *w = data;

	w->fd = w->make(w);
	w->number = errno;
	return 0;
}

/*
 * A child does the work, with our memory and our file descriptors, while we stand
 * still, as after vfork(2). Killing us does not keep it from coming to an end; it
 * takes no other signals.
 */
static int unlinked_run(struct unlinked_work w)
{
	_Alignas(16) char stack[64 * 1024];
	sigset_t all, before;
	pid_t child;

	w.fd = -1;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	child = clone(unlinked_do, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_FS, &w);
	if (child < 0)
		unlinked_do(&w);
	else
		while (waitpid(child, NULL, __WALL) < 0 && errno == EINTR)
			;
	sigprocmask(SIG_SETMASK, &before, NULL);
	errno = w.number;
	return w.fd;
}

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

/* For the moment, where its own place is not to be had. */
static void unlinked_choose_name(char *buf, size_t size)
{
	snprintf(buf, size, "/tmp/torpor-unlinked-%d", getpid());
}

static int unlinked_make_named(const struct unlinked_work *w)
{
	int fd = open(w->path, NEW_FILE, 0600);

	if (fd >= 0)
		unlink(w->path);
	return fd;
}

static int unlinked_make_anywhere(const Pb__Inode *pb)
{
	char path[64];
	int fd = open("/tmp", NEW_NAMELESS | O_EXCL, 0600);

	if (fd >= 0)
		return fd;
	unlinked_choose_name(path, sizeof(path)); /* a file system without O_TMPFILE */
	return unlinked_run((struct unlinked_work){ unlinked_make_named, pb, path });
}

static int unlinked_make_file(const Pb__Inode *pb)
{
	int fd = unlinked_is_temporary(pb) ? unlinked_make_beside(pb->path, 0) :
					     unlinked_run((struct unlinked_work){ unlinked_make_named, pb, pb->path });

	if (fd < 0)
		fd = unlinked_make_beside(pb->path, O_EXCL);
	return fd < 0 ? unlinked_make_anywhere(pb) : fd;
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

static int unlinked_make_other(const struct unlinked_work *w)
{
	const struct unlinked_type *type = unlinked_find_type(w->pb);
	int fd, r = type->type == S_IFDIR ? mkdir(w->path, 0700) :
		    type->type == S_IFIFO ? mkfifo(w->path, 0600) : symlink(w->pb->target, w->path);

	if (r < 0)
		return -1;
	fd = open(w->path, type->flags | O_CLOEXEC);
	unlinkat(AT_FDCWD, w->path, type->type == S_IFDIR ? AT_REMOVEDIR : 0);
	return fd;
}

static int unlinked_make_node(const Pb__Inode *pb)
{
	int fd = unlinked_run((struct unlinked_work){ unlinked_make_other, pb, pb->path });
	char path[64];

	if (fd >= 0)
		return fd;
	unlinked_choose_name(path, sizeof(path));
	return unlinked_run((struct unlinked_work){ unlinked_make_other, pb, path });
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
	fd = type ? unlinked_make_node(pb) : unlinked_make_file(pb);
	return fd < 0 ? err_sys(e, errno, "making the removed file %s again", pb->path) : fd;
}
