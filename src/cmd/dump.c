/* SPDX-License-Identifier: Apache-2.0 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/inside.h"
#include "cmd/text.h"
#include "core/core.h"
#include "proc/task.h"
#include "util/fd.h"
#include "util/interrupt.h"

enum { TIMEOUT_MS_DEFAULT = 30000, MS = 1000000 };

/* COMM-PID.torpor in the current folder; a comm may hold slashes (kworker/0:1) and spaces. */
/* A program chooses its name itself: what could be a path, or do something to a terminal, is replaced. */
static const char *dump_default_path(pid_t pid, struct arena *arena)
{
	char *comm, *p;

	if (fd_read_proc(pid, "comm", arena, &comm, NULL) < 0)
		comm = arena_strdup(arena, "process");
	for (p = comm; p && *p; p++) {
		if (*p == '\n')
			*p = '\0';
		else if (*p == '/' || *p <= ' ' || *p >= 0x7f)
			*p = '_';
	}
	return arena_printf(arena, "%s-%d.torpor", comm, pid);
}

static const char *const pause_ways[] = {
	[PAUSE_AUTO] = "auto", [PAUSE_TRACK] = "track", [PAUSE_COPY] = "copy",
};

static int dump_parse_pause(const char *word, enum pause_way *ret)
{
	for (size_t i = 0; i < sizeof(pause_ways) / sizeof(pause_ways[0]); i++)
		if (pause_ways[i] && strcmp(word, pause_ways[i]) == 0) {
			*ret = (enum pause_way)i;
			return 0;
		}
	return cmd_usage(&cmd_dump, "--pause is to be followed by 'auto', 'track' or 'copy', not '%s'", word);
}

static int dump_print_result(const struct dump_options *o, const struct dump_result *r)
{
	char size[32], packed[32];

	printf("%s: %zu task%s, %zu thread%s, %s", o->path, r->n_tasks, r->n_tasks == 1 ? "" : "s", r->n_threads,
	       r->n_threads == 1 ? "" : "s", cmd_format_bytes(size, r->bytes));
	if (r->bytes_packed < r->bytes)
		printf(" packed into %s", cmd_format_bytes(packed, r->bytes_packed));
	printf("; %s %.1f ms%s\n", o->keep_running ? "paused for" : "frozen for", (double)r->frozen_ns / MS,
	       r->way == PAUSE_TRACK ? ", copied while it ran" : "");
	if (r->leftovers)
		printf("%s\n", r->leftovers);
	return 0;
}

static int dump_parse(struct dump_options *o, int argc, char **argv)
{
	static const struct option options[] = {
		{ "compress", required_argument, NULL, 'c' },
		{ "external", no_argument, NULL, 'x' },
		{ "output", required_argument, NULL, 'o' },
		{ "keep-running", no_argument, NULL, 'k' },
		{ "no-sync", no_argument, NULL, 'n' },
		{ "pause", required_argument, NULL, 'p' },
		{ "tcp", required_argument, NULL, 'T' },
		{ "timeout", required_argument, NULL, 't' },
		{ 0 },
	};
	int c, status;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "-o:k", options, NULL)) != -1) {
		if (c == 'o')
			o->path = optarg;
		else if (c == 'k')
			o->keep_running = true;
		else if (c == 'n')
			o->no_sync = true;
		else if (c == 'x')
			o->choice.external = true;
		else if (c == 'c' && !image_packing_parse(optarg, &o->packing))
			return cmd_usage(&cmd_dump, "--compress is to be followed by 'zstd', 'zstd:1' to 'zstd:19', 'lz4' or "
					 "'none', not '%s'", optarg);
		else if (c == 'p' && (status = dump_parse_pause(optarg, &o->pause)))
			return status;
		else if (c == 'T' && strcmp(optarg, "close") != 0)
			return cmd_usage(&cmd_dump, "--tcp is to be followed by 'close', not '%s'", optarg);
		else if (c == 'T')
			o->choice.tcp_close = true;
		else if (c == 't' && atof(optarg) <= 0)
			return cmd_usage(&cmd_dump, "--timeout needs a number of seconds, not '%s'", optarg);
		else if (c == 't')
			o->timeout_ms = (unsigned)(atof(optarg) * 1000);
		else if (c == 1 && o->pid)
			return cmd_usage(&cmd_dump, "one PID, not also '%s'", optarg);
		else if (c == 1 && (status = cmd_parse_program(&cmd_dump, optarg, &o->pid, &o->name)))
			return status;
		else if (c == '?')
			return cmd_usage(&cmd_dump, "unknown option or missing argument: %s", argv[optind - 1]);
	}
	return o->pid ? 0 : cmd_usage(&cmd_dump, "the PID is missing");
}

