/* SPDX-License-Identifier: Apache-2.0 */
#include "proc/fdinfo.h"

#include <errno.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "proc/scan.h"
#include "util/arena.h"

/* Shown as a signed number even for files with unsigned offsets (/proc/PID/mem). */
static bool fdinfo_scan_pos(const char **s, uint64_t *ret)
{
	int64_t pos;

	if (!scan_s64(s, &pos))
		return false;
	*ret = (uint64_t)pos;
	return true;
}

/* The kernel's own dev_t, which is not the one of stat(2): 12 bits of major, 20 of minor. */
static bool fdinfo_scan_sdev(const char **s, uint64_t *ret)
{
	uint32_t sdev;

	if (!scan_u32(s, 16, &sdev))
		return false;
	*ret = makedev(sdev >> 20, sdev & 0xfffff);
	return true;
}

/* "key:" and the blanks behind it */
static bool fdinfo_scan_key(const char **s, const char *key)
{
	if (!scan_word(s, key))
		return false;
	scan_blanks(s);
	return true;
}

/* The same in the middle of a line */
static bool fdinfo_scan_next(const char **s, const char *key)
{
	scan_blanks(s);
	return fdinfo_scan_key(s, key);
}

/* "5 events:       19 data:                5  pos:0 ino:1dff sdev:f" */
static bool fdinfo_scan_epoll(const char *s, struct fdinfo_epoll *epoll)
{
	return scan_u32(&s, 10, &epoll->tfd) &&
	       fdinfo_scan_next(&s, "events:") && scan_u32(&s, 16, &epoll->events) &&
	       fdinfo_scan_next(&s, "data:") && scan_u64(&s, 16, &epoll->data) &&
	       fdinfo_scan_next(&s, "pos:") && fdinfo_scan_pos(&s, &epoll->pos) &&
	       fdinfo_scan_next(&s, "ino:") && scan_u64(&s, 16, &epoll->ino) &&
	       fdinfo_scan_next(&s, "sdev:") && fdinfo_scan_sdev(&s, &epoll->dev) && scan_end(s);
}

static int fdinfo_add_epoll(const char *s, struct arena *arena, struct fdinfo *info)
{
	struct fdinfo_epoll epoll = { 0 };

	if (!fdinfo_scan_epoll(s, &epoll))
		return -EINVAL;
	info->epoll = arena_grow(arena, info->epoll, info->n_epoll, sizeof(epoll));
	if (!info->epoll)
		return -ENOMEM;
	info->epoll[info->n_epoll++] = epoll;
	return 0;
}

/* The word that comes next, if it is this one; and the blanks behind it. */
static bool fdinfo_scan_field(const char **s, const char *word)
{
	const char *p = *s;

	if (!scan_word(&p, word) || (*p != ' ' && *p != '\0'))
		return false;
	scan_blanks(&p);
	*s = p;
	return true;
}

static const struct fdinfo_lock_name {
	const char *family, *variety;
	enum fdinfo_lock_flavour flavour;
} fdinfo_lock_names[] = {
	{ "FLOCK", "ADVISORY", FDINFO_LOCK_FLOCK },
	{ "POSIX", "ADVISORY", FDINFO_LOCK_POSIX },
	{ "OFDLCK", "ADVISORY", FDINFO_LOCK_OFD },
	{ "LEASE", "ACTIVE", FDINFO_LOCK_LEASE },
};

static bool fdinfo_scan_flavour(const char **s, enum fdinfo_lock_flavour *ret)
{
	for (size_t i = 0; i < sizeof(fdinfo_lock_names) / sizeof(*fdinfo_lock_names); i++) {
		const struct fdinfo_lock_name *n = &fdinfo_lock_names[i];
		const char *p = *s;

		if (fdinfo_scan_field(&p, n->family) && fdinfo_scan_field(&p, n->variety)) {
			*s = p;
			*ret = n->flavour;
			return true;
		}
	}
	return false;
}

/* "2: POSIX  ADVISORY  WRITE 4084 fe:00:10952829 3 7": number, flavour, type, holder, inode, range */
static bool fdinfo_scan_lock(const char *s, struct fdinfo_lock *lock)
{
	uint64_t ignored;
	int pid;

	if (!scan_u64(&s, 10, &ignored) || !scan_char(&s, ':'))
		return false;
	scan_blanks(&s);
	if (!fdinfo_scan_flavour(&s, &lock->flavour))
		return false;
	lock->exclusive = fdinfo_scan_field(&s, "WRITE");
	if (!lock->exclusive && !fdinfo_scan_field(&s, "READ"))
		return false;
	if (!scan_int(&s, &pid))
		return false;
	scan_blanks(&s);
	s += strcspn(s, " ");
	scan_blanks(&s);
	if (!scan_u64(&s, 10, &lock->start))
		return false;
	scan_blanks(&s);
	lock->end = UINT64_MAX;
	return (fdinfo_scan_field(&s, "EOF") || scan_u64(&s, 10, &lock->end)) && scan_end(s);
}

