/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The mappings of a process, as /proc/PID/maps or smaps tells them, piece by piece. smaps of a large program takes a whole CPU
 * for a while: what one thread has read of it so far, another can already use.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "proc/maps.h"
#include "util/arena.h"
#include "util/err.h"

enum { AREAS_TEXT = 32 * 1024 }; /* more than the longest line, with a name of PATH_MAX bytes of which each is escaped */

struct areas_reader {
	int fd;
	struct arena *arena;      /* of the list, and of the names in it */
	struct vm_area_list list; /* what was read so far; what is told of its last mapping may go on */
	size_t left;              /* bytes of the text that are the beginning of a line */
	char text[AREAS_TEXT + 1];
};

/* NAME is "maps", or "smaps" with their flags. 0 or -errno. */
int areas_open(struct areas_reader *r, struct arena *arena, pid_t pid, const char *name);

void areas_close(struct areas_reader *r);

/* Read on. 1: there may be more; 0: that was all; or -errno, -EINVAL for a line that is not understood. */
int areas_read(struct areas_reader *r);

/* A list's mappings from `first` on. */
static inline struct vm_area_list areas_from(const struct vm_area_list *list, size_t first)
{
	return first < list->n ? (struct vm_area_list){ list->areas + first, list->n - first } : (struct vm_area_list){ 0 };
}

/* All zero: nothing has been told yet. */
struct areas_told {
	atomic_size_t n;
	_Atomic(struct vm_area *) areas; /* they stay as long as the arena that they are from, also when there are more */
	atomic_bool whole;               /* these are all */
};

/* Tell others all of it, or all but the last one if there may be more. */
void areas_tell(struct areas_told *t, const struct vm_area_list *list, bool whole);

/* What has been told from mapping `first` on; only to be read. Returns whether that was all. */
bool areas_hear(struct areas_told *t, size_t first, struct vm_area_list *ret);

/* All of it, as above; told as it comes, where somebody listens (`told`; NULL: nobody). Negative, with `e` set. */
int areas_read_all(pid_t pid, const char *name, struct arena *arena, struct areas_told *told, struct vm_area_list *ret,
		   struct err *e);
