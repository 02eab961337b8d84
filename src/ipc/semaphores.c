/* SPDX-License-Identifier: Apache-2.0 */

/* The dump's side of System V semaphores: which sets the tree uses, and what they hold. */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ipc/ipc.h"
#include "ipc/semaphore_undo.h"
#include "sys/process.h"

enum { PERMISSIONS = 0777 };

union semaphore_argument {
	int value;
	struct semid_ds *ds;
	unsigned short *values;
	struct seminfo *info;
};

/* A set while it is looked at. */
struct set {
	int id;
	unsigned n;
	struct semid_ds ds;
	unsigned short *values;
	int *adjust; /* of one task */
	bool used;   /* by the tree */
	pid_t other; /* a process outside that uses it, too; -1: one that only waits */
};

/* Fill `s` with the set at this index of the kernel's table. False when there is none that we may look at. */
static bool set_look(struct ipc_collect *c, int index, struct set *s)
{
	s->id = semctl(index, 0, SEM_STAT, (union semaphore_argument){ .ds = &s->ds });
	if (s->id < 0)
		return false;
	s->n = (unsigned)s->ds.sem_nsems;
	s->values = arena_alloc(c->arena, (s->n + 1) * sizeof(*s->values));
	s->adjust = arena_alloc(c->arena, (s->n + 1) * sizeof(*s->adjust));
	return s->values && s->adjust && semctl(s->id, 0, GETALL, (union semaphore_argument){ .values = s->values }) == 0;
}

/* Did somebody of the tree operate last on one of them? It does not wait: it stands. */
static void set_find_use(const struct target_tree *tree, struct set *s)
{
	s->used = ipc_is_waited_for(tree, s->id, SYS_semop, SYS_semtimedop);
	for (unsigned i = 0; !s->used && i < s->n; i++) {
		pid_t last = semctl(s->id, (int)i, GETPID);

		s->used = last > 0 && target_find(tree, last);
	}
}

/* Of a set that the tree uses: who else has operated on it last, or waits for it? */
static void set_find_others(const struct target_tree *tree, struct set *s)
{
	for (unsigned i = 0; i < s->n; i++) {
		pid_t last = semctl(s->id, (int)i, GETPID);

		if (last > 0 && !target_find(tree, last) && (kill(last, 0) == 0 || errno == EPERM))
			s->other = last;
		if (!s->other && (semctl(s->id, (int)i, GETNCNT) > 0 || semctl(s->id, (int)i, GETZCNT) > 0))
			s->other = -1;
	}
}

static int use_record(struct ipc_collect *c, const struct set *s, unsigned number, int adjust, Pb__Task *task,
		      struct err *e)
{
	Pb__SemaphoreUse *pb = pb_new(c->arena, Pb__SemaphoreUse, pb__semaphore_use__init);

	if (!pb || !pb_add(c->arena, task, semaphore_uses, pb))
		return err_nomem(e);
	pb->id = s->id;
	pb->number = number;
	pb_set(pb, adjust, adjust);
	return 0;
}

/* The task that operated on it last. */
static int last_record(struct ipc_collect *c, const struct set *s, unsigned number, Pb__Image *img, struct err *e)
{
	pid_t last = semctl(s->id, (int)number, GETPID);

	for (size_t i = 0; last > 0 && i < c->tree->n; i++)
		if (c->tree->tasks[i]->pid == last)
			return c->tree->tasks[i]->zombie ? 0 : use_record(c, s, number, 0, img->tasks[i], e);
	return 0;
}

static int set_record(struct ipc_collect *c, struct set *s, Pb__Image *img, struct err *e)
{
	Pb__SemaphoreSet *pb = pb_new(c->arena, Pb__SemaphoreSet, pb__semaphore_set__init);

	if (!pb || !pb_add(c->arena, img, semaphore_sets, pb))
		return err_nomem(e);
	pb->id = s->id;
	pb_set(pb, key, (uint32_t)s->ds.sem_perm.__key);
	pb_set(pb, mode, s->ds.sem_perm.mode & PERMISSIONS);
	pb_set(pb, uid, s->ds.sem_perm.uid);
	pb_set(pb, gid, s->ds.sem_perm.gid);
	for (unsigned i = 0; i < s->n; i++) {
		if (!pb_add(c->arena, pb, values, s->values[i]))
			return err_nomem(e);
		if (last_record(c, s, i, img, e) < 0)
			return -1;
	}
	return 0;
}

/* ---- what tasks have to undo ---- */

static int undo_record(struct ipc_collect *c, const struct set *s, Pb__Task *task, struct err *e)
{
	for (unsigned i = 0; i < s->n; i++)
		if (s->adjust[i] && use_record(c, s, i, s->adjust[i], task, e) < 0)
			return -1;
	return 0;
}

