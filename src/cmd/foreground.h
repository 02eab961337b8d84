/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * torpor in the foreground stands in for a program as far as a shell can tell:
 * signals are passed on, the terminal is handed over, the exit status is taken over.
 */

#include <signal.h>
#include <sys/types.h>

#include "cmd/witness.h"
#include "torpor/torpor.h"

struct foreground {
	int tty;       /* our controlling terminal; -1: none, or we are not in its foreground */
	pid_t group;   /* the root's process group, when it is not ours */
	sigset_t mask; /* as it was before we blocked what is passed on */
	struct sigaction ttou; /* likewise: we ignore it */
	int signals;   /* signalfd of what is passed on, and of SIGCHLD */
	struct witness witness; /* of signals to our whole group */
};

#define FOREGROUND_INIT ((struct foreground){ .tty = -1, .signals = -1, .witness = WITNESS_INIT })

/* Before there is a program: from now on, what comes for it is kept. */
void foreground_begin(struct foreground *f);

/* In a child that becomes the program: what foreground_begin() did to it is taken back. */
void foreground_undo(const struct foreground *f);

/* A program that leads its own group gets the terminal, as a shell would give it. */
void foreground_give_terminal(struct foreground *f, pid_t group);

/* To the program's group, where that is not ours; else to its root. */
void foreground_signal(const struct foreground *f, struct torpor_program *p, int signo);

/* Until the program ends; then end as it did, by a signal if need be, or return its exit status. */
int foreground_wait(struct foreground *f, struct torpor_program *p);
