/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Nothing in a siginfo tells a signal to one process from a signal to its whole group (kill(2) with a negative number,
 * as `kill %1` of a shell). A witness is a child of ours in our group that has no other purpose than to get the latter:
 * what it got as well as we, all others in the group got by themselves.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct witness {
	pid_t pid;
	int fd; /* asks and answers; -1: there is no witness */
	uint64_t seen; /* told by it, and not yet asked for: a bit for each signal, beginning with 1 */
};

#define WITNESS_INIT ((struct witness){ .fd = -1 })

/* All signals must be blocked, as they are in the witness from then on. Without one, nothing was ever seen. */
void witness_begin(struct witness *w);

/* Has it got this signal, too, since it was last asked for it? Each signal that reaches us must be asked for. */
bool witness_saw(struct witness *w, int signo);

void witness_end(struct witness *w);
