/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Files that marks are on (inotify, fanotify): found in a dump, and reached again in a restore. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proc/fdinfo.h"

struct collect;
struct err;
struct restore_objects;

struct watched {
	const char *path; /* NULL: it was not found. Of a file without a name: what it was */
	uint64_t ino;     /* 0: any */
	bool nameless;    /* it has lost its name, but the tree has it open: */
	uint32_t object;  /* the index of the object that does */
};

/* *ret: one per file, in the arena. */
int watched_find(struct collect *c, const struct fdinfo_file *const *files, size_t n, struct watched **ret,
		 struct err *e);

/*
 * A path that leads to the file, and that it is still the one that was saved. A
 * symbolic link at the end of it is to be followed only if the file is nameless.
 */
enum { WATCHED_PATH_MAX = 4096 };
int watched_reach(const struct restore_objects *r, const struct watched *w, char path[WATCHED_PATH_MAX], struct err *e);
