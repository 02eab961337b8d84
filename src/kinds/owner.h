/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Whom an open file description tells with which signal (F_SETOWN_EX, F_SETSIG), whatever its kind. */

#include "image/pb.h"
#include "util/err.h"

struct collect;
struct fd_view;

/* Of the open file description that `v` is the first fd of. */
int owner_collect(struct collect *c, const struct fd_view *v, Pb__Object *o, struct err *e);

/* In the home task: O_ASYNC again, since signals tell the number of the fd by which it was set. */
int owner_restore_async(const Pb__Object *o, int fd, struct err *e);

/* In the coordinator, at the end: threads can be owners, and they are made last. */
int owner_restore(const Pb__Object *o, int fd, struct err *e);
