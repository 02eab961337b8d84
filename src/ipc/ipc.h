/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * System V objects that no file descriptor and no mapping refers to: semaphore
 * sets and message queues. They belong to nobody; that a tree uses one shows in
 * who operated on it last, in who waits, and in what is to be undone when a
 * process ends.
 */

#include <stdbool.h>
#include <stddef.h>

#include "image/pb.h"
#include "target/script.h"
#include "target/target.h"
#include "util/err.h"
#include "util/obstacle.h"

/* Does a thread of the tree stand in one of these system calls, with this id? */
bool ipc_is_waited_for(const struct target_tree *tree, int id, int64_t nr, int64_t other_nr);

/* The messages of a System V queue, which has n of together `bytes`; nothing is taken. Returns 0 or -errno. */
int queue_copy_messages(struct arena *arena, int id, size_t n, size_t bytes, Pb__SysvMessage ***ret, size_t *ret_n);

/* Has a task of the image to undo something on this set? */
bool semaphores_have_undo(const Pb__Image *img, int id);

/* ---- dump ---- */

struct ipc_collect {
	struct arena *arena;
	struct obstacle_list *obstacles;
	const struct target_tree *tree;
	bool external; /* what other programs use, too, is left as it is */
};

/* The semaphore sets that the tree uses, and what its tasks have to undo. */
int semaphores_collect(struct ipc_collect *c, Pb__Image *img, struct err *e);

/* The message queues that the tree uses, with what waits in them. */
int queues_collect(struct ipc_collect *c, Pb__Image *img, struct err *e);

/* ---- restore ---- */

struct ipc_restore {
	struct arena *arena;
	const Pb__Image *image;
	struct semaphores_was { /* of each set: what it was before the restore */
		bool made, touched;
		unsigned short *values;
	} *was;
	size_t n; /* of those that were begun */
	bool *queue_made; /* of each queue */
	size_t n_queues;
	bool allow_changed;
};

/* Find the sets or make them again, with their values; before the tasks, whose scripts operate on them. */
int semaphores_restore(struct ipc_restore *r, struct err *e);

/* `failed`: take back what was made or set. */
void semaphores_done(struct ipc_restore *r, bool failed);

/* How many script steps semaphores_restore_script() appends. */
size_t semaphores_script_ops(const Pb__Task *task);

/* In a task: what it has to undo at its end, and that it was the last to operate on a semaphore. */
int semaphores_restore_script(const Pb__Image *img, const Pb__Task *task, struct region *region, struct script_builder *b,
			      struct err *e);

/* The same for queues: found or made again; when all tasks stand, filled where nothing is left in it. */
int queues_restore(struct ipc_restore *r, struct err *e);
int queues_complete(struct ipc_restore *r, struct err *e);
void queues_done(struct ipc_restore *r, bool failed);
size_t queues_script_ops(const Pb__Task *task);
size_t queues_script_bytes(const Pb__Task *task);
int queues_restore_script(const Pb__Image *img, const Pb__Task *task, struct region *region, struct script_builder *b,
			  struct err *e);
