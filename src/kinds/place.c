/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/place.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "kinds/kind.h"
#include "util/fd.h"

static bool place_is_below(const char *path, const char *top)
{
	size_t size = strlen(top);

	return strncmp(path, top, size) == 0 && (path[size] == '/' || path[size] == '\0');
}

bool place_is_pseudo(const char *path)
{
	return place_is_below(path, "/proc") || place_is_below(path, "/sys");
}

bool place_is_there(const struct fd_view *v)
{
	struct stat st;

	/* Not followed: an O_PATH fd may refer to a symbolic link, and any other path is already resolved. */
	return v->link[0] == '/' && lstat(v->link, &st) == 0 && st.st_dev == v->st.st_dev &&
	       st.st_ino == v->st.st_ino;
}

int place_open(const struct restore_objects *r, const char *path, int flags, mode_t type, uint64_t ino,
	       struct err *e)
{
	cleanup_close int fd = open(path, flags | O_NOCTTY | O_CLOEXEC);
	struct stat st;

	if (fd < 0) {
		int number = errno;

		if (number == ENOENT || number == ENOTDIR)
			return err_set(e, ERR_STATE, number, "%s is no longer there", path);
		return err_sys(e, number, "opening %s", path);
	}
	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "fstat of %s", path);
	if ((st.st_mode & S_IFMT) != type)
		return err_set(e, ERR_STATE, 0, "%s is no longer a file of the same type", path);
	if (ino && st.st_ino != ino && !r->allow_changed) {
		err_set(e, ERR_STATE, 0, "%s is not the same file as when the image was made", path);
		return err_help(e, "put the original back, or accept changed files with --allow-changed-files");
	}
	return fd_take(&fd);
}
