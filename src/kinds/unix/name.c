/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/unix/name.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "kinds/place.h"
#include "kinds/stand_in.h"
#include "util/fd.h"

static const size_t sun_path_offset = offsetof(struct sockaddr_un, sun_path);

size_t unix_name_size(const char *name, size_t size)
{
	return size && name[0] ? strnlen(name, size) : size;
}

void unix_name_print(const void *name, size_t size, char *buf, size_t room)
{
	const char *text = name;
	size_t used = 0;

	for (size_t i = 0; i < size && used + 1 < room; i++)
		buf[used++] = text[i] ? text[i] : '@';
	buf[used] = '\0';
}

static socklen_t unix_name_address(const ProtobufCBinaryData *name, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(ret->sun_path, name->data, name->len);
	return (socklen_t)(sun_path_offset + name->len + (name->data[0] && name->len < UNIX_NAME_MAX));
}

socklen_t unix_name_reach(int handle, const ProtobufCBinaryData *name, struct sockaddr_un *ret)
{
	if (!name->data[0])
		return unix_name_address(name, ret);
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d", handle);
	return sizeof(*ret);
}

/* ---- dump: the file ---- */

/* Is the device number that stat(2) shows not the one that the kernel uses itself? */
static bool unix_file_has_other_device(const char *path)
{
	enum { OVERLAYFS_MAGIC = 0x794c7630, BTRFS_MAGIC = 0x9123683e };
	struct statfs fs;

	return statfs(path, &fs) == 0 && (fs.f_type == OVERLAYFS_MAGIC || fs.f_type == BTRFS_MAGIC);
}

/*
 * Is a socket bound to this file? A datagram socket that connects is not noticed
 * by the other one, whatever that is.
 */
static bool unix_file_is_live(const char *path)
{
	cleanup_close int handle = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	cleanup_close int probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	if (handle < 0 || probe < 0)
		return false;
	snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d", handle);
	return connect(probe, (struct sockaddr *)&a, sizeof(a)) == 0 || errno != ECONNREFUSED;
}

static bool unix_file_leads_to(const char *path, const struct unix_view *s, struct stat *st)
{
	/* Of inode numbers, sock_diag tells the lower half. */
	if (lstat(path, st) < 0 || !S_ISSOCK(st->st_mode) || (uint32_t)st->st_ino != s->file_ino)
		return false;
	/* The kernel's own device numbers have 20 bits of minor. */
	if (st->st_dev == makedev(s->file_dev >> 20, s->file_dev & 0xfffff))
		return true;
	return unix_file_has_other_device(path) && unix_file_is_live(path);
}

static int unix_file_new(struct collect *c, const char *path, const struct stat *st, Pb__UnixFile **ret, struct err *e)
{
	Pb__UnixFile *file = pb_new(c->arena, Pb__UnixFile, pb__unix_file__init);

	if (!file)
		return err_nomem(e);
	file->path = arena_strdup(c->arena, path);
	pb_set(file, mode, st->st_mode);
	pb_set(file, uid, st->st_uid);
	pb_set(file, gid, st->st_gid);
	*ret = file;
	return file->path ? 0 : err_nomem(e);
}

/* A relative path: from the folder of the task it was found in, or of any other; who bound it may have moved since. */
static int unix_file_find_relative(struct collect *c, const struct fd_view *v, const char *name, Pb__UnixFile **ret,
				   struct err *e)
{
	struct stat st;

	for (size_t i = 0; i < c->tree->n; i++) {
		size_t task = (v->task_index + i) % c->tree->n;
		char folder[PATH_MAX], link[32], path[PATH_MAX + UNIX_NAME_MAX + 2];
		ssize_t n;

		snprintf(link, sizeof(link), "/proc/%d/cwd", c->tree->tasks[task]->pid);
		n = readlink(link, folder, sizeof(folder) - 1);
		if (n <= 0)
			continue;
		folder[n] = '\0';
		snprintf(path, sizeof(path), "%s/%s", strcmp(folder, "/") == 0 ? "" : folder, name);
		if (unix_file_leads_to(path, v->socket, &st))
			return unix_file_new(c, path, &st, ret, e);
	}
	return 0;
}

