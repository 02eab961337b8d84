/* SPDX-License-Identifier: Apache-2.0 */

/*
 * fanotify(7), as any user may have it: notifications of what happens to files
 * and folders. Marks are made again last, as those of inotify are.
 *
 * Those that only root can have are refused: marks on whole mounts and file
 * systems, and listeners that are asked for permission, who may have been asked
 * and not have answered yet.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>

#include "kinds/kind.h"
#include "kinds/watched.h"
#include "util/fd.h"

/* Of <linux/fanotify.h>, which not every libc's header has. */
#ifndef FAN_MARK_IGNORE
#define FAN_MARK_IGNORE 0x00000400
#endif

enum { FANOTIFY_CLASSES = FAN_CLASS_CONTENT | FAN_CLASS_PRE_CONTENT };

static const char help_close[] = "let the program close it, then try again";

static bool fanotify_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[fanotify]") == 0;
}

/* ---- dump ---- */

static int fanotify_unread(const struct fd_view *v, struct err *e)
{
	cleanup_close int fd = kind_steal(v, e);
	int bytes = 0;

	if (fd < 0)
		return fd;
	return ioctl(fd, FIONREAD, &bytes) < 0 ? err_sys(e, errno, "FIONREAD") : bytes;
}

static int fanotify_add_mark(struct collect *c, const struct fdinfo_fanotify *mark, const struct watched *w,
			     Pb__Fanotify *pb)
{
	Pb__FanotifyMark *m = pb_new(c->arena, Pb__FanotifyMark, pb__fanotify_mark__init);

	if (!m || !pb_add(c->arena, pb, marks, m))
		return -ENOMEM;
	m->flags = mark->flags;
	m->mask = mark->mask;
	m->ignored_mask = mark->ignored_mask;
	m->path = arena_strdup(c->arena, w->path);
	pb_set(m, ino, w->ino);
	if (w->nameless)
		pb_set(m, object, w->object);
	return m->path ? 0 : -ENOMEM;
}

static int fanotify_collect_marks(struct collect *c, const struct fd_view *v, Pb__Fanotify *pb, struct err *e)
{
	const struct fdinfo *info = &v->info;
	const struct fdinfo_file **files = arena_alloc(c->arena, (info->n_fanotify + 1) * sizeof(*files));
	struct watched *found;

	if (!files)
		return err_nomem(e);
	for (size_t i = 0; i < info->n_fanotify; i++) {
		if (info->fanotify[i].other)
			return kind_refuse(c, v, "E-FD-FANOTIFY", help_close, "watches a whole mount or file system (fanotify)");
		files[i] = &info->fanotify[i].file;
	}
	if (watched_find(c, files, info->n_fanotify, &found, e) < 0)
		return -1;
	for (size_t i = 0; i < info->n_fanotify; i++) {
		if (!found[i].path)
			return kind_refuse(c, v, "E-FD-FANOTIFY", "be in, or open, the folder that the file is in",
					   "watches inode %lu (fanotify), of which no path was found", files[i]->ino);
		if (fanotify_add_mark(c, &info->fanotify[i], &found[i], pb) < 0)
			return err_nomem(e);
	}
	return 0;
}

static int fanotify_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__Fanotify *pb = (Pb__Fanotify *)m;
	int unread = fanotify_unread(v, e);

	if (unread < 0)
		return unread;
	if (v->info.fanotify_flags & FANOTIFY_CLASSES)
		return kind_refuse(c, v, "E-FD-FANOTIFY", help_close, "is asked for permission to use files (fanotify)");
	if (unread)
		return kind_refuse(c, v, "E-FD-FANOTIFY-EVENTS", "try again when the program has read them",
				   "has unread events (fanotify, %d bytes)", unread);
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->init_flags = v->info.fanotify_flags & ~(unsigned)(FAN_CLOEXEC | FAN_NONBLOCK);
	pb->event_flags = v->info.fanotify_event_flags;
	return fanotify_collect_marks(c, v, pb, e);
}

/* ---- restore ---- */

static int fanotify_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Fanotify *pb = (const Pb__Fanotify *)m;
	cleanup_close int fd = -1;

	if (pb->init_flags & FANOTIFY_CLASSES)
		return err_set(e, ERR_IMAGE, 0, "a fanotify group of an unknown class (%#x)", pb->init_flags);
	fd = fanotify_init(pb->init_flags | FAN_CLOEXEC, pb->event_flags);
	if (fd < 0)
		return err_sys(e, errno, "fanotify_init(%#x, %#x)", pb->init_flags, pb->event_flags);
	if (kind_set_status_flags(fd, pb->flags, e) < 0)
		return -1;
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

static int fanotify_add(int fd, const Pb__FanotifyMark *m, unsigned flags, uint64_t mask, const char *path, struct err *e)
{
	flags |= FAN_MARK_ADD | (m->has_object ? 0 : FAN_MARK_DONT_FOLLOW);
	if (!mask || fanotify_mark(fd, flags, mask, AT_FDCWD, path) == 0)
		return 0;
	return err_sys(e, errno, "watching %s (fanotify_mark, flags %#x, mask %#lx)", m->path, flags, mask);
}

static int fanotify_watch(const struct restore_objects *r, int fd, const Pb__FanotifyMark *m, struct err *e)
{
	const struct watched w = { .path = m->path, .ino = m->ino, .nameless = m->has_object, .object = m->object };
	/* The kernel tells of FAN_MARK_IGNORE only if that is how events to be ignored were given. */
	unsigned ignore = m->flags & FAN_MARK_IGNORE ? 0 : FAN_MARK_IGNORED_MASK;
	const unsigned of_ignored = FAN_MARK_IGNORE | FAN_MARK_IGNORED_SURV_MODIFY;
	char path[WATCHED_PATH_MAX];

	if (watched_reach(r, &w, path, e) < 0 || fanotify_add(fd, m, m->flags & ~of_ignored, m->mask, path, e) < 0)
		return -1;
	return fanotify_add(fd, m, m->flags | ignore, m->ignored_mask, path, e);
}

static int fanotify_last(struct restore_objects *r, int fd, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Fanotify *pb = (const Pb__Fanotify *)m;

	for (size_t i = 0; i < pb->n_marks; i++)
		if (fanotify_watch(r, fd, pb->marks[i], e) < 0)
			return -1;
	return 0;
}

static void fanotify_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__Fanotify *pb = (const Pb__Fanotify *)m;

	snprintf(buf, size, "%zu marks%s%s", pb->n_marks, pb->n_marks ? ", the first: " : "",
		 pb->n_marks ? pb->marks[0]->path : "");
}

const struct kind kind_fanotify = {
	.name = "fanotify",
	.tag = 40,
	.message = &pb__fanotify__descriptor,
	.match = fanotify_match,
	.collect = fanotify_collect,
	.restore = fanotify_restore,
	.last = fanotify_last,
	.describe = fanotify_describe,
};
