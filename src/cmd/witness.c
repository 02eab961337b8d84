/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/witness.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_MS = 1000 };

static uint64_t bit(int signo)
{
	return (uint64_t)1 << (signo - 1);
}

/* Answer with the set of signals since the last time, until the one who asks is gone. */
static _Noreturn void witness_serve(int fd)
{
	sigset_t all;
	char question;

	prctl(PR_SET_NAME, "torpor-witness");
	dup2(fd, STDIN_FILENO);
	close_range(STDIN_FILENO + 1, ~0u, 0); /* a pipe that we held would have no end */
	if (chdir("/") < 0)
		_exit(EXIT_FAILURE);
	sigfillset(&all);
	while (read(STDIN_FILENO, &question, 1) == 1) {
		uint64_t seen = 0;
		int signo;

		while ((signo = sigtimedwait(&all, NULL, &(struct timespec){ 0 })) > 0)
			seen |= bit(signo);
		if (write(STDIN_FILENO, &seen, sizeof(seen)) != sizeof(seen))
			break;
	}
	_exit(EXIT_SUCCESS);
}

void witness_begin(struct witness *w)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return;
	w->pid = fork();
	if (w->pid == 0)
		witness_serve(ends[1]);
	close(ends[1]);
	if (w->pid > 0)
		w->fd = ends[0];
	else
		close(ends[0]);
}

static uint64_t witness_ask(const struct witness *w)
{
	uint64_t answer;

	kill(w->pid, SIGCONT); /* whoever stopped the group, and continued only us */
	if (send(w->fd, "", 1, MSG_NOSIGNAL) != 1 ||
	    poll(&(struct pollfd){ .fd = w->fd, .events = POLLIN }, 1, PATIENCE_MS) <= 0 ||
	    recv(w->fd, &answer, sizeof(answer), 0) != sizeof(answer))
		return 0;
	return answer;
}

bool witness_saw(struct witness *w, int signo)
{
	bool saw;

	if (w->fd < 0)
		return false;
	w->seen |= witness_ask(w);
	saw = w->seen & bit(signo);
	w->seen &= ~bit(signo);
	return saw;
}

void witness_end(struct witness *w)
{
	if (w->fd < 0)
		return;
	close(w->fd);
	w->fd = -1;
	kill(w->pid, SIGKILL);
	waitpid(w->pid, NULL, 0);
}
