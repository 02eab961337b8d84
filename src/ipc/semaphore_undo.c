/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Theory of operation: the kernel keeps for each process and semaphore set an
 * adjustment that is added when the process ends (SEM_UNDO), and shows it to
 * nobody. But it refuses an operation with ERANGE that would take an adjustment
 * out of its range, -32768 to 32767, and that can be tried without consequence:
 * semop(2) executes all of its operations or none, and the last one here can
 * never be executed. So EAGAIN says that the adjustment stayed in its range, and
 * ERANGE that it would not. Neither does a failed semop leave a trace: no time,
 * no PID.
 *
 * To try an operation of size x, the value of the semaphore must permit it; a
 * first operation without SEM_UNDO brings it to where it does.
 */

#include "ipc/semaphore_undo.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/sem.h>
#include <sys/syscall.h>

#include "target/target.h"
#include "util/err.h"

enum { NEVER = -32768, OPS_PER_SEMAPHORE = 4, BATCH = (SEMAPHORE_OPS - 1) / OPS_PER_SEMAPHORE, TRIES = 8 };

struct trial {
	struct sembuf ops[SEMAPHORE_OPS];
	size_t n;
};

/* An operation of 0 would wait. */
static void trial_add(struct trial *t, unsigned number, int op, bool undo)
{
	if (op)
		t->ops[t->n++] = (struct sembuf){ .sem_num = (unsigned short)number, .sem_op = (short)op,
						  .sem_flg = undo ? IPC_NOWAIT | SEM_UNDO : IPC_NOWAIT };
}

/* Would the adjustment, plus x, exceed its range? */
static void trial_above(struct trial *t, unsigned number, unsigned short value, int x)
{
	trial_add(t, number, SEMAPHORE_MAX - value, false);
	trial_add(t, number, -x, true);
}

/* Would the adjustment, minus x, fall below its range? x may be one more than a single operation can be. */
static void trial_below(struct trial *t, unsigned number, unsigned short value, int x)
{
	int first = x > SEMAPHORE_MAX ? SEMAPHORE_MAX : x;

	trial_add(t, number, -value, false);
	trial_add(t, number, first, true);
	trial_add(t, number, -first, false);
	trial_add(t, number, x - first, true);
}

/* 1: out of its range; 0: within it, or nothing can be said; or negative. */
static int trial_run(struct trial *t, struct remote *r, int id, struct err *e)
{
	int64_t result;

	trial_add(t, t->n ? t->ops[0].sem_num : 0, NEVER, false);
	if (remote_write(r, t->ops, t->n * sizeof(t->ops[0]), e) < 0 ||
	    remote_call(r, &result, e, SYS_semop, (uint64_t)id, r->scratch, t->n) < 0)
		return -1;
	return result == -ERANGE;
}

typedef void trial_kind(struct trial *t, unsigned number, unsigned short value, int x);

struct search {
	struct remote *remote;
	int id;
	unsigned short *values;
	trial_kind *kind;
	int room; /* that an adjustment of 0 has */
	int sign;
	int *found;
	bool any;
};

/* Has one of these semaphores, at most BATCH, less than `room`? */
static int search_try(struct search *s, unsigned first, unsigned n, int room, struct err *e)
{
	struct trial t = { .n = 0 };

	for (unsigned i = first; i < first + n; i++)
		s->kind(&t, i, s->values[i], room);
	return trial_run(&t, s->remote, s->id, e);
}

/*
 * Others may operate on it meanwhile. When its value is no longer what it was, the
 * first operation alone exceeds the range of values, which is ERANGE as well.
 */
static int search_settle(struct search *s, unsigned number, struct err *e)
{
	int less = 1;

	for (int i = 0; less > 0 && i < TRIES; i++) {
		int value = semctl(s->id, (int)number, GETVAL);

		if (value < 0)
			return 1;
		s->values[number] = (unsigned short)value;
		less = search_try(s, number, 1, 0, e);
	}
	return less;
}

static int search_measure(struct search *s, unsigned number, struct err *e)
{
	int low = 0, high = s->room, unsettled = search_settle(s, number, e);

	if (unsettled)
		return unsettled < 0 ? -1 : 0;
	while (low < high) {
		int middle = low + (high - low + 1) / 2, less = search_try(s, number, 1, middle, e);

		if (less < 0)
			return -1;
		if (less)
			high = middle - 1;
		else
			low = middle;
	}
	if (low < s->room) {
		s->found[number] = s->sign * (s->room - low);
		s->any = true;
	}
	return 0;
}

/* By halves: mostly there is nothing, which one trial tells. */
static int search_range(struct search *s, unsigned first, unsigned n, struct err *e)
{
	int any = n <= BATCH ? search_try(s, first, n, s->room, e) : 1;

	if (any <= 0)
		return any;
	if (n == 1)
		return search_measure(s, first, e);
	if (search_range(s, first, n / 2, e) < 0)
		return -1;
	return search_range(s, first + n / 2, n - n / 2, e);
}

int semaphore_undo_ask(struct remote *r, int id, unsigned short *values, unsigned n, int *ret, struct err *e)
{
	struct search up = { r, id, values, trial_above, SEMAPHORE_MAX, 1, ret, false };
	struct search down = { r, id, values, trial_below, SEMAPHORE_MAX + 1, -1, ret, false };

	memset(ret, 0, n * sizeof(*ret));
	if (search_range(&up, 0, n, e) < 0 || search_range(&down, 0, n, e) < 0)
		return -1;
	return up.any || down.any;
}