/* Two tasks that share what is to be undone (clone with CLONE_SYSVSEM) would undo it twice. */
static int undo_check_shared(struct ipc_collect *c, const Pb__Image *img, size_t index)
{
	const struct target *t = c->tree->tasks[index];

	for (size_t i = 0; i < index; i++)
		if (img->tasks[i]->n_semaphore_uses &&
		    sys_kcmp(t->pid, c->tree->tasks[i]->pid, SYS_KCMP_SYSVSEM, 0, 0) == 0)
			return obstacle_add(c->obstacles, "E-SEM-UNDO-SHARED", t->pid, t->stat.comm,
					    "start them without CLONE_SYSVSEM",
					    "it shares what is to be undone on semaphores with task %d (CLONE_SYSVSEM)",
					    c->tree->tasks[i]->pid);
	return 0;
}

static int undo_ask_task(struct ipc_collect *c, struct remote *r, struct set *sets, size_t n, Pb__Task *task, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		int any = semaphore_undo_ask(r, sets[i].id, sets[i].values, sets[i].n, sets[i].adjust, e);

		if (any < 0)
			return -1;
		if (!any)
			continue;
		sets[i].used = true;
		if (undo_record(c, &sets[i], task, e) < 0)
			return -1;
	}
	return 0;
}

/*
 * The kernel keeps a list for a task from its first operation with SEM_UNDO on; torpor makes none. Whose list is the
 * same as ours has none either, as nobody started us with CLONE_SYSVSEM.
 */
static bool undo_is_possible(const struct target *t)
{
	return !t->zombie && sys_kcmp(t->pid, getpid(), SYS_KCMP_SYSVSEM, 0, 0) != 0;
}

static int undo_collect(struct ipc_collect *c, struct set *sets, size_t n, Pb__Image *img, struct err *e)
{
	for (size_t i = 0; i < c->tree->n; i++) {
		struct remote remote;
		int r;

		if (!undo_is_possible(c->tree->tasks[i]))
			continue;
		r = remote_open(&remote, c->tree->tasks[i], e);
		if (r == 0)
			r = undo_ask_task(c, &remote, sets, n, img->tasks[i], e);
		r = remote_close_after(&remote, r, e);
		if (r < 0)
			return err_wrap(e, "asking for adjustments of semaphores");
		if (img->tasks[i]->n_semaphore_uses && undo_check_shared(c, img, i) < 0)
			return err_nomem(e);
	}
	return 0;
}

/* ---- all of it ---- */

static int set_refuse(struct ipc_collect *c, const struct set *s)
{
	static const char help[] = "end that process, save a tree that includes it, or leave the semaphores as they are "
				   "(--external)";
	const struct target *t = c->tree->tasks[0];
	char who[64] = "by a process that waits for it";

	if (s->other > 0)
		snprintf(who, sizeof(who), "by process %d", s->other);
	return obstacle_add(c->obstacles, "E-SEM-SHARED", t->pid, t->stat.comm, help,
			    "the System V semaphore set %d (key %#x) is also used %s, which is outside the tree", s->id,
			    (unsigned)s->ds.sem_perm.__key, who);
}

bool semaphores_have_undo(const Pb__Image *img, int id)
{
	for (size_t i = 0; i < img->n_tasks; i++)
		for (size_t k = 0; k < img->tasks[i]->n_semaphore_uses; k++)
			if (img->tasks[i]->semaphore_uses[k]->id == id && img->tasks[i]->semaphore_uses[k]->adjust)
				return true;
	return false;
}

/*
 * One that others use, too, is left as it is, unless something is to be undone: its value would change at the
 * tree's end.
 */
static int set_take(struct ipc_collect *c, struct set *s, Pb__Image *img, struct err *e)
{
	if (!s->used)
		return 0;
	set_find_others(c->tree, s);
	if (!s->other)
		return set_record(c, s, img, e);
	if (c->external && !semaphores_have_undo(img, s->id))
		return 0;
	return set_refuse(c, s) < 0 ? err_nomem(e) : 0;
}

int semaphores_collect(struct ipc_collect *c, Pb__Image *img, struct err *e)
{
	struct seminfo info;
	int highest = semctl(0, 0, SEM_INFO, (union semaphore_argument){ .info = &info }), n = 0;
	struct set *sets;

	if (highest < 0 || !info.semusz) /* how many sets there are */
		return 0;
	sets = arena_alloc(c->arena, (size_t)(highest + 1) * sizeof(*sets));
	if (!sets)
		return err_nomem(e);
	for (int index = 0; index <= highest; index++) {
		if (!set_look(c, index, &sets[n]))
			continue;
		set_find_use(c->tree, &sets[n++]);
	}
	if (n && undo_collect(c, sets, (size_t)n, img, e) < 0)
		return -1;
	for (int i = 0; i < n; i++)
		if (set_take(c, &sets[i], img, e) < 0)
			return -1;
	return 0;
}
