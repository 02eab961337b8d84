/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"

struct torpor_error *api_error_new(const struct err *e)
{
	struct torpor_error *error = malloc(sizeof(*error));

	if (error)
		error->err = *e;
	if (error && !error->err.reason)
		error->err.reason = ERR_SYSTEM;
	return error;
}

int api_fail(struct torpor_error **error, const struct err *e)
{
	if (error)
		*error = api_error_new(e);
	return -(int)(e->reason ? e->reason : ERR_SYSTEM);
}

/* Without a handle there was no memory for one. */

enum torpor_reason torpor_error_reason(const struct torpor_error *error)
{
	return error ? (enum torpor_reason)error->err.reason : TORPOR_SYSTEM;
}

int torpor_error_number(const struct torpor_error *error)
{
	return error ? error->err.number : 0;
}

const char *torpor_error_text(const struct torpor_error *error)
{
	return error ? error->err.text : "torpor itself ran out of memory";
}

const char *torpor_error_help(const struct torpor_error *error)
{
	return error ? error->err.help : "";
}

const char *torpor_error_id(const struct torpor_error *error)
{
	if (!error)
		return "";
	return !error->err.id[0] && error->err.reason == ERR_IMAGE ? "E-IMAGE-DAMAGED" : error->err.id;
}

void torpor_error_free(struct torpor_error *error)
{
	free(error);
}

/* ---- ids ---- */

static const struct torpor_explanation explanations[] = {
#define ID(id, what, why, act) { id, what, why, act },
#include "api/ids.def"
#undef ID
};

enum { EXPLANATIONS = sizeof(explanations) / sizeof(explanations[0]) };

const struct torpor_explanation *torpor_explanation(size_t i)
{
	return i < EXPLANATIONS ? &explanations[i] : NULL;
}

const struct torpor_explanation *torpor_explain(const char *id)
{
	for (size_t i = 0; i < EXPLANATIONS; i++)
		if (strcmp(explanations[i].id, id) == 0)
			return &explanations[i];
	return NULL;
}

const char *torpor_version(void)
{
	return TORPOR_VERSION;
}
