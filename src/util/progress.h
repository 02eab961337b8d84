/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How far a long step has come. The callback decides whether to show it. */

#include <stddef.h>
#include <stdint.h>

struct progress {
	void (*step)(void *data, const char *what, uint64_t done, uint64_t total);  /* bytes */
	void (*count)(void *data, const char *what, uint64_t done, uint64_t limit); /* something else, at most `limit` */
	void *data;
};

/* A NULL progress, or one without a callback, is silent. */
static inline void progress_step(const struct progress *p, const char *what, uint64_t done, uint64_t total)
{
	if (p && p->step)
		p->step(p->data, what, done, total);
}

static inline void progress_count(const struct progress *p, const char *what, uint64_t done, uint64_t limit)
{
	if (p && p->count)
		p->count(p->data, what, done, limit);
}
