/* SPDX-License-Identifier: Apache-2.0 */
#include "util/survivor.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/err.h"

/* 0 when it has ended. */
static int survivor_wait(pid_t pid, unsigned patience_ms)
{
	for (unsigned ms = 0; ms < patience_ms; ms++) {
		if (waitpid(pid, NULL, WNOHANG) != 0)
			return 0;
		usleep(1000);
	}
	if (patience_ms)
		return -ETIME;
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}

int survivor_run(void (*function)(void *data), void *data, unsigned patience_ms, struct err *e)
{
	sigset_t all, before;
	pid_t pid;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid = fork();
	if (pid == 0) {
		function(data);
		_exit(0);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	return pid < 0 ? err_sys(e, errno, "fork") : survivor_wait(pid, patience_ms);
}
