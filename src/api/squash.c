/* SPDX-License-Identifier: Apache-2.0 */

/* torpor_squash(). */

#include "api/api.h"
#include "api/helper.h"
#include "core/parent.h"

struct squash_job {
	const struct torpor_options *o;
	const char *path, *output;
};

static int squash_here(const struct squash_job *j, const struct api_callbacks *c, struct err *e)
{
	const struct squash_options o = { .path = j->path, .output = j->output, .no_sync = j->o->dump.no_sync,
					  .packing = j->o->packs ? &j->o->dump.packing : NULL, .progress = &c->progress };
	int images, r = core_squash(&o, &images, e);

	return r < 0 ? r : images;
}

static int squash_work(int link, void *data, struct err *e)
{
	const struct squash_job *j = data;
	const struct api_callbacks c = helper_callbacks(j->o, &link);

	return squash_here(j, &c, e);
}

int torpor_squash(const char *path, const char *output, const struct torpor_options *o, struct torpor_error **error)
{
	struct torpor_options defaults;
	struct squash_job j = { .o = o ?: &defaults, .path = path, .output = output };
	struct helper_job job = { .work = squash_work, .data = &j, .options = j.o };
	struct api_callbacks c;
	struct err e = ERR_INIT;
	int r;

	api_options_default(&defaults);
	c = api_callbacks(j.o);
	r = j.o->in_process ? squash_here(&j, &c, &e) : helper_run(&job, NULL, NULL, &e);
	return r < 0 ? api_fail(error, &e) : r;
}
