/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Options of TCP sockets: those that a program has set. */

#include "image/pb.h"

struct err;

/* Add what `fd` has other than a new socket of its family to pb->options. */
int tcp_options_collect(struct arena *arena, int fd, int family, Pb__TcpConnection *pb, struct err *e);

/* Set them on a connection. SO_REUSEADDR and SO_LINGER, which its making had used, become as they were, too. */
int tcp_options_restore(int fd, const Pb__TcpConnection *pb, struct err *e);
