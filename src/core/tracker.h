/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Between two dumps of a program that is tracked, somebody must hold its userfaultfds: in the program they would show,
 * and if nobody has them, the kernel takes the marks away. That is the tracker, a small process that holds them, and
 * what is known of them, and nothing else. It ends with the first process of the program, or when it is told to. What it
 * holds belongs to one image: the program's memory as that has it, but for the pages without a mark.
 *
 * It is found by an abstract unix socket with the PID in its name. Anybody can make such a socket; so each end looks who the other
 * one is.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "image/image.h"
#include "proc/maps.h"

struct arena;
struct err;
struct track_stretch;

enum { TRACKER_TASKS_MAX = 250 }; /* that many fds go into one message */

struct tracked_task {
	pid_t pid;
	uint64_t starttime; /* as in proc_stat */
	int uffd;
	const struct track_stretch *stretches; /* what is watched, ascending */
	size_t n;
	struct vm_area_list known; /* its mappings as they were in the image, with their flags, without their names */
};

/* What a tracker holds. */
struct tracked {
	int link; /* to it; -1: there is none */
	pid_t tracker;
	struct image_identity image;
	bool is_parent; /* for who has found it: the dump that is under way is taken against that image */
	struct tracked_task *tasks;
	size_t n;
};

/*
 * Is there a tracker of the program with this root? 1: *ret has what it holds, its fds duplicated; nothing has changed.
 * 0: there is none that could be trusted. In the arena, but for the fds; undone by tracked_done() in any case.
 */
int tracker_find(pid_t root, struct arena *arena, struct tracked *ret, struct err *e);

/*
 * Let it end, and wait until it has. Before the first page is marked anew: from then on the marks do not belong to its image any
 * more, and nobody must find it.
 */
int tracker_end(struct tracked *t, struct err *e);

/*
 * There is no tracker that could be asked, or no more. Has one been killed a moment ago, or a dump that kept track itself? Wait
 * until what it watched of the first process is watched no more, for a second at most: it may be somebody else who watches,
 * for good.
 */
int tracker_await_end(pid_t root, struct err *e);

/* Find it and let it end. Returns 1, 0 when there is none, or negative. */
int tracker_stop(pid_t root, struct err *e);

/* Close what is left here. */
void tracked_done(struct tracked *t);

/*
 * Make a tracker, which gets duplicates of the fds. It is no child of ours. `t->link` and `t->tracker` are not looked at. Returns 1
 * with the reason in *ret_why when that cannot be.
 */
int tracker_begin(pid_t root, const struct tracked *t, const char **ret_why, struct err *e);
