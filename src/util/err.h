/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Errors: one fixed buffer owned by the caller, filled once where the failure
 * happens and wrapped with context on the way up. Nothing is allocated, so an
 * error can be reported while a foreign process is stopped.
 *
 * Every fallible function returns 0 (or a documented non-negative value) or a
 * negative number that is only ever passed on; what went wrong is in `struct err`.
 */

#include <stdarg.h>

/* Why something failed. The values are torpor's exit statuses (torpor(1)). */
enum err_reason {
	ERR_NONE = 0,
	ERR_STATE = 1,      /* this state cannot be saved or made again */
	ERR_USAGE = 2,      /* the call itself is wrong */
	ERR_PERMISSION = 3, /* the kernel or the administrator does not permit it */
	ERR_IMAGE = 4,      /* the image is damaged or not one of ours */
	ERR_SYSTEM = 5,     /* the kernel or the system failed */
};

struct err {
	enum err_reason reason;
	int number;       /* errno of the cause, or 0 */
	char text[1536];  /* "context: what failed: strerror" */
	char help[512];   /* what would help, or "" */
	char id[32];      /* "E-PID-TAKEN", for torpor-help(1), or ""; a copy, because errors pass between processes */
};

#define ERR_INIT ((struct err){ .reason = ERR_NONE })

/*
 * Record a failure. `number` is an errno value (its text is appended) or 0.
 * Returns a negative number: -number, or -ECANCELED for 0.
 */
int err_set(struct err *e, enum err_reason reason, int number, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/*
 * Record a failed system call: EPERM and EACCES become ERR_PERMISSION, the rest
 * ERR_SYSTEM. `number` may be negative (-errno, as src/sys returns) or positive.
 */
int err_sys(struct err *e, int number, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Out of memory, the one failure that needs no words of its own. */
int err_nomem(struct err *e);

/* Put "CONTEXT: " before the text. Returns a negative number, for tail calls. */
int err_wrap(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * Record that the state stands in the way (ERR_STATE). `id` is stable and has an
 * explanation in api/ids.def. `number` as for err_set().
 */
int err_state(struct err *e, const char *id, int number, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* Give an error of another reason its id. Returns a negative number, for tail calls. */
int err_id(struct err *e, const char *id);

/* Say what the user can do about it. Returns a negative number, for tail calls. */
int err_help(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
