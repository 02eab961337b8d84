/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Making a System V object with a chosen id (/proc/sys/kernel/{shm,sem,msg}_next_id,
 * proc(5)), in the IPC namespace of the caller. Takes CAP_CHECKPOINT_RESTORE.
 */

#include <stddef.h>
#include <sys/types.h>

struct err;

enum next_id { NEXT_ID_SHM, NEXT_ID_SEM, NEXT_ID_MSG };

/*
 * Make one with this id and key, for its owner only; `size`: bytes of a segment, semaphores of a set. Returns 0, or 1
 * when the kernel gives another id, since this one is taken; or negative, and says what would help when it
 * may not be chosen.
 */
int next_id_make(enum next_id type, int id, key_t key, size_t size, struct err *e);
