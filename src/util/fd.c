/* SPDX-License-Identifier: Apache-2.0 */
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/arena.h"
#include "util/err.h"

int fd_raise(int fd, int base, struct err *e)
{
	int raised, number;

	if (fd < 0 || fd >= base)
		return fd;
	raised = fcntl(fd, F_DUPFD_CLOEXEC, base);
	number = errno;
	close(fd);
	return raised < 0 ? err_sys(e, number, "moving an fd to %d or above", base) : raised;
}

int fd_pread_full(int fd, void *buf, size_t size, off_t offset)
{
	char *p = buf;

	while (size) {
		ssize_t n = pread(fd, p, size, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		p += n, offset += n, size -= (size_t)n;
	}
	return 0;
}

int fd_pwrite_full(int fd, const void *buf, size_t size, off_t offset)
{
	const char *p = buf;

	while (size) {
		ssize_t n = pwrite(fd, p, size, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		p += n, offset += n, size -= (size_t)n;
	}
	return 0;
}

int fd_write_full(int fd, const void *buf, size_t size)
{
	const char *p = buf;

	while (size) {
		ssize_t n = write(fd, p, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		p += n, size -= (size_t)n;
	}
	return 0;
}

/*
 * The kernel makes the text of /proc in a page: an entry that does not fit any more is thrown away, and made once more for the
 * next read(2). In smaps that is a walk over all pages of a mapping. So no more is asked for than leaves room for one entry.
 */
enum { PROC_PAGE = 4096, PROC_ENTRY = 1024 };

ssize_t fd_read_proc_piece(int fd, char *buf, size_t size)
{
	const size_t most = PROC_PAGE - PROC_ENTRY;
	ssize_t n;

	do
		n = read(fd, buf, size < most ? size : most);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

int fd_read_all(int fd, struct arena *arena, char **ret, size_t *ret_size)
{
	size_t size = 0, room = PROC_PAGE;
	char *buf = malloc(room);
	int r = 0;

	if (!buf)
		return -ENOMEM;
	for (;;) {
		ssize_t n = fd_read_proc_piece(fd, buf + size, room - size);

		if (n < 0)
			r = (int)n;
		if (n <= 0)
			break;
		size += (size_t)n;
		if (size == room) {
			char *bigger = realloc(buf, room * 2);

			if (!bigger) {
				r = -ENOMEM;
				break;
			}
			buf = bigger;
			room *= 2;
		}
	}
	if (!r) {
		char *copy = arena_alloc(arena, size + 1);

		if (copy)
			memcpy(copy, buf, size);
		*ret = copy;
		if (ret_size)
			*ret_size = size;
		r = copy ? 0 : -ENOMEM;
	}
	free(buf);
	return r;
}

struct dirent *fd_next_entry(DIR *dir, int *ret_number)
{
	struct dirent *entry;

	do {
		errno = 0;
		entry = readdir(dir);
	} while (entry && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
	*ret_number = entry ? 0 : errno;
	return entry;
}

static int fd_compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

void fd_close_others(int from, int *keep, size_t n)
{
	if (n)
		qsort(keep, n, sizeof(*keep), fd_compare);
	for (size_t i = 0; i < n; i++) {
		if (keep[i] < from)
			continue;
		if (keep[i] > from)
			close_range((unsigned)from, (unsigned)keep[i] - 1, 0);
		from = keep[i] + 1;
	}
	close_range((unsigned)from, ~0u, 0);
}

void fd_fill_standard(int flags)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR | flags);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd > STDERR_FILENO)
		close(fd);
}

int fd_open_proc(pid_t pid, const char *name, int flags)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int fd_read_proc(pid_t pid, const char *name, struct arena *arena, char **ret, size_t *ret_size)
{
	cleanup_close int fd = fd_open_proc(pid, name, O_RDONLY);

	return fd < 0 ? fd : fd_read_all(fd, arena, ret, ret_size);
}

const char *fd_read_wchan(pid_t tid, struct arena *arena)
{
	char *text;

	return fd_read_proc(tid, "wchan", arena, &text, NULL) == 0 ? text : "unknown";
}

int fd_read_proc_if_any(pid_t pid, const char *name, struct arena *arena, char **ret)
{
	int r = fd_read_proc(pid, name, arena, ret, NULL);

	if (r == -ENOENT)
		*ret = NULL;
	return r == -ENOENT ? 0 : r;
}

int fd_readlink_proc(pid_t pid, const char *name, struct arena *arena, char **ret)
{
	char path[128], link[4096];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return -errno;
	link[n] = '\0';
	*ret = arena_strdup(arena, link);
	return *ret ? 0 : -ENOMEM;
}
