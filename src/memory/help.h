/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Two processes load the memory of one: itself, the loader, and its maker, which would only wait for it. Fresh pages can be
 * put from outside, by whoever has the userfaultfd (fresh.h). That needs no thread, whose TID might be one of the saved, and
 * whose CPU would have to be told of every change of the address space.
 *
 * Each takes whole extents, which it reads, verifies and puts: the loader from the first on, the helper from the last on, until
 * they meet. What they have to know of each other lies in memory that both share.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "image/image.h"
#include "memory/piece.h"
#include "util/err.h"

enum { HELP_EXTENTS_MAX = 64, HELP_PIECES_MAX = 96 };

enum help_state {
	HELP_UNKNOWN, /* whether help is wanted */
	HELP_WANTED,
	HELP_GIVEN,   /* the helper is at it */
	HELP_OVER,    /* it comes no more, and has nothing of the loader's any more */
};

/* All zero: nothing has been asked yet. */
struct help {
	_Atomic uint32_t state; /* enum help_state */
	int fd;                 /* the userfaultfd, among the loader's */
	uint32_t n, n_pieces;
	struct help_extent {
		uint32_t first, n; /* its pieces */
		_Atomic uint32_t taken;
	} extents[HELP_EXTENTS_MAX];
	struct piece pieces[HELP_PIECES_MAX];
};

/* ---- in the loader ---- */

/* Add an extent, all of whose pieces are for fresh pages, before help is asked for. False: there is no room for it. */
bool help_add(struct help *h, const struct piece *pieces, size_t n);

/* Ask for help with what was added: `userfaultfd` takes pages for all of it. Nothing is asked for if that is nothing. */
void help_ask(struct help *h, int userfaultfd);

/* Take an extent, by its number in the order in which they were added. False: the helper has taken it. */
bool help_take(struct help *h, uint32_t extent);

/* Wait until the helper has put all that it has taken. If it has failed, it never has: who fails ends us. */
void help_await(struct help *h);

/* ---- in the helper ---- */

/*
 * Give the help that `loader`, a child of ours, asks for, if it asks soon. Needs what a tracer of it may
 * (pidfd_getfd(2)); without, there is no help. Negative, with `e` set: something that the loader needs is not there.
 */
int help_give(struct help *h, const struct image *image, pid_t loader, struct err *e);
