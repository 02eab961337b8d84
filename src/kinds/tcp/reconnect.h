/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * TCP connections made anew, without any privilege: both ends here, on this
 * machine, at the addresses they had.
 */

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "kinds/socket/inet_address.h"

struct err;

struct tcp_route {
	struct inet_end active;  /* calls connect(2) */
	struct inet_end passive; /* is accepted */
	bool impatient;         /* do not wait for a port that will soon be free */
};

/* The ends of a connection. They do not block, and reset it when they are closed, until somebody says otherwise. */
struct tcp_pair {
	int active;  /* connected */
	int passive; /* was accepted */
};

/*
 * Make a connection along the route. Nobody may listen at its passive end
 * meanwhile. Returns 0; or negative, and both ends are -1.
 */
int tcp_reconnect(const struct tcp_route *route, struct tcp_pair *ret, struct err *e);

/*
 * Begin to connect a new, unbound socket that does not block; from another port
 * if its own cannot be had. Returns 0 or negative.
 */
int tcp_connect_again(int fd, const struct inet_end *end, struct err *e);

/*
 * Put `size` bytes into a connection, at `from`; what the other end has no room
 * for waits in the queue of this one, as it would have to.
 */
int tcp_feed(int from, int to, const void *data, size_t size, struct err *e);

/* A new socket that does not block, and resets its connection when it is closed; or negative. */
int tcp_socket_new(int family, struct err *e);

/* Wait until just so many bytes are there to be read, or until the connection has ended. */
int tcp_await_unread(int fd, size_t size, struct err *e);
int tcp_await_closed(int fd, struct err *e);
