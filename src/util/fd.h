/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* File descriptors and their ownership. An fd that is not open is -1. */

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

/* The target of the symbolic link /proc/PID/NAME, in the arena. Returns 0 or -errno. */
int fd_readlink_proc(pid_t pid, const char *name, struct arena *arena, char **ret);

/* Open /proc/PID/NAME; an fd or -errno. */
int fd_open_proc(pid_t pid, const char *name, int flags);
