/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Internet sockets as the kernel's sock_diag(7) shows them: in which state, connected to whom. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct arena;
struct err;

/* What a socket is. All zero: unknown. */
struct socket_sort {
	int domain, type, protocol; /* AF_*, SOCK_*, of that family */
};

int socket_sort_read(int fd, struct socket_sort *ret, struct err *e);

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

/* Protocols to ask for: IPPROTO_*, up to 0. */
extern const int inet_view_tcp[], inet_view_udp[];

/*
 * Every socket of this network namespace and these protocols that has a port: of
 * TCP, those that listen or are connected. Of the others, none where the kernel
 * cannot tell.
 */
int inet_view_dump(struct arena *arena, const int *protocols, struct inet_view_table *ret, struct err *e);

/* Note which object of the tree a socket is. NULL when there is no such socket. */
const struct inet_view *inet_view_hold(const struct inet_view_table *table, uint64_t ino, uint32_t object);

/* Look at a TCP socket itself. */
int inet_view_read(int fd, uint64_t ino, struct inet_view *ret, struct err *e);

/* The other end of a connection, as far as it is in this network namespace; NULL: it is not. */
const struct inet_view *inet_view_find_peer(const struct inet_view_table *table, const struct inet_view *end);
