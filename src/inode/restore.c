/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The restore's side of inodes: files with a name are opened and checked, those
 * without are made again and filled. Done once, in the coordinator; the tasks
 * inherit the result.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "image/image.h"
#include "inode/build_id.h"
#include "inode/fill.h"
#include "inode/inode.h"
#include "inode/segment.h"
#include "inode/unlinked.h"
#include "util/fd.h"
#include "util/privilege.h"

/* ---- content ---- */

int inode_fill_memory(struct inode_restore *r, size_t index, struct err *e)
{
	return inode_fill(r, index, -1, r->v[index].addr, e);
}

/* hugetlbfs has no write(2). */
static int inode_fill_huge(struct inode_restore *r, size_t index, int fd, struct err *e)
{
	const Pb__Inode *pb = r->v[index].pb;
	void *p = pb->size ? mmap(NULL, pb->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0) : NULL;
	int result;

	if (!p)
		return 0;
	if (p == MAP_FAILED)
		return err_sys(e, errno, "mapping %s", pb->path);
	result = inode_fill(r, index, -1, p, e);
	munmap(p, pb->size);
	return result;
}

static int inode_fill_file(struct inode_restore *r, size_t index, int fd, struct err *e)
{
	return r->v[index].pb->page_size ? inode_fill_huge(r, index, fd, e) : inode_fill(r, index, fd, NULL, e);
}

/* Mode, owner and size as they were; the owner as far as we may (root may). */
static int inode_set_attributes(const Pb__Inode *pb, int fd, struct err *e)
{
	struct stat st;
	bool same = fstat(fd, &st) == 0 && st.st_uid == pb->uid && st.st_gid == pb->gid;

	if (S_ISLNK(pb->mode)) /* open as a place only */
		return 0;
	if (!same && fchown(fd, pb->uid, pb->gid) < 0 && errno != EPERM && errno != EINVAL)
		return err_sys(e, errno, "setting the owner of %s", pb->path);
	if (fchmod(fd, pb->mode & 07777) < 0 || (!S_ISDIR(pb->mode) && !S_ISFIFO(pb->mode) && ftruncate(fd, (off_t)pb->size) < 0))
		return err_sys(e, errno, "setting mode and size of %s", pb->path);
	return 0;
}

/* When its content was written last; called when that is there again. */
static int inode_set_time(const Pb__Inode *pb, int fd, struct err *e)
{
	const struct timespec times[2] = {
		{ .tv_nsec = UTIME_OMIT },
		{ .tv_sec = pb->mtime_ns / 1000000000, .tv_nsec = pb->mtime_ns % 1000000000 },
	};

	if (pb->mtime_ns <= 0 || S_ISLNK(pb->mode) || futimens(fd, times) == 0)
		return 0;
	return err_sys(e, errno, "setting the time of %s", pb->path);
}

/* ---- files with a name ---- */

static int inode_changed(const Pb__Inode *pb, const char *how, struct err *e)
{
	err_state(e, "E-FILE-CHANGED", 0, "the file %s %s since the image was taken", pb->path, how);
	return err_help(e, "put the file back as it was, or accept it as it is with --allow-changed-files");
}

/* Is this still the file that was saved? */
static int inode_check(const struct inode_restore *r, const Pb__Inode *pb, int fd, struct err *e)
{
	unsigned char id[64];
	struct stat st;
	int size;

	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "examining %s", pb->path);
	if ((st.st_mode & S_IFMT) != (pb->mode & S_IFMT))
		return inode_changed(pb, "became another type of file", e);
	if (r->allow_changed)
		return 0;
	if (pb->has_build_id) {
		size = inode_build_id(fd, id);
		if (size < 0)
			return err_sys(e, size, "reading %s", pb->path);
		if (!pb_same_bytes(&pb->build_id, id, (size_t)size))
			return inode_changed(pb, "was replaced by another build", e);
		if ((uint64_t)st.st_size != pb->size)
			return inode_changed(pb, "changed its size", e);
		return 0;
	}
	if (st.st_ino != pb->ino)
		return inode_changed(pb, "was replaced by another", e);
	if (pb->append_only && (uint64_t)st.st_size >= pb->size)
		return 0; /* a log that others went on writing to */
	if ((uint64_t)st.st_size != pb->size)
		return inode_changed(pb, "changed its size", e);
	if (!pb->has_content && st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec != pb->mtime_ns)
		return inode_changed(pb, "was written to", e);
	return 0;
}

/* A file whose content we kept has vanished: make it again at its place. */
static int inode_remake(struct inode_restore *r, size_t index, struct err *e)
{
	struct inode_live *n = &r->v[index];
	cleanup_close int fd = open(n->pb->path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, n->pb->mode & 0777);

	if (fd < 0)
		return err_sys(e, errno, "making %s again, which had vanished", n->pb->path);
	n->made_path = n->pb->path;
	if (ftruncate(fd, (off_t)n->pb->size) < 0)
		return err_sys(e, errno, "setting the size of %s", n->pb->path);
	if (inode_fill(r, index, fd, NULL, e) < 0)
		return -1;
	return fd_raise(fd_take(&fd), r->fd_base, e);
}

