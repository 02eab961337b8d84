/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/view.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/text.h"
#include "core/core.h"
#include "core/objects.h"

enum { DESCRIPTION_SIZE = 256 };

/* ---- reading ---- */

static uint64_t view_run_bytes(const struct image_run *run, uint64_t start, uint64_t end)
{
	uint64_t from = run->addr, to = run->addr + (uint64_t)run->pages * IMAGE_PAGE;

	if (from < start)
		from = start;
	if (to > end)
		to = end;
	return from < to ? to - from : 0;
}

/* Runs and mappings both ascend. */
static int view_count_space(struct view *v, uint32_t space)
{
	const Pb__AddressSpace *s = v->meta->spaces[space];
	uint64_t *bytes = arena_alloc(&v->arena, (s->n_mappings + 1) * sizeof(*bytes));
	size_t n, first = 0;
	const struct image_run *runs = image_runs_of(v->image, IMAGE_OWNER_SPACE(space), &n);

	if (!bytes)
		return -ENOMEM;
	for (size_t i = 0; i < s->n_mappings; i++) {
		const Pb__Mapping *m = s->mappings[i];

		while (first < n && runs[first].addr + (uint64_t)runs[first].pages * IMAGE_PAGE <= m->start)
			first++;
		for (size_t k = first; k < n && runs[k].addr < m->end; k++)
			bytes[i] += view_run_bytes(&runs[k], m->start, m->end);
		v->space_bytes[space] += bytes[i];
	}
	v->mapping_bytes[space] = bytes;
	return 0;
}

static int view_count_memory(struct view *v)
{
	int r = 0;

	v->mapping_bytes = arena_alloc(&v->arena, (v->meta->n_spaces + 1) * sizeof(*v->mapping_bytes));
	v->space_bytes = arena_alloc(&v->arena, (v->meta->n_spaces + 1) * sizeof(*v->space_bytes));
	v->inode_bytes = arena_alloc(&v->arena, (v->meta->n_inodes + 1) * sizeof(*v->inode_bytes));
	if (!v->mapping_bytes || !v->space_bytes || !v->inode_bytes)
		return -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < v->meta->n_spaces; i++)
		r = view_count_space(v, i);
	for (uint32_t i = 0; i < v->meta->n_inodes; i++) {
		size_t n;
		const struct image_run *runs = image_runs_of(v->image, IMAGE_OWNER_INODE(i), &n);

		for (size_t k = 0; k < n; k++)
			v->inode_bytes[i] += (uint64_t)runs[k].pages * IMAGE_PAGE;
	}
	return r;
}

/* For each object, the slots that refer to it. Two passes: count, then place. */
static int view_find_holders(struct view *v)
{
	const Pb__Image *meta = v->meta;
	size_t *next = arena_alloc(&v->arena, (meta->n_objects + 2) * sizeof(*next));
	size_t total = 0;

	if (!next)
		return -ENOMEM;
	for (size_t i = 0; i < meta->n_tasks; i++)
		for (size_t k = 0; k < meta->tasks[i]->n_slots; k++, total++)
			if (meta->tasks[i]->slots[k]->object < meta->n_objects)
				next[meta->tasks[i]->slots[k]->object + 1]++;
	for (size_t i = 0; i < meta->n_objects; i++)
		next[i + 1] += next[i];
	v->first_holder = arena_memdup(&v->arena, next, (meta->n_objects + 1) * sizeof(*next));
	v->holders = arena_alloc(&v->arena, (total + 1) * sizeof(*v->holders));
	v->descriptions = arena_alloc(&v->arena, (meta->n_objects + 1) * sizeof(*v->descriptions));
	if (!v->first_holder || !v->holders || !v->descriptions)
		return -ENOMEM;
	for (size_t i = 0; i < meta->n_tasks; i++) {
		for (size_t k = 0; k < meta->tasks[i]->n_slots; k++) {
			const Pb__Slot *s = meta->tasks[i]->slots[k];

			if (s->object < meta->n_objects)
				v->holders[next[s->object]++] = (struct holder){ (uint32_t)i, s->fd };
		}
	}
	return 0;
}

size_t view_count_threads(const struct view *v)
{
	size_t n = 0;

	for (size_t i = 0; i < v->meta->n_tasks; i++)
		n += v->meta->tasks[i]->n_threads;
	return n;
}

