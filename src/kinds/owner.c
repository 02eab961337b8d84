/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/owner.h"

#include <errno.h>
#include <fcntl.h>

#include "kinds/kind.h"
#include "util/fd.h"

static bool owner_is_thread(const struct target *task, pid_t tid)
{
	for (size_t i = 0; i < task->n_threads; i++)
		if (task->threads[i].tid == tid)
			return true;
	return false;
}

static bool owner_is_in_tree(const struct collect *c, const struct f_owner_ex *owner)
{
	for (size_t i = 0; i < c->tree->n; i++) {
		const struct target *task = c->tree->tasks[i];

		if (owner->type == F_OWNER_PGRP ? task->stat.pgrp == owner->pid :
		    owner->type == F_OWNER_TID	? owner_is_thread(task, owner->pid) :
						  task->pid == owner->pid)
			return true;
	}
	return false;
}

int owner_collect(struct collect *c, const struct fd_view *v, Pb__Object *o, struct err *e)
{
	cleanup_close int fd = -1;
	struct f_owner_ex owner;
	int signo;

	if ((v->info.flags & O_PATH) || v->peer_outside)
		return 0;
	fd = kind_steal(v, e);
	if (fd < 0)
		return fd;
	signo = fcntl(fd, F_GETSIG);
	if (fcntl(fd, F_GETOWN_EX, &owner) < 0 || signo < 0)
		return err_sys(e, errno, "asking for its owner");
	if (!owner.pid && !signo && !(v->info.flags & O_ASYNC))
		return 0;
	if (owner.pid && !owner_is_in_tree(c, &owner))
		return kind_refuse(c, v, "E-FD-OWNER", "end that process, or save a tree that includes it",
				   "signals process %d (F_SETOWN), which is not in the tree", owner.pid);
	o->owner = pb_new(c->arena, Pb__FileOwner, pb__file_owner__init);
	if (!o->owner)
		return err_nomem(e);
	pb_set(o->owner, type, (uint32_t)owner.type);
	pb_set(o->owner, pid, owner.pid);
	pb_set(o->owner, signo, (uint32_t)signo);
	pb_set(o->owner, async, !!(v->info.flags & O_ASYNC));
	return 0;
}

int owner_restore_async(const Pb__Object *o, int fd, struct err *e)
{
	int flags;

	if (!o->owner || !o->owner->async)
		return 0;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_ASYNC) < 0 || fcntl(fd, F_SETFL, flags | O_ASYNC) < 0)
		return err_sys(e, errno, "F_SETFL O_ASYNC");
	return 0;
}

int owner_restore(const Pb__Object *o, int fd, struct err *e)
{
	struct f_owner_ex owner;

	if (!o->owner)
		return 0;
	owner = (struct f_owner_ex){ (int)o->owner->type, o->owner->pid };
	if (o->owner->signo && fcntl(fd, F_SETSIG, (int)o->owner->signo) < 0)
		return err_sys(e, errno, "F_SETSIG %u", o->owner->signo);
	if (owner.pid && fcntl(fd, F_SETOWN_EX, &owner) < 0)
		return err_sys(e, errno, "making %d the owner (F_SETOWN_EX)", owner.pid);
	return 0;
}
