/* SPDX-License-Identifier: Apache-2.0 */

/* The dump's side of inodes: who is who, and from where the content can be read. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include "inode/beside.h"
#include "inode/build_id.h"
#include "inode/inode.h"
#include "inode/segment.h"
#include "target/target.h"
#include "util/fd.h"
#include "util/privilege.h"

/*
 * A small file that is mapped shared and written to (a JVM's performance data,
 * for one) is often removed by others once its process is dead: keep a copy.
 */
enum { CONTENT_KEPT_MAX = 1024 * 1024, HUGETLBFS = 0x958458f6 };

static const char deleted_suffix[] = " (deleted)";

/* A System V segment has its id for a number, which a memfd may have as well, on the same device. */
static struct inode_entry *inode_find(struct inode_table *t, uint64_t dev, uint64_t ino, bool segment, uint32_t *ret_index)
{
	for (size_t i = 0; i < t->n; i++) {
		const Pb__Inode *pb = t->v[i].pb;

		if (pb->ino == ino && pb->dev == dev && (pb->kind == PB__INODE_KIND__SYSV_SHM) == segment) {
			*ret_index = (uint32_t)i;
			return &t->v[i];
		}
	}
	return NULL;
}

static struct inode_entry *inode_add(struct inode_table *t, const struct stat *st, uint32_t *ret_index)
{
	struct inode_entry *v = arena_grow(t->arena, t->v, t->n, sizeof(*v));
	Pb__Inode *pb = pb_new(t->arena, Pb__Inode, pb__inode__init);

	if (!v || !pb)
		return NULL;
	t->v = v;
	pb_set(pb, dev, st->st_dev);
	pb_set(pb, ino, st->st_ino);
	pb_set(pb, size, (uint64_t)st->st_size);
	pb_set(pb, mode, st->st_mode);
	pb_set(pb, uid, st->st_uid);
	pb_set(pb, gid, st->st_gid);
	pb_set(pb, mtime_ns, st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec);
	*ret_index = (uint32_t)t->n;
	v[t->n] = (struct inode_entry){ .pb = pb, .fd = -1, .aside = -1 };
	return &v[t->n++];
}

/* Does the path lead to that file? 1, 0, or negative with `e` set. */
static int path_is(const char *path, const struct stat *st, struct err *e)
{
	struct stat now;

	if (path[0] != '/')
		return 0;
	if (stat(path, &now) < 0)
		return path_is_gone(errno) ? 0 : err_sys(e, errno, "examining %s", path);
	return now.st_ino == st->st_ino && now.st_dev == st->st_dev;
}

/* The path in the text of a link in /proc, of something that has no name any more. */
static bool link_path(const char *link, bool gone, char *ret, size_t size)
{
	size_t len = strlen(link), cut = sizeof(deleted_suffix) - 1;
	bool deleted = gone && len > cut && strcmp(link + len - cut, deleted_suffix) == 0;

	snprintf(ret, size, "%.*s", (int)(deleted ? len - cut : len), link);
	return deleted;
}

/* Name and kind of an inode, from the text of its link ("(deleted)" already cut off, and told in `deleted`). */
static int inode_identify(struct inode_table *t, struct inode_entry *n, const char *name, bool deleted,
			  const struct stat *st, struct err *e)
{
	Pb__InodeKind kind = PB__INODE_KIND__PATH;
	int r = 0;

	if (deleted && strncmp(name, "/memfd:", 7) == 0) {
		kind = PB__INODE_KIND__MEMFD;
		name += 7;
	} else if (deleted && (strcmp(name, "/dev/zero") == 0 || strcmp(name, "/anon_hugepage") == 0) && S_ISREG(st->st_mode)) {
		kind = PB__INODE_KIND__SHARED_ANON;
	} else if (deleted || st->st_nlink == 0 || (r = path_is(name, st, e)) == 0) {
		kind = PB__INODE_KIND__UNLINKED;
		n->linked = st->st_nlink > 0;
	}
	if (r < 0)
		return r;
	pb_set(n->pb, kind, kind);
	pb_set(n->pb, has_content, kind != PB__INODE_KIND__PATH);
	n->pb->path = arena_strdup(t->arena, name);
	return n->pb->path ? 0 : err_nomem(e);
}

/* Appending only: as long as nobody does more. */
static void inode_note_use(struct inode_entry *n, enum inode_use use)
{
	if (use == INODE_READS)
		return;
	pb_set(n->pb, append_only, use == INODE_APPENDS && (!n->pb->written || n->pb->append_only));
	pb_set(n->pb, written, 1);
}

