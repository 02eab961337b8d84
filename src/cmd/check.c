/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/cmd.h"

static int check_run(const struct cmd_globals *g, int argc, char **argv)
{
	(void)g, (void)argc, (void)argv;
	return cmd_usage(&cmd_check, "not written yet");
}

const struct cmd cmd_check = {
	.name = "check",
	.usage = "check [PID] [--json]",
	.help = "",
	.run = check_run,
};
