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
#include "core/core.h"
#include "torpor/torpor.h"
#include "util/fd.h"
#include "util/privilege.h"

enum { PID_WAIT_MS = 10000, STREAMS = 3, LINE_MAX_SHOWN = 8192 };

struct restoring {
	struct foreground foreground;
	bool detach;
	bool explain;  /* only say what would be done */
	const char *pidfile;
	bool redraw; /* a full-screen program: what it had drawn is gone */
};

/* ---- options ---- */

/* --fd N=inherit|null|PATH */
static int restore_parse_fd(struct restore_options *o, const char *arg)
{
	const char *to = strchr(arg, '=');
	int n = arg[0] - '0';

	if (!to || to != arg + 1 || n < 0 || n >= STREAMS)
		return cmd_usage(&cmd_restore, "--fd needs N=inherit, N=null or N=PATH with N from 0 to 2, not '%s'", arg);
	if (strcmp(++to, "inherit") == 0)
		o->streams[n] = n;
	else if (strcmp(to, "null") == 0)
		o->streams[n] = open("/dev/null", O_RDWR | O_CLOEXEC);
	else
		o->streams[n] = open(to, (n ? O_WRONLY | O_CREAT | O_APPEND : O_RDONLY) | O_CLOEXEC | O_NOCTTY, 0666);
	if (o->streams[n] < 0) {
		fprintf(stderr, "torpor: cannot open %s: %s\n", to, strerror(errno));
		return ERR_SYSTEM;
	}
	return 0;
}

static int restore_parse_tier(struct restore_options *o, const char *arg)
{
	static const char *const names[] = {
		[TIER_AUTO] = "auto", [TIER_CAP] = "cap", [TIER_ROOT] = "root", [TIER_USERNS] = "userns", [TIER_FORK] = "fork",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(arg, names[i]) == 0) {
			o->tier = (enum tier)i;
			return 0;
		}
	}
	return cmd_usage(&cmd_restore, "--tier is one of auto, cap, root, userns, fork, not '%s'", arg);
}

static int restore_parse_limit(struct restore_options *o, const char *arg)
{
	char *end;

	errno = 0;
	o->fork_limit = strtoull(arg, &end, 10);
	if (errno || *end || end == arg || *arg == '-')
		return cmd_usage(&cmd_restore, "--fork-limit needs a number, not '%s'", arg);
	return 0;
}

static int restore_parse(struct restore_options *o, struct restoring *r, int argc, char **argv)
{
	static const struct option options[] = {
		{ "detach", no_argument, NULL, 'd' },
		{ "pidfile", required_argument, NULL, 'p' },
		{ "fd", required_argument, NULL, 'f' },
		{ "allow-changed-files", no_argument, NULL, 'a' },
		{ "allow-foreign-image", no_argument, NULL, 'o' },
		{ "tier", required_argument, NULL, 't' },
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
			o->allow_changed = true;
		else if (c == 'o')
			o->allow_foreign = true;
		else if (c == 't' && (status = restore_parse_tier(o, optarg)))
			return status;
		else if (c == 'l' && (status = restore_parse_limit(o, optarg)))
			return status;
		else if (c == 'f' && (status = restore_parse_fd(o, optarg)))
			return status;
		else if (c == 1 && o->path)
			return cmd_usage(&cmd_restore, "one image, not also '%s'", optarg);
		else if (c == 1)
			o->path = optarg;
		else if (c == '?')
			return cmd_usage(&cmd_restore, "unknown option or missing argument: %s", argv[optind - 1]);
	}
	return o->path ? 0 : cmd_usage(&cmd_restore, "the image is missing");
}

/* ---- just before the tree runs ---- */

static int restore_write_pidfile(const char *path, pid_t root, struct err *e)
{
	cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	char text[16];
	int n = snprintf(text, sizeof(text), "%d\n", root);

	if (fd < 0 || fd_write_full(fd, text, (size_t)n) < 0)
		return err_sys(e, errno, "writing the PID to %s", path);
	return 0;
}

/* The modes that the program had set; the shell sets its own again when we end or stop. */
static void restore_terminal_modes(struct restoring *r, const Pb__Image *image)
{
	struct termios modes;

	if (r->foreground.tty < 0 || !image->tasks[0]->foreground || !core_terminal_modes(image, &modes))
		return;
	tcsetattr(r->foreground.tty, TCSANOW, &modes);
	r->redraw = !(modes.c_lflag & ICANON);
}

static int restore_ready(void *data, pid_t root, const Pb__Image *image, struct err *e)
{
	struct restoring *r = data;
	const Pb__Task *pb = image->tasks[0];

	if (r->pidfile && restore_write_pidfile(r->pidfile, root, e) < 0)
		return -1;
	if (!r->detach && !pb->group_outside && pb->sid != pb->pid)
		foreground_give_terminal(&r->foreground, getpgid(root));
	if (!r->detach)
		restore_terminal_modes(r, image);
	return 0;
}

/* ---- the command ---- */

static void restore_print_line(void *data, const char *text)
{
	struct arena arena = ARENA_INIT;

	(void)data;
	puts(text_safe(&arena, text, LINE_MAX_SHOWN));
	arena_done(&arena);
}

static int restore_explain(const char *path)
{
	struct torpor_error *error = NULL;
	int r = torpor_restore_explain(path, restore_print_line, NULL, &error);

	fflush(stdout);
	return r < 0 ? cmd_fail_with(error) : 0;
}

static int restore_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct restoring r = { .foreground = FOREGROUND_INIT };
	struct restore_options o = { .streams = { 0, 1, 2 },
				     .pid_wait_ms = PID_WAIT_MS,
				     .fork_limit = FORK_LIMIT_DEFAULT,
				     .ready = restore_ready,
				     .ready_data = &r,
				     .log = &g->log };
	struct cmd_progress progress;
	struct program program;
	struct err e = ERR_INIT;
	int result, status = restore_parse(&o, &r, argc, argv);

	if (status)
		return status;
	if (r.explain)
		return restore_explain(o.path);
	if (!r.detach)
		foreground_begin(&r.foreground);
	cmd_progress_init(&progress, g->progress);
	o.progress = &progress.progress;
	result = core_restore(&o, &program, &e);
	cmd_progress_done(&progress);
	privilege_end();
	if (result < 0)
		return cmd_fail(&e);
	if (r.detach) {
		if (!r.pidfile) /* standard output may be the program's by now: nothing more than asked for */
			printf("%d\n", program.root);
		return 0;
	}
	if (r.redraw)
		foreground_signal(&r.foreground, &program, SIGWINCH);
	return foreground_wait(&r.foreground, &program);
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
		"      --allow-changed-files  accept files that changed since the dump\n"
		"      --allow-foreign-image  accept an image that another user could have written\n",
	.run = restore_run,
};