static int inode_open_path(struct inode_restore *r, size_t index, struct err *e)
{
	const Pb__Inode *pb = r->v[index].pb;
	cleanup_close int fd = open(pb->path, (pb->written ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0 && errno == EACCES && pb->written)
		fd = open(pb->path, O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 && errno == ENOENT && pb->has_content)
		return inode_remake(r, index, e);
	if (fd < 0 && errno == ENOENT)
		return inode_changed(pb, "has vanished", e);
	if (fd < 0)
		return err_sys(e, errno, "opening %s", pb->path);
	if (inode_check(r, pb, fd, e) < 0)
		return -1;
	return fd_raise(fd_take(&fd), r->fd_base, e);
}

/* ---- files without a name ---- */

static int inode_make_unlinked(struct inode_restore *r, size_t index, struct err *e)
{
	cleanup_close int fd = inode_unlinked_make(r->v[index].pb, e);

	if (fd < 0 || inode_set_attributes(r->v[index].pb, fd, e) < 0 || inode_fill(r, index, fd, NULL, e) < 0 ||
	    inode_set_time(r->v[index].pb, fd, e) < 0)
		return -1;
	return fd_raise(fd_take(&fd), r->fd_base, e);
}

/* Of memfd_create(2) and mmap(2): which pages, by the logarithm of their size. */
static unsigned inode_huge_flags(const Pb__Inode *pb, unsigned flag)
{
	return pb->page_size ? flag | (unsigned)__builtin_ctzll(pb->page_size) << MAP_HUGE_SHIFT : 0;
}

static int inode_make_memfd(struct inode_restore *r, size_t index, struct err *e)
{
	const Pb__Inode *pb = r->v[index].pb;
	cleanup_close int fd = memfd_create(pb->path, MFD_CLOEXEC | MFD_ALLOW_SEALING | inode_huge_flags(pb, MFD_HUGETLB));

	if (fd < 0)
		return err_sys(e, errno, "memfd_create(%s)", pb->path);
	if (inode_set_attributes(pb, fd, e) < 0 || inode_fill_file(r, index, fd, e) < 0)
		return -1;
	return fd_raise(fd_take(&fd), r->fd_base, e);
}

/* The file behind a mapping of our own; takes the capability. */
static int inode_open_own_mapping(const void *p, uint64_t size)
{
	cleanup_privilege struct privilege privilege = privilege_raise(PRIVILEGE_CHECKPOINT);
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)p, (unsigned long)p + size);
	return open(path, O_RDWR | O_CLOEXEC);
}

/*
 * Of mappings in hugetlb pages mremap(2) makes no second one, so they come from an
 * fd. Where it cannot be had, a memfd serves: its name is all that differs.
 */
static int inode_make_shared_huge(struct inode_restore *r, size_t index, struct err *e)
{
	const Pb__Inode *pb = r->v[index].pb;
	int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | (int)inode_huge_flags(pb, MAP_HUGETLB);
	void *p = mmap(NULL, pb->size, PROT_READ | PROT_WRITE, flags, -1, 0);
	cleanup_close int fd = -1;

	if (p == MAP_FAILED)
		return err_sys(e, errno, "mapping %lu bytes of shared memory in hugetlb pages", pb->size);
	fd = inode_open_own_mapping(p, pb->size);
	munmap(p, pb->size);
	if (fd < 0)
		fd = memfd_create("anon_hugepage", MFD_CLOEXEC | inode_huge_flags(pb, MFD_HUGETLB));
	if (fd < 0 || ftruncate(fd, (off_t)pb->size) < 0)
		return err_sys(e, errno, "making shared memory in hugetlb pages");
	return inode_fill_huge(r, index, fd, e) < 0 ? -1 : fd_raise(fd_take(&fd), r->fd_base, e);
}

