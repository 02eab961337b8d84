/* SPDX-License-Identifier: Apache-2.0 */
#include "core/objects.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "kinds/lock.h"
#include "kinds/owner.h"
#include "core/core.h"
#include "sys/process.h"
#include "util/fd.h"

/* ---- dump ---- */

static ProtobufCMessage *object_new_message(struct arena *arena, const struct kind *kind)
{
	ProtobufCMessage *m = arena_alloc(arena, kind->message->sizeof_message);

	if (m)
		kind->message->message_init(m);
	return m;
}

/* Where it lives: its first slot, or the task that has it in flight. */
static void object_settle(const struct collect *c, const struct fd_view *v, Pb__Object *o)
{
	if (!view_is_in_flight(v))
		pb_set(o, home_fd, v->fd);
	pb_set(o, home_task, (uint32_t)view_holder(c, v)->task_index);
}

/* What is sent before there are tasks cannot be exchanged for another afterwards. */
static int object_check_flight(struct collect *c, const struct fd_view *v, const struct kind *kind)
{
	static const char help[] = "let the program receive it first";

	if (!view_is_in_flight(v) || !kind->remake)
		return 0;
	return kind_refuse(c, v, "E-FD-IN-FLIGHT", help, "cannot be made again there (%s)", kind->name);
}

static int object_collect(struct collect *c, const struct fd_view *v, Pb__Image *img, ProtobufCMessage **ret, struct err *e)
{
	Pb__Object *o = pb_new(c->arena, Pb__Object, pb__object__init);
	const struct kind *kind = kind_of(v);
	int r;

	*ret = object_new_message(c->arena, kind);
	if (!o || !*ret || !pb_add(c->arena, img, objects, o))
		return err_nomem(e);
	o->kind = kind->tag;
	object_settle(c, v, o);
	r = kind->collect(c, v, *ret, e);
	if (r >= 0)
		r = lock_collect_object(c, v, o, e);
	if (r >= 0)
		r = owner_collect(c, v, o, e);
	return r < 0 ? err_wrap(e, "task %d (%s): fd %u (%s)", v->task->pid, v->task->stat.comm, v->fd, v->link) : 0;
}

static int object_pack(struct collect *c, const struct fd_view *v, Pb__Object *o, ProtobufCMessage *m, struct err *e)
{
	const struct kind *kind = kind_by_tag(o->kind);
	size_t size;

	if (kind->link && kind->link(c, v, m, e) < 0)
		return err_wrap(e, "task %d (%s): fd %u (%s)", v->task->pid, v->task->stat.comm, v->fd, v->link);
	o->body.data = pb_pack(c->arena, m, &size);
	if (!o->body.data)
		return err_nomem(e);
	o->body.len = size;
	return 0;
}

static int object_add_slot(struct collect *c, const struct fd_view *v, Pb__Task *task, struct err *e)
{
	Pb__Slot *slot = pb_new(c->arena, Pb__Slot, pb__slot__init);

	if (!slot || !pb_add(c->arena, task, slots, slot))
		return err_nomem(e);
	slot->fd = v->fd;
	slot->object = v->object;
	pb_set(slot, cloexec, !!(v->info.flags & O_CLOEXEC));
	return lock_collect_slot(c, v, slot, e);
}

static int objects_collect_views(struct collect *c, Pb__Image *img, struct err *e)
{
	ProtobufCMessage **messages;
	const struct fd_view **first;

	if (views_collect(c, e) < 0)
		return -1;
	messages = arena_alloc(c->arena, (c->views.n + 1) * sizeof(*messages));
	first = arena_alloc(c->arena, (c->views.n + 1) * sizeof(*first));
	if (!messages || !first)
		return err_nomem(e);
	for (size_t i = 0; i < c->views.n; i++) {
		const struct fd_view *v = &c->views.v[i];

		if (!view_is_in_flight(v) && object_add_slot(c, v, img->tasks[v->task_index], e) < 0)
			return -1;
		if (object_check_flight(c, v, kind_of(v)) < 0)
			return err_nomem(e);
		if (v->object < img->n_objects)
			continue;
		first[v->object] = v;
		if (object_collect(c, v, img, &messages[v->object], e) < 0)
			return -1;
	}
	for (size_t i = 0; i < img->n_objects; i++)
		if (object_pack(c, first[i], img->objects[i], messages[i], e) < 0)
			return -1;
	return 0;
}

int objects_collect(struct collect *c, Pb__Image *img, struct err *e)
{
	int r = objects_collect_views(c, img, e);

	views_done(c);
	return r;
}

/* ---- restore: in the coordinator ---- */

