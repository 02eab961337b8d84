/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * From inode numbers to paths. The kernel tells of an inotify mark which inode it
 * is on, and opening inodes by handle is a privilege. So paths are tried: those
 * that the tree has open, mapped or is in, the folders they are in, and then what
 * lies below those, as far as a budget reaches.
 */

#include <stddef.h>

#include "proc/fdinfo.h"

struct collect;
struct err;

/* *ret_paths: one per mark, in the arena; NULL where none was found. */
int inotify_find(struct collect *c, const struct fdinfo_inotify *marks, size_t n, char ***ret_paths, struct err *e);
