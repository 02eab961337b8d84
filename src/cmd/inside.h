/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* dump and check of a program that lives in a namespace of torpor's: the command goes on inside. */

#include <stdbool.h>

#include "core/visit.h"

/*
 * False where the command is to be carried out, with the PID that it has there in
 * *pid and v->outside filled, if it is another one. True when a child has done it, or
 * when that failed: *ret_status is the exit status.
 */
bool inside_done(pid_t *pid, struct arena *arena, struct visit *v, int *ret_status);
