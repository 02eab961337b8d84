/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The other end of a pipe or socket is outside the tree. */

struct collect;
struct fd_view;

/* What would help where the connection can be let go. */
extern const char peer_help_let_go[];

/* Refuse to save this fd, and name the process that holds the other end. `help` is a constant. */
int peer_refuse(struct collect *c, const struct fd_view *v, const char *help);