ProtobufCMessage *object_unpack(struct arena *arena, const Pb__Object *o, struct err *e)
{
	const struct kind *kind = kind_by_tag(o->kind);
	ProtobufCMessage *m;

	if (!kind) {
		err_set(e, ERR_IMAGE, 0, "an object of the unknown kind %u", o->kind);
		err_help(e, "the image was taken by a newer torpor");
		return NULL;
	}
	m = pb_unpack(arena, kind->message, o->body.data, o->body.len);
	if (!m)
		err_set(e, ERR_IMAGE, 0, "an object of kind %s is damaged", kind->name);
	return m;
}

/* Second ends that no object asked for: their side was closed in the saved tree. */
void objects_done(struct restore_objects *r)
{
	for (size_t i = 0; i < r->n_stash; i++)
		if (r->stash[i].fd >= 0)
			close(fd_take(&r->stash[i].fd));
}

static int object_wrap(const Pb__Image *img, size_t index, struct err *e)
{
	const Pb__Object *o = img->objects[index];
	pid_t pid = img->tasks[o->home_task]->pid;

	return o->has_home_fd ? err_wrap(e, "fd %u of task %d", o->home_fd, pid) :
				err_wrap(e, "what is in flight in task %d", pid);
}

static int objects_unpack(struct restore_objects *r, const Pb__Image *img, struct err *e)
{
	r->objects = arena_alloc(r->arena, (img->n_objects + 1) * sizeof(*r->objects));
	if (!r->objects)
		return err_nomem(e);
	for (size_t i = 0; i < img->n_objects; i++) {
		const struct kind *kind = kind_by_tag(img->objects[i]->kind);
		ProtobufCMessage *m = object_unpack(r->arena, img->objects[i], e);

		if (!m)
			return -1;
		r->objects[r->n_objects++] = (struct restore_object){ .kind = kind, .m = m, .fd = -1 };
	}
	return 0;
}

/* Those that stand for themselves first, then those that need others. */
static int objects_make(struct restore_objects *r, const Pb__Image *img, struct err *e)
{
	for (size_t i = 0; i < r->n_objects; i++) {
		struct restore_object *o = &r->objects[i];

		if (!o->kind->restore)
			continue;
		r->object = (uint32_t)i;
		o->fd = o->kind->restore(r, o->m, e);
		if (o->fd < 0)
			return object_wrap(img, i, e);
	}
	objects_done(r);
	for (size_t i = 0; kinds[i]; i++)
		if (kinds[i]->restore_all && kinds[i]->restore_all(r, e) < 0)
			return -1;
	return 0;
}

int objects_restore(struct restore_objects *r, const Pb__Image *img, int **ret_fds, struct err *e)
{
	int *fds = arena_alloc(r->arena, (img->n_objects + 1) * sizeof(*fds)), result;

	if (!fds || objects_unpack(r, img, e) < 0)
		return fds ? -1 : err_nomem(e);
	result = objects_make(r, img, e);
	for (size_t i = 0; i < img->n_objects; i++)
		fds[i] = r->objects[i].fd;
	*ret_fds = fds;
	return result;
}

static int objects_complete_kind(struct restore_objects *r, const Pb__Image *img, const struct kind *kind, struct err *e)
{
	for (size_t i = 0; i < r->n_objects; i++) {
		const struct restore_object *o = &r->objects[i];

		if (o->kind == kind && kind->last(r, o->fd, o->m, e) < 0)
			return object_wrap(img, i, e);
	}
	return 0;
}

int objects_complete(struct restore_objects *r, const Pb__Image *img, struct err *e)
{
	for (size_t i = 0; kinds[i]; i++)
		if (kinds[i]->last && objects_complete_kind(r, img, kinds[i], e) < 0)
			return -1;
	for (size_t i = 0; i < r->n_objects; i++) {
		const Pb__Object *o = img->objects[i];
		int fd = r->objects[i].fd;

		/* The lease after the owner, whom it would choose itself. */
		if (owner_restore(o, fd, e) < 0 || lock_restore_leases(o, fd, e) < 0)
			return object_wrap(img, i, e);
	}
	return 0;
}

void objects_release(struct restore_objects *r)
{
	for (size_t i = 0; i < r->n_objects; i++)
		if (r->objects[i].kind->release)
			r->objects[i].kind->release(r, r->objects[i].m);
}

