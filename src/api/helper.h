/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A process of our own for what must not happen to the caller: it may have other threads, handlers, limits and
 * capabilities, which a dump or a restore would change or inherit. The helper is a fork of the calling thread and
 * tells over a socket how it fares. It ends when the caller does, until its work is done.
 */

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/err.h"

struct torpor_options;

enum helper_type {
	HELPER_LOG,      /* number: level; text */
	HELPER_PROGRESS, /* number: unit; a of b; text: step */
	HELPER_NEWS,     /* for helper_job.hear; number: what */
	HELPER_ANSWER,   /* from the caller */
	HELPER_DONE,     /* number: result of the work; its struct err */
	HELPER_STATUS,   /* number: as waitpid(2) has it */
};

struct helper_message {
	uint32_t type;
	int32_t number;
	uint64_t a, b;
};

enum { HELPER_DATA_MAX = 60000 }; /* bytes behind a message; what is longer is cut */

struct helper_job {
	/* In the helper. `link` is its end of the socket; log and progress of the options lead to it. */
	int (*work)(int link, void *data, struct err *e);
	/* In the helper, when the work is done and that has been told; then it ends. NULL: nothing. */
	void (*after)(int link, void *data);
	/* In the caller, for each HELPER_NEWS; `text` is NUL-terminated. NULL: none come. */
	void (*hear)(int link, void *data, const struct helper_message *m, const char *text, size_t size);
	void *data;
	const int *fds;   /* that the helper keeps, ... */
	size_t n_fds;
	bool keeps_all;   /* ... or all of them */
	unsigned timeout_ms; /* how long it may look for one file; 0: for ever */
	const struct torpor_options *options;
	/* What the caller's thread had, for programs that the helper executes; set by helper_run(). */
	sigset_t mask;
	struct sigaction pipe, xfsz, chld;
};

/*
 * Carry out a job. Returns what its work returned, and its error. With `after`, *ret_link and *ret_pid are the
 * helper's on success, and the caller's to close and to wait for; else it has ended.
 */
int helper_run(struct helper_job *job, int *ret_link, pid_t *ret_pid, struct err *e);

/* Send; `text` may be NULL. Also from processes that the helper has made. Negative: nobody listens. */
int helper_say(int link, enum helper_type type, int32_t number, uint64_t a, uint64_t b, const void *data, size_t size);
int helper_say_text(int link, enum helper_type type, int32_t number, const char *text);

/* In the helper: the next message of the caller. Negative: it has gone. */
int helper_hear_answer(int link, int32_t *ret_number);

/* In the helper: log and progress that lead to the caller, for what it wants to hear. `link` must outlive them. */
struct api_callbacks helper_callbacks(const struct torpor_options *o, const int *link);

/*
 * In a process that was just forked: go on in `function`, which does not return, with a stack of our own. A thread of the
 * caller may have a small one.
 */
_Noreturn void helper_change_stack(void (*function)(void *data), void *data);

/* In a child that is to execute a program: signals as the caller had them. */
void helper_undo_signals(const struct helper_job *job);

/* Wait for a child, whoever may have reaped it. */
void helper_reap(pid_t pid);

/* Close all fds but standard streams and these; negative ones are ignored. */
void helper_close_fds(const int *keep, size_t n);
