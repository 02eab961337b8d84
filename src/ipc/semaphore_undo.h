/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the kernel is to undo on semaphores when a task ends (SEM_UNDO). */

#include <stdint.h>

struct err;
struct remote;

enum { SEMAPHORE_MAX = 32767, SEMAPHORE_ADJUST_MAX = 32767, SEMAPHORE_OPS = 500 };

/*
 * Ask in a task for its adjustments on this set, whose values these are (and become): ret[i] is what is added to
 * semaphore i at its end. Changes nothing. Returns 1 when there is any, 0, or negative.
 */
int semaphore_undo_ask(struct remote *r, int id, unsigned short *values, unsigned n, int *ret, struct err *e);