/*
 * A dump is ended by a signal between its steps, so that it leaves no half of a
 * file; and a stop (Ctrl-Z) must not leave the program frozen. What the caller
 * ignores stays ignored.
 */
static void dump_hold_signals(sigset_t *held)
{
	interrupt_signals(held);
	sigaddset(held, SIGTSTP);
	for (int signo = 1; signo < NSIG; signo++) {
		struct sigaction sa;

		if (sigismember(held, signo) == 1 && sigaction(signo, NULL, &sa) == 0 && sa.sa_handler == SIG_IGN)
			sigdelset(held, signo);
	}
	sigprocmask(SIG_BLOCK, held, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static int dump_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct dump_options o = { .timeout_ms = TIMEOUT_MS_DEFAULT, .log = &g->log };
	struct dump_result result;
	struct cmd_progress progress;
	struct arena arena = ARENA_INIT;
	struct visit visit = { 0 };
	struct err e = ERR_INIT;
	int r, status = dump_parse(&o, argc, argv);
	sigset_t held;

	if (status || inside_done(&o.pid, &arena, &visit, &status))
		return status;
	if (visit.pid)
		o.outside = &visit.outside;
	if (!o.path)
		o.path = o.name ? arena_printf(&arena, "%s.torpor", o.name) : dump_default_path(o.pid, &arena);
	dump_hold_signals(&held);
	cmd_progress_init(&progress, g->progress);
	o.progress = &progress.progress;
	r = core_dump(&o, &result, &e);
	cmd_progress_done(&progress);
	if (r < 0) {
		cmd_print_obstacles(&result.obstacles);
		status = cmd_fail(&e);
		sigprocmask(SIG_UNBLOCK, &held, NULL); /* the signal that interrupted us ends us now */
	} else {
		status = g->quiet ? 0 : dump_print_result(&o, &result);
	}
	dump_result_done(&result);
	arena_done(&arena);
	return status;
}

const struct cmd cmd_dump = {
	.name = "dump",
	.usage = "dump PID|NAME [-o FILE] [--keep-running]",
	.help = "Save the process PID (or NAME, of torpor run) and all its descendants in FILE\n"
		"(default: COMM-PID.torpor or NAME.torpor in the current folder) and end them. Whatever\n"
		"fails before the file is complete and on disk, the processes run on, untouched; everything\n"
		"that cannot be saved is listed at once.\n\n"
		"  -o, --output FILE   the image\n"
		"  -k, --keep-running  let the processes run on afterwards\n"
		"      --compress HOW  pack the memory: zstd, zstd:LEVEL (1 to 19), lz4, or none (default)\n"
		"      --external      let go of pipes and unix sockets that lead to other programs: after a restore\n"
		"                      the program finds the other end closed; System V segments that other\n"
		"                      programs have attached are attached again as they are then\n"
		"      --no-sync       do not wait until the image is on disk\n"
		"      --pause WAY     with --keep-running, how to keep its pause short: track (copy it while it\n"
		"                      runs, and in the pause what it has written meanwhile), copy (all in the\n"
		"                      pause), auto (default: track, but not what is copied at once)\n"
		"      --tcp close     let go of TCP connections that lead to other programs: after a restore\n"
		"                      the program finds them reset (otherwise they need CAP_NET_ADMIN)\n"
		"      --timeout SECONDS  for a process that does not stop (default 30)\n",
	.run = dump_run,
};
