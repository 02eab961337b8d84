/* SPDX-License-Identifier: Apache-2.0 */

/* torpor inspect for people: memory. */

#include "cmd/inspect.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "proc/maps.h"

enum { LARGEST_SHOWN = 8 };

/* Does this space belong to what is shown? */
static bool inspect_shows_space(const struct inspect *s, uint32_t space)
{
	const Pb__Task *t = s->task == SIZE_MAX ? NULL : s->v->meta->tasks[s->task];

	return !t || (t->has_space && t->space == space);
}

/* ---- by kind ---- */

struct memory_sum {
	uint64_t n, mapped, stored;
};

static void inspect_sum(const struct inspect *s, struct memory_sum sum[CLASSES + 1])
{
	const struct view *v = s->v;

	for (uint32_t i = 0; i < v->meta->n_spaces; i++) {
		for (size_t k = 0; inspect_shows_space(s, i) && k < v->meta->spaces[i]->n_mappings; k++) {
			const Pb__Mapping *m = v->meta->spaces[i]->mappings[k];
			enum memory_class c = view_class(m);

			sum[c].n++;
			sum[c].mapped += m->end - m->start;
			sum[c].stored += v->mapping_bytes[i][k];
		}
	}
	for (size_t i = 0; s->task == SIZE_MAX && i < v->meta->n_inodes; i++)
		sum[CLASS_SHARED].stored += v->inode_bytes[i];
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
	const Pb__DumpStats *stats = s->v->meta->stats;

	if (stats && s->task == SIZE_MAX)
		printf("  pages: %s stored, %s found to be zero and left out;\n"
		       "  untouched pages and unmodified pages of files are not even looked at\n",
		       view_bytes(s->v, stats->pages_stored * IMAGE_PAGE), view_bytes(s->v, stats->pages_zero * IMAGE_PAGE));
}

/* What several processes hold since they forked counts for each of them, but stands in the file once. */
static void inspect_print_shared(struct inspect *s)
{
	const Pb__DumpStats *stats = s->v->meta->stats;
	const struct image *img = s->v->image;
	uint64_t pages = 0;

	for (size_t i = 0; i < img->n_runs; i++)
		pages += img->runs[i].pages;
	if (stats && s->task == SIZE_MAX && pages > stats->pages_stored)
		printf("  %s above are counted again: processes share them since they forked, and they are stored once\n",
		       view_bytes(s->v, (pages - stats->pages_stored) * IMAGE_PAGE));
}

/* ---- what stores most ---- */

/* Something that stores bytes: a mapping, or the content of an inode (`mapping` NULL). */
struct stored {
	uint64_t bytes;
	uint32_t index; /* of the space or of the inode */
	const Pb__Mapping *mapping;
};

static int inspect_compare_stored(const void *a, const void *b)
{
	const struct stored *x = a, *y = b;

	return x->bytes < y->bytes ? 1 : -(x->bytes > y->bytes);
}

static struct stored *inspect_list_stored(struct inspect *s, size_t *ret_n)
{
	struct view *v = s->v;
	size_t room = v->meta->n_inodes + 1, n = 0;
	struct stored *list;

	for (size_t i = 0; i < v->meta->n_spaces; i++)
		room += v->meta->spaces[i]->n_mappings;
	list = arena_alloc(&v->arena, room * sizeof(*list));
	if (!list)
		return NULL;
	for (uint32_t i = 0; i < v->meta->n_spaces; i++)
		for (size_t k = 0; inspect_shows_space(s, i) && k < v->meta->spaces[i]->n_mappings; k++)
			if (v->mapping_bytes[i][k])
				list[n++] = (struct stored){ v->mapping_bytes[i][k], i, v->meta->spaces[i]->mappings[k] };
	for (uint32_t i = 0; s->task == SIZE_MAX && i < v->meta->n_inodes; i++)
		if (v->inode_bytes[i])
			list[n++] = (struct stored){ v->inode_bytes[i], i, NULL };
	qsort(list, n, sizeof(*list), inspect_compare_stored);
	*ret_n = n;
	return list;
}

static int32_t inspect_pid_of_space(const struct view *v, uint32_t space)
{
	for (size_t i = 0; i < v->meta->n_tasks; i++)
		if (v->meta->tasks[i]->has_space && v->meta->tasks[i]->space == space)
			return v->meta->tasks[i]->pid;
	return 0;
}

static void inspect_print_mapping(struct view *v, uint64_t bytes, uint32_t space, const Pb__Mapping *m)
{
	printf("  %10s of %10s  %d %lx-%lx %c%c%c%c %s\n", view_bytes(v, bytes), view_bytes(v, m->end - m->start),
	       inspect_pid_of_space(v, space), m->start, m->end, m->prot & PROT_READ ? 'r' : '-',
	       m->prot & PROT_WRITE ? 'w' : '-', m->prot & PROT_EXEC ? 'x' : '-', m->flags & VM_FLAG_SHARED ? 's' : 'p',
	       m->name && m->name[0] ? view_path(v, m->name) : "anonymous");
}

static const char *inspect_inode_kind(const Pb__Inode *n)
{
	switch (n->kind) {
	case PB__INODE_KIND__PATH:
		return "copy of the file";
	case PB__INODE_KIND__UNLINKED:
		return "unlinked file";
	case PB__INODE_KIND__MEMFD:
		return "memfd";
	case PB__INODE_KIND__SHARED_ANON:
		return "shared anonymous memory";
	case PB__INODE_KIND__SYSV_SHM:
		return "System V shared memory";
	default:
		return "?";
	}
}

static void inspect_print_inode(struct view *v, const struct stored *s)
{
	const Pb__Inode *n = v->meta->inodes[s->index];

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
	inspect_print_shared(s);
	if (n)
		puts("\nlargest, as stored");
	for (size_t i = 0; i < n; i++) {
		if (!s->everything && i == LARGEST_SHOWN) {
			printf("  and %zu more (-v shows them)\n", n - i);
			break;
		}
		if (list[i].mapping)
			inspect_print_mapping(s->v, list[i].bytes, list[i].index, list[i].mapping);
		else
			inspect_print_inode(s->v, &list[i]);
	}
	return 0;
}

int inspect_print_maps(struct inspect *s)
{
	const struct view *v = s->v;

	puts("\nmappings (stored, size, PID, addresses, access, what)");
	for (uint32_t i = 0; i < v->meta->n_spaces; i++)
		for (size_t k = 0; inspect_shows_space(s, i) && k < v->meta->spaces[i]->n_mappings; k++)
			inspect_print_mapping(s->v, v->mapping_bytes[i][k], i, v->meta->spaces[i]->mappings[k]);
	return 0;
}