static int fdinfo_add_lock(char *s, struct arena *arena, struct fdinfo *info)
{
	struct fdinfo_lock lock = { 0 };

	if (!fdinfo_scan_lock(s, &lock) || lock.end < lock.start)
		lock = (struct fdinfo_lock){ .flavour = FDINFO_LOCK_OTHER };
	lock.text = s;
	info->locks = arena_grow(arena, info->locks, info->n_locks, sizeof(lock));
	if (!info->locks)
		return -ENOMEM;
	info->locks[info->n_locks++] = lock;
	return 0;
}

static bool fdinfo_scan_bytes(const char **s, struct fdinfo_file *file)
{
	if (file->handle_size > sizeof(file->handle))
		return false;
	for (uint32_t i = 0; i < file->handle_size; i++) {
		unsigned high = scan_digit((*s)[0]), low = high < 16 ? scan_digit((*s)[1]) : 16;

		if (low >= 16)
			return false;
		file->handle[i] = (unsigned char)(high << 4 | low);
		*s += 2;
	}
	return true;
}

/* "ino:54a sdev:fe00000" */
static bool fdinfo_scan_file(const char **s, struct fdinfo_file *file)
{
	return fdinfo_scan_next(s, "ino:") && scan_u64(s, 16, &file->ino) &&
	       fdinfo_scan_next(s, "sdev:") && fdinfo_scan_sdev(s, &file->dev);
}

/*
 * "fhandle-bytes:8 fhandle-type:1 f_handle:4a05000000000000", the end of the line; missing where the file system
 * has no handles.
 */
static bool fdinfo_scan_handle(const char *s, struct fdinfo_file *file)
{
	if (fdinfo_scan_next(&s, "fhandle-bytes:"))
		return scan_u32(&s, 16, &file->handle_size) &&
		       fdinfo_scan_next(&s, "fhandle-type:") && scan_u32(&s, 16, &file->handle_type) &&
		       fdinfo_scan_next(&s, "f_handle:") && fdinfo_scan_bytes(&s, file) && scan_end(s);
	return scan_end(s);
}

/* "wd:2 ino:54a sdev:fe00000 mask:fff ignored_mask:0", and the handle */
static bool fdinfo_scan_inotify(const char *s, struct fdinfo_inotify *mark)
{
	uint32_t ignored;

	return fdinfo_scan_next(&s, "wd:") && scan_u32(&s, 16, &mark->wd) && fdinfo_scan_file(&s, &mark->file) &&
	       fdinfo_scan_next(&s, "mask:") && scan_u32(&s, 16, &mark->mask) &&
	       fdinfo_scan_next(&s, "ignored_mask:") && scan_u32(&s, 16, &ignored) && fdinfo_scan_handle(s, &mark->file);
}

static int fdinfo_add_inotify(const char *s, struct arena *arena, struct fdinfo *info)
{
	struct fdinfo_inotify mark = { 0 };

	if (!fdinfo_scan_inotify(s, &mark))
		return -EINVAL;
	info->inotify = arena_grow(arena, info->inotify, info->n_inotify, sizeof(mark));
	if (!info->inotify)
		return -ENOMEM;
	info->inotify[info->n_inotify++] = mark;
	return 0;
}

/* "ino:54a sdev:fe00000 mflags:0 mask:3b ignored_mask:0", and the handle; others begin with what they are on */
static bool fdinfo_scan_fanotify(const char *s, struct fdinfo_fanotify *mark)
{
	if (strncmp(s, "ino:", 4) != 0) {
		mark->other = true;
		return true;
	}
	return fdinfo_scan_file(&s, &mark->file) && fdinfo_scan_next(&s, "mflags:") && scan_u32(&s, 16, &mark->flags) &&
	       fdinfo_scan_next(&s, "mask:") && scan_u32(&s, 16, &mark->mask) &&
	       fdinfo_scan_next(&s, "ignored_mask:") && scan_u32(&s, 16, &mark->ignored_mask) &&
	       fdinfo_scan_handle(s, &mark->file);
}

