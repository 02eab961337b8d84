/* SPDX-License-Identifier: Apache-2.0 */

/*
 * epoll(7). An item is a pair of an open file description and the fd number it
 * was added by; that number may long belong to something else. Items are added
 * in a task where the numbers mean what they did.
 *
 * Not kept: whether an edge-triggered item that is ready was already reported.
 * It is reported once more, as after EPOLL_CTL_MOD.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "sys/process.h"
#include "util/fd.h"

/* Flags of an item as opposed to the events it waits for. */
enum { EPOLL_KEPT = (int)(EPOLLET | EPOLLONESHOT | EPOLLWAKEUP | EPOLLEXCLUSIVE) };

enum { EPOLL_EXACT_MAX = 4096 };

/* struct epoll_params of <linux/eventpoll.h>, which clashes with libc's header. */
struct epoll_polling {
	uint32_t usecs;
	uint16_t budget;
	uint8_t prefer, unused;
};
#define EPOLL_SET_POLLING _IOW(0x8a, 1, struct epoll_polling)
#define EPOLL_GET_POLLING _IOR(0x8a, 2, struct epoll_polling)

static bool epoll_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[eventpoll]") == 0;
}

/* ---- dump ---- */

/* How it polls network devices (ioctl_eventpoll(2), since Linux 6.9), where that was set. */
static int epoll_collect_polling(const struct fd_view *v, Pb__Epoll *pb, struct err *e)
{
	cleanup_close int fd = kind_steal(v, e);
	struct epoll_polling p = { 0 };

	if (fd < 0)
		return fd;
	if (ioctl(fd, EPOLL_GET_POLLING, &p) < 0 || (!p.usecs && !p.budget && !p.prefer))
		return 0;
	pb_set(pb, poll_usecs, p.usecs);
	pb_set(pb, poll_budget, p.budget);
	pb_set(pb, poll_prefer, p.prefer);
	return 0;
}

static int epoll_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__Epoll *pb = (Pb__Epoll *)m;

	pb->flags = v->info.flags & ~O_CLOEXEC;
	for (size_t i = 0; i < v->info.n_epoll; i++) {
		Pb__EpollItem *item = pb_new(c->arena, Pb__EpollItem, pb__epoll_item__init);

		if (!item || !pb_add(c->arena, pb, items, item))
			return err_nomem(e);
		item->fd = v->info.epoll[i].tfd;
		item->events = v->info.epoll[i].events;
		item->data = v->info.epoll[i].data;
		item->object = KIND_NO_OBJECT;
	}
	return epoll_collect_polling(v, pb, e);
}

/*
 * Some descriptions have an inode of their own; then equal inodes are proof
 * enough. With very many items the exact comparison, which counts through them,
 * is only made where nothing else tells descriptions apart.
 */
static bool epoll_inode_is_proof(const struct fd_view *v, const struct fd_view *target)
{
	return S_ISSOCK(target->st.st_mode) ||
	       (v->info.n_epoll > EPOLL_EXACT_MAX && strncmp(target->link, "anon_inode:", 11) != 0);
}

/* Which of the items with the same number this is: the kernel counts them in the order it lists them. */
static uint32_t epoll_occurrence(const struct fd_view *v, size_t item)
{
	uint32_t n = 0;

	/* Ordered by file, then number: equal numbers may be anywhere in front. */
	for (size_t i = 0; i < item; i++)
		n += v->info.epoll[i].tfd == v->info.epoll[item].tfd;
	return n;
}

/* Is `target` what the item watches? */
static bool epoll_watches(const struct fd_view *v, size_t item, const struct fd_view *target)
{
	const struct fdinfo_epoll *info = &v->info.epoll[item];
	struct sys_kcmp_epoll_slot slot = { .efd = v->fd, .tfd = info->tfd };
	int r;

	if (target->st.st_ino != info->ino)
		return false;
	if (epoll_inode_is_proof(v, target))
		return true;
	slot.toff = epoll_occurrence(v, item);
	r = sys_kcmp(target->task->pid, v->task->pid, SYS_KCMP_EPOLL_TFD, target->fd, (unsigned long)&slot);
	/* Without kcmp(2), the same number in the same task is taken to be it. */
	return r == 0 || (r < 0 && target->task == v->task && target->fd == info->tfd);
}

/* The fd by which it was added, or any other fd of the tree that refers to the same description. */
static const struct fd_view *epoll_target(struct collect *c, const struct fd_view *v, size_t item)
{
	const struct fd_view *target = views_find_fd(&c->views, v->task_index, v->info.epoll[item].tfd);

	if (target && epoll_watches(v, item, target))
		return target;
	for (uint32_t i = 0; i < c->views.n_objects; i++) {
		target = views_find_object(&c->views, i);
		if (epoll_watches(v, item, target))
			return target;
	}
	return NULL;
}

/* It is completed before there are tasks, then. */
static bool epoll_only_flies(const struct collect *c, const struct fd_view *v)
{
	return view_is_in_flight(views_find_object(&c->views, v->object));
}

static int epoll_link(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__Epoll *pb = (Pb__Epoll *)m;

	(void)e;
	for (size_t i = 0; i < pb->n_items; i++) {
		const struct fd_view *target = epoll_target(c, v, i);

		if (!target)
			return kind_refuse(c, v, "E-FD-EPOLL",
					   "include the process that has it open, or let the program remove the item",
					   "watches what was once fd %u, which no task of the tree has open any more",
					   pb->items[i]->fd);
		if (epoll_only_flies(c, v) && kind_of(target)->remake)
			return kind_refuse(c, v, "E-FD-IN-FLIGHT", "let the program receive it first",
					   "watches %s, which cannot be made again there", target->link);
		pb->items[i]->object = target->object;
	}
	return 0;
}

