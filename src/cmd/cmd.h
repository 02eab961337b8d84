/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The command line: one file per subcommand; only code in this folder prints or exits. */

#include <signal.h>
#include <stdbool.h>

#include "cmd/progress.h"
#include "torpor/torpor.h"

/* What stands before the subcommand, and is the same for all. */
struct cmd_globals {
	int verbose; /* -v, -vv; -1: quiet */
	bool quiet;
	enum cmd_progress_mode progress;
	const char *log_path;
};

struct cmd {
	const char *name;
	const char *usage; /* one line after "torpor " */
	const char *help;  /* what --help shows below it */
	int (*run)(const struct cmd_globals *g, int argc, char **argv); /* returns the exit status */
};

extern const struct cmd cmd_dump, cmd_restore, cmd_run, cmd_check, cmd_inspect, cmd_verify, cmd_core, cmd_diff, cmd_help, cmd_ps, cmd_squash,
	cmd_untrack;

/* All of them, in the order in which they are shown; NULL at the end. */
extern const struct cmd *const cmds[];

const struct cmd *cmd_find(const char *name); /* NULL: there is none */

/* What "torpor COMMAND --help" shows. */
void cmd_print_help(const struct cmd *cmd);

/*
 * What commands tell the library: log and progress as the globals say, and that this process is there for nothing
 * else. `p` is initialised, and must live as long. NULL, with a message, when out of memory.
 */
struct torpor_options *cmd_options(const struct cmd_globals *g, struct cmd_progress *p);

/*
 * Block the signals that call a piece of work off, so that it is ended between its steps and leaves no half of a file;
 * with `stop`, SIGTSTP (Ctrl-Z) as well. What the caller ignores stays ignored. *held is what has been blocked.
 */
void cmd_hold_signals(sigset_t *held, bool stop);

/* "torpor: TEXT [ID]" and what would help; frees the error and returns the exit status for it. */
int cmd_fail(struct torpor_error *error);

/* The same for what the command itself finds out; `help` may be NULL. */
int cmd_complain(enum torpor_reason reason, const char *help, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* ... with an id that the library knows. */
int cmd_complain_of(enum torpor_reason reason, const char *id, const char *help, const char *text);

int cmd_no_memory(void);

/* Every obstacle on a line of its own. NULL is allowed. */
void cmd_print_obstacles(const struct torpor_result *result);

/* The file of -o, which "-" is not: what is written is not written from begin to end. Returns 0 or an exit status. */
int cmd_parse_output(const struct cmd *cmd, const char *arg, const char **ret);

/* A usage error, with a pointer to --help; returns its exit status. */
int cmd_usage(const struct cmd *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A PID in decimal; 0 when it is none. */
int cmd_parse_pid(const char *text);

/* What follows --timeout: seconds. Returns 0, or the exit status. */
int cmd_parse_timeout(const struct cmd *cmd, const char *text, struct torpor_options *o);

/*
 * A program: a PID in decimal, or a name that torpor run was told (*ret_name, else
 * NULL). Returns 0, or the exit status.
 */
int cmd_parse_program(const struct cmd *cmd, const char *text, int *ret_pid, const char **ret_name);
