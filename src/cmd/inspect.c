/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor inspect: what is in an image, for people and (--json) for programs. It
 * needs the metadata and the memory index only; whether the pages themselves are
 * whole is the business of torpor verify.
 */

#include <errno.h>
#include <getopt.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "cmd/cmd.h"
#include "cmd/json.h"
#include "cmd/text.h"
#include "core/core.h"
#include "core/objects.h"
#include "proc/maps.h"

enum {
	NAME_MAX_SHOWN = 64,
	PATH_MAX_SHOWN = 512,
	LINE_MAX_SHOWN = 100, /* of a command line, unless -v */
	FDS_SHOWN = 40,       /* per task, unless -v */
	HOLDERS_SHOWN = 3,
	LARGEST_SHOWN = 8,
	DESCRIPTION_SIZE = 256,
	FORMAT = 1, /* of the JSON; see doc/inspect.schema.json */
};

/* Who refers to an object: a slot of a task. */
struct holder {
	uint32_t task, fd;
};

struct inspect {
	const char *path;
	struct arena arena;
	struct image *image;
	Pb__Image *meta;
	int verbose;
	uint64_t **mapping_bytes;   /* stored, of each mapping of each space */
	uint64_t *space_bytes, *inode_bytes;
	struct holder *holders;     /* ascending by object */
	size_t *first_holder;       /* of each object; one more at the end */
	const char **descriptions;  /* of each object, once somebody has asked */
	size_t space_at, mapping_at, inode_at, object_at; /* where the JSON writer is */
};

/* ---- reading ---- */

static uint64_t inspect_run_bytes(const struct image_run *run, uint64_t start, uint64_t end)
{
	uint64_t from = run->addr, to = run->addr + (uint64_t)run->pages * IMAGE_PAGE;

	if (from < start)
		from = start;
	if (to > end)
		to = end;
	return from < to ? to - from : 0;
}

/* Runs and mappings both ascend. */
static int inspect_count_space(struct inspect *v, uint32_t space)
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
			bytes[i] += inspect_run_bytes(&runs[k], m->start, m->end);
		v->space_bytes[space] += bytes[i];
	}
	v->mapping_bytes[space] = bytes;
	return 0;
}

static int inspect_count_memory(struct inspect *v)
{
	int r = 0;

	v->mapping_bytes = arena_alloc(&v->arena, (v->meta->n_spaces + 1) * sizeof(*v->mapping_bytes));
	v->space_bytes = arena_alloc(&v->arena, (v->meta->n_spaces + 1) * sizeof(*v->space_bytes));
	v->inode_bytes = arena_alloc(&v->arena, (v->meta->n_inodes + 1) * sizeof(*v->inode_bytes));
	if (!v->mapping_bytes || !v->space_bytes || !v->inode_bytes)
		return -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < v->meta->n_spaces; i++)
		r = inspect_count_space(v, i);
	for (uint32_t i = 0; i < v->meta->n_inodes; i++) {
		size_t n;
		const struct image_run *runs = image_runs_of(v->image, IMAGE_OWNER_INODE(i), &n);

		for (size_t k = 0; k < n; k++)
			v->inode_bytes[i] += (uint64_t)runs[k].pages * IMAGE_PAGE;
	}
	return r;
}

/* For each object, the slots that refer to it. Two passes: count, then place. */
static int inspect_find_holders(struct inspect *v)
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

static size_t inspect_count_threads(const struct inspect *v)
{
	size_t n = 0;

	for (size_t i = 0; i < v->meta->n_tasks; i++)
		n += v->meta->tasks[i]->n_threads;
	return n;
}

static const char *inspect_name(struct inspect *v, const char *s)
{
	return text_safe(&v->arena, s, NAME_MAX_SHOWN);
}

static const char *inspect_path(struct inspect *v, const char *s)
{
	return text_safe(&v->arena, s, PATH_MAX_SHOWN);
}

