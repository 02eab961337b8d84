/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Locks on files, whatever the kind of the open file: flock(2), POSIX and open
 * file description locks (fcntl_locking(2)), leases (F_SETLEASE).
 *
 * flock and OFD locks belong to the open file description and are taken once its
 * home task has all its fds. POSIX locks belong to a task, and are lost when it
 * closes any fd of that file: they are taken in the script, behind the last
 * close. A lease stands against others that have the file open, torpor among
 * them: it is taken last.
 */

#include <stddef.h>

#include "image/pb.h"
#include "util/err.h"

struct collect;
struct fd_view;
struct region;
struct restore_task;
struct script_builder;

/* The locks of the open file description that `v` is the first fd of. What cannot be kept becomes an obstacle. */
int lock_collect_object(struct collect *c, const struct fd_view *v, Pb__Object *o, struct err *e);

/* The POSIX locks that the task of `v` holds through this fd. */
int lock_collect_slot(struct collect *c, const struct fd_view *v, Pb__Slot *slot, struct err *e);

/* In the home task: flock and OFD locks. */
int lock_restore(const Pb__Object *o, int fd, struct err *e);

/* In a task: does somebody hold what it will take in the script? */
int lock_check_task(const struct restore_task *r, struct err *e);

/* The steps that take the POSIX locks of a task, and how many there are. */
int lock_restore_script(const Pb__Task *task, struct region *region, struct script_builder *b, struct err *e);
size_t lock_script_ops(const Pb__Task *task);

/* In the coordinator, at the end. */
int lock_restore_leases(const Pb__Object *o, int fd, struct err *e);