const char *view_name(struct view *v, const char *s)
{
	return text_safe(&v->arena, s, NAME_MAX_SHOWN);
}

const char *view_path(struct view *v, const char *s)
{
	return text_safe(&v->arena, s, PATH_MAX_SHOWN);
}

const char *view_bytes(struct view *v, uint64_t bytes)
{
	char buf[32];

	return arena_strdup(&v->arena, cmd_format_bytes(buf, bytes)) ?: "?";
}

/* ---- objects ---- */

/* A message that refers to an inode of the image has a uint32 field of that name. */
static const char *view_inode_path(const struct view *v, const ProtobufCMessage *m)
{
	const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(m->descriptor, "inode");
	uint32_t index;

	if (!f || f->type != PROTOBUF_C_TYPE_UINT32 || f->label == PROTOBUF_C_LABEL_REPEATED)
		return NULL;
	if (f->label == PROTOBUF_C_LABEL_OPTIONAL && !*(const protobuf_c_boolean *)((const char *)m + f->quantifier_offset))
		return NULL;
	index = *(const uint32_t *)((const char *)m + f->offset);
	return index < v->meta->n_inodes ? v->meta->inodes[index]->path : NULL;
}

/* The message of an object, in an arena of its own: many fds may refer to one, and it may hold megabytes. */
ProtobufCMessage *view_unpack(const Pb__Object *o, struct arena *scratch)
{
	struct err e = ERR_INIT;

	*scratch = ARENA_INIT;
	scratch->limit = 64 * (o->body.len + 4096);
	return object_unpack(scratch, o, &e);
}

/* What the object is, beside its kind; untrusted text. */
const char *view_describe(struct view *v, uint32_t object)
{
	const Pb__Object *o = v->meta->objects[object];
	const struct kind *kind = kind_by_tag(o->kind);
	char text[DESCRIPTION_SIZE] = "";
	struct arena scratch;
	ProtobufCMessage *m;
	const char *path;

	if (v->descriptions[object])
		return v->descriptions[object];
	m = view_unpack(o, &scratch);
	if (m && kind->describe)
		kind->describe(m, text, sizeof(text));
	path = m ? view_inode_path(v, m) : NULL;
	if (!m)
		v->descriptions[object] = "(damaged)";
	else if (path)
		v->descriptions[object] = arena_printf(&v->arena, text[0] ? "%s (%s)" : "%s", path, text);
	else
		v->descriptions[object] = arena_strdup(&v->arena, text);
	arena_done(&scratch);
	return v->descriptions[object] ?: "";
}

const char *view_kind_name(const Pb__Object *o)
{
	const struct kind *kind = kind_by_tag(o->kind);

	return kind ? kind->name : "?";
}

/* ---- tree ---- */

bool view_find_children(struct view *v, struct view_tree *t)
{
	size_t n = v->meta->n_tasks;

	t->child = arena_alloc(&v->arena, (n + 1) * sizeof(*t->child));
	t->sibling = arena_alloc(&v->arena, (n + 1) * sizeof(*t->sibling));
	if (!t->child || !t->sibling)
		return false;
	for (size_t i = n; i-- > 1;) { /* backwards, so that the lists ascend */
		size_t parent = i;

		while (parent-- > 0 && v->meta->tasks[parent]->pid != v->meta->tasks[i]->ppid)
			;
		if (parent == SIZE_MAX)
			parent = 0;
		t->sibling[i] = t->child[parent];
		t->child[parent] = (uint32_t)i;
	}
	return true;
}

/* ---- memory ---- */

enum memory_class view_class(const Pb__Mapping *m)
{
	switch (m->kind) {
	case PB__MAPPING_KIND__ANON:
		return m->prot ? CLASS_ANON : CLASS_NONE;
	case PB__MAPPING_KIND__FILE_PRIVATE:
		return CLASS_FILE;
	case PB__MAPPING_KIND__FILE_SHARED:
		return CLASS_SHARED;
	default:
		return CLASSES;
	}
}

/* ---- both ends ---- */

