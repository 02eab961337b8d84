/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which pages of a running task are written? The kernel marks them, for a
 * userfaultfd that was made inside the task (only there it concerns the task's
 * memory) and that torpor alone holds. Nothing of it is left in the task, and if
 * torpor dies, the kernel closes it and takes the marks away.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/copies.h"
#include "memory/memory.h"
#include "proc/maps.h"
#include "target/target.h"

struct track_stretch {
	uint64_t start, end;
};

struct track {
	struct target task; /* to read its memory while it runs: only pid and mem_fd */
	int uffd, pagemap;  /* -1: it is not tracked */
	struct track_stretch *stretches; /* mappings that are watched, ascending */
	size_t n, room;
	size_t stretch; /* where the round stands */
	uint64_t at;
	struct page_copies copies; /* of its pages, made meanwhile */
	struct track_stretch *old; /* watched since an earlier dump (track_adopt()), ascending */
	size_t n_old;
	bool bound; /* what is marked as not written, and was not copied, is as in the parent of the image */
};

/* Does somebody, perhaps another process, keep track of some memory of this process in this way? False also when that cannot be told. */
bool track_is_watched(pid_t pid);

/* Of a task that is not tracked (yet). */
void track_init(struct track *t, pid_t pid);

/*
 * Make the userfaultfd in a task that stands still, all its threads. Returns 0; 1
 * when the kernel or the task does not allow it, with the reason in *ret_why (a
 * constant); or negative. Undone by track_end() in any case.
 */
int track_begin(struct track *t, struct target *task, const char **ret_why, struct err *e);

/*
 * As above, but go on with a userfaultfd that was made for an earlier dump, and is taken over in any case, and with
 * what it watches (copied). Returns 1 when the task has executed another program since.
 */
int track_adopt(struct track *t, struct target *task, int uffd, const struct track_stretch *stretches, size_t n, struct err *e);

/*
 * Watch its private anonymous mappings, of which `areas` (smaps) tells. It may run.
 * What it maps later is not watched, nor what it moves: all pages there count as written.
 */
int track_watch(struct track *t, const struct vm_area_list *areas, struct err *e);

/*
 * Which of these mappings, of which maps told, are registered as a whole? Sets VM_FLAG_UFFD as smaps would. Returns 0, or -errno.
 * For one that goes on (track_adopt()).
 */
int track_find_watched(const struct track *t, struct vm_area_list *areas);

/* A new round: look at all that is watched once more. */
void track_rewind(struct track *t);

/*
 * The next pages, `most` or a few more, that are there and were written since the
 * round before (in the first round: all); from now on they count as not written.
 * They must be read after this. Adds to `ret`. Returns 1 while there may be more, 0 at the end,
 * or negative; a task that has ended has no pages.
 */
int track_find(struct track *t, struct arena *arena, uint64_t most, struct page_source *ret, struct err *e);

/*
 * All that is written counts as not written from now on. It is noted that nobody has copied it since, so that it will be read
 * in the pause (copies_take()).
 */
int track_mark(struct track *t, struct err *e);

/*
 * As above, but only of these pages, and perhaps some between them: those that memory_find_pages() has just found. Who finds first and
 * marks then must read what was marked, and finds written what was written in between by who is not in the tree.
 */
int track_mark_found(struct track *t, const struct page_source *found, struct err *e);

/* How many pages would be found by a round that began now? Marks nothing. A task that has ended has none. */
uint64_t track_count(struct track *t);

/*
 * smaps shows what is watched as registered with a userfaultfd. It is ours. `stands`: so does the task, and what has grown out of
 * what was watched since an earlier dump can be told by asking.
 */
void track_hide(const struct track *t, struct vm_area_list *areas, bool stands);

void track_end(struct track *t);