static const char *inspect_bytes(struct inspect *v, uint64_t bytes)
{
	char buf[32];

	return arena_strdup(&v->arena, cmd_format_bytes(buf, bytes)) ?: "?";
}

/* ---- objects ---- */

/* A message that refers to an inode of the image has a uint32 field of that name. */
static const char *inspect_inode_path(const struct inspect *v, const ProtobufCMessage *m)
{
	const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(m->descriptor, "inode");
	uint32_t index;

	if (!f || f->type != PROTOBUF_C_TYPE_UINT32 || f->label == PROTOBUF_C_LABEL_REPEATED)
		return NULL;
	index = *(const uint32_t *)((const char *)m + f->offset);
	return index < v->meta->n_inodes ? v->meta->inodes[index]->path : NULL;
}

/* The message of an object, in an arena of its own: many fds may refer to one, and it may hold megabytes. */
static ProtobufCMessage *inspect_unpack(const Pb__Object *o, struct arena *scratch)
{
	struct err e = ERR_INIT;

	*scratch = ARENA_INIT;
	scratch->limit = 64 * (o->body.len + 4096);
	return object_unpack(scratch, o, &e);
}

/* What the object is, beside its kind; untrusted text. */
static const char *inspect_describe(struct inspect *v, uint32_t object)
{
	const Pb__Object *o = v->meta->objects[object];
	const struct kind *kind = kind_by_tag(o->kind);
	char text[DESCRIPTION_SIZE] = "";
	struct arena scratch;
	ProtobufCMessage *m;
	const char *path;

	if (v->descriptions[object])
		return v->descriptions[object];
	m = inspect_unpack(o, &scratch);
	if (m && kind->describe)
		kind->describe(m, text, sizeof(text));
	path = m ? inspect_inode_path(v, m) : NULL;
	if (!m)
		v->descriptions[object] = "(damaged)";
	else if (path)
		v->descriptions[object] = arena_printf(&v->arena, text[0] ? "%s (%s)" : "%s", path, text);
	else
		v->descriptions[object] = arena_strdup(&v->arena, text);
	arena_done(&scratch);
	return v->descriptions[object] ?: "";
}

static const char *inspect_kind_name(const Pb__Object *o)
{
	const struct kind *kind = kind_by_tag(o->kind);

	return kind ? kind->name : "?";
}

/* ---- for people: head ---- */

