/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The init of a namespace of torpor's: it reaps what is left by its parents, passes
 * signals on to the program, and tells how the program fares. It ends with the
 * last process that lives there, as the program ended.
 */

#include <sys/types.h>

/*
 * All signals are blocked. Besides standard streams, which are let go, only these
 * stay open: `reports`, in which every status of the program that wait(2) tells is
 * written as an int, and `keep` (-1: none).
 */
_Noreturn void init_serve(pid_t root, int reports, int keep);
