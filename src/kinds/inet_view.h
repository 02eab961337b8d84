/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* TCP sockets as the kernel's sock_diag(7) shows them: in which state, connected to whom. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct arena;
struct err;

/* The kernel's numbers of TCP states. */
enum inet_view_state {
	INET_VIEW_ESTABLISHED = 1,
	INET_VIEW_SYN_SENT,
	INET_VIEW_SYN_RECV,
	INET_VIEW_FIN_WAIT1,
	INET_VIEW_FIN_WAIT2,
	INET_VIEW_TIME_WAIT,
	INET_VIEW_CLOSE,
	INET_VIEW_CLOSE_WAIT,
	INET_VIEW_LAST_ACK,
	INET_VIEW_LISTEN,
	INET_VIEW_CLOSING,
};

struct inet_view {
	uint32_t holder;  /* number of the tree's object that it is, + 1; 0: none */
	uint32_t ino;     /* 0: no process has it: it was closed, or waits to be accepted */
	uint8_t protocol; /* IPPROTO_* */
	uint8_t state;
	uint8_t shutdown; /* bit 0: receive, bit 1: send */
	bool ended;       /* CLOSE: it was connected */
	uint32_t unread, unsent; /* bytes; of a listening socket: connections that wait, and how many may */
	struct sockaddr_storage local, remote;
};

struct inet_view_table {
	struct inet_view *v;              /* ascending by inode */
	const struct inet_view **by_ends; /* the same, ascending by ports and addresses */
	size_t n;
};

/* Every TCP socket of this network namespace that listens or is connected. */
int inet_view_dump(struct arena *arena, struct inet_view_table *ret, struct err *e);

/* Note which object of the tree a socket is. NULL when there is no such socket. */
const struct inet_view *inet_view_hold(const struct inet_view_table *table, uint64_t ino, uint32_t object);

/* Look at a socket itself. Returns 0; 1 when it is no TCP socket; or negative. */
int inet_view_read(int fd, uint64_t ino, struct inet_view *ret, struct err *e);

/* The other end of a connection, as far as it is in this network namespace; NULL: it is not. */
const struct inet_view *inet_view_find_peer(const struct inet_view_table *table, const struct inet_view *end);
