/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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
			return err_state(e, "E-FILE-GONE", number, "%s is no longer there", path);
		return err_sys(e, number, "opening %s", path);
	}
	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "fstat of %s", path);
	if ((st.st_mode & S_IFMT) != type)
		return err_state(e, "E-FILE-CHANGED", 0, "%s is no longer a file of the same type", path);
	if (ino && st.st_ino != ino && !r->allow_changed) {
		err_state(e, "E-FILE-CHANGED", 0, "%s is not the same file as when the image was made", path);
		return err_help(e, "put the original back, or accept changed files with --allow-changed-files");
	}
	return fd_take(&fd);
}

int place_make_room(struct restore_objects *r, const char *path, struct err *e)
{
	struct place_change *changes = arena_grow(r->arena, r->changes, r->n_changes, sizeof(*changes));
	struct place_change change = {
		.path = arena_strdup(r->arena, path),
		.aside = arena_printf(r->arena, "%s.torpor-%d", path, getpid()),
		.remove = unlink,
	};

	if (!changes || !change.path || !change.aside)
		return err_nomem(e);
	if (renameat2(AT_FDCWD, path, AT_FDCWD, change.aside, RENAME_NOREPLACE) < 0) {
		if (errno != ENOENT)
			return err_sys(e, errno, "renaming %s", path);
		change.aside = NULL;
	}
	r->changes = changes;
	changes[r->n_changes++] = change;
	return 0;
}

void place_made(struct restore_objects *r)
{
	r->changes[r->n_changes - 1].made = true;
}

int place_note_made(struct restore_objects *r, const char *name, int (*remove)(const char *name), struct err *e)
{
	struct place_change *changes = arena_grow(r->arena, r->changes, r->n_changes, sizeof(*changes));

	if (!changes)
		return err_nomem(e);
	r->changes = changes;
	changes[r->n_changes++] = (struct place_change){ .path = name, .made = true, .remove = remove };
	return 0;
}

void place_settle(struct restore_objects *r, bool failed)
{
	for (size_t i = r->n_changes; i > 0; i--) {
		const struct place_change *change = &r->changes[i - 1];

		if (failed && change->made)
			change->remove(change->path);
		if (failed && change->aside)
			renameat2(AT_FDCWD, change->aside, AT_FDCWD, change->path, RENAME_NOREPLACE);
		else if (change->aside)
			unlink(change->aside);
	}
	r->n_changes = 0;
}
