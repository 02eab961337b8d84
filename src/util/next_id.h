/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Choosing the id of the next System V object of this IPC namespace
 * (/proc/sys/kernel/{shm,sem,msg}_next_id, proc(5)). Takes CAP_CHECKPOINT_RESTORE.
 */

struct err;

enum next_id { NEXT_ID_SHM, NEXT_ID_SEM, NEXT_ID_MSG };

/* The next object of this type gets this id, if that is free. Says what would help when it may not be chosen. */
int next_id_choose(enum next_id type, int id, struct err *e);
