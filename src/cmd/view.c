/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/view.h"

#include <sys/mman.h>

#include "cmd/text.h"

int view_open(struct view *v, unsigned flags, struct torpor_error **error)
{
	int r = torpor_image_open(v->path, flags, &v->image, error);

	if (r == 0)
		v->info = torpor_image_info(v->image);
	return r;
}

void view_close(struct view *v)
{
	torpor_image_close(v->image);
	pool_done(&v->pool);
}

const char *view_name(struct view *v, const char *s)
{
	return text_safe(&v->pool, s, NAME_MAX_SHOWN);
}

const char *view_path(struct view *v, const char *s)
{
	return text_safe(&v->pool, s, PATH_MAX_SHOWN);
}

const char *view_object(struct view *v, size_t object)
{
	return view_path(v, torpor_image_describe(v->image, object));
}

const char *view_bytes(struct view *v, uint64_t bytes)
{
	char buf[32];

	return pool_printf(&v->pool, "%s", cmd_format_bytes(buf, bytes)) ?: "?";
}

const struct torpor_task *view_task(const struct view *v, size_t i)
{
	return torpor_image_task(v->image, i);
}

bool view_find_children(struct view *v, struct view_tree *t)
{
	size_t n = v->info->tasks;

	t->child = pool_alloc(&v->pool, (n + 1) * sizeof(*t->child));
	t->sibling = pool_alloc(&v->pool, (n + 1) * sizeof(*t->sibling));
	if (!t->child || !t->sibling)
		return false;
	for (size_t i = n; i-- > 1;) { /* backwards, so that the lists ascend */
		size_t parent = i;

		while (parent-- > 0 && view_task(v, parent)->pid != view_task(v, i)->ppid)
			;
		if (parent == SIZE_MAX)
			parent = 0;
		t->sibling[i] = t->child[parent];
		t->child[parent] = (uint32_t)i;
	}
	return true;
}

const char *view_access(const struct torpor_mapping *m, char buf[5])
{
	buf[0] = m->prot & PROT_READ ? 'r' : '-';
	buf[1] = m->prot & PROT_WRITE ? 'w' : '-';
	buf[2] = m->prot & PROT_EXEC ? 'x' : '-';
	buf[3] = m->shared ? 's' : 'p';
	buf[4] = '\0';
	return buf;
}
