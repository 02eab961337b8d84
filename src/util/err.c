/* SPDX-License-Identifier: Apache-2.0 */
#include "util/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int err_return(const struct err *e)
{
	return e->number ? -e->number : -ECANCELED;
}

static void err_fill(struct err *e, enum err_reason reason, int number, const char *fmt, va_list ap)
{
	size_t used;

	e->reason = reason;
	e->number = number;
	e->help[0] = e->id[0] = '\0';
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	if (!number)
		return;
	used = strlen(e->text);
	snprintf(e->text + used, sizeof(e->text) - used, ": %s", strerror_r(number, (char[128]){ 0 }, 128));
}

int err_set(struct err *e, enum err_reason reason, int number, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_fill(e, reason, number, fmt, ap);
	va_end(ap);
	return err_return(e);
}

int err_state(struct err *e, const char *id, int number, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_fill(e, ERR_STATE, number, fmt, ap);
	va_end(ap);
	return err_id(e, id);
}

int err_id(struct err *e, const char *id)
{
	snprintf(e->id, sizeof(e->id), "%s", id);
	return err_return(e);
}

int err_sys(struct err *e, int number, const char *fmt, ...)
{
	enum err_reason reason;
	va_list ap;

	number = abs(number);
	reason = number == EPERM || number == EACCES ? ERR_PERMISSION : ERR_SYSTEM;
	va_start(ap, fmt);
	err_fill(e, reason, number, fmt, ap);
	va_end(ap);
	return err_return(e);
}

int err_nomem(struct err *e)
{
	return err_set(e, ERR_SYSTEM, ENOMEM, "torpor itself ran out of memory");
}

int err_wrap(struct err *e, const char *fmt, ...)
{
	char inner[sizeof(e->text)];
	size_t used;
	va_list ap;

	memcpy(inner, e->text, sizeof(inner));
	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	used = strlen(e->text);
	snprintf(e->text + used, sizeof(e->text) - used, ": %.*s", (int)(sizeof(inner) - 3), inner);
	return err_return(e);
}

int err_help(struct err *e, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(e->help, sizeof(e->help), fmt, ap);
	va_end(ap);
	return err_return(e);
}
