/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* File descriptors and their ownership. An fd that is not open is -1. */

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <unistd.h>

struct arena;
struct err;

static inline void fd_closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

/* The fd is closed when the variable goes out of scope. */
#define cleanup_close __attribute__((cleanup(fd_closep)))

/* Hand an fd over: the variable forgets it. */
static inline int fd_take(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/*
 * Move an fd to a number at or above `base`, close-on-exec. Takes a negative fd
 * through, so that calls can be chained. The old number is closed in any case.
 */
int fd_raise(int fd, int base, struct err *e);

/* Read or write exactly `size` bytes; short means -EIO (or end of file), else -errno. */
int fd_pread_full(int fd, void *buf, size_t size, off_t offset);
int fd_pwrite_full(int fd, const void *buf, size_t size, off_t offset);
int fd_write_full(int fd, const void *buf, size_t size);

/* The next bytes of a /proc-like file, so many that the kernel makes none of them twice. How many, 0 at its end, or -errno. */
ssize_t fd_read_proc_piece(int fd, char *buf, size_t size);

/*
 * Read the whole of a /proc-like file (its size is not known) into the arena,
 * NUL-terminated. *ret_size is the length without the NUL and may be NULL.
 * Returns 0 or -errno.
 */
int fd_read_all(int fd, struct arena *arena, char **ret, size_t *ret_size);

/*
 * The whole of /proc/PID/NAME, NUL-terminated, in the arena. Returns 0 or -errno
 * (-ESRCH or -ENOENT when the process is gone).
 */
int fd_read_proc(pid_t pid, const char *name, struct arena *arena, char **ret, size_t *ret_size);

/* The function of the kernel that a thread sleeps in, for a message: in the arena, or "unknown". */
const char *fd_read_wchan(pid_t tid, struct arena *arena);

/* As fd_read_proc(), of a file that not every kernel has: then *ret is NULL, and that is no error. */
int fd_read_proc_if_any(pid_t pid, const char *name, struct arena *arena, char **ret);

/* The target of the symbolic link /proc/PID/NAME, in the arena. Returns 0 or -errno. */
int fd_readlink_proc(pid_t pid, const char *name, struct arena *arena, char **ret);

/*
 * Did a look at a path fail because it does not lead there (any more)? Any other failure tells nothing of the file,
 * and must not pass for its absence.
 */
static inline bool path_is_gone(int number)
{
	return number == ENOENT || number == ENOTDIR || number == EACCES || number == ELOOP || number == ENAMETOOLONG;
}

/*
 * The next entry of a folder, without "." and "..". NULL at its end, and where it cannot be read further: then
 * *ret_number is the errno, else 0. A list that ends early must not be taken for a whole one.
 */
struct dirent *fd_next_entry(DIR *dir, int *ret_number);

/* Close all fds from `from` on but these, which are sorted. */
void fd_close_others(int from, int *keep, size_t n);

/* Let fds 0 to 2 exist, on /dev/null: or what is opened next would be taken for a standard stream. `flags`: O_CLOEXEC or 0. */
void fd_fill_standard(int flags);

/* Open /proc/PID/NAME; an fd or -errno. */
int fd_open_proc(pid_t pid, const char *name, int flags);
