/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Several threads at one task, from its beginning to its end.
 */

#include <pthread.h>

/*
 * Run work(arg) in `threads` threads at once, of which the caller is one; their
 * stacks are small. On return the others are gone, with their TIDs. Where no more
 * threads can be had, those that are there do it all: so work() takes one piece
 * after the other, until none is left.
 */
void crew_run(unsigned threads, void (*work)(void *arg), void *arg);

/*
 * One more thread, for pthread_join(3), with a small stack: that of the system's setting, 8 MiB as a rule, would not be had
 * where the address space is limited (RLIMIT_AS), or leave nothing of it. 0 or -errno, as of pthread_create(3).
 */
int crew_thread(pthread_t *ret, void *(*run)(void *arg), void *arg);
