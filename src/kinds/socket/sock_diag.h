/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Asking the kernel about all sockets of some sort in this network namespace: sock_diag(7). */

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stddef.h>

struct err;

/* Takes one message of the answer. 0: go on; 1: that was enough; negative, with `e` set: give up. */
typedef int sock_diag_take(void *data, const void *message, const struct rtattr *attributes, size_t attributes_size,
			   struct err *e);

/*
 * `request` is what follows the header of a SOCK_DIAG_BY_FAMILY message. `take` is
 * called for each message of the answer that has `message_size` bytes before its
 * attributes. `what` names the sockets. Returns 0, or -errno with `e` set: -ENOENT
 * where the kernel knows nothing of such sockets.
 */
int sock_diag_dump(const void *request, size_t request_size, size_t message_size, sock_diag_take *take, void *data,
		   const char *what, struct err *e);
