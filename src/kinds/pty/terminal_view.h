/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Terminals among the fds of the tree: which slave belongs to which master. */

#include <stdint.h>

struct collect;
struct err;
struct fd_view;

enum { PTY_NO_INDEX = UINT32_MAX };

/* A pseudo-terminal of the tree: its master is in it, or is closed. */
struct pty_view {
	uint32_t index; /* N of /dev/pts/N; PTY_NO_INDEX when the kernel does not tell any more */
	const struct fd_view *master; /* NULL: closed, its slaves are hung up */
	const struct fd_view *slave;  /* the first of them; NULL: the tree holds none */
};

/* Fill in `terminal`, `pty`, and `peer_outside` of the terminals among c->views. */
int terminal_views(struct collect *c, struct err *e);
