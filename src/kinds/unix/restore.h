/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "util/err.h"

struct restore_objects;

/* Make every unix socket of the image; see `restore_all` of struct kind. */
int unix_restore_all(struct restore_objects *r, struct err *e);
