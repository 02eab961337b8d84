/* SPDX-License-Identifier: Apache-2.0 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/text.h"

enum { MS = 1000000 };

struct dumping {
	struct torpor_options *o;
	int pid;
	const char *path, *name, *parent;
	bool keep_running, track;
};

static int dump_print_result(const struct dumping *d, const struct torpor_result *r)
{
	char size[32], packed[32], parent[32];

	printf("%s: %zu task%s, %zu thread%s, %s", r->path, r->tasks, r->tasks == 1 ? "" : "s", r->threads,
	       r->threads == 1 ? "" : "s", cmd_format_bytes(size, r->bytes));
	if (r->packed_bytes < r->bytes)
		printf(" packed into %s", cmd_format_bytes(packed, r->packed_bytes));
	if (d->parent)
		printf(" and %s in %s", cmd_format_bytes(parent, r->parent_bytes), d->parent);
	printf("; %s %.1f ms%s\n", d->keep_running ? "paused for" : "frozen for", (double)r->frozen_ns / MS,
	       r->while_running == 2 ? ", copied from a clone" : r->while_running ? ", copied while it ran" : "");
	if (r->leftovers)
		printf("%s\n", r->leftovers);
	return 0;
}

static int dump_parse(struct dumping *d, int argc, char **argv)
{
	static const struct option options[] = {
		{ "compress", required_argument, NULL, 'c' },
		{ "external", no_argument, NULL, 'x' },
		{ "output", required_argument, NULL, 'o' },
		{ "keep-running", no_argument, NULL, 'k' },
		{ "no-sync", no_argument, NULL, 'n' },
		{ "parent", required_argument, NULL, 'b' },
		{ "pause", required_argument, NULL, 'p' },
		{ "tcp", required_argument, NULL, 'T' },
		{ "timeout", required_argument, NULL, 't' },
		{ "track", no_argument, NULL, 'r' },
		{ 0 },
	};
	int c, status;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "-o:k", options, NULL)) != -1) {
		if (c == 'o' && cmd_parse_output(&cmd_dump, optarg, &d->path))
			return TORPOR_USAGE;
		else if (c == 'k')
			d->keep_running = true;
		else if (c == 'n')
			torpor_options_set_sync(d->o, 0);
		else if (c == 'r')
			torpor_options_set_track(d->o, d->track = true);
		else if (c == 'x')
			torpor_options_set_external(d->o, 1);
		else if (c == 'c' && torpor_options_set_compress(d->o, optarg) < 0)
			return cmd_usage(&cmd_dump, "--compress is to be followed by 'zstd', 'zstd:1' to 'zstd:19', 'lz4', "
					 "'none' or 'auto', not '%s'", optarg);
		else if (c == 'b' && torpor_options_set_parent(d->o, d->parent = optarg) < 0)
			return cmd_no_memory();
		else if (c == 'p' && torpor_options_set_pause(d->o, optarg) < 0)
			return cmd_usage(&cmd_dump, "--pause is to be followed by 'auto', 'track', 'clone' or 'copy', not '%s'", optarg);
		else if (c == 'T' && strcmp(optarg, "close") != 0)
			return cmd_usage(&cmd_dump, "--tcp is to be followed by 'close', not '%s'", optarg);
		else if (c == 'T')
			torpor_options_set_tcp_close(d->o, 1);
		else if (c == 't' && (status = cmd_parse_timeout(&cmd_dump, optarg, d->o)))
			return status;
		else if (c == 1 && d->pid)
			return cmd_usage(&cmd_dump, "one PID, not also '%s'", optarg);
		else if (c == 1 && (status = cmd_parse_program(&cmd_dump, optarg, &d->pid, &d->name)))
			return status;
		else if (c == '?')
			return cmd_usage(&cmd_dump, "unknown option or missing argument: %s", argv[optind - 1]);
	}
	if (d->track && !d->keep_running)
		return cmd_usage(&cmd_dump, "--track is for a program that runs on (--keep-running)");
	return d->pid ? 0 : cmd_usage(&cmd_dump, "the PID is missing");
}

static int dump_carry_out(struct dumping *d, const struct cmd_globals *g, struct cmd_progress *progress)
{
	struct torpor_result *result = NULL;
	struct torpor_error *error = NULL;
	sigset_t held;
	int r, status;

	cmd_hold_signals(&held, true); /* a stop must not leave the program frozen */
	signal(SIGPIPE, SIG_IGN);
	r = torpor_dump(d->pid, d->path, d->o, &result, &error);
	cmd_progress_done(progress);
	if (r < 0) {
		cmd_print_obstacles(result);
		status = cmd_fail(error);
		sigprocmask(SIG_UNBLOCK, &held, NULL); /* the signal that interrupted us ends us now */
	} else {
		status = g->quiet ? 0 : dump_print_result(d, result);
	}
	torpor_result_free(result);
	return status;
}

static int dump_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct cmd_progress progress;
	struct dumping d = { .o = cmd_options(g, &progress) };
	int status = d.o ? dump_parse(&d, argc, argv) : TORPOR_SYSTEM;

	if (status == 0) {
		torpor_options_set_keep_running(d.o, d.keep_running);
		torpor_options_set_name(d.o, d.name);
		cmd_progress_init(&progress, g->progress);
		status = dump_carry_out(&d, g, &progress);
	}
	torpor_options_free(d.o);
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
		"      --compress HOW  pack the memory: zstd, zstd:LEVEL (1 to 19), lz4, none, or auto (default:\n"
		"                      only while the disk is slower than that)\n"
		"      --external      let go of pipes and unix sockets that lead to other programs: after a restore\n"
		"                      the program finds the other end closed; System V segments that other\n"
		"                      programs have attached are attached again as they are then\n"
		"      --no-sync       do not wait until the image is on disk\n"
		"      --parent BASE   store only what has changed since the image BASE, which is needed from then on\n"
		"      --pause WAY     with --keep-running, how to keep its pause short: track (copy it while it\n"
		"                      runs, and in the pause what it has written meanwhile), clone (clone its\n"
		"                      memory, and copy the clone after the pause), copy (all in the pause),\n"
		"                      auto (default: what promises the shortest pause)\n"
		"      --tcp close     let go of TCP connections that lead to other programs: after a restore\n"
		"                      the program finds them reset (otherwise they need CAP_NET_ADMIN)\n"
		"      --timeout SECONDS  for a process that does not stop (default 30)\n"
		"      --track         with --keep-running, keep track of what the processes write from then on, so\n"
		"                      that the next dump with this image as --parent need not read all memory;\n"
		"                      until then, or torpor untrack, a small process does so\n",
	.run = dump_run,
};
