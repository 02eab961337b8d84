/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Dumps of a program that runs on: what is done while it runs, so that the pause
 * is short (theory.md, "A short pause"). dump.c stops it, and asks here.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/core.h"
#include "memory/base.h"
#include "memory/track.h"
#include "target/target.h"

struct live_task {
	struct track track;        /* uffd is -1 when it is not tracked */
	struct vm_area_list known; /* its mappings as smaps told before the pause; none: it was not there */
	struct vm_area_list seen;  /* ... as they were collected in the pause */
	struct vm_area_list after; /* ... as smaps told afterwards */
};

struct live {
	const struct dump_options *o;
	struct arena *arena;
	struct image_writer *writer;
	struct base base;
	struct live_task *tasks;
	size_t n;
	bool tracks;      /* some task is tracked */
	bool watches;     /* the tree would notice the image's file (inotify) before it is stopped */
	bool direct;      /* something reads files around the page cache: written pages may be missed */
	bool asks_inside; /* smaps is read in the pause */
	uint64_t rss;     /* bytes in memory, of all tasks */
	uint64_t watch_ns;
	uint64_t stored; /* pages in the file, copied while it ran */
	unsigned rounds, attempts;
};

/* Stop the tree for a moment to begin tracking, if that is worth while. Not being able to is no failure. */
int live_begin(struct live *l, const struct dump_options *o, struct arena *arena, struct err *e);

/* Copy what is there, and then what was written meanwhile, as often as that makes the pause shorter. */
int live_copy(struct live *l, struct image_writer *writer, const struct parent *parent, struct err *e);

/* The pause is next: what can be known before, and a last round. */
int live_prepare(struct live *l, struct err *e);

/* For memory_collect(): what is known of this task. Either may be NULL. */
void live_known(struct live *l, pid_t pid, const struct vm_area_list **ret_known, const struct track **ret_track);

/* Its mappings were collected. */
void live_saw(struct live *l, pid_t pid, const struct vm_area_list *areas);

/* The tracking that page finding may rely on; NULL: there is none. */
const struct track *live_track(const struct live *l, pid_t pid);

/* The tree runs again. Was all as it was known? 1: yes, 0: no, so once more. */
int live_verify(struct live *l, struct err *e);

/* How it was copied. */
enum pause_way live_way(const struct live *l);

void live_end(struct live *l);
