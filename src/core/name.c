/* SPDX-License-Identifier: Apache-2.0 */
#include "core/name.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proc/task.h"
#include "util/arena.h"
#include "util/fd.h"

enum { NAME_MAX_LENGTH = 64, FOLDER_MAX = 256 };

bool name_is_valid(const char *name)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", others[] = "0123456789._-";
	size_t length = strlen(name);

	for (size_t i = 0; i < length; i++)
		if (!strchr(letters, name[i]) && (!i || !strchr(others, name[i])))
			return false;
	return length && length <= NAME_MAX_LENGTH;
}

/* In /tmp, anybody could have made it first: it must be ours alone. */
static int name_folder(struct err *e)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	char path[FOLDER_MAX];
	struct stat st;
	int fd;

	if (runtime && runtime[0] == '/' && strlen(runtime) < FOLDER_MAX - 16)
		snprintf(path, sizeof(path), "%s/torpor", runtime);
	else
		snprintf(path, sizeof(path), "/tmp/torpor-%u", geteuid());
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_sys(e, errno, "making the folder %s", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		err_sys(e, errno, "opening the folder %s", path);
	} else if (st.st_uid != geteuid() || (st.st_mode & 077)) {
		err_set(e, ERR_PERMISSION, 0, "the folder %s, which keeps the names of programs, is not yours alone", path);
		err_id(e, "E-NAME-FOLDER");
		err_help(e, "remove it, or set XDG_RUNTIME_DIR to a folder of yours");
	} else {
		return fd;
	}
	fd_closep(&fd);
	return -1;
}

/* Somebody may remove a stale name while we wait for its lock: then ours is no longer the file of that name. */
static bool name_is_current(int folder, const char *name, int fd)
{
	struct stat ours, now;

	return fstat(fd, &ours) == 0 && fstatat(folder, name, &now, AT_SYMLINK_NOFOLLOW) == 0 && ours.st_ino == now.st_ino &&
	       ours.st_dev == now.st_dev;
}

int name_take(const char *name, struct err *e)
{
	cleanup_close int folder = name_folder(e);

	while (folder >= 0) {
		cleanup_close int fd = openat(folder, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

		if (fd < 0)
			return err_sys(e, errno, "taking the name %s", name);
		if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
			return err_state(e, "E-NAME-TAKEN", 0, "another program has the name %s", name);
		if (name_is_current(folder, name, fd))
			return ftruncate(fd, 0) < 0 ? err_sys(e, errno, "taking the name %s", name) : fd_take(&fd);
	}
	return -1;
}

int name_tell(int fd, pid_t root, pid_t init, struct err *e)
{
	char text[32];
	int n = snprintf(text, sizeof(text), "%d %d\n", root, init);
	int r = fd_pwrite_full(fd, text, (size_t)n, 0);

	return r < 0 ? err_sys(e, r, "writing down who has a name") : 0;
}

/* The number may be another program's by now: the program's parent is its init. */
static bool name_fits(pid_t root, pid_t init)
{
	struct arena arena = ARENA_INIT;
	struct proc_stat stat;
	char *text;
	bool fits = fd_read_proc(root, "stat", &arena, &text, NULL) == 0 && proc_parse_stat(text, &stat) == 0 &&
		    stat.ppid == init;

	arena_done(&arena);
	return fits;
}

pid_t name_find(const char *name, struct err *e)
{
	cleanup_close int folder = name_folder(e), fd = -1;
	char text[32] = "";
	int root, init;

	if (folder < 0)
		return -1;
	fd = openat(folder, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_state(e, "E-NAME-NONE", 0, "there is no program with the name %s", name);
	if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
		unlinkat(folder, name, 0);
		return err_state(e, "E-NAME-NONE", 0, "the program with the name %s has ended", name);
	}
	if (pread(fd, text, sizeof(text) - 1, 0) < 0 || sscanf(text, "%d %d", &root, &init) != 2 || !name_fits(root, init))
		return err_state(e, "E-NAME-NONE", 0, "the program with the name %s has ended, or not yet begun", name);
	return root;
}
