/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Making pseudo-terminals: what the kinds of their two ends have in common. */

#include <stdbool.h>
#include <stdint.h>

struct err;
struct restore_objects;

/*
 * The pseudo-terminal whose master is this object of the image, complete but for
 * what would keep the tree from being made (see the `last` of its kind). It is
 * made by the first who asks. Returns an fd of its master, which the stash keeps.
 */
int pty_pair(struct restore_objects *r, uint32_t object, struct err *e);

/* The master for its object, after pty_pair(): the caller's. */
int pty_take_master(struct restore_objects *r, uint32_t object);

/*
 * A pseudo-terminal whose master is closed when all objects are there, which
 * hangs its slaves up. Returns an fd of the master, which the stash keeps.
 */
int pty_doomed_pair(struct restore_objects *r, uint32_t index, struct err *e);

/*
 * An open file description of its slave, close-on-exec, with these flags as F_GETFL
 * shows them; `by_tty`: such as /dev/tty yields to a process whose controlling terminal it is.
 */
int pty_open_slave(int master, unsigned flags, bool by_tty, struct err *e);
