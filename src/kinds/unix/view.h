/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Unix sockets as the kernel's sock_diag(7) shows them: who is connected to whom. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;
struct err;

enum { UNIX_VIEW_LISTEN = 10 }; /* TCP_LISTEN, which unix sockets share */

struct unix_view {
	uint32_t ino;
	uint32_t peer;    /* inode of the socket it is connected to; 0: none, or that one is closed */
	uint8_t type;     /* SOCK_* */
	uint8_t state;    /* TCP_* */
	uint8_t shutdown; /* bit 0: receive, bit 1: send */
	bool connected;   /* it has a peer, open or closed */
	const char *name; /* as it was bound, or inherited from a listening socket; an abstract one begins with NUL */
	size_t name_size; /* without the NUL that ends a path; 0: it has none */
	uint32_t file_dev, file_ino; /* of a path: what it led to when it was bound; the kernel's own device number */
	uint32_t backlog; /* LISTEN: how many may wait */
	const uint32_t *waiting; /* LISTEN: inodes of the sockets that wait to be accepted; 0: it is closed */
	size_t n_waiting;
};

struct unix_view_table {
	struct unix_view *v; /* ascending by inode */
	size_t n;
};

/* Every unix socket of this network namespace. */
int unix_view_dump(struct arena *arena, struct unix_view_table *ret, struct err *e);

/* NULL when there is no such socket. */
const struct unix_view *unix_view_find(const struct unix_view_table *table, uint64_t ino);