int unix_name_find_file(struct collect *c, const struct fd_view *v, Pb__UnixFile **ret, struct err *e)
{
	const struct unix_view *s = v->socket;
	char name[UNIX_NAME_MAX + 1];
	struct stat st;

	*ret = NULL;
	if (!s->name_size || !s->name[0] || s->name_size > UNIX_NAME_MAX)
		return 0;
	snprintf(name, sizeof(name), "%.*s", (int)s->name_size, s->name);
	if (name[0] != '/')
		return unix_file_find_relative(c, v, name, ret, e);
	return unix_file_leads_to(name, s, &st) ? unix_file_new(c, name, &st, ret, e) : 0;
}

/* ---- restore: in a stand-in, whose folder is its own ---- */

struct unix_bind {
	int fd;
	const ProtobufCBinaryData *name;
	const Pb__UnixFile *file;
	char path[UNIX_NAME_MAX + 1]; /* the name */
	char folder[PATH_MAX];        /* `file`: from where it is resolved */
};

static int unix_bind_address(int fd, const ProtobufCBinaryData *name, struct err *e)
{
	struct sockaddr_un a;
	socklen_t size = unix_name_address(name, &a);
	char text[UNIX_NAME_MAX + 1];

	if (bind(fd, (struct sockaddr *)&a, size) == 0)
		return 0;
	unix_name_print(name->data, name->len, text, sizeof(text));
	if (errno != EADDRINUSE)
		return err_sys(e, errno, "binding a unix socket to %s", text);
	err_state(e, "E-UNIX-ADDRESS", 0, "the address %s is taken by another socket", text);
	return err_help(e, "end the program that is bound to it");
}

static int unix_bind_open(const char *path, int ret_fds[2], struct err *e)
{
	ret_fds[0] = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return ret_fds[0] < 0 ? err_sys(e, errno, "opening the socket %s", path) : 0;
}

/* Where it was, with the mode and the owner it had. */
static int unix_bind_in_place(void *data, int ret_fds[2], struct err *e)
{
	const struct unix_bind *b = data;
	struct stat st;

	if (chdir(b->folder) < 0)
		return err_sys(e, errno, "entering %s", b->folder);
	if (unix_bind_address(b->fd, b->name, e) < 0 || unix_bind_open(b->path, ret_fds, e) < 0)
		return -1;
	if (chmod(b->path, b->file->mode & 07777) < 0 || lstat(b->path, &st) < 0)
		return err_sys(e, errno, "setting the mode of the socket %s", b->file->path);
	if (st.st_uid == b->file->uid && st.st_gid == b->file->gid)
		return 0;
	/* EINVAL: of somebody whom this user namespace does not know */
	if (lchown(b->path, b->file->uid, b->file->gid) < 0 && errno != EINVAL)
		return err_sys(e, errno, "giving the socket %s to %u:%u", b->file->path, b->file->uid, b->file->gid);
	return 0;
}

/* Every folder on the way from here to the last component. */
static int unix_bind_make_folders(const char *path, struct err *e)
{
	char part[UNIX_NAME_MAX + 1];

	for (const char *p = path + 1; *path && *p; p++) {
		if (*p != '/')
			continue;
		snprintf(part, sizeof(part), "%.*s", (int)(p - path), path);
		if (mkdir(part, 0700) < 0 && errno != EEXIST)
			return err_sys(e, errno, "making a folder for the socket %s", path);
	}
	return 0;
}

/* A root of one's own needs a privilege, which comes with a user namespace of one's own. */
static bool unix_bind_enter_root(void)
{
	if (chroot(".") == 0)
		return true;
	return unshare(CLONE_NEWUSER) == 0 && chroot(".") == 0;
}

/* Below the folder that we are in, as if that were the root, or deep enough in it for all of "..". */
static int unix_bind_below(const struct unix_bind *b, int ret_fds[2], struct err *e)
{
	if (b->path[0] == '/') {
		if (unix_bind_make_folders(b->path + 1, e) < 0)
			return -1;
		if (!unix_bind_enter_root())
			return err_sys(e, errno, "binding a socket to the path %s, which does not lead to it, "
				       "needs a root folder of its own, which", b->path);
	} else {
		for (const char *p = b->path; (p = strstr(p, "..")); p += 2)
			if ((mkdir("d", 0700) < 0 && errno != EEXIST) || chdir("d") < 0)
				return err_sys(e, errno, "making a folder for the socket %s", b->path);
		if (unix_bind_make_folders(b->path, e) < 0)
			return -1;
	}
	return unix_bind_address(b->fd, b->name, e) < 0 ? -1 : unix_bind_open(b->path, ret_fds, e);
}

