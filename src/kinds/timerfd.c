/* SPDX-License-Identifier: Apache-2.0 */

/*
 * timerfd(2). A timer goes on with the time that it had left: no time passes for
 * the program while it sleeps. Only a timer set to a time of day keeps that time.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "util/fd.h"

enum { SECOND = 1000000000, TRIES = 16, TIMER_FLAGS = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET };

/* TFD_IOC_SET_TICKS of <linux/timerfd.h>, which clashes with libc's header. */
#define TIMERFD_SET_TICKS _IOW('T', 0, __u64)

static uint64_t timerfd_ns(const struct timespec *ts)
{
	return (uint64_t)ts->tv_sec * SECOND + (uint64_t)ts->tv_nsec;
}

static struct timespec timerfd_timespec(uint64_t ns)
{
	return (struct timespec){ (time_t)(ns / SECOND), (long)(ns % SECOND) };
}

static bool timerfd_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[timerfd]") == 0;
}

/* ---- dump ---- */

static bool timerfd_clock_is_known(uint32_t clock)
{
	return clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC || clock == CLOCK_BOOTTIME;
}

static bool timerfd_keeps_date(const Pb__Timerfd *pb)
{
	return pb->clock == CLOCK_REALTIME && (pb->settime_flags & TFD_TIMER_ABSTIME);
}

/* The clock was set, and the program that wanted to know has not read it: nothing but setting the clock does that. */
static bool timerfd_was_cancelled(const Pb__Timerfd *pb)
{
	return (pb->settime_flags & TIMER_FLAGS) == TIMER_FLAGS && pb->ticks && pb->value_ns && !pb->interval_ns;
}

/* Expirations of an interval timer are only counted when somebody asks for the time that is left: first that. */
static int timerfd_read(struct collect *c, int fd, Pb__Timerfd *pb, struct err *e)
{
	struct itimerspec left;
	struct timespec now;
	struct fdinfo info;
	char name[32], *text;
	int r;

	clock_gettime(CLOCK_REALTIME, &now);
	if (timerfd_gettime(fd, &left) < 0)
		return err_sys(e, errno, "timerfd_gettime");
	snprintf(name, sizeof(name), "fdinfo/%d", fd);
	r = fd_read_proc(getpid(), name, c->arena, &text, NULL);
	if (r == 0)
		r = proc_parse_fdinfo(text, c->arena, &info);
	if (r < 0)
		return err_sys(e, r, "reading about a timer");
	pb_set(pb, value_ns, timerfd_ns(&left.it_value));
	pb_set(pb, interval_ns, timerfd_ns(&left.it_interval));
	pb_set(pb, ticks, info.ticks);
	pb_set(pb, settime_flags, info.settime_flags);
	if (pb->value_ns && timerfd_keeps_date(pb))
		pb_set(pb, deadline_ns, (int64_t)(timerfd_ns(&now) + pb->value_ns));
	return 0;
}

/*
 * Time goes on while the tree stands still. When the timer expires between the
 * question for the time and that for the expirations, the answers do not fit
 * together: ask until nothing has happened in between.
 */
static int timerfd_read_both(struct collect *c, const struct fd_view *v, Pb__Timerfd *pb, struct err *e)
{
	cleanup_close int fd = kind_steal(v, e);
	uint64_t value, ticks;

	if (fd < 0 || timerfd_read(c, fd, pb, e) < 0)
		return -1;
	for (unsigned i = 0; i < TRIES; i++) {
		value = pb->value_ns;
		ticks = pb->ticks;
		if (timerfd_read(c, fd, pb, e) < 0)
			return -1;
		if (pb->ticks == ticks && pb->value_ns <= value && !pb->value_ns == !value)
			break;
	}
	return 0;
}

static int timerfd_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__Timerfd *pb = (Pb__Timerfd *)m;

	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->clock = (uint32_t)v->info.clock;
	if (!timerfd_clock_is_known(pb->clock))
		return kind_refuse(c, v, "E-FD-TIMERFD-ALARM", "let the program close it, then try again",
				   "is a timer that can wake up the machine (clock %d)", v->info.clock);
	if (timerfd_read_both(c, v, pb, e) < 0)
		return -1;
	if (timerfd_was_cancelled(pb))
		return kind_refuse(c, v, "E-FD-TIMERFD-CANCELLED", "try again when the program has read it",
				   "is a timer that was cancelled because the clock was set");
	return 0;
}

/* ---- restore ---- */

static int timerfd_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Timerfd *pb = (const Pb__Timerfd *)m;
	cleanup_close int fd = -1;

	if (!timerfd_clock_is_known(pb->clock) || pb->settime_flags & ~(uint32_t)TIMER_FLAGS)
		return err_set(e, ERR_IMAGE, 0, "a timer of clock %u with the flags %#x", pb->clock, pb->settime_flags);
	fd = timerfd_create((int)pb->clock, TFD_CLOEXEC);
	if (fd < 0)
		return err_sys(e, errno, "timerfd_create");
	if (kind_set_status_flags(fd, pb->flags, e) < 0)
		return -1;
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

static uint64_t timerfd_value(const Pb__Timerfd *pb)
{
	struct timespec now;

	if (!pb->value_ns)
		return 0;
	if (pb->has_deadline_ns && timerfd_keeps_date(pb))
		return pb->deadline_ns > 0 ? (uint64_t)pb->deadline_ns : 1;
	if (!(pb->settime_flags & TFD_TIMER_ABSTIME))
		return pb->value_ns;
	clock_gettime((clockid_t)pb->clock, &now);
	return timerfd_ns(&now) + pb->value_ns;
}

/* Armed last: no time passes for it while the tree is being made. */
static int timerfd_last(struct restore_objects *r, int fd, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Timerfd *pb = (const Pb__Timerfd *)m;
	const struct itimerspec it = { timerfd_timespec(pb->interval_ns), timerfd_timespec(timerfd_value(pb)) };

	(void)r;
	/* One that is not armed keeps its interval and its flags as well. */
	if (timerfd_settime(fd, (int)pb->settime_flags, &it, NULL) < 0)
		return err_sys(e, errno, "timerfd_settime");
	if (pb->ticks && ioctl(fd, TIMERFD_SET_TICKS, &pb->ticks) < 0)
		return err_sys(e, errno, "setting a timer's %lu expirations", pb->ticks);
	return 0;
}

static void timerfd_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__Timerfd *pb = (const Pb__Timerfd *)m;

	snprintf(buf, size, "clock %u, %lu ns left, every %lu ns, %lu expirations unread", pb->clock, pb->value_ns,
		 pb->interval_ns, pb->ticks);
}

const struct kind kind_timerfd = {
	.name = "timerfd",
	.tag = 11,
	.message = &pb__timerfd__descriptor,
	.match = timerfd_match,
	.collect = timerfd_collect,
	.restore = timerfd_restore,
	.last = timerfd_last,
	.describe = timerfd_describe,
};
