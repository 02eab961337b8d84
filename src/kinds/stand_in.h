/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Some objects remember which process made them (SO_PEERCRED) or sent a message.
 * A stand-in does that: a child that has the PID of a process of the saved tree,
 * while no task has it yet. It shares our file descriptors, but not the current
 * folder, and is gone on return.
 */

#include <sys/types.h>

struct err;

/*
 * Call `work` in a child with this PID; with any, if that is 0 or taken. With 0, it
 * comes to its end also when we are killed meanwhile: it may clean up. It may
 * set ret_fds, both -1 at first: what it opens is open here as well. Returns
 * what `work` returned, negative with `e` set by it among that.
 */
int stand_in_run(pid_t pid, int (*work)(void *data, int ret_fds[2], struct err *e), void *data, int ret_fds[2],
		 struct err *e);
