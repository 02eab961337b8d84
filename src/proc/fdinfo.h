/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* /proc/PID/fdinfo/N (proc_pid_fdinfo(5)). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;

struct fdinfo_epoll {
	unsigned tfd;
	uint32_t events;
	uint64_t data;
	uint64_t pos, ino, dev; /* of the watched file: pos, ino and sdev of the line */
};

/* The file that a mark is on. */
struct fdinfo_file {
	uint64_t ino, dev;
	uint32_t handle_type, handle_size; /* as name_to_handle_at(2) gives it; size 0: the file system has none */
	unsigned char handle[128];
};

struct fdinfo_inotify {
	uint32_t wd, mask;
	struct fdinfo_file file;
};

struct fdinfo_fanotify {
	bool other; /* not on a file, but on a mount, a file system or a namespace; nothing else is told here */
	uint32_t flags, mask, ignored_mask; /* FAN_MARK_*, FAN_* */
	struct fdinfo_file file;
};

/* Stable: the image holds these numbers. */
enum fdinfo_lock_flavour {
	FDINFO_LOCK_OTHER = 0, /* only `text` says what it is */
	FDINFO_LOCK_FLOCK = 1,
	FDINFO_LOCK_POSIX = 2,
	FDINFO_LOCK_OFD = 3,
	FDINFO_LOCK_LEASE = 4,
};

struct fdinfo_lock {
	char *text; /* behind "lock:" */
	enum fdinfo_lock_flavour flavour;
	bool exclusive;
	uint64_t start, end; /* end: last byte, UINT64_MAX for that of the file */
};

struct fdinfo {
	uint64_t pos;
	unsigned flags; /* O_*, O_CLOEXEC among them */
	int mnt_id;
	uint64_t ino;
	bool has_eventfd;
	uint64_t eventfd_count;
	bool eventfd_semaphore;
	bool has_eventfd_semaphore; /* the kernel tells it: 6.1 does not */
	struct fdinfo_epoll *epoll;
	size_t n_epoll;
	struct fdinfo_lock *locks;
	size_t n_locks;
	struct fdinfo_inotify *inotify;
	size_t n_inotify;
	unsigned fanotify_flags, fanotify_event_flags; /* of fanotify_init(2) */
	struct fdinfo_fanotify *fanotify;
	size_t n_fanotify;
	int clock; /* timerfd */
	uint64_t ticks;
	unsigned settime_flags;
	uint64_t sigmask; /* signalfd: what it receives */
	unsigned scm_fds; /* unix socket: file descriptors in its queue */
	int pid;          /* pidfd: -1 when it was reaped, 0 when it cannot be seen from here */
};

/* `text` is changed. Unknown keys are skipped. Returns 0, -ENOMEM or -EINVAL. */
int proc_parse_fdinfo(char *text, struct arena *arena, struct fdinfo *ret);
