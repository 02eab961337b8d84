/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/watched.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "kinds/kind.h"
#include "kinds/path_find.h"

/* A file that was removed lives on where it is open. */
static const struct fd_view *watched_find_open(const struct collect *c, const struct fdinfo_file *file)
{
	for (size_t i = 0; i < c->views.n; i++) {
		const struct fd_view *v = &c->views.v[i];
		char path[64];

		if (v->st.st_nlink || v->st.st_ino != file->ino)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd/%u", v->task->pid, v->fd);
		if (path_leads_to(path, &v->st, file, AT_SYMLINK_FOLLOW))
			return v;
	}
	return NULL;
}

/* Of those that are still missing. */
static int watched_find_paths(struct collect *c, const struct fdinfo_file *const *files, size_t n, struct watched *found,
			      struct err *e)
{
	const struct fdinfo_file **missing = arena_alloc(c->arena, (n + 1) * sizeof(*missing));
	size_t n_missing = 0, next = 0;
	char **paths;

	if (!missing)
		return err_nomem(e);
	for (size_t i = 0; i < n; i++)
		if (!found[i].path)
			missing[n_missing++] = files[i];
	if (n_missing && path_find(c, missing, n_missing, &paths, e) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (!found[i].path)
			found[i] = (struct watched){ .path = paths[next++], .ino = files[i]->ino };
	return 0;
}

int watched_find(struct collect *c, const struct fdinfo_file *const *files, size_t n, struct watched **ret,
		 struct err *e)
{
	struct watched *found = arena_alloc(c->arena, (n + 1) * sizeof(*found));

	if (!found)
		return err_nomem(e);
	for (size_t i = 0; i < n; i++) {
		const struct fd_view *open = watched_find_open(c, files[i]);

		if (open)
			found[i] = (struct watched){ .path = open->link, .ino = open->st.st_ino, .nameless = true,
						     .object = open->object };
	}
	*ret = found;
	return watched_find_paths(c, files, n, found, e);
}

static int watched_check(const struct restore_objects *r, const struct watched *w, struct err *e)
{
	struct stat st;

	if (lstat(w->path, &st) < 0)
		return errno == ENOENT || errno == ENOTDIR ?
			       err_state(e, "E-FILE-GONE", 0, "%s, which is watched, is no longer there", w->path) :
			       err_sys(e, errno, "examining %s", w->path);
	if (w->ino && st.st_ino != w->ino && !r->allow_changed) {
		err_state(e, "E-FILE-CHANGED", 0, "%s, which is watched, was replaced by another since the image was taken", w->path);
		return err_help(e, "put the original back, or accept it as it is with --allow-changed-files");
	}
	return 0;
}

int watched_reach(const struct restore_objects *r, const struct watched *w, char path[WATCHED_PATH_MAX], struct err *e)
{
	if (w->nameless) {
		if (w->object >= r->n_objects || r->objects[w->object].fd < 0)
			return err_set(e, ERR_IMAGE, 0, "object %u, which is watched, is none", w->object);
		snprintf(path, WATCHED_PATH_MAX, "/proc/self/fd/%d", r->objects[w->object].fd);
		return 0;
	}
	snprintf(path, WATCHED_PATH_MAX, "%s", w->path);
	return watched_check(r, w, e);
}
