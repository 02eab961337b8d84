/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Being asked to stop. Whoever wants a long operation to end cleanly blocks these
 * signals first; the operation looks between its steps whether one is pending.
 * Signals that are not blocked are never seen here.
 */

#include <signal.h>
#include <stdbool.h>
#include <string.h>

#include "util/err.h"

static inline void interrupt_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGHUP);
	sigaddset(set, SIGQUIT);
}

/*
 * Those of them that would have ended us, but that all signals have been blocked meanwhile: not those that were blocked
 * `before` already, for whoever waits for them, or are ignored.
 */
static inline void interrupt_signals_held(const sigset_t *before, sigset_t *set)
{
	struct sigaction action;

	interrupt_signals(set);
	for (int signo = 1; signo < NSIG; signo++)
		if (sigismember(set, signo) == 1 &&
		    (sigismember(before, signo) == 1 || sigaction(signo, NULL, &action) < 0 || action.sa_handler == SIG_IGN))
			sigdelset(set, signo);
}

/* 0, or negative with `e` set when one of these signals is pending. */
static inline int interrupt_check_for(const sigset_t *wanted, struct err *e)
{
	sigset_t pending;

	if (sigpending(&pending) < 0)
		return 0;
	for (int signo = 1; signo < NSIG; signo++)
		if (sigismember(wanted, signo) == 1 && sigismember(&pending, signo) == 1)
			return err_set(e, ERR_SYSTEM, 0, "interrupted by a signal (%s); nothing has changed", strsignal(signo));
	return 0;
}

static inline int interrupt_check(struct err *e)
{
	sigset_t wanted;

	interrupt_signals(&wanted);
	return interrupt_check_for(&wanted, e);
}