/* ---- restore ---- */

static int epoll_restore_polling(int fd, const Pb__Epoll *pb, struct err *e)
{
	const struct epoll_polling p = { pb->poll_usecs, (uint16_t)pb->poll_budget, pb->poll_prefer, 0 };

	if ((p.usecs || p.budget || p.prefer) && ioctl(fd, EPOLL_SET_POLLING, &p) < 0)
		return err_sys(e, errno, "setting how an epoll instance polls (EPIOCSPARAMS)");
	return 0;
}

static int epoll_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Epoll *pb = (const Pb__Epoll *)m;
	cleanup_close int fd = epoll_create1(EPOLL_CLOEXEC);

	if (fd < 0)
		return err_sys(e, errno, "epoll_create1");
	if (kind_set_status_flags(fd, pb->flags, e) < 0 || epoll_restore_polling(fd, pb, e) < 0)
		return -1;
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

static int epoll_add(int epoll, unsigned fd, struct epoll_event event, struct err *e)
{
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, (int)fd, &event) < 0)
		return err_sys(e, errno, "adding fd %u to an epoll instance", fd);
	return 0;
}

/*
 * A one-shot item that has fired waits for nothing, not even for errors, and
 * epoll_ctl(2) cannot say that. So it is made to fire, while it is the only item
 * that can. One that is not ready for anything will tell of errors.
 */
static int epoll_add_fired(int epoll, unsigned fd, struct epoll_event event, struct err *e)
{
	struct epoll_event fired, eager = event;

	eager.events |= EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP;
	if (epoll_add(epoll, fd, eager, e) < 0)
		return -1;
	if (epoll_wait(epoll, &fired, 1, 0) == 1)
		return 0;
	return epoll_ctl(epoll, EPOLL_CTL_MOD, (int)fd, &event) < 0 ? err_sys(e, errno, "epoll_ctl") : 0;
}

static bool epoll_has_fired(const Pb__EpollItem *item)
{
	return (item->events & EPOLLONESHOT) && !(item->events & ~(uint32_t)EPOLL_KEPT);
}

static int epoll_add_item(int epoll, const Pb__EpollItem *item, struct err *e)
{
	struct epoll_event event = { .events = item->events, .data.u64 = item->data };

	return epoll_has_fired(item) ? epoll_add_fired(epoll, item->fd, event, e) :
				       epoll_add(epoll, item->fd, event, e);
}

static const Pb__Slot *epoll_find_slot(const Pb__Task *task, unsigned fd)
{
	size_t low = 0, high = task->n_slots;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (task->slots[middle]->fd < fd)
			low = middle + 1;
		else
			high = middle;
	}
	return low < task->n_slots && task->slots[low]->fd == fd ? task->slots[low] : NULL;
}

/* The number belongs to something else, or to nothing: the watched object takes it for a moment. */
static int epoll_add_elsewhere(const struct restore_task *r, int epoll, const Pb__EpollItem *item, struct err *e)
{
	int object = r->object_fds[item->object], number = (int)item->fd, flags = fcntl(number, F_GETFD), result;
	cleanup_close int kept = flags < 0 ? -1 : fcntl(number, F_DUPFD_CLOEXEC, object);

	if (number == object)
		return epoll_add_item(epoll, item, e);
	if (flags >= 0 && kept < 0)
		return err_sys(e, errno, "keeping fd %d", number);
	if (dup3(object, number, O_CLOEXEC) < 0)
		return err_sys(e, errno, "using fd %d for a moment", number);
	result = epoll_add_item(epoll, item, e);
	if (kept < 0)
		close(number);
	else if (dup3(kept, number, flags & FD_CLOEXEC ? O_CLOEXEC : 0) < 0)
		result = err_sys(e, errno, "putting fd %d back", number);
	return result;
}

static int epoll_finish_item(const struct restore_task *r, int epoll, const Pb__EpollItem *item, struct err *e)
{
	const Pb__Slot *slot = epoll_find_slot(r->task, item->fd);

	if (item->object >= r->image->n_objects || item->fd > INT32_MAX)
		return err_set(e, ERR_IMAGE, 0, "an epoll item refers to object %u", item->object);
	if (slot && slot->object == item->object)
		return epoll_add_item(epoll, item, e);
	return epoll_add_elsewhere(r, epoll, item, e);
}

static int epoll_finish(struct restore_task *r, int fd, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Epoll *pb = (const Pb__Epoll *)m;

	/* Those that have fired first: see epoll_add_fired(). */
	for (int armed = 0; armed < 2; armed++)
		for (size_t i = 0; i < pb->n_items; i++)
			if (epoll_has_fired(pb->items[i]) != armed && epoll_finish_item(r, fd, pb->items[i], e) < 0)
				return -1;
	return 0;
}

static void epoll_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	snprintf(buf, size, "%zu items", ((const Pb__Epoll *)m)->n_items);
}

const struct kind kind_epoll = {
	.name = "epoll",
	.tag = 8,
	.message = &pb__epoll__descriptor,
	.match = epoll_match,
	.collect = epoll_collect,
	.link = epoll_link,
	.restore = epoll_restore,
	.finish = epoll_finish,
	.describe = epoll_describe,
};