static int unix_bind_remove(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	remove(path);
	return 0;
}

/*
 * In a temporary folder, which is needed for a moment only: the handle goes on
 * leading to the socket. No signal ends this before the folder is gone.
 */
static int unix_bind_aside(void *data, int ret_fds[2], struct err *e)
{
	char name[] = "/tmp/torpor-socket-XXXXXX";
	cleanup_close int parent = open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC), folder = -1;
	sigset_t all;
	int r;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	if (parent < 0 || !mkdtemp(name))
		return err_sys(e, errno, "making a temporary folder");
	folder = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = folder < 0 || fchdir(folder) < 0 ? err_sys(e, errno, "entering %s", name) : unix_bind_below(data, ret_fds, e);
	/* By fds: paths may lead below another root by now. */
	if (folder >= 0 && fchdir(folder) == 0)
		nftw(".", unix_bind_remove, 8, FTW_DEPTH | FTW_PHYS);
	unlinkat(parent, strrchr(name, '/') + 1, AT_REMOVEDIR);
	return r;
}

/* ---- restore ---- */

static int unix_name_bind_aside(struct unix_bind *b, struct err *e)
{
	int fds[2] = { -1, -1 };

	return stand_in_run(0, unix_bind_aside, b, fds, e) < 0 ? -1 : fds[0];
}

/* The folder from which the name leads to the file. */
static int unix_bind_set_folder(struct unix_bind *b, struct err *e)
{
	size_t path = strlen(b->file->path), name = strlen(b->path);

	if (b->path[0] == '/' && strcmp(b->path, b->file->path) == 0) {
		snprintf(b->folder, sizeof(b->folder), "/");
		return 0;
	}
	if (b->file->path[0] != '/' || path <= name || path - name >= sizeof(b->folder) ||
	    strcmp(b->file->path + path - name, b->path) != 0 || b->file->path[path - name - 1] != '/')
		return err_set(e, ERR_IMAGE, 0, "the socket %s is not found at %s", b->path, b->file->path);
	snprintf(b->folder, sizeof(b->folder), "%.*s", (int)(path - name), b->file->path);
	return 0;
}

/* Only the file of a socket that is no more may be replaced. */
static int unix_bind_check_place(const char *path, struct err *e)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_sys(e, errno, "looking for the socket %s", path);
	if (!S_ISSOCK(st.st_mode)) {
		err_state(e, "E-UNIX-PLACE", 0, "a socket has to be made at %s, where another file is", path);
		return err_help(e, "move that file away");
	}
	if (unix_file_is_live(path)) {
		err_state(e, "E-UNIX-ADDRESS", 0, "the address %s is taken by another socket", path);
		return err_help(e, "end the program that is bound to it");
	}
	return 0;
}

static int unix_name_bind_in_place(struct restore_objects *r, struct unix_bind *b, struct err *e)
{
	int fds[2] = { -1, -1 }, result;

	if (unix_bind_set_folder(b, e) < 0 || unix_bind_check_place(b->file->path, e) < 0 ||
	    place_make_room(r, b->file->path, e) < 0)
		return -1;
	result = stand_in_run(0, unix_bind_in_place, b, fds, e);
	if (fds[0] >= 0)
		place_made(r);
	if (result < 0)
		fd_closep(&fds[0]);
	return result < 0 ? result : fds[0];
}

int unix_name_bind(struct restore_objects *r, int fd, const ProtobufCBinaryData *name, const Pb__UnixFile *file,
		   struct err *e)
{
	struct unix_bind b = { .fd = fd, .name = name, .file = file };

	if (!name->len || name->len > UNIX_NAME_MAX)
		return err_set(e, ERR_IMAGE, 0, "a unix socket with a name of %zu bytes", name->len);
	if (!name->data[0])
		return unix_bind_address(fd, name, e) < 0 ? -1 : UNIX_NAME_ABSTRACT;
	snprintf(b.path, sizeof(b.path), "%.*s", (int)name->len, (const char *)name->data);
	return file ? unix_name_bind_in_place(r, &b, e) : unix_name_bind_aside(&b, e);
}
