/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What waits in a POSIX message queue. */

#include <stddef.h>

#include "image/pb.h"

struct err;

/*
 * The messages of the queue `fd` (readable, writable, not blocking), which has this many of at most this size,
 * in the order in which they would be received. They are taken and put back, by a process that survives torpor.
 */
int queue_peek(struct arena *arena, int fd, size_t n, size_t message_size, Pb__QueuedMessage ***ret, size_t *ret_n,
	       struct err *e);

int queue_put(int fd, Pb__QueuedMessage *const *messages, size_t n, struct err *e);
