/* SPDX-License-Identifier: Apache-2.0 */

/* torpor untrack: the end of what dump --track began. */

#include <stdio.h>
#include <string.h>

#include "cmd/cmd.h"

static int untrack_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct torpor_error *error = NULL;
	const char *name;
	int pid, r, status;

	if (argc < 2)
		return cmd_usage(&cmd_untrack, "the PID is missing");
	if (argc > 2 || (argv[1][0] == '-' && strcmp(argv[1], "-") != 0))
		return cmd_usage(&cmd_untrack, argc > 2 ? "one PID, not also '%s'" : "unknown option: %s", argv[argc > 2 ? 2 : 1]);
	status = cmd_parse_program(&cmd_untrack, argv[1], &pid, &name);
	if (status)
		return status;
	r = torpor_untrack(pid, &error);
	if (r < 0)
		return cmd_fail(error);
	if (!g->quiet)
		printf(r ? "process %d is not tracked any more\n" : "process %d was not tracked\n", pid);
	return 0;
}

const struct cmd cmd_untrack = {
	.name = "untrack",
	.usage = "untrack PID|NAME",
	.help = "Keep no more track of what the process PID (or NAME, of torpor run) and its descendants write,\n"
		"which a dump has begun that was told to track it. The next dump against an image reads all memory.\n",
	.run = untrack_run,
};
