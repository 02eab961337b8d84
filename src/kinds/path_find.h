/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * From inode numbers to paths. The kernel tells of a mark (inotify, fanotify) which
 * inode it is on, and of a file which name it has lost, but not which others it has;
 * opening inodes by handle is a privilege. So paths are tried: those that the tree
 * has open, mapped or is in, the folders they are in, and then what lies below
 * those and at last below "/", as far as a budget reaches.
 */

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#include "proc/fdinfo.h"

struct collect;
struct err;

/*
 * Does this path lead to that file? `st` is what stat(2) says of it; some file systems
 * show another device number there. `flags`: 0 or AT_SYMLINK_FOLLOW.
 */
bool path_leads_to(const char *path, const struct stat *st, const struct fdinfo_file *file, int flags);

/* *ret_paths: one per file, in the arena; NULL where none was found. */
int path_find(struct collect *c, const struct fdinfo_file *const *files, size_t n, char ***ret_paths, struct err *e);