static int inode_make_shared_anon(struct inode_restore *r, size_t index, struct err *e)
{
	const Pb__Inode *pb = r->v[index].pb;
	int flags = MAP_SHARED | MAP_ANONYMOUS;
	void *p = mmap(NULL, pb->size, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (p == MAP_FAILED && errno == ENOMEM) /* larger than the machine: it must have been sparse */
		p = mmap(NULL, pb->size, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return err_sys(e, errno, "mapping %lu bytes of shared memory", pb->size);
	r->v[index].addr = p;
	return inode_fill_memory(r, index, e);
}

static int inode_restore_one(struct inode_restore *r, size_t index, struct err *e)
{
	struct inode_live *n = &r->v[index];
	int fd;

	switch (n->pb->kind) {
	case PB__INODE_KIND__PATH:
		fd = inode_open_path(r, index, e);
		break;
	case PB__INODE_KIND__UNLINKED:
		fd = inode_make_unlinked(r, index, e);
		break;
	case PB__INODE_KIND__MEMFD:
		fd = inode_make_memfd(r, index, e);
		break;
	case PB__INODE_KIND__SHARED_ANON:
		if (!n->pb->page_size)
			return inode_make_shared_anon(r, index, e);
		fd = inode_make_shared_huge(r, index, e);
		break;
	case PB__INODE_KIND__SYSV_SHM:
		return segment_restore(r, index, e);
	default:
		return err_set(e, ERR_IMAGE, 0, "unknown type of inode %d", n->pb->kind);
	}
	n->fd = fd;
	return fd < 0 ? fd : 0;
}

int inode_restore_all(struct inode_restore *r, const Pb__Image *img, struct err *e)
{
	r->v = arena_alloc(r->arena, (img->n_inodes + 1) * sizeof(*r->v));
	if (!r->v)
		return err_nomem(e);
	for (size_t i = 0; i < img->n_inodes; i++) {
		r->v[i] = (struct inode_live){ .pb = img->inodes[i], .fd = -1 };
		r->n = i + 1;
		if (inode_restore_one(r, i, e) < 0)
			return -1;
	}
	return 0;
}

/* By its path, as the program did. Returns -1 where that leads to another file. */
static int inode_open_by_path(const struct inode_live *n, int flags)
{
	cleanup_close int fd = open(n->pb->path, flags);
	struct stat a, b;

	if (fd < 0 || fstat(fd, &a) < 0 || fstat(n->fd, &b) < 0 || a.st_ino != b.st_ino || a.st_dev != b.st_dev)
		return -1;
	return fd_take(&fd);
}

/*
 * Programs see O_NOFOLLOW among the flags. But the links in /proc are there to be
 * followed, and to be followed no further where they lead to a symbolic link.
 */
static int inode_open_again(const struct inode_live *n, int flags)
{
	char proc[32];
	int fd = -1;

	flags |= O_CLOEXEC | O_NOCTTY;
	if (S_ISLNK(n->pb->mode))
		return fcntl(n->fd, F_DUPFD_CLOEXEC, 0);
	if ((flags & O_NOFOLLOW) && n->pb->kind == PB__INODE_KIND__PATH)
		fd = inode_open_by_path(n, flags);
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", n->fd);
	return fd < 0 ? open(proc, flags & ~O_NOFOLLOW) : fd;
}

int inode_open(const struct inode_restore *r, uint32_t index, int flags, struct err *e)
{
	const struct inode_live *n;
	int fd;

	if (index >= r->n || r->v[index].fd < 0)
		return err_set(e, ERR_IMAGE, 0, "an open file refers to inode %u, which cannot be opened", index);
	n = &r->v[index];
	flags &= ~(O_CREAT | O_EXCL | O_TRUNC);
	fd = inode_open_again(n, flags);
	if (fd < 0)
		return err_sys(e, errno, "opening %s with flags %#o", n->pb->path, flags);
	return fd_raise(fd, r->fd_base, e);
}

int inode_enter(const struct inode_restore *r, uint32_t index, struct err *e)
{
	if (index >= r->n || r->v[index].fd < 0)
		return err_set(e, ERR_IMAGE, 0, "a working folder refers to inode %u, which is none", index);
	return fchdir(r->v[index].fd) < 0 ? err_sys(e, errno, "entering the removed folder %s", r->v[index].pb->path) : 0;
}

static int inode_restore_seals(const struct inode_live *n, struct err *e)
{
	if (n->pb->kind == PB__INODE_KIND__MEMFD && n->pb->seals && fcntl(n->fd, F_ADD_SEALS, (int)n->pb->seals) < 0)
		return err_sys(e, errno, "sealing the memfd %s", n->pb->path);
	return 0;
}

int inode_complete(struct inode_restore *r, struct err *e)
{
	for (size_t i = 0; i < r->n; i++) {
		bool segment = r->v[i].pb->kind == PB__INODE_KIND__SYSV_SHM;

		if ((segment ? segment_complete(r, i, e) : inode_restore_seals(&r->v[i], e)) < 0)
			return -1;
	}
	return 0;
}

void inode_restore_close(struct inode_restore *r)
{
	for (size_t i = 0; i < r->n; i++) {
		fd_closep(&r->v[i].fd);
		r->v[i].fd = -1;
	}
}

void inode_restore_done(struct inode_restore *r, bool failed)
{
	for (size_t i = 0; i < r->n; i++) {
		struct inode_live *n = &r->v[i];

		fd_closep(&n->fd);
		if (n->pb->kind == PB__INODE_KIND__SYSV_SHM)
			segment_done(n, failed);
		else if (n->addr)
			munmap(n->addr, n->pb->size);
		if (failed && n->made_path)
			unlink(n->made_path);
	}
	r->n = 0;
}
