/* SPDX-License-Identifier: Apache-2.0 */
#include "util/guard.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/err.h"

static _Noreturn void guard_watch(int word, void (*undo)(void *data), void *data)
{
	char byte;
	ssize_t n;

	setsid();
	do
		n = read(word, &byte, 1);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		undo(data);
	_exit(n <= 0); /* what has been undone cannot be dismissed any more */
}

int guard_begin(struct guard *g, void (*undo)(void *data), void *data, struct err *e)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(e, errno, "socketpair");
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

/* How it ended, as of waitpid(2). */
static int guard_await(struct guard *g)
{
	int status = 0;

	close(g->word);
	while (waitpid(g->pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

void guard_end(struct guard *g)
{
	guard_await(g);
}

int guard_dismiss(struct guard *g, struct err *e)
{
	int r = 0;

	if (send(g->word, "!", 1, MSG_NOSIGNAL) != 1)
		r = err_sys(e, errno, "dismissing the guard");
	if (guard_await(g) && r == 0)
		r = err_set(e, ERR_SYSTEM, 0, "the guard did not hear that it was dismissed");
	return r;
}
