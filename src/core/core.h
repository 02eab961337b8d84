/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The two things torpor does, as functions. They print nothing and never exit. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "image/codec.h"
#include "image/image.h"
#include "image/pb.h"
#include "kinds/choice.h"
#include "util/arena.h"
#include "util/err.h"
#include "util/log.h"
#include "util/obstacle.h"
#include "util/progress.h"

/* ---- dump ---- */

/* How a program that is to run on is copied (theory.md, "A short pause"). */
enum pause_way {
	PAUSE_AUTO,  /* whatever makes the pause short */
	PAUSE_TRACK, /* while it runs, and in the pause what it has written meanwhile */
	PAUSE_CLONE, /* from a clone of its memory, after the pause */
	PAUSE_COPY,  /* all in the pause */
};

struct dump_options {
	pid_t pid;
	const char *path;    /* of the image */
	bool keep_running;   /* let the tree run on afterwards instead of ending it */
	enum pause_way pause; /* keep_running: how */
	bool track;          /* keep_running: go on tracking what the program writes, for a dump that has this one as its parent */
	bool no_sync;        /* do not wait for the disk */
	struct image_packing packing;
	const char *parent;  /* store only what differs from this image; NULL: all */
	bool check_only;     /* find the obstacles, write nothing */
	const char *name;    /* under which the program is known (name.h), for its restores; NULL: none */
	const struct proc_status *outside; /* what it shows outside the namespaces that we have entered (visit.h); or NULL */
	struct collect_choice choice; /* what may be let go */
	unsigned timeout_ms; /* for a task that does not stop */
	const struct log *log;
	const struct progress *progress;
};

struct dump_result {
	struct arena arena;             /* owns what follows */
	struct obstacle_list obstacles; /* what cannot be saved; empty on success */
	size_t n_tasks, n_threads;
	uint64_t bytes;                 /* of pages stored, or with check_only: that would be stored */
	uint64_t bytes_packed;          /* what they take in the file */
	uint64_t bytes_parent;          /* of pages that are left to the parent */
	uint64_t frozen_ns;             /* the longest of its stops */
	enum pause_way way;             /* keep_running: how it was copied; not PAUSE_AUTO */
	const char *leftovers;          /* zombies that another parent must reap, in words; or NULL */
};

/*
 * Save a tree. Whatever fails before the image is complete, the tree runs on
 * untouched. Returns 0, or negative with `e` set; ERR_STATE with
 * result->obstacles filled when something cannot be saved. `result` is freed by
 * dump_result_done() in any case.
 */
int core_dump(const struct dump_options *o, struct dump_result *result, struct err *e);
void dump_result_done(struct dump_result *result);

/* ---- a program that torpor stands in for ---- */

struct program {
	pid_t root;  /* its first process, as it is seen from here */
	pid_t init;  /* our child, the PID 1 of the namespace that it lives in; 0: the root itself is our child */
	int reports; /* with an init: a pipe of what wait(2) told of the root, one int each; or -1 */
};

/* ---- run ---- */

struct run_options {
	char *const *argv; /* as execvp(3) takes it */
	const char *name;  /* by which name_find() finds it (name.h); NULL: none */
	void (*before)(void *data); /* called in the process that becomes the program; NULL: nothing */
	void *before_data;
};

/*
 * Run a program in a user and PID namespace of its own. Returns 0 when it runs, or
 * negative; ERR_STATE with e->number when it could not be executed.
 */
int core_start(const struct run_options *o, struct program *ret, struct err *e);

/* ---- restore ---- */

/* Ways of working, by the privilege that they need (torpor-check(1)). */
enum tier { TIER_AUTO, TIER_CAP, TIER_ROOT, TIER_USERNS, TIER_FORK };

enum { FORK_LIMIT_DEFAULT = 1000000 };

struct restore_options {
	const char *path;
	int streams[3];      /* what the saved standard streams are joined to; -1: nothing */
	enum tier tier;      /* TIER_AUTO: the best that works */
	uint64_t fork_limit; /* TIER_FORK: how many processes may be made until the PIDs come up */
	bool allow_changed;  /* accept files that changed since the dump */
	bool allow_foreign;  /* accept an image that another user could have written */
	unsigned timeout_ms; /* without anybody coming further, before it is given up */
	unsigned pid_wait_ms; /* how long to wait for PIDs that only zombies hold */
	/*
	 * Called when the tree is complete and about to run, with the root's PID as seen
	 * from here; negative (with `e` set) calls it off. NULL: nothing.
	 */
	int (*ready)(void *data, pid_t root, const Pb__Image *image, struct err *e);
	void *ready_data;
	const struct log *log;
	const struct progress *progress;
};

/*
 * Make the saved tree again; it runs when this returns. On failure nothing of it
 * is left. Returns 0 or negative.
 */
int core_restore(const struct restore_options *o, struct program *ret, struct err *e);

/*
 * The modes that the saved program had set on its terminal, which is outside the
 * tree: for the terminal it is restored on. False when there are none.
 */
struct termios;
bool core_terminal_modes(const Pb__Image *image, struct termios *ret);

/* ---- images ---- */

/* Does core_open() read all stored pages, to compare their checksums? */
enum core_verify {
	VERIFY_NONE,
	VERIFY_PAGES, /* ... of extents and of each page, unpacked */
};

/*
 * Open an image, check its structure and so much of its contents; parse and
 * validate its metadata. The message lives in the arena; the image is closed by
 * image_close().
 */
int core_open(const char *path, enum core_verify verify, struct arena *arena, struct image **ret, Pb__Image **ret_meta, struct err *e);
