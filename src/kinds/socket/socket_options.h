/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Options of sockets of every family: those that a program has set. */

#include "image/pb.h"
#include "kinds/socket/inet_view.h"

struct collect;
struct err;

/* A repeated field of some message. */
struct socket_options {
	Pb__SocketOption ***v;
	size_t *n;
};

/* Those of a message with the field `options`; for both directions: only a dump changes it. */
#define socket_options_of(m) ((struct socket_options){ (Pb__SocketOption ***)&(m)->options, (size_t *)&(m)->n_options })

/*
 * Add what `fd` has other than a new socket of its sort (which is made, the first
 * time: that may take a privilege); and its packet filter.
 */
int socket_options_collect(struct collect *c, int fd, struct socket_sort sort, struct socket_options to, struct err *e);

/* Has it a packet filter? One that is an eBPF program cannot be read. */
enum socket_filter { SOCKET_FILTER_NONE, SOCKET_FILTER_CLASSIC, SOCKET_FILTER_UNREADABLE };
enum socket_filter socket_options_filter(int fd);

/* Set those that only count before bind(2). */
int socket_options_prepare(int fd, struct socket_options from, struct err *e);

/*
 * Set all the others. SO_REUSEADDR, SO_LINGER and whatever else making the socket
 * may have changed become as they were, too.
 */
int socket_options_restore(int fd, struct socket_options from, struct err *e);
