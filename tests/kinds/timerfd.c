/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { HOUR = 3600, LATE = 300 /* seconds that a test may take in all */ };

static int relative, absolute, date, boot, same, disarmed, expired, counted, interval;
static struct timespec date_at;

static struct timespec seconds_from_now(clockid_t clock, time_t seconds)
{
	struct timespec now;

	clock_gettime(clock, &now);
	now.tv_sec += seconds;
	return now;
}

static struct itimerspec left(int fd)
{
	struct itimerspec t;

	check_call(timerfd_gettime(fd, &t));
	return t;
}

static uint64_t ticks(int fd)
{
	uint64_t n = 0;

	check(check_call(read(fd, &n, sizeof(n))) == sizeof(n));
	return n;
}

static void arm(int fd, int flags, struct timespec value, time_t every)
{
	const struct itimerspec t = { .it_value = value, .it_interval.tv_sec = every };

	check_call(timerfd_settime(fd, flags, &t, NULL));
}

static void set_expired(void)
{
	const struct itimerspec soon = { .it_value.tv_nsec = 1 };
	const struct itimerspec often = { { 0, 1000000 }, { 0, 1 } };

	check_call(timerfd_settime(expired, 0, &soon, NULL));
	check_call(timerfd_settime(counted, 0, &often, NULL));
	check_call(usleep(20000));
	check_call(timerfd_gettime(counted, &(struct itimerspec){ 0 }));
}

void setup(const char *argument)
{
	(void)argument;
	relative = (int)check_call(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
	arm(relative, 0, (struct timespec){ HOUR, 0 }, 7);
	same = (int)check_call(dup(relative));
	absolute = (int)check_call(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
	arm(absolute, TFD_TIMER_ABSTIME, seconds_from_now(CLOCK_MONOTONIC, HOUR), 0);
	date = (int)check_call(timerfd_create(CLOCK_REALTIME, 0));
	date_at = seconds_from_now(CLOCK_REALTIME, HOUR);
	arm(date, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, date_at, 0);
	boot = (int)check_call(timerfd_create(CLOCK_BOOTTIME, 0));
	arm(boot, TFD_TIMER_ABSTIME, seconds_from_now(CLOCK_BOOTTIME, 2 * HOUR), HOUR);
	disarmed = (int)check_call(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK));
	expired = (int)check_call(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
	counted = (int)check_call(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
	interval = (int)check_call(timerfd_create(CLOCK_MONOTONIC, 0));
	set_expired();
	second_task_start();
}

static void check_left(int fd, time_t seconds, time_t every)
{
	struct itimerspec t = left(fd);

	check(t.it_value.tv_sec <= seconds && t.it_value.tv_sec > seconds - LATE);
	check(t.it_interval.tv_sec == every && t.it_interval.tv_nsec == 0);
}

static void verify_in_second(void)
{
	arm(relative, 0, (struct timespec){ HOUR, 0 }, 8);
}

/* A time of day is kept to the nanosecond, but for what passed between two looks at the clock. */
static void check_date(void)
{
	struct itimerspec t = left(date);
	struct timespec now;
	int64_t off;

	clock_gettime(CLOCK_REALTIME, &now);
	off = (now.tv_sec + t.it_value.tv_sec - date_at.tv_sec) * 1000000000ll + now.tv_nsec + t.it_value.tv_nsec -
	      date_at.tv_nsec;
	check(llabs(off) < 100000000);
}

/* It goes on counting by itself. */
static void check_interval(void)
{
	const struct itimerspec t = { { 0, 2000000 }, { 0, 1 } };

	check_call(timerfd_settime(interval, 0, &t, NULL));
	for (int i = 0; i < 3; i++)
		check(ticks(interval) >= 1);
	check_call(timerfd_settime(interval, 0, &(struct itimerspec){ 0 }, NULL));
}

void verify(void)
{
	check_cloexec(relative, true);
	check_cloexec(same, false);
	check_flags(absolute, O_NONBLOCK, O_NONBLOCK);
	check_flags(relative, O_NONBLOCK, 0);
	check_same_description(relative, same, true);

	check_left(relative, HOUR, 7);
	second_task_run(verify_in_second);
	check_left(same, HOUR, 8);
	arm(relative, 0, (struct timespec){ HOUR, 0 }, 7);
	check_left(absolute, HOUR, 0);
	check_left(boot, 2 * HOUR, HOUR);
	check_date();
	check_left(disarmed, 0, 0);
	check_empty(disarmed);

	check(ticks(expired) == 1);
	check_empty(expired);
	check(ticks(counted) >= 15);
	set_expired();
	check_interval();
}