/* Which end of what is it? The ids of the two ends of a pipe or terminal are made up. */
static bool view_end_ids(const ProtobufCMessage *m, struct view_end *end)
{
	if (m->descriptor == &pb__pipe__descriptor) {
		const Pb__Pipe *p = (const Pb__Pipe *)m;
		bool writes = (p->flags & O_ACCMODE) == O_WRONLY;

		end->kind = 1;
		end->id = p->pipe_id * 2 + writes;
		end->other = p->pipe_id * 2 + !writes;
	} else if (m->descriptor == &pb__unix_socket__descriptor) {
		end->kind = 2;
		end->id = ((const Pb__UnixSocket *)m)->inode;
		end->other = ((const Pb__UnixSocket *)m)->peer;
	} else if (m->descriptor == &pb__tcp_connection__descriptor) {
		end->kind = 3;
		end->id = ((const Pb__TcpConnection *)m)->inode;
		end->other = ((const Pb__TcpConnection *)m)->peer;
	} else if (m->descriptor == &pb__pty_master__descriptor) {
		end->kind = 4;
		end->id = ((const Pb__PtyMaster *)m)->index * 2ull + 2;
		end->other = end->id + 1;
	} else if (m->descriptor == &pb__pty_slave__descriptor) {
		end->kind = 4;
		end->id = ((const Pb__PtySlave *)m)->index * 2ull + 3;
		end->other = end->id - 1;
	} else {
		return false;
	}
	return true;
}

static int view_compare_ends(const void *a, const void *b)
{
	const struct view_end *x = a, *y = b;

	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

int view_find_ends(struct view *v)
{
	v->ends = arena_alloc(&v->arena, (v->meta->n_objects + 1) * sizeof(*v->ends));
	v->end_at = arena_alloc(&v->arena, (v->meta->n_objects + 1) * sizeof(*v->end_at));
	if (!v->ends || !v->end_at)
		return -ENOMEM;
	for (uint32_t i = 0; i < v->meta->n_objects; i++) {
		struct arena scratch;
		ProtobufCMessage *m = view_unpack(v->meta->objects[i], &scratch);
		struct view_end end = { .object = i };

		if (m && view_end_ids(m, &end))
			v->ends[v->n_ends++] = end;
		arena_done(&scratch);
	}
	qsort(v->ends, v->n_ends, sizeof(*v->ends), view_compare_ends);
	for (uint32_t i = 0; i < v->n_ends; i++)
		v->end_at[v->ends[i].object] = i + 1;
	return 0;
}

const struct view_end *view_end_of(const struct view *v, uint32_t object)
{
	return v->end_at[object] ? &v->ends[v->end_at[object] - 1] : NULL;
}

const struct view_end *view_other_ends(const struct view *v, const struct view_end *end, size_t *ret_n)
{
	const struct view_end key = { .kind = end->kind, .id = end->other };
	const struct view_end *first = end->other ? bsearch(&key, v->ends, v->n_ends, sizeof(key), view_compare_ends) : NULL;
	const struct view_end *last = first;

	*ret_n = 0;
	if (!first)
		return NULL;
	while (first > v->ends && view_compare_ends(first - 1, &key) == 0)
		first--;
	while (last < v->ends + v->n_ends && view_compare_ends(last, &key) == 0)
		last++;
	*ret_n = (size_t)(last - first);
	return first;
}

/* ---- open and close ---- */

/* What core_open() refused: metadata that does not agree with itself can still be looked at. */
static int view_salvage(struct view *v, struct err *e)
{
	v->damage = *e;
	*e = ERR_INIT;
	if (image_salvage(&v->image, v->path, e) < 0) {
		*e = v->damage;
		return -1;
	}
	v->arena.limit = v->arena.used + 64 * (v->image->meta_size + 4096);
	v->meta = (Pb__Image *)pb_unpack(&v->arena, &pb__image__descriptor, v->image->meta, v->image->meta_size);
	v->arena.limit = 0;
	if (v->meta)
		return 0;
	*e = v->damage;
	return -1;
}

int view_open(struct view *v, struct err *e)
{
	int r = core_open(v->path, VERIFY_NONE, &v->arena, &v->image, &v->meta, e);

	if (r < 0)
		v->image = NULL; /* closed already */
	if (r < 0 && v->salvage && e->reason == ERR_IMAGE)
		r = view_salvage(v, e);
	if (r < 0)
		return r;
	return view_count_memory(v) < 0 || view_find_holders(v) < 0 ? err_nomem(e) : 0;
}

void view_close(struct view *v)
{
	image_close(v->image);
	arena_done(&v->arena);
}
