/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the kinds that are only a place in the file system have in common. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct err;
struct fd_view;
struct restore_objects;

/* Below /proc or /sys: files whose inodes and times mean nothing. */
bool place_is_pseudo(const char *path);

/* Does the path of this fd still lead to it? */
bool place_is_there(const struct fd_view *v);

/*
 * Open a path that must be a file of this type (S_IFMT bits) with this inode
 * number (0: any), unless changed files are allowed. Returns an fd or negative.
 */
int place_open(const struct restore_objects *r, const char *path, int flags, mode_t type, uint64_t ino,
	       struct err *e);

/* A file that a restore makes, and what stood in its place. */
struct place_change {
	const char *path;
	const char *aside; /* where that is kept until the restore has succeeded; NULL: there was nothing */
	bool made;         /* the file is there */
	int (*remove)(const char *path); /* unlink(2), or what takes its place */
};

/*
 * A file is about to be made at `path`: what is there is renamed, and comes back
 * when the restore fails. Whether it may be replaced, the caller has found out.
 */
int place_make_room(struct restore_objects *r, const char *path, struct err *e);

/* The file for which room was made last is there. */
void place_made(struct restore_objects *r);

/* Something with a name was made where nothing was: `remove` takes it away when the restore fails. */
int place_note_made(struct restore_objects *r, const char *name, int (*remove)(const char *name), struct err *e);

/* The restore has succeeded, or `failed`: remove what was kept for the other case. */
void place_settle(struct restore_objects *r, bool failed);
