/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/kind.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>

#include "sys/process.h"
#include "util/fd.h"

const struct kind *const kinds[] = {
#define KIND(name, tag) &kind_##name,
#include "kinds/kinds.def"
#undef KIND
	NULL,
};

const struct kind *kind_by_tag(uint32_t tag)
{
	for (size_t i = 0; kinds[i]; i++)
		if (kinds[i]->tag == tag)
			return kinds[i];
	return NULL;
}

const struct kind *kind_of(const struct fd_view *v)
{
	for (size_t i = 0; kinds[i]; i++)
		if (kinds[i]->match(v))
			return kinds[i];
	return &kind_unsupported;
}

int kind_refuse(struct collect *c, const struct fd_view *v, const char *id, const char *help, const char *fmt, ...)
{
	const struct fd_view *holder = view_holder(c, v);
	const struct target *task = holder->task;
	char why[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	if (holder != v)
		return obstacle_add(c->obstacles, id, task->pid, task->stat.comm, help,
				    "fd %u (%s) has %s in its queue, which %s", holder->fd, holder->link, v->link, why);
	return obstacle_add(c->obstacles, id, task->pid, task->stat.comm, help, "fd %u (%s) %s", v->fd, v->link, why);
}

int kind_note(struct restore_objects *r, const char *id, const char *help, const char *fmt, ...)
{
	const Pb__Object *o = r->image->objects[r->object];
	const Pb__Task *task = r->image->tasks[o->home_task];
	char what[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (!o->has_home_fd)
		return obstacle_add(r->notes, id, task->pid, task->comm ? task->comm : "", help, "what is in flight %s", what);
	return obstacle_add(r->notes, id, task->pid, task->comm ? task->comm : "", help, "fd %u %s", o->home_fd, what);
}

int kind_steal(const struct fd_view *v, struct err *e)
{
	int fd = sys_pidfd_getfd(v->task->pidfd, (int)v->fd);

	if (fd >= 0)
		return fd;
	err_sys(e, fd, "task %d (%s): duplicating fd %u (pidfd_getfd)", v->task->pid, v->task->stat.comm, v->fd);
	if (fd == -EPERM) { /* we trace it already, so it is not the kernel that minds */
		err_id(e, "E-DUMP-SANDBOX");
		err_help(e, "a seccomp filter around torpor that permits pidfd_getfd; Docker's does with --cap-add SYS_PTRACE");
	}
	return fd;
}

int kind_reopen(const struct fd_view *v, int flags, struct err *e)
{
	char name[32];
	int fd;

	snprintf(name, sizeof(name), "fd/%u", v->fd);
	fd = fd_open_proc(v->task->pid, name, flags);
	if (fd < 0)
		return err_sys(e, fd, "task %d (%s): opening fd %u (%s) anew", v->task->pid, v->task->stat.comm, v->fd,
			       v->link);
	return fd;
}

int kind_keep(struct collect *c, int fd, void (*end)(int fd, void *data), void *data, struct err *e)
{
	struct kind_kept *kept = arena_grow(c->arena, c->kept, c->n_kept, sizeof(*kept));

	if (!kept) {
		close(fd);
		return err_nomem(e);
	}
	c->kept = kept;
	kept[c->n_kept++] = (struct kind_kept){ fd, end, data };
	return 0;
}

void kind_release_kept(struct collect *c, bool ended)
{
	for (size_t i = 0; ended && i < c->n_kept; i++)
		c->kept[i].end(c->kept[i].fd, c->kept[i].data);
	while (c->n_kept)
		close(c->kept[--c->n_kept].fd);
}

int kind_set_status_flags(int fd, unsigned flags, struct err *e)
{
	const int changeable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | O_ASYNC;
	int now = fcntl(fd, F_GETFL);

	if (now < 0)
		return err_sys(e, errno, "F_GETFL");
	if ((now & changeable) == ((int)flags & changeable))
		return 0;
	if (fcntl(fd, F_SETFL, (now & ~changeable) | ((int)flags & changeable)) < 0)
		return err_sys(e, errno, "F_SETFL %#o", flags & changeable);
	return 0;
}

int kind_finish_flying(struct restore_objects *r, struct err *e)
{
	const Pb__Task nobody = PB__TASK__INIT;
	int *fds = arena_alloc(r->arena, (r->n_objects + 1) * sizeof(*fds));
	struct restore_task rt = { .arena = r->arena, .image = r->image, .task = &nobody, .object_fds = fds };

	if (!fds)
		return err_nomem(e);
	for (size_t i = 0; i < r->n_objects; i++)
		fds[i] = r->objects[i].fd;
	for (size_t i = 0; i < r->n_objects; i++) {
		const struct restore_object *o = &r->objects[i];

		if (o->kind->finish && !r->image->objects[i]->has_home_fd && o->kind->finish(&rt, o->fd, o->m, e) < 0)
			return err_wrap(e, "what is in flight");
	}
	return 0;
}

static uint32_t *kind_stash_chain(struct restore_objects *r, uint32_t tag, uint64_t id)
{
	uint64_t hash = (id ^ (uint64_t)tag << 40) * 0x9e3779b97f4a7c15;

	return &r->stash_chains[(hash >> 32) & (r->n_stash_chains - 1)];
}

static void kind_stash_chain_up(struct restore_objects *r, size_t index)
{
	struct kind_stash *s = &r->stash[index];
	uint32_t *chain = kind_stash_chain(r, s->tag, s->id);

	s->next = *chain;
	*chain = (uint32_t)index + 1;
}

/* Twice as many chains, with what is still stashed; their number is a power of two. */
static int kind_stash_rehash(struct restore_objects *r, struct err *e)
{
	size_t n = r->n_stash_chains ? r->n_stash_chains * 2 : 64;
	uint32_t *chains = arena_alloc(r->arena, n * sizeof(*chains));

	if (!chains)
		return err_nomem(e);
	r->stash_chains = chains;
	r->n_stash_chains = n;
	for (size_t i = 0; i < r->n_stash; i++)
		if (r->stash[i].fd >= 0)
			kind_stash_chain_up(r, i);
	return 0;
}

int kind_stash_put(struct restore_objects *r, uint32_t tag, uint64_t id, int fd, struct err *e)
{
	struct kind_stash *v;

	if (r->n_stash >= r->n_stash_chains && kind_stash_rehash(r, e) < 0)
		return -1;
	v = arena_grow(r->arena, r->stash, r->n_stash, sizeof(*v));
	if (!v)
		return err_nomem(e);
	r->stash = v;
	v[r->n_stash] = (struct kind_stash){ .tag = tag, .id = id, .fd = fd };
	kind_stash_chain_up(r, r->n_stash++);
	return 0;
}

int kind_stash_take(struct restore_objects *r, uint32_t tag, uint64_t id)
{
	uint32_t *link;

	if (!r->n_stash_chains)
		return -1;
	for (link = kind_stash_chain(r, tag, id); *link; link = &r->stash[*link - 1].next) {
		struct kind_stash *s = &r->stash[*link - 1];

		if (s->tag == tag && s->id == id && s->fd >= 0) {
			*link = s->next;
			return fd_take(&s->fd);
		}
	}
	return -1;
}
