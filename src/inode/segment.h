/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* System V shared memory segments: the part of src/inode that knows of them. */

#include "inode/inode.h"

/* Is this the mapping of one? */
bool segment_is(const struct vm_area *a);

/* Fill the entry from the mapping. An obstacle is added where the segment cannot be examined. */
int segment_collect(struct inode_table *t, struct inode_entry *n, const struct target *task, const struct vm_area *a,
		    struct err *e);

/* Find it or make it again, and attach it. What it holds is set by segment_complete() where others made it. */
int segment_restore(struct inode_restore *r, size_t index, struct err *e);

/* The tasks stand: content, mode and owner as they were; a segment marked for removal is marked again; detach. */
int segment_complete(struct inode_restore *r, size_t index, struct err *e);

/* Detach; `failed`: take back what was made. */
void segment_done(struct inode_live *n, bool failed);
