/* SPDX-License-Identifier: Apache-2.0 */

/* A tree whose root wants to be told when its parent ends. */

#include "common.h"

#include <signal.h>
#include <sys/prctl.h>

void setup(const char *argument)
{
	(void)argument;
	check_call(prctl(PR_SET_PDEATHSIG, SIGKILL));
}

void verify(void)
{
	int signo = 0;

	check_call(prctl(PR_GET_PDEATHSIG, &signo));
	check(signo == SIGKILL || signo == 0);
}
