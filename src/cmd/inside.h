/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* dump and check of a program that lives in a namespace of torpor's: the command goes on inside. */

#include "core/visit.h"

enum { INSIDE_GO_ON = -1 };

/*
 * Returns INSIDE_GO_ON where the command is to be carried out, with the PID that it
 * has there in *pid and v->outside filled, if it is another one. Else the exit status.
 */
int inside_enter(pid_t *pid, struct arena *arena, struct visit *v);
