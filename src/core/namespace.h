/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Tier userns: a user, PID and mount namespace (and a time namespace, where there
 * are such), which an ordinary user may make. The process that is made along with
 * it, its PID 1, is the coordinator of the restore, and later the init of what
 * lives there (init.h). Whoever made it stays outside.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/core.h"
#include "util/err.h"

/* The name of every init: by it, a dump from outside knows whose namespace it is. */
#define NAMESPACE_INIT "torpor-init"

struct namespace {
	pid_t init;    /* its PID outside, for both sides */
	int link;      /* a socket to the other side */
	int reports;   /* a pipe in which the init tells how its program fares (struct program) */
	uint64_t bounding; /* capability bounding set outside */
	struct err *shared; /* what went wrong inside */
};

enum { NAMESPACE_DETAIL_SIZE = 160 /* PROBE_DETAIL_SIZE, too */ };

/* A setting that is known to forbid user namespaces, with its value; "" when none of them does. */
void namespace_why_not(char detail[NAMESPACE_DETAIL_SIZE]);

/*
 * Returns 1 inside, 0 outside, or negative when it cannot be had. In the time
 * namespace of what is made there, clocks go on from `clocks` (NULL: they are not
 * touched). Inside, everything ends with whoever is outside, until
 * namespace_announce().
 */
int namespace_make(struct namespace *ns, const Pb__Machine *clocks, struct err *e);

/* Inside: PIDs that nobody chooses go on after this one. */
void namespace_continue_pids(pid_t last);

/* Inside: the program is about to run. Returns when the outside agrees; from then on it may end. */
int namespace_announce(struct namespace *ns, pid_t root, struct err *e);

/* Inside: it did not come to that. */
_Noreturn void namespace_give_up(struct namespace *ns, const struct err *e);

/* Inside: it runs. */
void namespace_say_done(struct namespace *ns);

/*
 * Outside: until the program runs. `ready` (or NULL) is called with its PID as
 * seen here. On failure the namespace is gone.
 */
int namespace_await(struct namespace *ns, int (*ready)(void *data, pid_t root, struct err *e), void *data,
		    struct program *ret, struct err *e);

/* Do both live in this namespace ("pid", "mnt" ...)? One that cannot be read counts as another. */
bool namespace_is_same(pid_t a, pid_t b, const char *name, struct arena *arena);

/* The process outside that is `pid` inside; 0: there is none. */
pid_t namespace_outside_pid(pid_t init, pid_t pid);
