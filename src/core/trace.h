/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The coordinator's hold on the tree that is being made: every process and
 * thread of it is traced from birth, and dies with the coordinator.
 */

#include "core/build.h"
#include "util/obstacle.h"

/* Wait until the loader (build_loader()) has made the root, and is gone. Negative, with `e` set: there is none. */
int trace_await_loader(struct build *b, pid_t loader, struct err *e);

/* Seize the root, which is waiting for build_go(). */
int trace_begin(pid_t root, struct err *e);

/*
 * Let the tree make itself, until every thread of it has parked. A task without other threads is finished (see below) as
 * soon as it has, while the CPUs make others.
 */
int trace_until_parked(struct build *b, struct obstacle_list *notes, struct err *e);

/* Give the parked threads of all other tasks their final state; nothing of torpor is left in any. */
int trace_finish(struct build *b, struct obstacle_list *notes, struct err *e);

/* Let the tree run. */
int trace_release(struct build *b, struct err *e);

/* Kill and reap all that has been made. */
void trace_abandon(const struct build *b);
