/* SPDX-License-Identifier: Apache-2.0 */

/* torpor inspect for people: memory. */

#include "cmd/inspect.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { LARGEST_SHOWN = 8, CLASSES = TORPOR_KERNEL /* which stores nothing */ };

/* Does this space belong to what is shown? */
static bool inspect_shows_space(const struct inspect *s, size_t space)
{
	const struct torpor_task *t = s->task == SIZE_MAX ? NULL : view_task(s->v, s->task);

	return !t || t->space == (long)space;
}

/* ---- by kind ---- */

struct memory_sum {
	uint64_t n, mapped, stored;
};

static void inspect_sum(const struct inspect *s, struct memory_sum sum[CLASSES + 1])
{
	const struct torpor_image *image = s->v->image;
	const struct torpor_mapping *m;
	const struct torpor_inode *inode;

	for (size_t i = 0; i < s->v->info->spaces; i++) {
		for (size_t k = 0; inspect_shows_space(s, i) && (m = torpor_image_mapping(image, i, k)); k++) {
			sum[m->memory].n++;
			sum[m->memory].mapped += m->end - m->start;
			sum[m->memory].stored += m->stored_bytes;
		}
	}
	for (size_t i = 0; s->task == SIZE_MAX && (inode = torpor_image_inode(image, i)); i++)
		sum[TORPOR_SHARED].stored += inode->stored_bytes;
}

static void inspect_print_classes(struct inspect *s)
{
	static const char *const names[CLASSES] = { "anonymous", "private file", "shared", "reserved only" };
	struct memory_sum sum[CLASSES + 1] = { { 0 } };
	uint64_t stored = 0;

	inspect_sum(s, sum);
	for (int c = 0; c < CLASSES; c++)
		stored += sum[c].stored;
	for (int c = 0; c < CLASSES; c++) {
		if (!sum[c].n && !sum[c].stored)
			continue;
		printf("  %-14s %6lu mappings  %10s mapped  %10s stored  ", names[c], sum[c].n,
		       view_bytes(s->v, sum[c].mapped), view_bytes(s->v, sum[c].stored));
		inspect_print_bar(sum[c].stored, stored);
		putchar('\n');
	}
}

static void inspect_print_skipped(struct inspect *s)
{
	const struct torpor_image_info *info = s->v->info;

	if (info->has_stats && s->task == SIZE_MAX)
		printf("  pages: %s stored, %s found to be zero and left out;\n"
		       "  untouched pages and unmodified pages of files are not even looked at\n",
		       view_bytes(s->v, info->stored_bytes), view_bytes(s->v, info->zero_bytes));
}

/* In which files the pages stand, and how small they are there. */
static void inspect_print_files(struct inspect *s)
{
	const struct torpor_image_info *info = s->v->info;

	if (info->packed_bytes < info->own_bytes)
		printf("  packed: %s in %s of the file (%.0f %%)\n", view_bytes(s->v, info->own_bytes),
		       view_bytes(s->v, info->packed_bytes), 100.0 * (double)info->packed_bytes / (double)info->own_bytes);
	if (info->parent)
		printf("  parent: %s of the pages are in %s (%zu images in all)\n", view_bytes(s->v, info->parent_bytes),
		       view_path(s->v, info->parent), info->chain);
	if (info->unread_bytes)
		printf("  tracked: %s of them were not read, as they had not been written\n", view_bytes(s->v, info->unread_bytes));
}

/* What several processes hold since they forked counts for each of them, but stands in the file once. */
static void inspect_print_shared(struct inspect *s)
{
	const struct torpor_image_info *info = s->v->info;
	uint64_t once = info->stored_bytes + info->parent_bytes;

	if (info->has_stats && s->task == SIZE_MAX && info->counted_bytes > once)
		printf("  %s above are counted again: processes share them since they forked, and they are stored once\n",
		       view_bytes(s->v, info->counted_bytes - once));
}

/* ---- what stores most ---- */

/* Something that stores bytes: a mapping, or the content of an inode (`mapping` NULL). */
struct stored {
	uint64_t bytes;
	size_t index; /* of the space or of the inode */
	const struct torpor_mapping *mapping;
};

