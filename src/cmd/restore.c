/* SPDX-License-Identifier: Apache-2.0 */

/* torpor restore: the options, and what happens just before the program runs. */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/foreground.h"
#include "cmd/text.h"

enum { STREAMS = 3, LINE_MAX_SHOWN = 8192 };

struct restoring {
	struct torpor_options *o;
	const char *path;
	struct foreground foreground;
	bool detach;
	bool explain;  /* only say what would be done */
	const char *pidfile;
	int pidfile_number; /* errno of an attempt to write it */
	bool redraw; /* a full-screen program: what it had drawn is gone */
};

/* ---- options ---- */

/* --fd N=inherit|null|PATH */
static int restore_parse_fd(struct restoring *r, const char *arg)
{
	const char *to = strchr(arg, '=');
	int n = arg[0] - '0', fd;

	if (!to || to != arg + 1 || n < 0 || n >= STREAMS)
		return cmd_usage(&cmd_restore, "--fd needs N=inherit, N=null or N=PATH with N from 0 to 2, not '%s'", arg);
	if (strcmp(++to, "inherit") == 0)
		fd = n;
	else if (strcmp(to, "null") == 0)
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	else
		fd = open(to, (n ? O_WRONLY | O_CREAT | O_APPEND : O_RDONLY) | O_CLOEXEC | O_NOCTTY, 0666);
	if (fd < 0) {
		fprintf(stderr, "torpor: cannot open %s: %s\n", to, strerror(errno));
		return TORPOR_SYSTEM;
	}
	torpor_options_set_stream(r->o, n, fd);
	return 0;
}

static int restore_parse_tier(struct restoring *r, const char *arg)
{
	static const char *const names[] = {
		[TORPOR_TIER_AUTO] = "auto",	   [TORPOR_TIER_CAP] = "cap",	[TORPOR_TIER_ROOT] = "root",
		[TORPOR_TIER_USERNS] = "userns", [TORPOR_TIER_FORK] = "fork",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(arg, names[i]) == 0) {
			torpor_options_set_tier(r->o, (enum torpor_tier)i);
			return 0;
		}
	}
	return cmd_usage(&cmd_restore, "--tier is one of auto, cap, root, userns, fork, not '%s'", arg);
}

static int restore_parse_limit(struct restoring *r, const char *arg)
{
	uint64_t limit;
	char *end;

	errno = 0;
	limit = strtoull(arg, &end, 10);
	torpor_options_set_fork_limit(r->o, limit);
	if (errno || *end || end == arg || *arg == '-')
		return cmd_usage(&cmd_restore, "--fork-limit needs a number, not '%s'", arg);
	return 0;
}

static int restore_parse(struct restoring *r, int argc, char **argv)
{
	static const struct option options[] = {
		{ "detach", no_argument, NULL, 'd' },
		{ "pidfile", required_argument, NULL, 'p' },
		{ "fd", required_argument, NULL, 'f' },
		{ "allow-changed-files", no_argument, NULL, 'a' },
		{ "allow-foreign-image", no_argument, NULL, 'o' },
		{ "tier", required_argument, NULL, 't' },
		{ "timeout", required_argument, NULL, 'T' },
		{ "fork-limit", required_argument, NULL, 'l' },
		{ "explain", no_argument, NULL, 'e' },
		{ 0 },
	};
	int c, status;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "-d", options, NULL)) != -1) {
		if (c == 'd')
			r->detach = true;
		else if (c == 'p')
			r->pidfile = optarg;
		else if (c == 'e')
			r->explain = true;
		else if (c == 'a')
			torpor_options_set_allow_changed(r->o, 1);
		else if (c == 'o')
			torpor_options_set_allow_foreign(r->o, 1);
		else if (c == 't' && (status = restore_parse_tier(r, optarg)))
			return status;
		else if (c == 'T' && (status = cmd_parse_timeout(&cmd_restore, optarg, r->o)))
			return status;
		else if (c == 'l' && (status = restore_parse_limit(r, optarg)))
			return status;
		else if (c == 'f' && (status = restore_parse_fd(r, optarg)))
			return status;
		else if (c == 1 && r->path)
			return cmd_usage(&cmd_restore, "one image, not also '%s'", optarg);
		else if (c == 1)
			r->path = optarg;
		else if (c == '?')
			return cmd_usage(&cmd_restore, "unknown option or missing argument: %s", argv[optind - 1]);
	}
	return r->path ? 0 : cmd_usage(&cmd_restore, "the image is missing");
}

/* ---- just before the tree runs ---- */

