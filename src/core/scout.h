/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One thread examines the tasks of a stopped tree; another goes before it. It reads what smaps tells of the next tasks, and looks
 * up the files in /proc that will be read: the kernel makes an inode for each, which takes longer than to read it.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "memory/memory.h"
#include "target/target.h"

struct scouted {
	_Atomic int state; /* who reads smaps, and whether that is done */
	struct vm_area_list areas;
};

struct scout {
	bool runs;
	pthread_t thread;
	_Atomic bool enough;
	const struct target_tree *tree;
	struct arena arena; /* of all areas */
	struct scouted *tasks;
};

/* Begin, where that is worth while. The tree must stand until scout_end(). */
void scout_begin(struct scout *s, const struct target_tree *tree);

/* What smaps tells of this task, for which nobody has asked before; NULL: the caller is to read it. Lasts until scout_done(). */
const struct vm_area_list *scout_areas(struct scout *s, size_t task);

/* All tasks have been examined, or will not be: the other thread is gone, what it has read stays. Also for a zeroed struct. */
void scout_end(struct scout *s);

/* Ends it, and forgets what it has read. Also for a zeroed struct. */
void scout_done(struct scout *s);
