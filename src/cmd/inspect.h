/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* torpor inspect: one file for each way of showing an image. */

#include "cmd/cmd.h"
#include "cmd/view.h"

enum inspect_part {
	INSPECT_TREE = 1 << 0,
	INSPECT_THREADS = 1 << 1,
	INSPECT_FDS = 1 << 2,
	INSPECT_MEMORY = 1 << 3,
	INSPECT_MAPS = 1 << 4,
	INSPECT_TIME = 1 << 5,
};

struct inspect {
	struct view *v;
	unsigned parts;   /* enum inspect_part: what is shown */
	bool everything;  /* no list is cut short */
	size_t task;      /* only this one; SIZE_MAX: all */
};

/* For people (inspect_text.c, inspect_memory.c, inspect_ipc.c). Negative: out of memory. */
int inspect_print(struct inspect *s);
int inspect_print_memory(struct inspect *s);
int inspect_print_maps(struct inspect *s);
void inspect_print_ipc(struct view *v);

/* A bar for the share of `part` in `whole`. */
void inspect_print_bar(uint64_t part, uint64_t whole);

static inline bool inspect_shows(const struct inspect *s, size_t task)
{
	return s->task == SIZE_MAX || s->task == task;
}

/* For programs (inspect_json.c): everything, as doc/inspect.schema.json says. Returns the exit status. */
int inspect_write_json(struct view *v);

/* One page that needs nothing else (inspect_html.c), into a new file. Returns the exit status. */
int inspect_write_html(struct view *v, const char *path);
