/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What waits to be read in the two directions of a pseudo-terminal, and whether
 * its output stands still (^S).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

/* The kernel keeps at most some 25 KiB in one direction. */
enum { PTY_QUEUE_MAX = 256 * 1024, PTY_LINES_MAX = 32 * 1024 };

enum pty_stopped { PTY_RUNS, PTY_STOPPED_BY_CHARACTER, PTY_STOPPED_BY_CALL };

struct pty_queue {
	uint32_t stopped;                  /* enum pty_stopped */
	size_t n_lines;                    /* canonical mode: whole lines; each is what one read(2) yields */
	uint32_t line_ends[PTY_LINES_MAX]; /* in `input`, ascending */
	size_t n_input;
	uint8_t input[PTY_QUEUE_MAX];      /* the lines, then the rest: a line without its end, or raw keys */
	size_t n_output;
	uint8_t output[PTY_QUEUE_MAX];     /* written to the slave, not yet read from the master */
};

/* An empty queue (it is large, but takes only the room that it uses), or NULL; for pty_queue_free(). */
struct pty_queue *pty_queue_new(void);
void pty_queue_free(struct pty_queue **q);

#define cleanup_pty_queue __attribute__((cleanup(pty_queue_free)))

/*
 * Look what waits in a pseudo-terminal of programs that stand still. `master` and
 * `slave` are their own open file descriptions; slave -1: none is open any more.
 * *ret is the caller's; NULL when plainly nothing waits.
 */
int pty_queue_peek(int master, int slave, struct pty_queue **ret, struct err *e);

/*
 * Put all that into a new pseudo-terminal, through its non-blocking ends
 * (slave -1: none may be opened; then nothing can wait in its master).
 * `modes` are those that the slave has afterwards.
 */
struct sys_termios2;
int pty_queue_put(int master, int slave, const struct sys_termios2 *modes, const struct pty_queue *q,
		  struct err *e);