/* What only an open file tells: its seals, and whether it lives in hugetlb pages. */
static void inode_take_open(struct inode_entry *n)
{
	int seals = n->fd >= 0 ? fcntl(n->fd, F_GET_SEALS) : -1;
	struct statfs fs;

	if (seals >= 0)
		pb_set(n->pb, seals, (uint32_t)seals);
	if (n->fd >= 0 && fstatfs(n->fd, &fs) == 0 && fs.f_type == HUGETLBFS)
		pb_set(n->pb, page_size, (uint64_t)fs.f_bsize);
}

static int inode_open_fd(const struct target *task, unsigned fd)
{
	char name[32];

	snprintf(name, sizeof(name), "fd/%u", fd);
	return fd_open_proc(task->pid, name, O_RDONLY);
}

/* A file that only its mappings had told of, turns out to be open as well. */
static void inode_see(struct inode_entry *n, const struct target *task, unsigned fd, const struct stat *st)
{
	if (n->fd >= 0 || n->pb->kind == PB__INODE_KIND__PATH)
		return;
	n->fd = inode_open_fd(task, fd);
	pb_set(n->pb, size, (uint64_t)st->st_size);
	pb_set(n->pb, mode, st->st_mode);
	inode_take_open(n);
}

/* What seemed to have no name has this one. */
static int inode_rename(struct inode_table *t, struct inode_entry *n, const char *name)
{
	n->linked = false;
	pb_set(n->pb, kind, PB__INODE_KIND__PATH);
	pb_set(n->pb, has_content, false);
	n->pb->path = arena_strdup(t->arena, name);
	return n->pb->path ? 0 : -ENOMEM;
}

int inode_collect_fd(struct inode_table *t, const struct target *task, unsigned fd, const char *link,
		     const struct stat *st, enum inode_use use, uint32_t *ret_index, struct err *e)
{
	struct inode_entry *n = inode_find(t, st->st_dev, st->st_ino, false, ret_index);
	char name[4096];
	bool deleted = link_path(link, st->st_nlink == 0, name, sizeof(name));

	if (n && n->linked) {
		int here = path_is(name, st, e);

		if (here < 0)
			return here;
		if (here && inode_rename(t, n, name) < 0)
			return err_nomem(e);
	}
	if (n) {
		inode_note_use(n, use);
		inode_see(n, task, fd, st);
		return 0;
	}
	n = inode_add(t, st, ret_index);
	if (!n)
		return err_nomem(e);
	if (inode_identify(t, n, name, deleted, st, e) < 0)
		return -1;
	inode_note_use(n, use);
	if (n->pb->kind == PB__INODE_KIND__PATH)
		return 0;
	n->fd = inode_open_fd(task, fd);
	if (n->fd < 0)
		return obstacle_add(t->obstacles, "E-FD-UNLINKED", task->pid, task->stat.comm,
				    "give the file read permission for you",
				    "fd %u is the unlinked file %s, which cannot be read: %s", fd, name,
				    strerror(-n->fd));
	inode_take_open(n);
	return 0;
}

int inode_collect_gone(struct inode_table *t, const char *link, const struct stat *st, const char *target,
		       uint32_t *ret_index, struct err *e)
{
	struct inode_entry *n = inode_find(t, st->st_dev, st->st_ino, false, ret_index);
	char name[4096];

	if (n)
		return 0;
	link_path(link, true, name, sizeof(name));
	n = inode_add(t, st, ret_index);
	if (!n)
		return err_nomem(e);
	pb_set(n->pb, kind, PB__INODE_KIND__UNLINKED);
	pb_set(n->pb, size, 0);
	n->pb->path = arena_strdup(t->arena, name);
	n->pb->target = target ? arena_strdup(t->arena, target) : NULL;
	return n->pb->path && (n->pb->target || !target) ? 0 : err_nomem(e);
}

static int inode_add_window(struct inode_table *t, struct inode_entry *n, const struct target *task,
			    const struct vm_area *a, struct err *e)
{
	struct inode_window *w = arena_grow(t->arena, n->windows, n->n_windows, sizeof(*w));

	if (!w)
		return err_nomem(e);
	n->windows = w;
	w[n->n_windows++] = (struct inode_window){
		.task = task, .addr = a->start, .size = a->end - a->start, .offset = a->offset,
		.shared = a->flags & VM_FLAG_SHARED, .writable = (a->flags & VM_FLAG_SHARED) && (a->flags & VM_FLAG_MAYWRITE),
	};
	/* Without a look at the file itself, its mappings are all that tells its size so far. */
	if (n->fd < 0 && n->pb->kind != PB__INODE_KIND__PATH && n->pb->kind != PB__INODE_KIND__SYSV_SHM &&
	    n->pb->size < a->offset + a->end - a->start)
		n->pb->size = a->offset + a->end - a->start;
	return 0;
}

