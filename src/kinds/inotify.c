/* SPDX-License-Identifier: Apache-2.0 */

/*
 * inotify(7). Watches are made again last, so that none of what torpor itself
 * opens and closes is told to the program. What happens to the files while
 * it sleeps, it does not learn.
 *
 * Not kept: from which number on the kernel gives new watches their numbers. They
 * go on behind the highest that is in use.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "kinds/kind.h"
#include "kinds/watched.h"
#include "util/fd.h"

/* INOTIFY_IOC_SETNEXTWD of <linux/inotify.h>, which clashes with libc's header. */
#define INOTIFY_SET_NEXT_WD _IOW('I', 0, int32_t)

static bool inotify_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:inotify") == 0;
}

/* ---- dump ---- */

static int inotify_unread(const struct fd_view *v, struct err *e)
{
	cleanup_close int fd = kind_steal(v, e);
	int bytes = 0;

	if (fd < 0)
		return fd;
	return ioctl(fd, FIONREAD, &bytes) < 0 ? err_sys(e, errno, "FIONREAD") : bytes;
}

static int inotify_compare(const void *a, const void *b)
{
	const Pb__InotifyMark *x = *(Pb__InotifyMark *const *)a, *y = *(Pb__InotifyMark *const *)b;

	return (x->wd > y->wd) - (x->wd < y->wd);
}

static int inotify_refuse_mark(struct collect *c, const struct fd_view *v, const struct fdinfo_inotify *mark)
{
	return kind_refuse(c, v, "E-FD-INOTIFY",
			   "let the program drop that watch, or be in or open the folder that the file is in",
			   "watches inode %lu of device %u:%u (watch %u), of which no path was found", mark->file.ino,
			   major(mark->file.dev), minor(mark->file.dev), mark->wd);
}

static int inotify_add_mark(struct collect *c, const struct fdinfo_inotify *mark, const struct watched *w,
			    Pb__Inotify *pb)
{
	Pb__InotifyMark *m = pb_new(c->arena, Pb__InotifyMark, pb__inotify_mark__init);

	if (!m || !pb_add(c->arena, pb, marks, m))
		return -ENOMEM;
	m->wd = mark->wd;
	m->mask = mark->mask;
	m->path = arena_strdup(c->arena, w->path);
	pb_set(m, ino, w->ino);
	if (w->nameless)
		pb_set(m, object, w->object);
	return m->path ? 0 : -ENOMEM;
}

static int inotify_collect_marks(struct collect *c, const struct fd_view *v, Pb__Inotify *pb, struct err *e)
{
	const struct fdinfo_inotify *marks = v->info.inotify;
	const struct fdinfo_file **files = arena_alloc(c->arena, (v->info.n_inotify + 1) * sizeof(*files));
	struct watched *found;

	if (!files)
		return err_nomem(e);
	for (size_t i = 0; i < v->info.n_inotify; i++)
		files[i] = &marks[i].file;
	if (watched_find(c, files, v->info.n_inotify, &found, e) < 0)
		return -1;
	for (size_t i = 0; i < v->info.n_inotify; i++) {
		int r = found[i].path ? inotify_add_mark(c, &marks[i], &found[i], pb) : inotify_refuse_mark(c, v, &marks[i]);

		if (r < 0)
			return err_nomem(e);
	}
	if (pb->n_marks)
		qsort(pb->marks, pb->n_marks, sizeof(*pb->marks), inotify_compare);
	return 0;
}

static int inotify_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__Inotify *pb = (Pb__Inotify *)m;
	int unread = inotify_unread(v, e);

	if (unread < 0)
		return unread;
	if (unread)
		return kind_refuse(c, v, "E-FD-INOTIFY-EVENTS", "try again when the program has read them",
				   "has unread events (%d bytes)", unread);
	pb->flags = v->info.flags & ~O_CLOEXEC;
	return inotify_collect_marks(c, v, pb, e);
}

/* ---- restore ---- */

static int inotify_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Inotify *pb = (const Pb__Inotify *)m;
	cleanup_close int fd = inotify_init1(IN_CLOEXEC);

	if (fd < 0)
		return err_sys(e, errno, "inotify_init1");
	if (kind_set_status_flags(fd, pb->flags, e) < 0)
		return -1;
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

static int inotify_watch(const struct restore_objects *r, int fd, const Pb__InotifyMark *mark, struct err *e)
{
	const struct watched w = { .path = mark->path, .ino = mark->ino, .nameless = mark->has_object, .object = mark->object };
	char path[WATCHED_PATH_MAX];
	int wd;

	if (watched_reach(r, &w, path, e) < 0)
		return -1;
	/* Where the kernel cannot choose (no CONFIG_CHECKPOINT_RESTORE), it may count to the right one by itself. */
	ioctl(fd, INOTIFY_SET_NEXT_WD, (unsigned long)mark->wd);
	/* The path is resolved: a symbolic link at its end is what was watched. */
	wd = inotify_add_watch(fd, path, mark->mask | (w.nameless ? 0 : IN_DONT_FOLLOW));
	if (wd < 0)
		return err_sys(e, errno, "watching %s", mark->path);
	if ((uint32_t)wd != mark->wd)
		return err_state(e, "E-INOTIFY-NUMBER", 0, "the watch of %s had the number %u, and got %d", mark->path, mark->wd, wd);
	return 0;
}

static int inotify_last(struct restore_objects *r, int fd, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Inotify *pb = (const Pb__Inotify *)m;

	for (size_t i = 0; i < pb->n_marks; i++)
		if (inotify_watch(r, fd, pb->marks[i], e) < 0)
			return -1;
	return 0;
}

static void inotify_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__Inotify *pb = (const Pb__Inotify *)m;

	snprintf(buf, size, "%zu watches%s%s", pb->n_marks, pb->n_marks ? ", the first: " : "",
		 pb->n_marks ? pb->marks[0]->path : "");
}

const struct kind kind_inotify = {
	.name = "inotify",
	.tag = 14,
	.message = &pb__inotify__descriptor,
	.match = inotify_match,
	.collect = inotify_collect,
	.restore = inotify_restore,
	.last = inotify_last,
	.describe = inotify_describe,
};
