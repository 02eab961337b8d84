/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Options of TCP sockets: those that a program has set. */

#include "image/pb.h"

struct err;

/* A repeated field of some message. */
struct tcp_options {
	Pb__SocketOption ***v;
	size_t *n;
};

/* Add what `fd` has other than a new socket of its family. */
int tcp_options_collect(struct arena *arena, int fd, int family, struct tcp_options to, struct err *e);

/* What a program has set that cannot be set again: words to follow "is a TCP socket"; NULL: nothing. */
const char *tcp_options_obstacle(int fd);

/* Set those that only count before bind(2). */
int tcp_options_prepare(int fd, struct tcp_options from, struct err *e);

/* Set all the others. SO_REUSEADDR and SO_LINGER, which making the socket may have used, become as they were, too. */
int tcp_options_restore(int fd, struct tcp_options from, struct err *e);
