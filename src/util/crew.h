/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Several threads at one task, from its beginning to its end.
 */

/*
 * Run work(arg) in `threads` threads at once, of which the caller is one; their
 * stacks are small. On return the others are gone, with their TIDs. Where no more
 * threads can be had, those that are there do it all: so work() takes one piece
 * after the other, until none is left.
 */
void crew_run(unsigned threads, void (*work)(void *arg), void *arg);
