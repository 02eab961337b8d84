/* SPDX-License-Identifier: Apache-2.0 */
#include "util/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/err.h"

static _Noreturn void guard_watch(int word, void (*undo)(void *data), void *data)
{
	char byte;

	setsid();
	while (read(word, &byte, 1) < 0 && errno == EINTR)
		;
	undo(data);
	_exit(0);
}

int guard_begin(struct guard *g, void (*undo)(void *data), void *data, struct err *e)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(e, errno, "pipe");
	g->word = ends[1];
	g->pid = fork();
	if (g->pid == 0) {
		close(ends[1]);
		guard_watch(ends[0], undo, data);
	}
	close(ends[0]);
	if (g->pid < 0) {
		close(ends[1]);
		return err_sys(e, errno, "fork");
	}
	return 0;
}

void guard_end(struct guard *g)
{
	close(g->word);
	while (waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
		;
}
