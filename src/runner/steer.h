/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Steering the kernel's PID counter. Without libc and without data, for the
 * runner as well as for the host.
 */

#include <stdint.h>

#include "abi/steer.h"
#include "arch/x86_64/syscall.h"

enum { STEER_NR_READ = 0, STEER_NR_WRITE = 1, STEER_NR_OPEN = 2, STEER_NR_CLOSE = 3, STEER_NR_NANOSLEEP = 35,
       STEER_NR_WAIT4 = 61, STEER_NR_KILL = 62, STEER_NR_FUTEX = 202 };
enum { STEER_ESRCH = 3, STEER_EINTR = 4, STEER_EEXIST = 17, STEER_ETIME = 62, STEER_O_WRONLY = 1, STEER_WALL = 0x40000000 };
enum { STEER_NEAR = 64 }; /* PIDs that may all be taken between the counter and the wanted one */
enum { STEER_TURN = 1 << 22, STEER_PATIENCE = 100 };

static inline int64_t steer_call(int64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	const uint64_t args[6] = { a, b, c, d, 0, 0 };

	return arch_syscall(nr, args);
}

/* How many PIDs come up before this one. */
static inline int32_t steer_distance(const struct steer *s, int32_t wanted)
{
	int32_t last = __atomic_load_n(&s->last, __ATOMIC_RELAXED);

	return wanted > last ? wanted - last : wanted - last + STEER_TURN;
}

static inline int steer_is_first(const struct steer *s, int32_t wanted)
{
	for (int i = 0; i < STEER_WAITERS; i++) {
		int32_t other = __atomic_load_n(&s->waiting[i], __ATOMIC_ACQUIRE);

		if (other && steer_distance(s, other) < steer_distance(s, wanted))
			return 0;
	}
	return 1;
}

static inline int32_t *steer_queue(struct steer *s, int32_t wanted)
{
	for (int i = 0; i < STEER_WAITERS; i++) {
		int32_t nobody = 0;

		if (__atomic_compare_exchange_n(&s->waiting[i], &nobody, wanted, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return &s->waiting[i];
	}
	return 0;
}

/* Once round takes seconds: of those who wait, the one whose PID comes up first goes first. */
static inline void steer_lock(struct steer *s, int32_t wanted)
{
	int32_t *place = steer_queue(s, wanted);

	for (;;) {
		uint32_t turn = __atomic_load_n(&s->turns, __ATOMIC_ACQUIRE);

		if ((!place || steer_is_first(s, wanted)) && !__atomic_exchange_n(&s->locked, 1, __ATOMIC_ACQUIRE))
			break;
		steer_call(STEER_NR_FUTEX, (uint64_t)&s->turns, 0 /* FUTEX_WAIT */, turn, 0);
	}
	if (place)
		__atomic_store_n(place, 0, __ATOMIC_RELEASE);
}

static inline void steer_unlock(struct steer *s, int32_t last)
{
	__atomic_store_n(&s->last, last, __ATOMIC_RELAXED); /* those who wait look at it */
	__atomic_store_n(&s->locked, 0, __ATOMIC_RELEASE);
	__atomic_add_fetch(&s->turns, 1, __ATOMIC_RELEASE);
	steer_call(STEER_NR_FUTEX, (uint64_t)&s->turns, 1 /* FUTEX_WAKE */, INT32_MAX, 0);
}

/* Who holds it may be about to end: a thread that loaded memory, say. */
static inline int steer_stays_taken(int64_t pid)
{
	const int64_t pause[2] = { 0, 10000000 };

	for (int i = 0; i < STEER_PATIENCE; i++) {
		if (steer_call(STEER_NR_KILL, (uint64_t)pid, 0, 0, 0) == -STEER_ESRCH)
			return 0;
		steer_call(STEER_NR_NANOSLEEP, (uint64_t)pause, 0, 0, 0);
	}
	return 1;
}

/* The PID that was given last; negative where the kernel does not tell. */
static inline int64_t steer_last(const struct steer *s)
{
	int64_t fd = steer_call(STEER_NR_OPEN, (uint64_t)s->last_pid, 0, 0, 0), last = 0, n;
	char text[16];

	if (fd < 0)
		return fd;
	n = steer_call(STEER_NR_READ, (uint64_t)fd, (uint64_t)text, sizeof(text), 0);
	steer_call(STEER_NR_CLOSE, (uint64_t)fd, 0, 0, 0);
	for (int64_t i = 0; i < n && text[i] >= '0' && text[i] <= '9'; i++)
		last = last * 10 + (text[i] - '0');
	return n <= 0 ? -STEER_ESRCH : last;
}

/* Needs CAP_CHECKPOINT_RESTORE. */
static inline int64_t steer_write(const struct steer *s, int64_t last)
{
	int64_t fd = steer_call(STEER_NR_OPEN, (uint64_t)s->last_pid, STEER_O_WRONLY, 0, 0), n = 0;
	char text[16], digits[16];

	if (fd < 0)
		return fd;
	do
		digits[n++] = (char)('0' + last % 10);
	while (last /= 10);
	for (int64_t i = 0; i < n; i++)
		text[i] = digits[n - 1 - i];
	n = steer_call(STEER_NR_WRITE, (uint64_t)fd, (uint64_t)text, (uint64_t)n, 0);
	steer_call(STEER_NR_CLOSE, (uint64_t)fd, 0, 0, 0);
	return n < 0 ? n : 0;
}

static inline int steer_taken(int64_t pid)
{
	return steer_call(STEER_NR_KILL, (uint64_t)pid, 0, 0, 0) != -STEER_ESRCH;
}

/* Will `wanted` be the next to be given? */
static inline int steer_is_next(int64_t last, int64_t wanted)
{
	if (last >= wanted || wanted - last > STEER_NEAR)
		return 0;
	while (++last < wanted)
		if (!steer_taken(last))
			return 0;
	return 1;
}

/*
 * Bring the counter to where `wanted` comes next, with at most `rounds` forks.
 * Returns 0, 1 when that was not enough, -EEXIST when it is taken, -ETIME when the
 * limit is reached. Between this and the clone another process may snatch it.
 */
static inline int64_t steer_to(struct steer *s, int64_t wanted, uint64_t rounds)
{
	int64_t last = steer_last(s), pid;

	if (steer_stays_taken(wanted))
		return -STEER_EEXIST;
	if (s->way == PID_LAST_PID)
		return steer_write(s, wanted - 1);
	while (!steer_is_next(last, wanted)) {
		if (!rounds--)
			return 1;
		if (s->made >= s->limit)
			return -STEER_ETIME;
		pid = arch_vfork_exit();
		if (pid < 0)
			return pid;
		s->made++;
		while (steer_call(STEER_NR_WAIT4, (uint64_t)pid, 0, STEER_WALL, 0) == -STEER_EINTR)
			;
		last = pid;
		if (wanted - last > 0 && wanted - last <= STEER_NEAR && steer_last(s) > 0)
			last = steer_last(s); /* others make processes, too */
	}
	return 0;
}
