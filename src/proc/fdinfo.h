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

struct fdinfo {
	uint64_t pos;
	unsigned flags; /* O_*, O_CLOEXEC among them */
	int mnt_id;
	uint64_t ino;
	bool has_eventfd;
	uint64_t eventfd_count;
	bool eventfd_semaphore;
	struct fdinfo_epoll *epoll;
	size_t n_epoll;
	char **locks; /* the text after "lock:" of each such line */
	size_t n_locks;
};

/* `text` is changed. Unknown keys are skipped. Returns 0, -ENOMEM or -EINVAL. */
int proc_parse_fdinfo(char *text, struct arena *arena, struct fdinfo *ret);
