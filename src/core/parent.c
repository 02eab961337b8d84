/* SPDX-License-Identifier: Apache-2.0 */

#include "core/parent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/core.h"
#include "image/squash.h"
#include "util/arena.h"
#include "util/err.h"

/* ---- from the child to its parent ---- */

/* The folder that a file is, or will be, in, without symbolic links; ends with a slash. NULL: it is not there. */
static char *parent_folder_of(const char *path, struct arena *arena)
{
	const char *slash = strrchr(path, '/');
	char *folder = slash ? arena_printf(arena, "%.*s", (int)(slash - path) + 1, path) : arena_strdup(arena, ".");
	char *real = folder ? realpath(folder, NULL) : NULL;
	char *kept = real ? arena_printf(arena, "%s/", strcmp(real, "/") == 0 ? "" : real) : NULL;

	free(real);
	return kept;
}

/* The path from `folder` to `file`, both absolute: as many steps up as needed, then down. NULL when out of memory. */
static char *parent_relative(const char *folder, const char *file, struct arena *arena)
{
	size_t same = 0;
	char *path = arena_strdup(arena, "");

	for (size_t i = 0; folder[i] && folder[i] == file[i]; i++)
		if (folder[i] == '/')
			same = i + 1;
	for (size_t i = same; path && folder[i]; i++)
		if (folder[i] == '/')
			path = arena_printf(arena, "../%s", path);
	return path ? arena_printf(arena, "%s%s", path, file + same) : NULL;
}

static int parent_find_path(struct parent *p, const char *child, struct arena *arena, struct err *e)
{
	char *folder = parent_folder_of(child, arena), *file = realpath(p->image->path, NULL);

	p->path = folder && file ? parent_relative(folder, file, arena) : NULL;
	free(file);
	return p->path ? 0 : err_sys(e, errno ?: ENOMEM, "finding the way from %s to %s", child, p->image->path);
}

/* ---- can it be? ---- */

/* Whatever the dump is to replace, it must not be what it depends on. */
static int parent_check_file(const struct image *image, const struct stat *target, const char *child, struct err *e)
{
	struct stat st;

	if (fstat(image->fd, &st) < 0)
		return err_sys(e, errno, "examining %s", image->path);
	if (st.st_dev != target->st_dev || st.st_ino != target->st_ino)
		return 0;
	err_set(e, ERR_USAGE, 0, "the new image would take the place of %s, which it needs", image->path);
	return err_help(e, "give it another name than %s", child);
}

/* Of a whole chain; *ret_n is how many files it has. */
static int parent_check_files(const struct image *image, const char *child, int *ret_n, struct err *e)
{
	struct stat target;
	bool exists = stat(child, &target) == 0;

	for (*ret_n = 0; image; image = image->parent, ++*ret_n)
		if (exists && parent_check_file(image, &target, child, e) < 0)
			return -1;
	return 0;
}

static int parent_check(const struct parent *p, const char *child, struct err *e)
{
	const struct image *image = p->image;
	int n;

	if (parent_check_files(image, child, &n, e) < 0)
		return -1;
	if (image->version < 2) {
		err_set(e, ERR_USAGE, 0, "%s was written by an older torpor and cannot be a parent", image->path);
		return err_help(e, "take a new image without --parent first");
	}
	if (n < IMAGE_CHAIN_MAX)
		return 0;
	err_set(e, ERR_USAGE, 0, "%s is the last of a chain of %d images, and a longer one is not read", image->path, n);
	return err_help(e, "join the chain (torpor squash), and use that as the parent");
}

int parent_open(struct parent *p, const char *path, const char *child, struct arena *arena, struct err *e)
{
	int r = core_open(path, VERIFY_NONE, arena, &p->image, &p->meta, e);

	if (r < 0) {
		p->image = NULL;
		return r;
	}
	errno = 0;
	r = parent_check(p, child, e);
	return r < 0 ? r : parent_find_path(p, child, arena, e);
}

void parent_close(struct parent *p)
{
	p->image = image_close(p->image);
}

/* ---- joining ---- */

static int squash_into(const struct squash_options *o, const struct image *image, struct err *e)
{
	struct image_writer *w = NULL;
	int r = image_writer_new(&w, o->output, !o->no_sync, e);

	if (r == 0)
		r = image_squash(image, w, o->packing, o->progress, e);
	if (r == 0)
		r = image_writer_commit(w, image->meta, image->meta_size, e);
	image_writer_free(w);
	return r;
}

int core_squash(const struct squash_options *o, int *ret_images, struct err *e)
{
	struct arena arena = ARENA_INIT;
	struct image *image = NULL;
	Pb__Image *meta;
	int r = core_open(o->path, VERIFY_NONE, &arena, &image, &meta, e);

	if (r < 0)
		image = NULL;
	else
		r = parent_check_files(image, o->output, ret_images, e);
	if (r == 0)
		r = squash_into(o, image, e);
	image_close(image);
	arena_done(&arena);
	return r;
}
