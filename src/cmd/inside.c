/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/inside.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/cmd.h"

/* What the terminal sends, the child gets as well; what somebody sends us, is for it. */
static int inside_wait(pid_t child, const sigset_t *all)
{
	siginfo_t si;
	int status;

	for (;;) {
		pid_t got = waitpid(child, &status, WNOHANG);

		if (got < 0 && errno != EINTR)
			return ERR_SYSTEM;
		if (got > 0 && WIFEXITED(status))
			return WEXITSTATUS(status);
		if (got > 0) {
			fprintf(stderr, "torpor: the process that dumps was killed by signal %d\n", WTERMSIG(status));
			return ERR_SYSTEM;
		}
		if (sigwaitinfo(all, &si) > 0 && si.si_signo != SIGCHLD && si.si_code != SI_KERNEL)
			kill(child, si.si_signo);
	}
}

bool inside_done(pid_t *pid, struct arena *arena, struct visit *v, int *ret_status)
{
	struct err e = ERR_INIT;
	int found = visit_find(*pid, arena, v, &e);
	sigset_t all, before;
	pid_t child;

	if (found == 0)
		return false;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	child = found < 0 ? -1 : visit_enter(v, *pid, &e);
	if (child == 0) {
		sigprocmask(SIG_SETMASK, &before, NULL);
		*pid = v->pid;
		return false;
	}
	*ret_status = child < 0 ? cmd_fail(&e) : inside_wait(child, &all);
	if (child > 0)
		visit_done(v);
	return true;
}
