/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The restore's side of System V semaphores. The values are set before the tasks
 * are made: what they have to undo (SEM_UNDO) is forgotten by the kernel when a
 * value is set. It comes back by operations that add up to nothing, in the task
 * itself, one of them with SEM_UNDO.
 */

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/sem.h>
#include <sys/syscall.h>

#include "ipc/ipc.h"
#include "ipc/semaphore_undo.h"
#include "util/next_id.h"

enum { SETS_MAX = 32768, STEP_OPS = 3, PERMISSIONS = 0777 };

union semaphore_argument {
	int value;
	struct semid_ds *ds;
	unsigned short *values;
};

static int set_changed(const Pb__SemaphoreSet *pb, const char *how, struct err *e)
{
	return err_state(e, "E-SEM-CHANGED", 0, "the System V semaphore set %d (key %#x) %s", pb->id, pb->key, how);
}

/* A process that operated on it last and is still there, or waits for it. */
static bool set_is_in_use(const Pb__SemaphoreSet *pb)
{
	for (size_t i = 0; i < pb->n_values; i++) {
		pid_t last = semctl(pb->id, (int)i, GETPID);

		if ((last > 0 && (kill(last, 0) == 0 || errno == EPERM)) || semctl(pb->id, (int)i, GETNCNT) > 0 ||
		    semctl(pb->id, (int)i, GETZCNT) > 0)
			return true;
	}
	return false;
}

/* 1: it is there; 0: it is gone; or negative. */
static int set_find(const Pb__SemaphoreSet *pb, struct err *e)
{
	struct semid_ds ds;

	if (semctl(pb->id, 0, IPC_STAT, (union semaphore_argument){ .ds = &ds }) < 0) {
		if (errno == EINVAL || errno == EIDRM)
			return 0;
		return set_changed(pb, "belongs to somebody else now", e);
	}
	if ((uint32_t)ds.sem_perm.__key != pb->key || ds.sem_nsems != pb->n_values) {
		set_changed(pb, "cannot have its id again, which another one has now", e);
		return err_help(e, "remove that, if nobody needs it: ipcrm -s %d", pb->id);
	}
	if (!set_is_in_use(pb))
		return 1;
	set_changed(pb, "is used by another program", e);
	return err_help(e, "end that program (ipcs -s -i %d shows who used it last)", pb->id);
}

static int set_make(const Pb__SemaphoreSet *pb, struct err *e)
{
	int r;

	if (pb->key != IPC_PRIVATE && semget((key_t)pb->key, 0, 0) >= 0) {
		set_changed(pb, "cannot have its key again, which another set has now", e);
		return err_help(e, "remove that, if nobody needs it: ipcrm -S %#x", pb->key);
	}
	r = next_id_make(NEXT_ID_SEM, pb->id, (key_t)pb->key, pb->n_values, e);
	if (r < 0)
		return err_wrap(e, "the System V semaphore set %d (key %#x) is gone", pb->id, pb->key);
	return r > 0 ? set_changed(pb, "cannot have its id again: the kernel gives another one", e) : 0;
}

static int set_owner(const Pb__SemaphoreSet *pb, struct err *e)
{
	struct semid_ds ds;

	if (semctl(pb->id, 0, IPC_STAT, (union semaphore_argument){ .ds = &ds }) < 0)
		return err_sys(e, errno, "examining the System V semaphore set %d", pb->id);
	ds.sem_perm.mode = (unsigned short)(pb->mode & PERMISSIONS);
	ds.sem_perm.uid = pb->uid;
	ds.sem_perm.gid = pb->gid;
	if (semctl(pb->id, 0, IPC_SET, (union semaphore_argument){ .ds = &ds }) < 0)
		return err_sys(e, errno, "setting mode and owner of the System V semaphore set %d", pb->id);
	return 0;
}

static int set_values(struct ipc_restore *r, const Pb__SemaphoreSet *pb, struct semaphores_was *was, struct err *e)
{
	unsigned short *values = arena_alloc(r->arena, (pb->n_values + 1) * sizeof(*values));

	was->values = arena_alloc(r->arena, (pb->n_values + 1) * sizeof(*was->values));
	if (!values || !was->values)
		return err_nomem(e);
	for (size_t i = 0; i < pb->n_values; i++)
		values[i] = (unsigned short)pb->values[i];
	if (!was->made && semctl(pb->id, 0, GETALL, (union semaphore_argument){ .values = was->values }) < 0)
		return err_sys(e, errno, "reading the System V semaphore set %d", pb->id);
	was->touched = semaphores_have_undo(r->image, pb->id);
	if (!was->made && memcmp(values, was->values, pb->n_values * sizeof(*values)) == 0)
		return 0; /* and it goes on to tell who used it last */
	if (semctl(pb->id, 0, SETALL, (union semaphore_argument){ .values = values }) < 0)
		return err_sys(e, errno, "setting the System V semaphore set %d", pb->id);
	was->touched = true;
	return 0;
}

static int set_restore(struct ipc_restore *r, const Pb__SemaphoreSet *pb, struct semaphores_was *was, struct err *e)
{
	int found = set_find(pb, e);

	if (found < 0 || (!found && set_make(pb, e) < 0))
		return -1;
	was->made = !found;
	if (set_values(r, pb, was, e) < 0)
		return -1;
	return was->made ? set_owner(pb, e) : 0;
}

