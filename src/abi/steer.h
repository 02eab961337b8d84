/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Choosing PIDs where clone3(2) with set_tid cannot do it: the kernel's counter
 * is steered to the number before the wanted one. One page in memory that all
 * tasks share; in the runner it is part of the region.
 */

#include <stdint.h>

enum pid_way {
	PID_SET_TID,  /* clone3 does it */
	PID_LAST_PID, /* by writing /proc/sys/kernel/ns_last_pid */
	PID_FORK,     /* by making processes that end at once */
};

/* How a process or thread ends that was made, but did not get the PID it should have. */
enum { PID_STRAY = 113 };

/* Until the kernel has given a PID back whose process is gone. */
enum { PID_RETURN_TRIES = 100, PID_RETURN_PAUSE_NS = 1000000 };

enum { STEER_WAITERS = 64 };

struct steer {
	uint32_t way;     /* enum pid_way */
	uint32_t locked;  /* one at a time ... */
	uint32_t turns;   /* a futex: how often it was unlocked */
	int32_t last;     /* the PID that came up last */
	int32_t waiting[STEER_WAITERS]; /* ... in the order in which these come up; 0: nobody */
	uint64_t made;   /* forks so far */
	uint64_t limit;  /* forks that may be made */
	char last_pid[32]; /* path of ns_last_pid */
};