static int inspect_compare_stored(const void *a, const void *b)
{
	const struct stored *x = a, *y = b;

	return x->bytes < y->bytes ? 1 : -(x->bytes > y->bytes);
}

static struct stored *inspect_list_stored(struct inspect *s, size_t *ret_n)
{
	struct view *v = s->v;
	size_t room = v->info->inodes + 1, n = 0;
	const struct torpor_mapping *m;
	const struct torpor_inode *inode;
	struct stored *list;

	for (size_t i = 0; i < v->info->spaces; i++)
		room += torpor_image_space(v->image, i)->mappings;
	list = pool_alloc(&v->pool, room * sizeof(*list));
	if (!list)
		return NULL;
	for (size_t i = 0; i < v->info->spaces; i++)
		for (size_t k = 0; inspect_shows_space(s, i) && (m = torpor_image_mapping(v->image, i, k)); k++)
			if (m->stored_bytes)
				list[n++] = (struct stored){ m->stored_bytes, i, m };
	for (size_t i = 0; s->task == SIZE_MAX && (inode = torpor_image_inode(v->image, i)); i++)
		if (inode->stored_bytes)
			list[n++] = (struct stored){ inode->stored_bytes, i, NULL };
	qsort(list, n, sizeof(*list), inspect_compare_stored);
	*ret_n = n;
	return list;
}

static int inspect_pid_of_space(const struct view *v, size_t space)
{
	const struct torpor_task *t;

	for (size_t i = 0; (t = view_task(v, i)); i++)
		if (t->space == (long)space)
			return t->pid;
	return 0;
}

static void inspect_print_mapping(struct view *v, size_t space, const struct torpor_mapping *m)
{
	char access[5];

	printf("  %10s of %10s  %d %lx-%lx %s %s\n", view_bytes(v, m->stored_bytes), view_bytes(v, m->end - m->start),
	       inspect_pid_of_space(v, space), m->start, m->end, view_access(m, access),
	       m->name && m->name[0] ? view_path(v, m->name) : "anonymous");
}

static const char *inspect_inode_kind(const struct torpor_inode *n)
{
	switch (n->kind) {
	case TORPOR_FILE:
		return "copy of the file";
	case TORPOR_UNLINKED:
		return "unlinked file";
	case TORPOR_MEMFD:
		return "memfd";
	case TORPOR_SHARED_ANONYMOUS:
		return "shared anonymous memory";
	case TORPOR_SEGMENT:
		return "System V shared memory";
	default:
		return "?";
	}
}

static void inspect_print_inode(struct view *v, const struct stored *s)
{
	const struct torpor_inode *n = torpor_image_inode(v->image, s->index);

	printf("  %10s of %10s  %s %s\n", view_bytes(v, s->bytes), view_bytes(v, n->size), inspect_inode_kind(n),
	       view_path(v, n->path));
}

int inspect_print_memory(struct inspect *s)
{
	size_t n;
	struct stored *list = inspect_list_stored(s, &n);

	if (!list)
		return -ENOMEM;
	puts("\nmemory");
	inspect_print_classes(s);
	inspect_print_skipped(s);
	inspect_print_files(s);
	inspect_print_shared(s);
	if (n)
		puts("\nlargest, as stored");
	for (size_t i = 0; i < n; i++) {
		if (!s->everything && i == LARGEST_SHOWN) {
			printf("  and %zu more (-v shows them)\n", n - i);
			break;
		}
		if (list[i].mapping)
			inspect_print_mapping(s->v, list[i].index, list[i].mapping);
		else
			inspect_print_inode(s->v, &list[i]);
	}
	return 0;
}

int inspect_print_maps(struct inspect *s)
{
	const struct torpor_mapping *m;

	puts("\nmappings (stored, size, PID, addresses, access, what)");
	for (size_t i = 0; i < s->v->info->spaces; i++)
		for (size_t k = 0; inspect_shows_space(s, i) && (m = torpor_image_mapping(s->v->image, i, k)); k++)
			inspect_print_mapping(s->v, i, m);
	return 0;
}