static void inspect_print_time(int64_t ns)
{
	time_t t = (time_t)(ns / 1000000000);
	char text[64];
	struct tm tm;

	if (localtime_r(&t, &tm) && strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S %z", &tm))
		printf("%s", text);
}

static void inspect_print_taken(struct inspect *v)
{
	const Pb__Machine *m = v->meta->machine;
	const struct passwd *user = m->has_uid ? getpwuid(m->uid) : NULL;

	printf("taken      ");
	if (m->has_realtime_ns)
		inspect_print_time(m->realtime_ns);
	printf(" on %s (%s, Linux %s)", inspect_name(v, m->hostname), inspect_name(v, m->arch),
	       inspect_name(v, m->kernel_release));
	if (m->has_uid)
		printf(" by user %u%s%s%s", m->uid, user ? " (" : "", user ? inspect_name(v, user->pw_name) : "", user ? ")" : "");
	printf(", torpor %s\n", inspect_name(v, m->torpor_version));
}

static void inspect_print_stats(const Pb__DumpStats *s)
{
	if (!s)
		return;
	printf("frozen     %.1f ms (looking %.1f ms, copying memory %.1f ms)\n", (double)s->frozen_ns / 1e6,
	       (double)s->collect_ns / 1e6, (double)s->memory_ns / 1e6);
}

static void inspect_print_head(struct inspect *v)
{
	size_t tasks = v->meta->n_tasks, threads = inspect_count_threads(v);

	printf("%s: %s, %zu process%s, %zu thread%s\n", inspect_path(v, v->path), inspect_bytes(v, v->image->size), tasks,
	       tasks == 1 ? "" : "es", threads, threads == 1 ? "" : "s");
	inspect_print_taken(v);
	inspect_print_stats(v->meta->stats);
}

/* ---- for people: tree ---- */

static void inspect_print_state(const Pb__Task *t)
{
	int status = t->exit_status;

	if (t->state == PB__TASK_STATE__ZOMBIE && WIFEXITED(status))
		printf(", ended with status %d", WEXITSTATUS(status));
	else if (t->state == PB__TASK_STATE__ZOMBIE)
		printf(", ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else if (t->state == PB__TASK_STATE__STOPPED)
		printf(", stopped by signal %u (%s)", t->stop_signal, strsignal((int)t->stop_signal));
	else
		printf(", running");
}

static void inspect_print_task(struct inspect *v, const Pb__Task *t)
{
	printf("%d %s", t->pid, inspect_name(v, t->comm));
	inspect_print_state(t);
	if (t->n_threads)
		printf(", %zu thread%s", t->n_threads, t->n_threads == 1 ? "" : "s");
	if (t->has_space && t->space < v->meta->n_spaces)
		printf(", %s", inspect_bytes(v, v->space_bytes[t->space]));
	if (t->cmdline && t->cmdline[0])
		printf("  %s", text_safe(&v->arena, t->cmdline, v->verbose ? PATH_MAX_SHOWN * 8 : LINE_MAX_SHOWN));
	putchar('\n');
}

static void inspect_print_threads(struct inspect *v, const Pb__Task *t, const char *indent)
{
	if (!v->verbose || t->n_threads < 2)
		return;
	for (size_t i = 1; i < t->n_threads; i++)
		printf("%s    thread %d %s\n", indent, t->threads[i]->tid, inspect_name(v, t->threads[i]->comm));
}

/* The children of each task, as a list: first child and next sibling, by index; 0 is the root, so it ends a list. */
struct inspect_tree {
	uint32_t *child, *sibling;
};

static bool inspect_find_children(struct inspect *v, struct inspect_tree *t)
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

/* Depth first, without recursion: an image may hold a chain of any length. */
static int inspect_print_tree(struct inspect *v)
{
	const bool utf8 = text_utf8();
	struct inspect_tree t;
	uint32_t *path = arena_alloc(&v->arena, (v->meta->n_tasks + 1) * sizeof(*path));
	size_t depth = 0, size = (v->meta->n_tasks + 1) * 8 + 8;
	char *indent = arena_alloc(&v->arena, size);

	if (!path || !indent || !inspect_find_children(v, &t))
		return -ENOMEM;
	puts("\nprocesses (PID, name, state, threads, memory stored)");
	for (uint32_t at = 0;;) {
		size_t used = 0;

		for (size_t i = 1; i <= depth; i++) {
			bool more = t.sibling[i == depth ? at : path[i]];
			const char *bar = i == depth ? (utf8 ? more ? "├─ " : "└─ " : more ? "|- " : "`- ")
						     : (more ? utf8 ? "│  " : "|  " : "   ");

			used += (size_t)snprintf(indent + used, size - used, "%s", bar);
		}
		indent[used] = '\0';
		printf("  %s", indent);
		inspect_print_task(v, v->meta->tasks[at]);
		inspect_print_threads(v, v->meta->tasks[at], "  ");
		path[depth] = at;
		if (t.child[at]) {
			at = t.child[at];
			depth++;
			continue;
		}
		while (depth && !t.sibling[path[depth]])
			depth--;
		if (!depth)
			return 0;
		at = t.sibling[path[depth]];
	}
}

/* ---- for people: file descriptors ---- */

/* "also: 4712 fd 3": the other slots of the same object. */
static void inspect_print_holders(const struct inspect *v, uint32_t object, size_t task, uint32_t fd)
{
	size_t from = v->first_holder[object], to = v->first_holder[object + 1], shown = 0;

	if (to - from < 2)
		return;
	for (size_t i = from; i < to; i++) {
		const struct holder *h = &v->holders[i];

		if (h->task == task && h->fd == fd)
			continue;
		if (shown == HOLDERS_SHOWN) {
			printf(" and %zu more", to - from - 1 - shown);
			break;
		}
		printf("%s", shown++ ? ", " : "  [same as ");
		if (h->task != task)
			printf("%d ", v->meta->tasks[h->task]->pid);
		printf("fd %u", h->fd);
	}
	putchar(']');
}

static void inspect_print_fds(struct inspect *v, size_t task)
{
	const Pb__Task *t = v->meta->tasks[task];

	if (!t->n_slots)
		return;
	printf("  %d %s\n", t->pid, inspect_name(v, t->comm));
	for (size_t i = 0; i < t->n_slots; i++) {
		const Pb__Slot *s = t->slots[i];
		const Pb__Object *o;

		if (!v->verbose && i == FDS_SHOWN) {
			printf("         and %zu more (-v shows them)\n", t->n_slots - i);
			return;
		}
		if (s->object >= v->meta->n_objects)
			continue;
		o = v->meta->objects[s->object];
		printf("    %4u %-12s %s", s->fd, inspect_kind_name(o), inspect_path(v, inspect_describe(v, s->object)));
		inspect_print_holders(v, s->object, task, s->fd);
		putchar('\n');
	}
}

/* ---- for people: memory ---- */

enum memory_class { CLASS_ANON, CLASS_FILE, CLASS_SHARED, CLASS_NONE, CLASSES };

static enum memory_class inspect_class(const Pb__Mapping *m)
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

static void inspect_print_classes(struct inspect *v)
{
	static const char *const names[CLASSES] = { "anonymous", "private file", "shared", "reserved only" };
	struct {
		uint64_t n, mapped, stored;
	} sum[CLASSES + 1] = { { 0 } };

	for (size_t i = 0; i < v->meta->n_spaces; i++) {
		for (size_t k = 0; k < v->meta->spaces[i]->n_mappings; k++) {
			const Pb__Mapping *m = v->meta->spaces[i]->mappings[k];
			enum memory_class c = inspect_class(m);

			sum[c].n++;
			sum[c].mapped += m->end - m->start;
			sum[c].stored += v->mapping_bytes[i][k];
		}
	}
	for (size_t i = 0; i < v->meta->n_inodes; i++)
		sum[CLASS_SHARED].stored += v->inode_bytes[i];
	for (int c = 0; c < CLASSES; c++)
		if (sum[c].n || sum[c].stored)
			printf("  %-14s %6lu mappings  %10s mapped  %10s stored\n", names[c], sum[c].n,
			       inspect_bytes(v, sum[c].mapped), inspect_bytes(v, sum[c].stored));
}

static void inspect_print_skipped(struct inspect *v)
{
	const Pb__DumpStats *s = v->meta->stats;

	if (s)
		printf("  pages: %s stored, %s found to be zero and left out;\n"
		       "  untouched pages and unmodified pages of files are not even looked at\n",
		       inspect_bytes(v, s->pages_stored * IMAGE_PAGE), inspect_bytes(v, s->pages_zero * IMAGE_PAGE));
}

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

static struct stored *inspect_list_stored(struct inspect *v, size_t *ret_n)
{
	size_t room = v->meta->n_inodes + 1, n = 0;
	struct stored *list;

	for (size_t i = 0; i < v->meta->n_spaces; i++)
		room += v->meta->spaces[i]->n_mappings;
	list = arena_alloc(&v->arena, room * sizeof(*list));
	if (!list)
		return NULL;
	for (uint32_t i = 0; i < v->meta->n_spaces; i++)
		for (size_t k = 0; k < v->meta->spaces[i]->n_mappings; k++)
			if (v->mapping_bytes[i][k])
				list[n++] = (struct stored){ v->mapping_bytes[i][k], i, v->meta->spaces[i]->mappings[k] };
	for (uint32_t i = 0; i < v->meta->n_inodes; i++)
		if (v->inode_bytes[i])
			list[n++] = (struct stored){ v->inode_bytes[i], i, NULL };
	qsort(list, n, sizeof(*list), inspect_compare_stored);
	*ret_n = n;
	return list;
}

static int32_t inspect_pid_of_space(const struct inspect *v, uint32_t space)
{
	for (size_t i = 0; i < v->meta->n_tasks; i++)
		if (v->meta->tasks[i]->has_space && v->meta->tasks[i]->space == space)
			return v->meta->tasks[i]->pid;
	return 0;
}

static void inspect_print_mapping(struct inspect *v, const struct stored *s)
{
	const Pb__Mapping *m = s->mapping;

	printf("  %10s of %10s  %d %lx-%lx %c%c%c%c %s\n", inspect_bytes(v, s->bytes), inspect_bytes(v, m->end - m->start),
	       inspect_pid_of_space(v, s->index), m->start, m->end, m->prot & PROT_READ ? 'r' : '-',
	       m->prot & PROT_WRITE ? 'w' : '-', m->prot & PROT_EXEC ? 'x' : '-', m->flags & VM_FLAG_SHARED ? 's' : 'p',
	       m->name && m->name[0] ? inspect_path(v, m->name) : "anonymous");
}

static void inspect_print_inode(struct inspect *v, const struct stored *s)
{
	static const char *const kinds[] = { "copy of the file", "unlinked file", "memfd", "shared anonymous memory" };
	const Pb__Inode *n = v->meta->inodes[s->index];

	printf("  %10s of %10s  %s %s\n", inspect_bytes(v, s->bytes), inspect_bytes(v, n->size),
	       n->kind < sizeof(kinds) / sizeof(kinds[0]) ? kinds[n->kind] : "?", inspect_path(v, n->path));
}

static int inspect_print_memory(struct inspect *v)
{
	size_t n;
	struct stored *list = inspect_list_stored(v, &n);

	if (!list)
		return -ENOMEM;
	puts("\nmemory");
	inspect_print_classes(v);
	inspect_print_skipped(v);
	if (n)
		puts("\nlargest, as stored");
	for (size_t i = 0; i < n; i++) {
		if (!v->verbose && i == LARGEST_SHOWN) {
			printf("  and %zu more (-v shows them)\n", n - i);
			break;
		}
		if (list[i].mapping)
			inspect_print_mapping(v, &list[i]);
		else
			inspect_print_inode(v, &list[i]);
	}
	return 0;
}

static int inspect_print(struct inspect *v)
{
	inspect_print_head(v);
	if (inspect_print_tree(v) < 0)
		return -ENOMEM;
	puts("\nfile descriptors");
	for (size_t i = 0; i < v->meta->n_tasks; i++)
		inspect_print_fds(v, i);
	return inspect_print_memory(v);
}

/* ---- for programs ---- */

/* An object's body is the message of its kind, not a row of bytes. */
static bool inspect_write_field(void *data, struct json *j, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	struct arena scratch;
	ProtobufCMessage *body;

	(void)data;
	if (m->descriptor != &pb__object__descriptor || strcmp(f->name, "body") != 0)
		return false;
	body = inspect_unpack((const Pb__Object *)m, &scratch);
	if (body)
		json_message(j, body, NULL);
	arena_done(&scratch);
	return body != NULL;
}

static void inspect_write_object(struct inspect *v, struct json *j, const Pb__Object *o)
{
	size_t at = v->object_at++;

	json_put_string(j, "kind_name", inspect_kind_name(o));
	json_put_string(j, "description", inspect_describe(v, (uint32_t)at));
	json_key(j, "slots");
	json_open(j, '[');
	for (size_t i = v->first_holder[at]; i < v->first_holder[at + 1]; i++) {
		json_open(j, '{');
		json_put_u64(j, "task", v->holders[i].task);
		json_put_u64(j, "fd", v->holders[i].fd);
		json_close(j, '}');
	}
	json_close(j, ']');
}

/* The writer comes by in the order of the message: spaces with their mappings, inodes, objects. */
static void inspect_write_extra(void *data, struct json *j, const ProtobufCMessage *m)
{
	struct inspect *v = data;

	if (m->descriptor == &pb__mapping__descriptor) {
		json_put_u64(j, "stored_bytes", v->mapping_bytes[v->space_at][v->mapping_at++]);
	} else if (m->descriptor == &pb__address_space__descriptor) {
		json_put_u64(j, "stored_bytes", v->space_bytes[v->space_at++]);
		v->mapping_at = 0;
	} else if (m->descriptor == &pb__inode__descriptor) {
		json_put_u64(j, "stored_bytes", v->inode_bytes[v->inode_at++]);
	} else if (m->descriptor == &pb__object__descriptor) {
		inspect_write_object(v, j, (const Pb__Object *)m);
	}
}

static void inspect_write(struct inspect *v)
{
	const struct json_hooks hooks = { v, inspect_write_field, inspect_write_extra };
	struct json j = JSON_INIT(stdout);

	json_open(&j, '{');
	json_put_u64(&j, "format", FORMAT);
	json_key(&j, "file");
	json_open(&j, '{');
	json_put_string(&j, "path", v->path);
	json_put_u64(&j, "bytes", v->image->size);
	json_put_u64(&j, "metadata_bytes", v->image->meta_size);
	json_put_u64(&j, "extents", v->image->n_extents);
	json_put_u64(&j, "runs", v->image->n_runs);
	json_close(&j, '}');
	json_key(&j, "image");
	json_message(&j, &v->meta->base, &hooks);
	json_close(&j, '}');
}

/* ---- the command ---- */

static int inspect_open(struct inspect *v, struct err *e)
{
	int r = core_open(v->path, false, &v->arena, &v->image, &v->meta, e);

	if (r < 0)
		return r;
	return inspect_count_memory(v) < 0 || inspect_find_holders(v) < 0 ? err_nomem(e) : 0;
}

static int inspect_run(const struct cmd_globals *g, int argc, char **argv)
{
	static const struct option options[] = { { "json", no_argument, NULL, 'j' }, { 0 } };
	struct inspect v = { .verbose = g->verbose };
	struct err e = ERR_INIT;
	bool json = false;
	int c, r;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "-", options, NULL)) != -1) {
		if (c == 'j')
			json = true;
		else if (c == 1 && v.path)
			return cmd_usage(&cmd_inspect, "one image, not also '%s'", optarg);
		else if (c == 1)
			v.path = optarg;
		else
			return cmd_usage(&cmd_inspect, "unknown option: %s", argv[optind - 1]);
	}
	if (!v.path && optind < argc)
		v.path = argv[optind++];
	if (!v.path || optind < argc)
		return cmd_usage(&cmd_inspect, v.path ? "one image, and nothing else" : "the image is missing");
	r = inspect_open(&v, &e);
	if (r == 0 && json)
		inspect_write(&v);
	else if (r == 0 && inspect_print(&v) < 0)
		r = err_nomem(&e);
	image_close(v.image);
	arena_done(&v.arena);
	return r < 0 ? cmd_fail(&e) : 0;
}

const struct cmd cmd_inspect = {
	.name = "inspect",
	.usage = "inspect FILE [--json]",
	.help = "Show what is in an image: where and when it was taken, the processes as a tree, what their\n"
		"file descriptors refer to, and which memory is stored. Only the metadata is read; torpor\n"
		"verify checks the rest. Exit status 4 when the metadata is damaged.\n\n"
		"  -v, --verbose  all threads, file descriptors and mappings\n"
		"      --json     everything, for programs; see doc/inspect.schema.json\n",
	.run = inspect_run,
};
