/* SPDX-License-Identifier: Apache-2.0 */

/* eventfd(2): a counter. fdinfo tells all of it, but on older kernels not whether it is a semaphore. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "kinds/kind.h"
#include "util/fd.h"
#include "util/survivor.h"

static bool eventfd_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[eventfd]") == 0;
}

/* What is found out in a process that goes on when torpor is killed; in memory shared with it. */
struct eventfd_look {
	int fd, number; /* 0, or an errno value */
	uint64_t count; /* as it is */
	bool semaphore;
};

/* Bring the counter, which is `now`, to `wanted`; of a semaphore at most one is taken away. */
static bool eventfd_set(int fd, uint64_t now, uint64_t wanted)
{
	uint64_t value = wanted - now;

	if (now == wanted)
		return true;
	return (now < wanted ? write(fd, &value, sizeof(value)) : read(fd, &value, sizeof(value))) == sizeof(value);
}

/*
 * Of two or more, a semaphore gives one and any other gives all. Nobody of the tree
 * runs meanwhile, and the counter is as it was afterwards; it is never waited for.
 */
static void eventfd_take_and_put(void *data)
{
	struct eventfd_look *look = data;
	uint64_t more = look->count < 2 ? 2 : look->count, got;

	if (!eventfd_set(look->fd, look->count, more) || read(look->fd, &got, sizeof(got)) != sizeof(got)) {
		look->number = errno;
		return;
	}
	look->semaphore = got == 1;
	look->number = eventfd_set(look->fd, more - got, look->count) ? 0 : errno;
}

static int eventfd_try_semaphore(const struct fd_view *v, bool *ret, struct err *e)
{
	cleanup_close int fd = kind_steal(v, e);
	struct eventfd_look *look;
	int r;

	if (fd < 0)
		return fd;
	look = mmap(NULL, sizeof(*look), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (look == MAP_FAILED)
		return err_nomem(e);
	*look = (struct eventfd_look){ .fd = fd, .number = ECANCELED, .count = v->info.eventfd_count };
	r = survivor_run(eventfd_take_and_put, look, 0, e);
	if (r == 0 && look->number)
		r = err_sys(e, look->number, "trying whether fd %u is a semaphore", v->fd);
	*ret = look->semaphore;
	munmap(look, sizeof(*look));
	return r;
}

static int eventfd_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__Eventfd *pb = (Pb__Eventfd *)m;
	bool semaphore = v->info.eventfd_semaphore;

	if (!v->info.has_eventfd_semaphore && !c->look_only && eventfd_try_semaphore(v, &semaphore, e) < 0)
		return -1;
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->count = v->info.eventfd_count;
	pb_set(pb, semaphore, semaphore);
	return 0;
}

static int eventfd_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Eventfd *pb = (const Pb__Eventfd *)m;
	cleanup_close int fd = eventfd(0, EFD_CLOEXEC | (pb->semaphore ? EFD_SEMAPHORE : 0));

	if (fd < 0)
		return err_sys(e, errno, "eventfd");
	/* Written, not given to eventfd(2), which takes 32 bits only. */
	if (pb->count && write(fd, &pb->count, sizeof(pb->count)) < 0)
		return err_sys(e, errno, "setting an eventfd to %lu", pb->count);
	if (kind_set_status_flags(fd, pb->flags, e) < 0)
		return -1;
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

static void eventfd_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__Eventfd *pb = (const Pb__Eventfd *)m;

	snprintf(buf, size, "count %lu%s", pb->count, pb->semaphore ? ", semaphore" : "");
}

const struct kind kind_eventfd = {
	.name = "eventfd",
	.tag = 9,
	.message = &pb__eventfd__descriptor,
	.match = eventfd_match,
	.collect = eventfd_collect,
	.restore = eventfd_restore,
	.describe = eventfd_describe,
};
