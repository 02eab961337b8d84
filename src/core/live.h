/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Dumps of a program that runs on: what is done while it runs, so that the pause
 * is short (theory.md, "A short pause"). dump.c stops it, and asks here.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/core.h"
#include "core/tracker.h"
#include "core/watches.h"
#include "memory/base.h"
#include "memory/track.h"
#include "target/target.h"

/* The search for a task's pages, beside what else is collected of it. */
struct live_search {
	pthread_t thread;
	bool runs;
	struct arena arena; /* of what was found */
	const struct target *task;
	Pb__AddressSpace *space;
	uint32_t owner;
	bool watched;       /* so there are pages to be kept */
	struct track *mark; /* let what is written count as not written: a later dump will ask */
	struct page_source found, kept;
	int result;
	struct err err;
};

/* smaps of all tasks, read once more, beside what is left to do. */
struct live_review {
	pthread_t thread;
	bool runs;
	struct arena arena; /* of what was read */
};

struct live_task {
	struct live_search search;
	uint64_t starttime;        /* as in proc_stat */
	struct track track;        /* uffd is -1 when it is not tracked */
	struct vm_area_list recalled; /* ... as they were when the parent was taken; none: not known */
	struct vm_area_list known; /* its mappings as smaps told before the pause; none: it was not there */
	struct vm_area_list seen;  /* ... as they were collected in the pause */
	struct vm_area_list after; /* ... as smaps told since all was collected, and nothing was to be mapped in it any more */
};

struct live {
	const struct dump_options *o;
	struct arena *arena;
	struct image_writer *writer;
	struct base base;
	struct tracked *tracked; /* by an earlier dump; NULL: nothing is */
	struct live_task *tasks;
	size_t n;
	struct live_review review;
	bool tracks;      /* some task is tracked */
	struct watches watches;
	bool asks_inside; /* smaps is read in the pause */
	uint64_t known_at; /* when `known` of the tasks was read, CLOCK_MONOTONIC ns; 0: it is not new */
	uint64_t rss;     /* bytes in memory, of all tasks */
	uint64_t watch_ns;
	uint64_t first, again; /* pages of the first round, and of all later ones */
	uint64_t stored; /* pages in the file, copied while it ran */
	uint64_t found, found_at; /* pages that were written when it was looked last, and when that was, CLOCK_MONOTONIC ns */
	unsigned rounds, attempts;
};

/*
 * Stop the tree for a moment to begin tracking, if that is worth while; tasks that `tracked` knows go on being tracked (or NULL).
 * Not being able to is no failure.
 */
int live_begin(struct live *l, const struct dump_options *o, struct tracked *tracked, struct arena *arena, struct err *e);

/* The tree is about to be ended, or only looked at: of what `tracked` knows it can be told what has been written. */
void live_begin_standing(struct live *l, const struct dump_options *o, struct tracked *tracked, struct arena *arena);

/* Copy what is there, and then what was written meanwhile, as often as that makes the pause shorter. */
int live_copy(struct live *l, struct image_writer *writer, const struct parent *parent, struct err *e);

/* The pause is next: what can be known before, and a last round. */
int live_prepare(struct live *l, struct err *e);

/* They stand: those that are tracked since an earlier dump are the same. */
int live_adopt_standing(struct live *l, const struct target_tree *tree, struct err *e);

/* For memory_collect(): what is known of this task. Either may be NULL. */
void live_known(struct live *l, pid_t pid, const struct vm_area_list **ret_known, const struct track **ret_track);

/* Its mappings were collected. */
void live_saw(struct live *l, pid_t pid, const struct vm_area_list *areas);

/* The tracking of a task whose marks are worth something; NULL: there is none. */
const struct track *live_track(const struct live *l, pid_t pid);

/* Begin to look for the pages of a task, whose mappings are known, if it is large. */
void live_search(struct live *l, const struct target *task, Pb__AddressSpace *space, uint32_t owner);

/*
 * The pages of a task; *ret_kept those that were copied already (live_track()). Both
 * are valid until live_end().
 */
int live_find_pages(struct live *l, const struct target *task, Pb__AddressSpace *space, uint32_t owner,
		    struct page_source *ret_found, struct page_source *ret_kept, struct err *e);

/* The attempt has ended: nothing looks for pages any more, or reads smaps. */
void live_settle(struct live *l);

/*
 * All is collected: begin to read again what was known of the tasks' mappings, unless that has begun. They stand, and may run again
 * meanwhile. What is still to be mapped inside one has to wait for a large mapping to be read.
 */
void live_review(struct live *l);

/* As above, if no task is expected to be cloned. */
void live_review_early(struct live *l);

/* The tree runs again. Was all as it was known? 1: yes, 0: no, so once more. Waits for live_review(). */
int live_verify(struct live *l, struct err *e);

/* Can what was copied while it ran be trusted? */
bool live_distrusts(const struct live *l);

/* The image is whole, and a child of it is to find what was written since. Not being able to is no failure. */
void live_keep_tracking(struct live *l, const struct image_identity *image);

/* How it was copied. */
enum pause_way live_way(const struct live *l);

/* Nothing is watched any more. */
void live_unwatch(struct live *l);
void live_end(struct live *l);
