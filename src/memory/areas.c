/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/areas.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "util/fd.h"

int areas_open(struct areas_reader *r, struct arena *arena, pid_t pid, const char *name)
{
	r->fd = fd_open_proc(pid, name, O_RDONLY);
	r->arena = arena;
	r->list = (struct vm_area_list){ 0 };
	r->left = 0;
	return r->fd < 0 ? r->fd : 0;
}

void areas_close(struct areas_reader *r)
{
	fd_closep(&r->fd);
}

/* Names that lie in a text which is going to be overwritten: of all mappings from `first` on. */
static int areas_keep_names(struct areas_reader *r, size_t first)
{
	struct vm_area_list *list = &r->list;
	const char *kept = first ? list->areas[first - 1].name : "";

	for (size_t i = first; i < list->n; i++) {
		if (strcmp(list->areas[i].name, kept) != 0)
			kept = arena_strdup(r->arena, list->areas[i].name);
		if (!kept)
			return -ENOMEM;
		list->areas[i].name = kept;
	}
	return 0;
}

/* The lines that the text is made of so far, `size` bytes; the beginning of the next one moves to its front. */
static int areas_parse(struct areas_reader *r, size_t size)
{
	char *end = memrchr(r->text, '\n', size), first;
	size_t known = r->list.n;
	int result;

	r->left = size;
	if (!end)
		return 0;
	r->left = (size_t)(r->text + size - ++end);
	first = *end;
	*end = '\0';
	result = proc_parse_more_maps(r->text, r->arena, &r->list);
	if (result == 0)
		result = areas_keep_names(r, known);
	*end = first;
	memmove(r->text, end, r->left);
	return result;
}

/*
 * smaps has a kilobyte for each mapping, of which nothing but the name is needed later: what has been read is parsed while it is in the
 * CPU's cache, and forgotten.
 */
int areas_read(struct areas_reader *r)
{
	ssize_t n = fd_read_proc_piece(r->fd, r->text + r->left, AREAS_TEXT - r->left);
	int result;

	if (n <= 0)
		return n == 0 && r->left ? -EINVAL : (int)n;
	result = areas_parse(r, r->left + (size_t)n);
	if (result < 0)
		return result;
	return r->left < AREAS_TEXT ? 1 : -EINVAL;
}

/* In this order: who hears of so many finds them, and who hears that these are all finds all. */
void areas_tell(struct areas_told *t, const struct vm_area_list *list, bool whole)
{
	atomic_store(&t->areas, list->areas);
	atomic_store(&t->n, list->n && !whole ? list->n - 1 : list->n);
	atomic_store(&t->whole, whole);
}

bool areas_hear(struct areas_told *t, size_t first, struct vm_area_list *ret)
{
	bool whole = atomic_load(&t->whole);
	struct vm_area_list told;

	told.n = atomic_load(&t->n);
	told.areas = atomic_load(&t->areas);
	*ret = areas_from(&told, first);
	return whole;
}

int areas_read_all(pid_t pid, const char *name, struct arena *arena, struct areas_told *told, struct vm_area_list *ret,
		   struct err *e)
{
	struct areas_reader reader;
	int r = areas_open(&reader, arena, pid, name);

	if (r == 0)
		do {
			r = areas_read(&reader);
			if (told && r >= 0)
				areas_tell(told, &reader.list, r == 0);
		} while (r > 0);
	*ret = reader.list;
	areas_close(&reader);
	return r < 0 ? err_sys(e, r, "reading /proc/%d/%s", pid, name) : 0;
}
