/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/path_find.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "kinds/kind.h"
#include "kinds/place.h"
#include "util/fd.h"

enum {
	BUDGET = 20000,       /* entries of folders that are looked at, */
	BUDGET_PER_FILE = 16, /* and so many more for each file */
	SEEN_SLOTS = 1 << 16, /* of the set of folders in the queue; a power of two */
	SEEN_MAX = SEEN_SLOTS / 2,
};

struct paths {
	const char **v;
	size_t n;
};

struct finder {
	struct collect *c;
	const struct fdinfo_file *const *files;
	size_t n_files;
	size_t *order; /* of files, by inode number */
	char **found;
	size_t missing;
	struct paths near, far; /* folders to be walked: what the tree works in, and the rest */
	struct paths *queue;    /* one of the two */
	uint64_t *seen;     /* hash set of those in the queue */
	size_t n_seen, budget;
	bool trusts_numbers; /* of the folder that is being walked */
	bool failed;         /* out of memory */
};

static void paths_add(struct finder *f, struct paths *p, const char *path)
{
	const char **v = arena_grow(f->c->arena, p->v, p->n, sizeof(*v));

	if (!v) {
		f->failed = true;
		return;
	}
	p->v = v;
	v[p->n++] = path;
}

/* ---- does a path lead to one of the files? ---- */

static int finder_compare_files(const void *a, const void *b, void *files)
{
	const struct fdinfo_file *const *f = files, *x = f[*(const size_t *)a], *y = f[*(const size_t *)b];

	return (x->ino > y->ino) - (x->ino < y->ino);
}

/* A handle that only tells files apart, since Linux 6.5: overlayfs has no other. */
#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID 0x200
#endif

static bool file_handle_is(const struct fdinfo_file *file, const char *path, int flags)
{
	struct {
		struct file_handle head;
		unsigned char bytes[sizeof(file->handle)];
	} handle = { .head.handle_bytes = sizeof(file->handle) };
	int mount_id;

	return name_to_handle_at(AT_FDCWD, path, &handle.head, &mount_id, flags) == 0 &&
	       handle.head.handle_bytes == file->handle_size && handle.head.handle_type == (int)file->handle_type &&
	       memcmp(handle.head.f_handle, file->handle, file->handle_size) == 0;
}

bool path_leads_to(const char *path, const struct stat *st, const struct fdinfo_file *file, int flags)
{
	if (st->st_ino != file->ino)
		return false;
	return st->st_dev == file->dev || (file->handle_size && (file_handle_is(file, path, flags) ||
								 file_handle_is(file, path, flags | AT_HANDLE_FID)));
}

