/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "api/api.h"

struct result *api_result_new(void)
{
	struct result *r = calloc(1, sizeof(*r));

	if (r)
		r->obstacles.arena = &r->arena;
	return r;
}

int api_result_fill(struct result *r, const struct dump_result *from)
{
	struct torpor_result *p = &r->public;

	p->tasks = from->n_tasks;
	p->threads = from->n_threads;
	p->bytes = from->bytes;
	p->while_running = from->way == PAUSE_TRACK ? 1 : from->way == PAUSE_CLONE ? 2 : 0;
	p->packed_bytes = from->bytes_packed;
	p->parent_bytes = from->bytes_parent;
	p->frozen_ns = from->frozen_ns;
	p->obstacles = from->obstacles.n;
	if (from->leftovers && !(p->leftovers = arena_strdup(&r->arena, from->leftovers)))
		return -ENOMEM;
	r->obstacles.v = arena_alloc(&r->arena, (from->obstacles.n + 1) * sizeof(*r->obstacles.v));
	if (!r->obstacles.v)
		return -ENOMEM;
	for (size_t i = 0; i < from->obstacles.n; i++) {
		const struct obstacle *o = &from->obstacles.v[i];
		const struct obstacle copy = { arena_strdup(&r->arena, o->id), arena_strdup(&r->arena, o->text),
					       arena_strdup(&r->arena, o->help) };

		if (!copy.id || !copy.text || !copy.help)
			return -ENOMEM;
		r->obstacles.v[r->obstacles.n++] = copy;
	}
	return 0;
}

const struct torpor_obstacle *torpor_result_obstacle(const struct torpor_result *result, size_t i)
{
	const struct result *r = (const struct result *)result;

	return r && i < r->obstacles.n ? (const struct torpor_obstacle *)&r->obstacles.v[i] : NULL;
}

_Static_assert(sizeof(struct torpor_obstacle) == sizeof(struct obstacle), "one is the other");

void torpor_result_free(struct torpor_result *result)
{
	struct result *r = (struct result *)result;

	if (!r)
		return;
	arena_done(&r->arena);
	free(r);
}
