/* SPDX-License-Identifier: Apache-2.0 */

/* Steering PIDs: distances, who goes first, and what is said beforehand. */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/pids.h"
#include "runner/steer.h"
#include "unit.h"

enum { SOME_PID = 20000 };

static void distances(void)
{
	struct steer s = { .last = 1000 };

	UNIT_CHECK_EQ(steer_distance(&s, 1001), 1);
	UNIT_CHECK_EQ(steer_distance(&s, 1900), 900);
	UNIT_CHECK(steer_distance(&s, 1000) > steer_distance(&s, 999));
	UNIT_CHECK(steer_distance(&s, 300) > steer_distance(&s, 32767));
}

static void next(void)
{
	pid_t self = getpid();

	UNIT_CHECK(steer_is_next(self - 1, self));
	UNIT_CHECK(!steer_is_next(self, self));
	UNIT_CHECK(!steer_is_next(self + 1, self));
	UNIT_CHECK(!steer_is_next(self - STEER_NEAR - 1, self));
	UNIT_CHECK(steer_taken(self));
	UNIT_CHECK(steer_is_next(0, 2)); /* 1 is taken */
}

/* A zombie holds its PID; once it is reaped, the PID is free. */
static void taken(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	UNIT_CHECK(pid > 0);
	UNIT_CHECK(steer_taken(pid));
	UNIT_CHECK_EQ(waitpid(pid, NULL, 0), pid);
}

static struct steer shared;
static int order[3], n_order;

static void *wait_for_turn(void *wanted)
{
	int32_t pid = (int32_t)(intptr_t)wanted;

	steer_lock(&shared, pid);
	order[n_order++] = pid;
	steer_unlock(&shared, pid);
	return NULL;
}

static void nearest_first(void)
{
	static const intptr_t wanted[] = { 90, 130, 110 }; /* in the order in which they ask */
	pthread_t threads[3];

	shared = (struct steer){ .last = 100 };
	steer_lock(&shared, 100);
	for (int i = 0; i < 3; i++) {
		UNIT_CHECK_EQ(pthread_create(&threads[i], NULL, wait_for_turn, (void *)wanted[i]), 0);
		while (!__atomic_load_n(&shared.waiting[i], __ATOMIC_ACQUIRE))
			sched_yield();
	}
	steer_unlock(&shared, 100);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	UNIT_CHECK_EQ(order[0], 110);
	UNIT_CHECK_EQ(order[1], 130);
	UNIT_CHECK_EQ(order[2], 90);
}

static void foreseen(void)
{
	struct err e = ERR_INIT;
	struct pids *p = pids_new(PID_FORK, 0, &e);

	UNIT_CHECK(p);
	UNIT_CHECK(pids_foresee(p, 1 << 23, &e) < 0 && strstr(e.text, "beyond kernel.pid_max"));
	UNIT_CHECK(pids_foresee(p, SOME_PID, &e) < 0 && strstr(e.text, "forks away") && strstr(e.text, "the limit is 0"));
	p->steer.limit = UINT64_MAX;
	UNIT_CHECK_EQ(pids_foresee(p, SOME_PID, &e), 0);
	pids_free(p);
	p = pids_new(PID_SET_TID, 0, &e);
	UNIT_CHECK_EQ(pids_foresee(p, 1 << 23, &e), 0);
	pids_free(p);
}

/* A PID that others hold is refused; and a limit is kept. */
static void refused(void)
{
	struct err e = ERR_INIT;
	struct pids *p = pids_new(PID_FORK, 3, &e);
	pid_t far = getpid() > 16000 ? 2000 : 30000;

	UNIT_CHECK(p);
	while (steer_taken(far))
		far++;
	UNIT_CHECK_EQ(pids_clone(p, NULL, far, 0, SIGCHLD), -ETIME);
	UNIT_CHECK_EQ(p->steer.made, 3);
	UNIT_CHECK_EQ(pids_clone(p, NULL, getpid(), 0, SIGCHLD), -EEXIST);
	pids_free(p);
}

UNIT_MAIN(UNIT_CASE(distances), UNIT_CASE(next), UNIT_CASE(taken), UNIT_CASE(nearest_first), UNIT_CASE(foreseen),
	  UNIT_CASE(refused))