bool core_terminal_modes(const Pb__Image *image, struct termios *ret)
{
	struct arena arena = ARENA_INIT;
	struct err ignored = ERR_INIT;
	bool found = false;

	for (size_t i = 0; !found && i < image->n_objects; i++) {
		const Pb__Outside *pb;

		if (image->objects[i]->kind != kind_outside.tag)
			continue;
		pb = (const Pb__Outside *)object_unpack(&arena, image->objects[i], &ignored);
		found = pb && pb->termios.len == sizeof(*ret);
		if (found)
			memcpy(ret, pb->termios.data, sizeof(*ret));
	}
	arena_done(&arena);
	return found;
}

/* ---- restore: in a task ---- */

typedef int object_step(struct restore_task *r, int fd, const ProtobufCMessage *m, struct err *e);

static int object_take_step(struct restore_task *r, size_t i, object_step *step, struct err *e)
{
	ProtobufCMessage *m;

	if (!step)
		return 0;
	m = object_unpack(r->arena, r->image->objects[i], e);
	if (!m || step(r, r->object_fds[i], m, e) < 0)
		return err_wrap(e, "fd %u of task %d", r->image->objects[i]->home_fd,
				r->image->tasks[r->image->objects[i]->home_task]->pid);
	return 0;
}

int objects_lead(struct restore_task *r, struct err *e)
{
	for (size_t i = 0; i < r->image->n_objects; i++)
		if (object_take_step(r, i, kind_by_tag(r->image->objects[i]->kind)->lead, e) < 0)
			return -1;
	return 0;
}

int objects_group(struct restore_task *r, struct err *e)
{
	for (size_t i = 0; i < r->image->n_objects; i++)
		if (object_take_step(r, i, kind_by_tag(r->image->objects[i]->kind)->group, e) < 0)
			return -1;
	return 0;
}

bool objects_need_tasks(const Pb__Image *image)
{
	for (size_t i = 0; i < image->n_objects; i++) {
		const struct kind *kind = kind_by_tag(image->objects[i]->kind);

		if (kind->remake || kind->lead || kind->group)
			return true;
	}
	return false;
}

/* What could only be made now takes the place of its placeholder. */
static int objects_remake(struct restore_task *r, struct err *e)
{
	for (size_t i = 0; i < r->image->n_objects; i++) {
		const struct kind *kind = kind_by_tag(r->image->objects[i]->kind);
		ProtobufCMessage *m;
		int fd;

		if (!kind->remake)
			continue;
		r->object = (uint32_t)i;
		m = object_unpack(r->arena, r->image->objects[i], e);
		fd = m ? kind->remake(r, m, e) : -1;
		if (fd < 0)
			return err_wrap(e, "fd %u", r->image->objects[i]->home_fd);
		if (fd == KIND_AS_IT_IS)
			continue;
		if (dup3(fd, r->object_fds[i], O_CLOEXEC) < 0)
			return err_sys(e, errno, "putting an object at fd %d", r->object_fds[i]);
		close(fd);
	}
	return 0;
}

static int objects_fill_slots(struct restore_task *r, int fd_base, struct err *e)
{
	int next = 0;

	for (size_t i = 0; i < r->task->n_slots; i++) {
		const Pb__Slot *slot = r->task->slots[i];

		if ((int)slot->fd > next)
			sys_close_range((unsigned)next, slot->fd - 1);
		if (dup3(r->object_fds[slot->object], (int)slot->fd, slot->cloexec ? O_CLOEXEC : 0) < 0)
			return err_sys(e, errno, "putting an object at fd %u", slot->fd);
		next = (int)slot->fd + 1;
	}
	sys_close_range((unsigned)next, (unsigned)fd_base - 1);
	return 0;
}

static int object_finish(struct restore_task *r, const Pb__Object *o, struct err *e)
{
	const struct kind *kind = kind_by_tag(o->kind);
	ProtobufCMessage *m;

	if (!kind->finish)
		return 0;
	m = object_unpack(r->arena, o, e);
	return m ? kind->finish(r, (int)o->home_fd, m, e) : -1;
}

int objects_install(struct restore_task *r, size_t task_index, int fd_base, struct err *e)
{
	if (objects_remake(r, e) < 0 || objects_fill_slots(r, fd_base, e) < 0)
		return -1;
	for (size_t i = 0; i < r->image->n_objects; i++) {
		const Pb__Object *o = r->image->objects[i];

		if (o->home_task != task_index)
			continue;
		if ((o->has_home_fd && object_finish(r, o, e) < 0) || lock_restore(o, r->object_fds[i], e) < 0 ||
		    owner_restore_async(o, o->has_home_fd ? (int)o->home_fd : r->object_fds[i], e) < 0)
			return err_wrap(e, "fd %u", o->home_fd);
	}
	return lock_check_task(r, e);
}
