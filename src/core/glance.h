/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A quick look at a process from outside, through /proc: it is not stopped, and nothing of it is touched. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "proc/task.h"
#include "util/arena.h"
#include "util/err.h"
#include "util/obstacle.h"

struct glance {
	struct proc_stat stat;
	struct proc_status status;
	const char *cmdline;  /* arguments joined with spaces; "" for zombies and threads of the kernel */
	size_t first_obstacle, n_obstacles; /* in the list */
};

/*
 * Fill `g`, and add what a dump of this process would be refused for, as far as
 * that is visible from outside; the other ends of sockets and pipes, for example,
 * are not looked at. 1: done; 0: it is gone; negative when out of memory.
 */
int glance_at(pid_t pid, struct arena *arena, struct obstacle_list *list, struct glance *g);
