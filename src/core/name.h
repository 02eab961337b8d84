/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Names of programs that live in namespaces of torpor's: files in a folder of the
 * user, $XDG_RUNTIME_DIR/torpor or /tmp/torpor-UID. Each is locked by the init of
 * its namespace, so that a name whose program has gone is known by its free lock.
 */

#include <stdbool.h>
#include <sys/types.h>

#include "util/err.h"

/* Letters, digits and "._-", at most 64, beginning with a letter. */
bool name_is_valid(const char *name);

/*
 * Take a name. Returns a locked fd, which is to be kept open as long as the program
 * lives; or negative, ERR_STATE when another program has it.
 */
int name_take(const char *name, struct err *e);

/* Say who has it: the program's first process and its init. */
int name_tell(int fd, pid_t root, pid_t init, struct err *e);

/* The first process of the program with this name. Negative, ERR_STATE, when there is none. */
pid_t name_find(const char *name, struct err *e);