/* The first in `order` with this inode number or a larger one. */
static size_t finder_first(const struct finder *f, uint64_t ino)
{
	size_t low = 0, high = f->n_files;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (f->files[f->order[middle]]->ino < ino)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool finder_is_at(const struct finder *f, size_t at, uint64_t ino)
{
	return at < f->n_files && f->files[f->order[at]]->ino == ino;
}

static void finder_match(struct finder *f, const char *path, const struct stat *st)
{
	for (size_t at = finder_first(f, st->st_ino); finder_is_at(f, at, st->st_ino); at++) {
		const struct fdinfo_file *file = f->files[f->order[at]];
		char **found = &f->found[f->order[at]];

		if (*found || !path_leads_to(path, st, file, 0))
			continue;
		*found = arena_strdup(f->c->arena, path);
		f->failed |= !*found;
		f->missing--;
	}
}

/* Returns false when the folder is in the queue already, or the queue is full. */
static bool finder_see(struct finder *f, const struct stat *st)
{
	uint64_t key = (st->st_ino * 0x9e3779b97f4a7c15 ^ st->st_dev) | 1;
	size_t i = key >> 32;

	for (; f->seen[i & (SEEN_SLOTS - 1)]; i++)
		if (f->seen[i & (SEEN_SLOTS - 1)] == key)
			return false;
	if (f->n_seen == SEEN_MAX)
		return false;
	f->seen[i & (SEEN_SLOTS - 1)] = key;
	f->n_seen++;
	return true;
}

static void finder_try(struct finder *f, const char *path)
{
	struct stat st;

	if (place_is_pseudo(path) || lstat(path, &st) < 0)
		return;
	finder_match(f, path, &st);
	if (S_ISDIR(st.st_mode) && finder_see(f, &st))
		paths_add(f, strcmp(path, "/") == 0 ? &f->far : f->queue, path);
}

/* ---- what the tree has to do with, and the folders around it ---- */

static void finder_add_link(struct finder *f, struct paths *p, pid_t pid, const char *name)
{
	char *path;

	if (fd_readlink_proc(pid, name, f->c->arena, &path) == 0 && path[0] == '/')
		paths_add(f, p, path);
}

/* Where the tree is, and what it has open. */
static void finder_add_open(struct finder *f, struct paths *p)
{
	const struct collect *c = f->c;

	for (size_t i = 0; i < c->tree->n; i++)
		if (!c->tree->tasks[i]->zombie)
			finder_add_link(f, p, c->tree->tasks[i]->pid, "cwd");
	for (size_t i = 0; i < c->views.n; i++)
		if (c->views.v[i].link[0] == '/')
			paths_add(f, p, c->views.v[i].link);
}

/* What it executes and has mapped. */
static void finder_add_mapped(struct finder *f, struct paths *p)
{
	const struct collect *c = f->c;

	for (size_t i = 0; i < c->tree->n; i++)
		if (!c->tree->tasks[i]->zombie)
			finder_add_link(f, p, c->tree->tasks[i]->pid, "exe");
	for (size_t i = 0; i < c->inodes->n; i++)
		if (c->inodes->v[i].pb->kind == PB__INODE_KIND__PATH && c->inodes->v[i].pb->path[0] == '/')
			paths_add(f, p, c->inodes->v[i].pb->path);
}

static int paths_compare(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void paths_unique(struct paths *p)
{
	size_t n = 0;

	if (p->n)
		qsort(p->v, p->n, sizeof(*p->v), paths_compare);
	for (size_t i = 0; i < p->n; i++)
		if (!n || strcmp(p->v[n - 1], p->v[i]) != 0)
			p->v[n++] = p->v[i];
	p->n = n;
}

static void paths_append(struct finder *f, struct paths *p, const struct paths *more)
{
	for (size_t i = 0; i < more->n; i++)
		paths_add(f, p, more->v[i]);
}

/* The folders that these paths are in, but for "/", which is nobody's special place. */
static struct paths finder_parents(struct finder *f, const struct paths *p)
{
	struct paths parents = { 0 };

	for (size_t i = 0; i < p->n; i++) {
		size_t size = (size_t)(strrchr(p->v[i], '/') - p->v[i]);
		const char *last = parents.n ? parents.v[parents.n - 1] : "";
		char *parent;

		if (!size || (strncmp(p->v[i], last, size) == 0 && !last[size]))
			continue;
		parent = arena_printf(f->c->arena, "%.*s", (int)size, p->v[i]);
		if (parent)
			paths_add(f, &parents, parent);
		f->failed |= !parent;
	}
	return parents;
}

static void finder_try_all(struct finder *f, struct paths *p)
{
	paths_unique(p);
	for (size_t i = 0; i < p->n && f->missing; i++)
		finder_try(f, p->v[i]);
}

/* What is at hand. The nearest first: what is far up has much below it. */
static void finder_try_near(struct finder *f)
{
	struct paths open = { 0 }, around, level = { 0 };

	finder_add_open(f, &open);
	f->queue = &f->near;
	finder_try_all(f, &open);
	around = finder_parents(f, &open);
	finder_try_all(f, &around);
	f->queue = &f->far;
	finder_add_mapped(f, &level);
	paths_append(f, &level, &around);
	while (level.n && f->missing && !f->failed) {
		finder_try_all(f, &level);
		level = finder_parents(f, &level);
	}
	if (f->missing)
		finder_try(f, "/");
}

/* ---- what lies below ---- */

/* In overlayfs, the numbers that readdir(3) gives may be others than those of stat(2). */
static bool folder_tells_numbers(DIR *dir)
{
	struct statfs fs;

	return dir && fstatfs(dirfd(dir), &fs) == 0 && fs.f_type != OVERLAYFS_SUPER_MAGIC;
}

/* Only folders, and what has the number of one of the files, are worth a look. */
static bool finder_skips(const struct finder *f, const struct dirent *entry)
{
	if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
		return true;
	return f->trusts_numbers && entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN &&
	       !finder_is_at(f, finder_first(f, entry->d_ino), entry->d_ino);
}

static void finder_walk(struct finder *f, const char *folder)
{
	struct dirent *entry;
	DIR *dir = opendir(folder);

	f->trusts_numbers = folder_tells_numbers(dir);
	while (dir && f->missing && f->budget && !f->failed && (entry = readdir(dir))) {
		char *path;

		if (finder_skips(f, entry))
			continue;
		path = arena_printf(f->c->arena, "%s/%s", strcmp(folder, "/") == 0 ? "" : folder, entry->d_name);
		if (path)
			finder_try(f, path);
		f->failed |= !path;
		f->budget--;
	}
	if (dir)
		closedir(dir);
}

static void finder_walk_queue(struct finder *f, struct paths *queue, size_t budget)
{
	f->queue = queue;
	f->budget = budget;
	for (size_t i = 0; i < queue->n && f->missing && f->budget && !f->failed; i++)
		finder_walk(f, queue->v[i]);
}

int path_find(struct collect *c, const struct fdinfo_file *const *files, size_t n, char ***ret_paths, struct err *e)
{
	struct finder f = {
		.c = c,
		.files = files,
		.n_files = n,
		.missing = n,
		.order = arena_alloc(c->arena, (n + 1) * sizeof(*f.order)),
		.found = arena_alloc(c->arena, (n + 1) * sizeof(*f.found)),
		.seen = arena_alloc(c->arena, SEEN_SLOTS * sizeof(*f.seen)),
	};

	if (!f.order || !f.found || !f.seen)
		return err_nomem(e);
	for (size_t i = 0; i < n; i++)
		f.order[i] = i;
	qsort_r(f.order, n, sizeof(*f.order), finder_compare_files, (void *)files);
	finder_try_near(&f);
	finder_walk_queue(&f, &f.near, BUDGET + BUDGET_PER_FILE * n);
	finder_walk_queue(&f, &f.far, BUDGET);
	*ret_paths = f.found;
	return f.failed ? err_nomem(e) : 0;
}
