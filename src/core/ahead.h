/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A program that is alone, and is to be ended: while it is collected what it is, which leaves one CPU idle, another thread
 * begins to copy its memory.
 */

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>

#include "core/core.h"
#include "memory/memory.h"
#include "target/target.h"

struct ahead {
	bool runs;    /* the thread, and it has not been heard of */
	bool to_join; /* it may be about to end */
	pthread_t thread;
	sem_t copied; /* posted when there is a result */
	const struct dump_options *o;
	const struct target *task;
	struct memory_ahead memory;
	struct image_writer *writer; /* NULL: no file was made */
	struct err err;
	int result;
};

/*
 * The tree stands: begin, if that is worth while. A task, and what `o` refers to, must stay until ahead_end(). Neither here nor later
 * does it matter that something could not be begun.
 */
void ahead_begin(struct ahead *a, const struct target_tree *tree, const struct dump_options *o);

/* Where it listens to what smaps tells of its task; NULL: it does not run. */
struct areas_told *ahead_listens(struct ahead *a);

/*
 * No more of it: help to finish what it is at. Negative: what has failed is in the file; the dump must fail as well. May be
 * called twice, and for a zeroed struct.
 */
int ahead_end(struct ahead *a, struct err *e);

/* The file that was begun, or NULL; the caller's from now on. Only after ahead_end(). */
struct image_writer *ahead_take_writer(struct ahead *a);

/* Nobody else uses that file any more. Only after ahead_end(), and also for a zeroed struct. */
void ahead_join(struct ahead *a);

/* Stops it, and takes the file back. Also for a zeroed struct. */
void ahead_done(struct ahead *a);
