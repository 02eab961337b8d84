/* SPDX-License-Identifier: Apache-2.0 */
#include "proc/task.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "proc/scan.h"
#include "util/arena.h"

/*
 * /proc/PID/timers, for each timer:
 *	ID: 1
 *	signal: 60/00007fff86e452a8
 *	notify: signal/pid.2634
 *	ClockID: 0
 */

/* "10/000000000000002a" */
static bool timers_scan_signal(const char *s, struct proc_timer *timer)
{
	return scan_int(&s, &timer->signo) && scan_char(&s, '/') && scan_u64(&s, 16, &timer->sigval) &&
	       scan_end(s);
}

/* "signal/pid.2634": how / whom */
static bool timers_scan_notify(const char *s, struct proc_timer *timer)
{
	if (scan_word(&s, "signal/"))
		timer->notify = SIGEV_SIGNAL;
	else if (scan_word(&s, "none/"))
		timer->notify = SIGEV_NONE;
	else if (scan_word(&s, "thread/"))
		timer->notify = SIGEV_THREAD_ID;
	else
		return false;
	if (scan_word(&s, "tid.")) {
		if (timer->notify == SIGEV_SIGNAL)
			timer->notify = SIGEV_THREAD_ID;
	} else if (!scan_word(&s, "pid.")) {
		return false;
	}
	return scan_pid(&s, &timer->tid) && scan_end(s);
}

/* Clocks of processes and threads have negative numbers. */
static bool timers_scan_clock(const char *s, struct proc_timer *timer)
{
	return scan_int(&s, &timer->clock) && scan_end(s);
}

static int timers_add(const char *s, struct arena *arena, struct proc_timer **timers, size_t *n)
{
	struct proc_timer timer = { 0 };

	if (!scan_int(&s, &timer.id) || timer.id < 0 || !scan_end(s))
		return -EINVAL;
	*timers = arena_grow(arena, *timers, *n, sizeof(timer));
	if (!*timers)
		return -ENOMEM;
	(*timers)[(*n)++] = timer;
	return 0;
}

/* The lines of a timer that must be there, each once. */
enum { TIMERS_SIGNAL = 1, TIMERS_NOTIFY = 2, TIMERS_CLOCK = 4, TIMERS_ALL = 7 };

/* Returns TIMERS_* of the line, 0 when it is unknown, -EINVAL when it is wrong. */
static int timers_scan_line(const char *s, struct proc_timer *timer)
{
	if (scan_word(&s, "signal: "))
		return timers_scan_signal(s, timer) ? TIMERS_SIGNAL : -EINVAL;
	if (scan_word(&s, "notify: "))
		return timers_scan_notify(s, timer) ? TIMERS_NOTIFY : -EINVAL;
	if (scan_word(&s, "ClockID: "))
		return timers_scan_clock(s, timer) ? TIMERS_CLOCK : -EINVAL;
	return 0;
}

int proc_parse_timers(char *text, struct arena *arena, struct proc_timer **ret, size_t *ret_n)
{
	struct proc_timer *timers = NULL, ignored;
	int r, seen = TIMERS_ALL;
	const char *line;
	size_t n = 0;

	while ((line = scan_line(&text))) {
		if (scan_word(&line, "ID: ")) {
			if (seen != TIMERS_ALL)
				return -EINVAL;
			seen = 0;
			r = timers_add(line, arena, &timers, &n);
		} else {
			r = timers_scan_line(line, n ? &timers[n - 1] : &ignored);
			if (r > 0 && (seen & r))
				return -EINVAL; /* twice, or before the first ID */
			if (r > 0)
				seen |= r;
		}
		if (r < 0)
			return r;
	}
	if (seen != TIMERS_ALL)
		return -EINVAL;
	*ret = timers;
	*ret_n = n;
	return 0;
}
