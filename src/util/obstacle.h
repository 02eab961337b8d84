/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Obstacles: what cannot be saved. They are collected, not thrown: a dump
 * lists all of them at once before it changes anything.
 */

#include <stddef.h>
#include <sys/types.h>

struct arena;

struct obstacle {
	const char *id;   /* stable, "E-FD-SOCKET" */
	const char *text; /* "task 4711 (redis-server): fd 9 is ..." */
	const char *help; /* what would help */
};

struct obstacle_list {
	struct arena *arena;
	struct obstacle *v;
	size_t n;
};

/* Returns 0, or -ENOMEM. `help` is a constant. */
int obstacle_add(struct obstacle_list *list, const char *id, pid_t pid, const char *comm, const char *help,
		 const char *fmt, ...) __attribute__((format(printf, 6, 7)));

/* Add what is in `more`, which has the same arena. Returns as above. */
int obstacle_add_all(struct obstacle_list *list, const struct obstacle_list *more);
