/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What stands behind the handles of torpor.h, and what the files of this folder share. Public functions are
 * described in the header, and in doc/man.
 */

#include <signal.h>
#include <stdbool.h>
#include <termios.h>

#include "core/core.h"
#include "torpor/torpor.h"
#include "util/arena.h"
#include "util/err.h"

/* ---- errors (error.c) ---- */

struct torpor_error {
	struct err err;
};

/* The end of a public function that fails: returns -reason, and fills *error (NULL is allowed). */
int api_fail(struct torpor_error **error, const struct err *e);

/* A copy; NULL when out of memory. */
struct torpor_error *api_error_new(const struct err *e);

/* ---- options (options.c) ---- */

struct torpor_options {
	struct dump_options dump;
	struct restore_options restore;
	char *name;
	char *parent;
	bool packs; /* it was said how */
	bool in_process;
	int (*ready)(void *data, struct torpor_program *program);
	void *ready_data;
	void (*before)(void *data);
	void *before_data;
	void (*log)(void *data, enum torpor_log_level level, const char *text);
	void *log_data;
	void (*progress)(void *data, const struct torpor_progress *progress);
	void *progress_data;
};

/* What is meant by NULL. */
void api_options_default(struct torpor_options *o);

/* Tell whoever made the options. */
void api_tell_log(const struct torpor_options *o, enum log_level level, const char *text);
void api_tell_progress(const struct torpor_options *o, const char *step, uint64_t done, uint64_t total, enum torpor_unit unit);

/* The same as callbacks of the floors below; both refer to `o`. */
struct api_callbacks {
	struct log log;
	struct progress progress;
};

struct api_callbacks api_callbacks(const struct torpor_options *o);

/* ---- results (result.c) ---- */

struct result {
	struct torpor_result public; /* first: the handle is its address */
	struct arena arena;
	struct obstacle_list obstacles;
};

struct result *api_result_new(void);

/* Copy what a dump has found out. */
int api_result_fill(struct result *r, const struct dump_result *from);

/* ---- programs (program.c) ---- */

struct torpor_program {
	struct program program;
	int link;      /* to the process that stands in for us (helper.h); -1: there is none */
	pid_t helper;
	bool over;     /* it has ended, and that has been told */
	bool leads_group, has_modes;
	struct termios modes;
};