/* What stat(2) says of a mapped file that is not at its path any more. `fd` is its open map_files entry, or negative. */
static void inode_stat_mapping(const struct vm_area *a, int fd, struct stat *ret)
{
	if (fd < 0 || fstat(fd, ret) < 0)
		*ret = (struct stat){ .st_dev = a->dev, .st_ino = a->ino, .st_mode = S_IFREG | 0600, .st_nlink = !a->deleted };
}

static int inode_open_mapping(const struct target *task, const struct vm_area *a)
{
	cleanup_privilege struct privilege p = privilege_raise(PRIVILEGE_CHECKPOINT);
	char name[64];

	snprintf(name, sizeof(name), "map_files/%lx-%lx", a->start, a->end);
	return fd_open_proc(task->pid, name, O_RDONLY);
}

static int inode_take_build_id(struct inode_table *t, struct inode_entry *n, struct err *e)
{
	cleanup_close int fd = open(n->pb->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	unsigned char id[64];
	int size = fd >= 0 ? inode_build_id(fd, id) : path_is_gone(errno) ? 0 : -errno;

	if (size < 0)
		return err_sys(e, size, "reading %s", n->pb->path);
	if (size && !pb_set_bytes(t->arena, n->pb, build_id, id, (size_t)size))
		return err_nomem(e);
	return 0;
}

int inode_collect_mapping(struct inode_table *t, const struct target *task, const struct vm_area *a,
			  uint32_t *ret_index, struct err *e)
{
	bool segment = segment_is(a);
	bool writes = (a->flags & VM_FLAG_SHARED) && ((a->prot & PROT_WRITE) || (segment && a->flags & VM_FLAG_MAYWRITE));
	struct stat st = { 0 };
	const char *name = a->name;
	bool deleted = a->deleted;
	struct inode_entry *n;
	char path[4096];
	int fd = -1;

	if (!a->deleted && stat(a->name, &st) < 0 && !path_is_gone(errno))
		return err_sys(e, errno, "examining %s", a->name);
	if (a->deleted || st.st_ino != a->ino) {
		fd = inode_open_mapping(task, a);
		inode_stat_mapping(a, fd, &st);
	}
	/* Where the file itself could not be opened, nothing has told whether it has other names. */
	if (a->deleted && !segment && (st.st_nlink || fd < 0) && inode_find_beside(a->name, &st, path, sizeof(path))) {
		name = path;
		deleted = false;
	}
	n = inode_find(t, st.st_dev, st.st_ino, segment, ret_index);
	if (n) {
		fd_closep(&fd);
	} else {
		n = inode_add(t, &st, ret_index);
		if (!n)
			return err_nomem(e);
		if ((segment ? segment_collect(t, n, task, a, e) : inode_identify(t, n, name, deleted, &st, e)) < 0)
			return e->reason ? -1 : err_nomem(e);
		if (n->pb->kind == PB__INODE_KIND__PATH)
			fd_closep(&fd), fd = -1;
		n->fd = fd;
		inode_take_open(n);
	}
	inode_note_use(n, writes ? INODE_WRITES : INODE_READS);
	if (a->flags & VM_FLAG_HUGETLB)
		pb_set(n->pb, page_size, a->page_size);
	if (writes && n->pb->kind == PB__INODE_KIND__PATH && n->pb->size <= CONTENT_KEPT_MAX && S_ISREG(n->pb->mode))
		pb_set(n->pb, has_content, 1);
	if (n->pb->kind == PB__INODE_KIND__PATH && (a->prot & PROT_EXEC) && !n->pb->has_build_id &&
	    inode_take_build_id(t, n, e) < 0)
		return -1;
	return n->pb->has_content ? inode_add_window(t, n, task, a, e) : 0;
}

int inode_check_links(struct inode_table *t)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct inode_entry *n = &t->v[i];
		const struct target *task = n->n_windows ? n->windows[0].task : NULL;

		if (n->linked && n->pb->written && task &&
		    obstacle_add(t->obstacles, "E-MAP-LINKED", task->pid, task->stat.comm,
				 "put the file back to that name, or let the program open it by another one",
				 "it has mapped %s, which has lost that name, and none of its others was found", n->pb->path) < 0)
			return -ENOMEM;
	}
	return 0;
}

void inode_table_done(struct inode_table *t)
{
	for (size_t i = 0; i < t->n; i++) {
		fd_closep(&t->v[i].fd);
		fd_closep(&t->v[i].aside);
	}
	t->n = 0;
}
