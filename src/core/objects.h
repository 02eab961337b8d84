/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The object graph: which fds of which tasks refer to which kernel objects. */

#include "kinds/kind.h"

/* Collect every object behind the tree's fds, and the tasks' slots, into `img`. */
int objects_collect(struct collect *c, Pb__Image *img, struct err *e);

/* Unpack an object's message; NULL (with `e` set) when it is damaged. */
ProtobufCMessage *object_unpack(struct arena *arena, const Pb__Object *o, struct err *e);

/* Make every object of the image in the coordinator. ret_fds[i] is the fd of objects[i]. */
int objects_restore(struct restore_objects *r, const Pb__Image *img, int **ret_fds, struct err *e);

/* In the coordinator, when every task stands complete: what must come last. */
int objects_complete(struct restore_objects *r, const Pb__Image *img, struct err *e);

/* Is there one that cannot be made, or has a step to take, before certain other tasks are there? */
bool objects_need_tasks(const Pb__Image *image);

/* In a task that leads a session: before that has other members, and when all process groups stand. */
int objects_lead(struct restore_task *r, struct err *e);
int objects_group(struct restore_task *r, struct err *e);

/* In the coordinator, when the tree is about to run and nothing can fail any more. */
void objects_release(struct restore_objects *r);

/* Close what is still stashed. */
void objects_done(struct restore_objects *r);

/* In a task: give every slot its object, complete what is at home here, close all else below `fd_base`. */
int objects_install(struct restore_task *r, size_t task_index, int fd_base, struct err *e);
