/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a checkpoint or a restore can need of the kernel and of the administrator:
 * each thing is tried for real, in a process made for it, never guessed from a
 * version number. Nothing happens to the caller.
 */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "util/err.h"

enum probe_use {
	PROBE_DUMP,    /* no dump without it */
	PROBE_RESTORE, /* no restore without it */
	PROBE_TIER,    /* no restore in a certain tier without it */
	PROBE_HELPS,   /* used where it is there; needed for some programs, or quicker */
	PROBE_PLANNED, /* for what torpor does not do yet */
	PROBE_USES,
};

enum { PROBE_DETAIL_SIZE = 160, PROBES_MAX = 64 };

/* Inside the process that tries. */
struct probe_run {
	pid_t subject; /* another process of the same user, not a child of this one; 0 where none was asked for */
	char *detail;  /* PROBE_DETAIL_SIZE bytes: more about the outcome, good or bad, or "" */
};

struct probe {
	const char *id;
	const char *what;
	enum probe_use use;
	const char *tiers;     /* those that need it, of "cap root userns fork"; "" when all do, or none does */
	const char *purpose;   /* what torpor does with it */
	const char *privilege; /* what would help when it is not permitted */
	const char *kernel;    /* ... when the kernel does not know it */
	bool with_subject;
	int (*run)(const struct probe_run *r); /* 0: it works; else -errno */
};

extern const struct probe probes[];
extern const size_t n_probes;

struct probe_outcome {
	int number; /* 0: it works; else an errno value */
	char detail[PROBE_DETAIL_SIZE];
};

/* Try one thing. Negative only when trying itself failed. */
int probe_try(const struct probe *p, struct probe_outcome *ret, struct err *e);

/* What would make it work, in words; "" when it works. */
const char *probe_help(const struct probe *p, const struct probe_outcome *o);

/* A way of working, best first. What it takes was tried. */
struct probe_tier {
	const char *name, *about;
	bool implemented, works;
	const struct probe *missing; /* what it would need first; NULL: nothing that was tried */
	const char *why_not; /* another reason, in words; or NULL */
};

enum { PROBE_TIERS = 4 };

/* `outcomes` of all the probes, in their order. */
void probe_tiers(const struct probe_outcome *outcomes, struct probe_tier ret[PROBE_TIERS]);

/* Do these outcomes permit a dump? */
bool probe_dump_works(const struct probe_outcome *outcomes);
