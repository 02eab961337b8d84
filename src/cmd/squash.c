/* SPDX-License-Identifier: Apache-2.0 */

/* torpor squash: a chain of images as one. */

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cmd/cmd.h"
#include "cmd/text.h"

struct squashing {
	struct torpor_options *o;
	const char *path, *output;
};

static int squash_parse(struct squashing *s, int argc, char **argv)
{
	static const struct option options[] = {
		{ "compress", required_argument, NULL, 'c' },
		{ "no-sync", no_argument, NULL, 'n' },
		{ "output", required_argument, NULL, 'o' },
		{ 0 },
	};
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "-o:", options, NULL)) != -1) {
		if (c == 'o' && cmd_parse_output(&cmd_squash, optarg, &s->output))
			return TORPOR_USAGE;
		else if (c == 'n')
			torpor_options_set_sync(s->o, 0);
		else if (c == 'c' && torpor_options_set_compress(s->o, optarg) < 0)
			return cmd_usage(&cmd_squash, "--compress is to be followed by 'zstd', 'zstd:1' to 'zstd:19', 'lz4' or "
					 "'none', not '%s'", optarg);
		else if (c == 1 && s->path)
			return cmd_usage(&cmd_squash, "one image, not also '%s'", optarg);
		else if (c == 1)
			s->path = optarg;
		else if (c == '?')
			return cmd_usage(&cmd_squash, "unknown option or missing argument: %s", argv[optind - 1]);
	}
	if (!s->path)
		return cmd_usage(&cmd_squash, "the image is missing");
	return s->output ? 0 : cmd_usage(&cmd_squash, "-o and the name of the new image are missing");
}

static void squash_print(const struct squashing *s, int images)
{
	struct stat st;
	char size[32];

	if (stat(s->output, &st) == 0)
		printf("%s: %d image%s joined, %s\n", s->output, images, images == 1 ? "" : "s",
		       cmd_format_bytes(size, (uint64_t)st.st_size));
}

static int squash_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct cmd_progress progress;
	struct squashing s = { .o = cmd_options(g, &progress) };
	struct torpor_error *error = NULL;
	sigset_t held;
	int images, status = s.o ? squash_parse(&s, argc, argv) : TORPOR_SYSTEM;

	cmd_progress_init(&progress, g->progress);
	if (status == 0) {
		cmd_hold_signals(&held, false);
		images = torpor_squash(s.path, s.output, s.o, &error);
		cmd_progress_done(&progress);
		if (images < 0)
			status = cmd_fail(error);
		else if (!g->quiet)
			squash_print(&s, images);
		sigprocmask(SIG_UNBLOCK, &held, NULL); /* the signal that interrupted us ends us now */
	}
	torpor_options_free(s.o);
	return status;
}

const struct cmd cmd_squash = {
	.name = "squash",
	.usage = "squash FILE -o FILE",
	.help = "Join an image and its parents (dump --parent) in one image, which needs no other. It holds the\n"
		"same pages; the old ones stay as they are.\n\n"
		"      --compress HOW  pack the memory: zstd, zstd:LEVEL (1 to 19), lz4, or none (default: as it was)\n"
		"      --no-sync       do not wait until the image is on disk\n"
		"  -o, --output FILE   the new image\n",
	.run = squash_run,
};
