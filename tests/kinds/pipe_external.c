/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

/* Pipes that run.py has the other ends of, until the file "let go" says that they have been given up. */

static int reader, writer;

void setup(const char *argument)
{
	check(argument && sscanf(argument, "%d %d", &reader, &writer) == 2);
	signal(SIGPIPE, SIG_IGN);
	second_task_start();
}

static void verify_let_go(void)
{
	check(write(writer, "x", 1) == -1 && errno == EPIPE);
}

void verify(void)
{
	char byte;

	if (access("let go", F_OK) != 0) {
		check_write(writer, "x");
		return;
	}
	check_read(reader, "left");
	check(read(reader, &byte, 1) == 0);
	verify_let_go();
	second_task_run(verify_let_go);
}
