/* SPDX-License-Identifier: Apache-2.0 */
#include "util/obstacle.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "util/arena.h"

int obstacle_add(struct obstacle_list *list, const char *id, pid_t pid, const char *comm, const char *help,
		 const char *fmt, ...)
{
	struct obstacle *v = arena_grow(list->arena, list->v, list->n, sizeof(*v));
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!v)
		return -ENOMEM;
	list->v = v;
	v[list->n] = (struct obstacle){
		.id = id,
		.text = arena_printf(list->arena, "task %d (%s): %s", pid, comm, text),
		.help = help,
	};
	return v[list->n++].text ? 0 : -ENOMEM;
}

int obstacle_add_all(struct obstacle_list *list, const struct obstacle_list *more)
{
	for (size_t i = 0; i < more->n; i++) {
		struct obstacle *v = arena_grow(list->arena, list->v, list->n, sizeof(*v));

		if (!v)
			return -ENOMEM;
		list->v = v;
		v[list->n++] = more->v[i];
	}
	return 0;
}