static int fdinfo_add_fanotify(const char *s, struct arena *arena, struct fdinfo *info)
{
	struct fdinfo_fanotify mark = { 0 };

	/* The first line: "flags:200 event-flags:8000" */
	if (fdinfo_scan_key(&s, "flags:"))
		return scan_u32(&s, 16, &info->fanotify_flags) && fdinfo_scan_next(&s, "event-flags:") &&
			       scan_u32(&s, 16, &info->fanotify_event_flags) && scan_end(s) ? 0 : -EINVAL;
	if (!fdinfo_scan_fanotify(s, &mark))
		return -EINVAL;
	info->fanotify = arena_grow(arena, info->fanotify, info->n_fanotify, sizeof(mark));
	if (!info->fanotify)
		return -ENOMEM;
	info->fanotify[info->n_fanotify++] = mark;
	return 0;
}

static int fdinfo_scan_semaphore(const char *s, struct fdinfo *info)
{
	info->has_eventfd_semaphore = true;
	info->eventfd_semaphore = *s == '1';
	return (scan_char(&s, '0') || scan_char(&s, '1')) && scan_end(s) ? 0 : -EINVAL;
}

/* The first two lines are there for every file, in this order. */
static int fdinfo_parse_head(char **text, struct fdinfo *info)
{
	const char *s = scan_line(text);

	if (!s || !fdinfo_scan_key(&s, "pos:") || !fdinfo_scan_pos(&s, &info->pos) || !scan_end(s))
		return -EINVAL;
	s = scan_line(text);
	if (!s || !fdinfo_scan_key(&s, "flags:"))
		return -EINVAL;
	return scan_u32(&s, 8, &info->flags) && scan_end(s) ? 0 : -EINVAL;
}

/* What follows depends on the kind of the file. */
static int fdinfo_parse_line(char *line, struct arena *arena, struct fdinfo *info)
{
	const char *s = line;

	if (fdinfo_scan_key(&s, "mnt_id:"))
		return scan_int(&s, &info->mnt_id) && scan_end(s) ? 0 : -EINVAL;
	if (fdinfo_scan_key(&s, "ino:"))
		return scan_u64(&s, 10, &info->ino) && scan_end(s) ? 0 : -EINVAL;
	if (fdinfo_scan_key(&s, "lock:"))
		return fdinfo_add_lock(line + (s - line), arena, info);
	if (fdinfo_scan_key(&s, "tfd:"))
		return fdinfo_add_epoll(s, arena, info);
	if (fdinfo_scan_key(&s, "eventfd-count:")) {
		info->has_eventfd = true;
		return scan_u64(&s, 16, &info->eventfd_count) && scan_end(s) ? 0 : -EINVAL;
	}
	if (fdinfo_scan_key(&s, "eventfd-semaphore:"))
		return fdinfo_scan_semaphore(s, info);
	if (fdinfo_scan_key(&s, "inotify "))
		return fdinfo_add_inotify(s, arena, info);
	if (fdinfo_scan_key(&s, "fanotify "))
		return fdinfo_add_fanotify(s, arena, info);
	if (fdinfo_scan_key(&s, "clockid:"))
		return scan_int(&s, &info->clock) && scan_end(s) ? 0 : -EINVAL;
	if (fdinfo_scan_key(&s, "ticks:"))
		return scan_u64(&s, 10, &info->ticks) && scan_end(s) ? 0 : -EINVAL;
	if (fdinfo_scan_key(&s, "settime flags:"))
		return scan_u32(&s, 8, &info->settime_flags) && scan_end(s) ? 0 : -EINVAL;
	if (fdinfo_scan_key(&s, "sigmask:"))
		return scan_u64(&s, 16, &info->sigmask) && scan_end(s) ? 0 : -EINVAL;
	if (fdinfo_scan_key(&s, "scm_fds:"))
		return scan_u32(&s, 10, &info->scm_fds) && scan_end(s) ? 0 : -EINVAL;
	if (fdinfo_scan_key(&s, "Pid:"))
		return scan_int(&s, &info->pid) && scan_end(s) ? 0 : -EINVAL;
	return 0;
}

int proc_parse_fdinfo(char *text, struct arena *arena, struct fdinfo *ret)
{
	struct fdinfo info = { 0 };
	char *line;
	int r;

	r = fdinfo_parse_head(&text, &info);
	while (!r && (line = scan_line(&text)))
		r = fdinfo_parse_line(line, arena, &info);
	if (r)
		return r;
	*ret = info;
	return 0;
}
