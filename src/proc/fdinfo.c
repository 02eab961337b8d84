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

static int fdinfo_add_lock(char *s, struct arena *arena, struct fdinfo *info)
{
	info->locks = arena_grow(arena, info->locks, info->n_locks, sizeof(*info->locks));
	if (!info->locks)
		return -ENOMEM;
	info->locks[info->n_locks++] = s;
	return 0;
}

static int fdinfo_scan_semaphore(const char *s, struct fdinfo *info)
{
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
