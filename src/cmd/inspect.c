/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/cmd.h"

static int inspect_run(const struct cmd_globals *g, int argc, char **argv)
{
	(void)g, (void)argc, (void)argv;
	return cmd_usage(&cmd_inspect, "not written yet");
}

const struct cmd cmd_inspect = {
	.name = "inspect",
	.usage = "inspect FILE [--json]",
	.help = "",
	.run = inspect_run,
};