static int restore_write_pidfile(const char *path, int root)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), number = 0;

	if (fd < 0 || dprintf(fd, "%d\n", root) < 0)
		number = errno;
	if (fd >= 0)
		close(fd);
	return number;
}

/* The modes that the program had set; the shell sets its own again when we end or stop. */
static void restore_terminal_modes(struct restoring *r, const struct torpor_program *program)
{
	const struct termios *modes = torpor_program_terminal_modes(program);

	if (r->foreground.tty < 0 || !modes)
		return;
	tcsetattr(r->foreground.tty, TCSANOW, modes);
	r->redraw = !(modes->c_lflag & ICANON);
}

static int restore_ready(void *data, struct torpor_program *program)
{
	struct restoring *r = data;
	int root = torpor_program_pid(program);

	if (r->pidfile && (r->pidfile_number = restore_write_pidfile(r->pidfile, root)))
		return -r->pidfile_number;
	if (!r->detach && torpor_program_leads_group(program))
		foreground_give_terminal(&r->foreground, getpgid(root));
	if (!r->detach)
		restore_terminal_modes(r, program);
	return 0;
}

/* ---- the command ---- */

static void restore_print_line(void *data, const char *text)
{
	struct pool pool = POOL_INIT;

	(void)data;
	puts(text_safe(&pool, text, LINE_MAX_SHOWN));
	pool_done(&pool);
}

static int restore_explain(const char *path)
{
	struct torpor_error *error = NULL;
	int r = torpor_restore_explain(path, restore_print_line, NULL, &error);

	fflush(stdout);
	return r < 0 ? cmd_fail(error) : 0;
}

static int restore_failed(const struct restoring *r, struct torpor_error *error)
{
	int number = r->pidfile_number;

	if (!number)
		return cmd_fail(error);
	torpor_error_free(error);
	return cmd_complain(number == EPERM || number == EACCES ? TORPOR_PERMISSION : TORPOR_SYSTEM, NULL,
			    "writing the PID to %s: %s", r->pidfile, strerror(number));
}

static int restore_carry_out(struct restoring *r, struct cmd_progress *progress)
{
	struct torpor_error *error = NULL;
	struct torpor_program *program;
	int result, status = 0;

	torpor_options_set_ready(r->o, restore_ready, r);
	if (!r->detach)
		foreground_begin(&r->foreground);
	result = torpor_restore(r->path, r->o, &program, &error);
	cmd_progress_done(progress);
	if (result < 0)
		return restore_failed(r, error);
	if (r->redraw)
		foreground_signal(&r->foreground, program, SIGWINCH);
	if (!r->detach)
		status = foreground_wait(&r->foreground, program);
	else if (!r->pidfile) /* standard output may be the program's by now: nothing more than asked for */
		printf("%d\n", torpor_program_pid(program));
	torpor_program_detach(program);
	return status;
}

static int restore_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct cmd_progress progress;
	struct restoring r = { .o = cmd_options(g, &progress), .foreground = FOREGROUND_INIT };
	int status = r.o ? restore_parse(&r, argc, argv) : TORPOR_SYSTEM;

	cmd_progress_init(&progress, g->progress);
	if (status == 0)
		status = r.explain ? restore_explain(r.path) : restore_carry_out(&r, &progress);
	torpor_options_free(r.o);
	return status;
}

const struct cmd cmd_restore = {
	.name = "restore",
	.usage = "restore FILE [--detach] [--pidfile FILE] [--fd N=inherit|null|PATH] [--explain]",
	.help = "Make the saved processes again, with their PIDs, and let them go on. Without --detach\n"
		"torpor stays in the foreground: it passes signals on and takes the exit status over.\n"
		"Standard streams that led to a terminal or pipe outside the saved tree are joined to\n"
		"torpor's own.\n\n"
		"      --explain       make nothing; say what would be done, step by step\n"
		"  -d, --detach        return when the processes run again, and print the root's PID\n"
		"      --pidfile FILE  write the root's PID to FILE\n"
		"      --fd N=WHAT     join stream N (0 to 2) to torpor's own (inherit), /dev/null (null) or a file\n"
		"      --tier TIER     cap, root, userns, fork; auto: the best that works (torpor check shows which do)\n"
		"      --fork-limit N  tier fork: make at most N processes until the PIDs come up (1000000)\n"
		"      --timeout SECONDS  for a process that comes no further while it is made (default 30)\n"
		"      --allow-changed-files  accept files that changed since the dump\n"
		"      --allow-foreign-image  accept an image that another user could have written\n",
	.run = restore_run,
};
