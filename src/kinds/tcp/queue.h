/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What is queued in a TCP connection, looked at without taking it. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;
struct err;

/*
 * Wait until all that two ends of one connection have sent has arrived, which it
 * has at once unless a receiver has no room; so they get more room meanwhile, as
 * far as the administrator permits. Nobody may send or receive meanwhile.
 *
 * Returns how many bytes are still on their way, or negative. *ret_active:
 * whether `fd` is the end that called connect(2).
 */
int64_t tcp_queue_settle(int fd, int peer, bool *ret_active, struct err *e);

/* As above; the other end was closed, and has nothing but bytes to deliver. `sent`: asks whether it has none left. */
int tcp_queue_settle_orphan(int fd, bool (*delivered)(const void *), const void *data);

/* The bytes that were received and not read, in the arena. Returns 0 or negative. */
int tcp_queue_read(int fd, struct arena *arena, uint8_t **ret, size_t *ret_size, struct err *e);