static int sets_check(const Pb__Image *img, struct err *e)
{
	if (img->n_semaphore_sets > SETS_MAX)
		return err_set(e, ERR_IMAGE, 0, "the image has %zu semaphore sets", img->n_semaphore_sets);
	for (size_t i = 0; i < img->n_semaphore_sets; i++) {
		const Pb__SemaphoreSet *pb = img->semaphore_sets[i];
		bool good = pb->id >= 0 && pb->n_values && pb->n_values <= SETS_MAX;

		for (size_t k = 0; good && k < pb->n_values; k++)
			good = pb->values[k] <= SEMAPHORE_MAX;
		if (!good)
			return err_set(e, ERR_IMAGE, 0, "the semaphore set %d is damaged", pb->id);
	}
	return 0;
}

static const Pb__SemaphoreSet *set_by_id(const Pb__Image *img, int id)
{
	for (size_t i = 0; i < img->n_semaphore_sets; i++)
		if (img->semaphore_sets[i]->id == id)
			return img->semaphore_sets[i];
	return NULL;
}

int semaphores_restore(struct ipc_restore *r, struct err *e)
{
	const Pb__Image *img = r->image;

	r->was = arena_alloc(r->arena, (img->n_semaphore_sets + 1) * sizeof(*r->was));
	if (!r->was)
		return err_nomem(e);
	if (sets_check(img, e) < 0)
		return -1;
	for (; r->n < img->n_semaphore_sets; r->n++) {
		r->was[r->n] = (struct semaphores_was){ 0 };
		if (set_restore(r, img->semaphore_sets[r->n], &r->was[r->n], e) < 0) {
			r->n++;
			return -1;
		}
	}
	return 0;
}

void semaphores_done(struct ipc_restore *r, bool failed)
{
	for (size_t i = 0; failed && i < r->n; i++) {
		int id = r->image->semaphore_sets[i]->id;

		if (r->was[i].made)
			semctl(id, 0, IPC_RMID);
		else if (r->was[i].touched)
			semctl(id, 0, SETALL, (union semaphore_argument){ .values = r->was[i].values });
	}
	r->n = 0;
}

/* ---- in a task ---- */

size_t semaphores_script_ops(const Pb__Task *task)
{
	return task->n_semaphore_uses;
}

/* Operations that add up to nothing. Those of 0 are left out: they would wait. */
static int script_semop(struct script_builder *b, struct region *region, const Pb__SemaphoreSet *set, unsigned number,
			const int ops[STEP_OPS], int undo, struct err *e)
{
	struct sembuf list[STEP_OPS], *at;
	size_t n = 0;

	for (int i = 0; i < STEP_OPS; i++)
		if (ops[i])
			list[n++] = (struct sembuf){ .sem_num = (unsigned short)number, .sem_op = (short)ops[i],
						     .sem_flg = i == undo ? IPC_NOWAIT | SEM_UNDO : IPC_NOWAIT };
	at = region_put(region, list, n * sizeof(list[0]));
	if (!at)
		return err_set(e, ERR_SYSTEM, 0, "the region for the switch is full");
	script_call(b, SCRIPT_MUST, "an operation on a semaphore", SYS_semop, (uint64_t)set->id, (uint64_t)at, n);
	return 0;
}

/* To one end of its range, where there is room for the operation that is to be undone; and back. */
static int script_undo(struct script_builder *b, struct region *region, const Pb__SemaphoreSet *set,
		       const Pb__SemaphoreUse *u, struct err *e)
{
	int value = (int)set->values[u->number], end = u->adjust > 0 ? SEMAPHORE_MAX : 0;
	const int ops[STEP_OPS] = { end - value, -u->adjust, value - end + u->adjust };

	return script_semop(b, region, set, u->number, ops, 1, e);
}

/* It operated last: once up and down, or down and up. */
static int script_last(struct script_builder *b, struct region *region, const Pb__SemaphoreSet *set,
		       const Pb__SemaphoreUse *u, struct err *e)
{
	int step = set->values[u->number] ? -1 : 1;

	return script_semop(b, region, set, u->number, (const int[]){ step, -step, 0 }, -1, e);
}

int semaphores_restore_script(const Pb__Image *img, const Pb__Task *task, struct region *region, struct script_builder *b,
			      struct err *e)
{
	for (size_t i = 0; i < task->n_semaphore_uses; i++) {
		const Pb__SemaphoreUse *u = task->semaphore_uses[i];
		const Pb__SemaphoreSet *set = set_by_id(img, u->id);

		if (!set || u->number >= set->n_values || u->adjust > SEMAPHORE_ADJUST_MAX ||
		    u->adjust < -SEMAPHORE_ADJUST_MAX)
			return err_set(e, ERR_IMAGE, 0, "task %d uses semaphore %u of the set %d, which is not there",
				       task->pid, u->number, u->id);
		if ((u->adjust ? script_undo(b, region, set, u, e) : script_last(b, region, set, u, e)) < 0)
			return -1;
	}
	return 0;
}
