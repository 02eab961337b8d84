/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Standard streams that lead outside, whatever they are; run.py looks at what arrives there. */

static bool terminals;
static int nine;

void setup(const char *argument)
{
	terminals = argument && strcmp(argument, "terminal") == 0;
	nine = (int)check_call(fcntl(1, F_DUPFD_CLOEXEC, 9));
	second_task_start();
}

static void second_writes(void)
{
	check_write(1, "second\n");
}

void verify(void)
{
	for (int fd = 0; fd < 3; fd++)
		check(!!isatty(fd) == terminals);
	check_cloexec(nine, true);
	check_same_description(nine, 1, true);
	check_read(0, "a line\n");
	check_write(1, "out\n");
	check_write(nine, "nine\n");
	check_write(2, "err\n");
	second_task_run(second_writes);
}
