/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor diff: what changed between two images of one program, by task: threads,
 * file descriptors, mappings, and pages, whose contents are compared.
 */

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/view.h"

struct diff {
	struct view a, b;
	struct torpor_pages pages; /* of all */
	size_t changes;            /* lines that told of one */
	struct torpor_error *error;
};

/* ---- lines ---- */

static void diff_line(struct diff *d, char sign, const char *what)
{
	printf("  %c %s", sign, what);
	d->changes++;
}

/* ---- pages ---- */

static void diff_print_pages(struct diff *d, const struct torpor_pages *p)
{
	d->pages.changed += p->changed;
	d->pages.added += p->added;
	d->pages.gone += p->gone;
	d->pages.same += p->same;
	printf("pages: %lu changed, %lu new, %lu gone, %lu the same", p->changed, p->added, p->gone, p->same);
}

static bool diff_pages_differ(const struct torpor_pages *p)
{
	return p->changed || p->added || p->gone;
}

/* ---- mappings ---- */

static const struct torpor_mapping *diff_find_mapping(const struct view *v, size_t space, uint64_t start)
{
	size_t low = 0, n = torpor_image_space(v->image, space)->mappings, high = n;
	const struct torpor_mapping *m;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (torpor_image_mapping(v->image, space, middle)->start < start)
			low = middle + 1;
		else
			high = middle;
	}
	m = torpor_image_mapping(v->image, space, low);
	return m && m->start == start ? m : NULL;
}

static void diff_print_mapping(struct view *v, const struct torpor_mapping *m)
{
	char access[5];

	printf("mapping %lx-%lx %s %s", m->start, m->end, view_access(m, access),
	       m->name && m->name[0] ? view_path(v, m->name) : "anonymous");
}

static bool diff_same_mapping(const struct torpor_mapping *a, const struct torpor_mapping *b)
{
	return a->end == b->end && a->prot == b->prot && a->memory == b->memory && a->flags == b->flags &&
	       strcmp(a->name ?: "", b->name ?: "") == 0;
}

/* One that is there in both, and its pages as far as it reached and reaches. */
static int diff_mapping(struct diff *d, size_t space_a, size_t space_b, const struct torpor_mapping *a, const struct torpor_mapping *b)
{
	const uint64_t end = a->end > b->end ? a->end : b->end;
	struct torpor_pages p = { 0 };

	if (torpor_compare_spaces(d->a.image, space_a, d->b.image, space_b, a->start, end, &p, &d->error) < 0)
		return -1;
	if (diff_same_mapping(a, b) && !diff_pages_differ(&p)) {
		d->pages.same += p.same;
		return 0;
	}
	diff_line(d, '~', "");
	diff_print_mapping(&d->b, b);
	if (!diff_same_mapping(a, b)) {
		printf(", was ");
		diff_print_mapping(&d->a, a);
	}
	printf("; ");
	diff_print_pages(d, &p);
	putchar('\n');
	return 0;
}

/* One that is there in one of them only. */
static void diff_lone_mapping(struct diff *d, struct view *v, const struct torpor_mapping *m, bool is_new)
{
	uint64_t stored = m->stored_bytes / PAGE;
	const struct torpor_pages p = { .added = is_new ? stored : 0, .gone = is_new ? 0 : stored };

	diff_line(d, is_new ? '+' : '-', "");
	diff_print_mapping(v, m);
	printf("; ");
	diff_print_pages(d, &p);
	putchar('\n');
}

static int diff_space(struct diff *d, size_t space_a, size_t space_b)
{
	const struct torpor_mapping *m, *other;

	for (size_t i = 0; (m = torpor_image_mapping(d->a.image, space_a, i)); i++) {
		other = diff_find_mapping(&d->b, space_b, m->start);
		if (!other)
			diff_lone_mapping(d, &d->a, m, false);
		else if (diff_mapping(d, space_a, space_b, m, other) < 0)
			return -1;
	}
	for (size_t i = 0; (m = torpor_image_mapping(d->b.image, space_b, i)); i++)
		if (!diff_find_mapping(&d->a, space_a, m->start))
			diff_lone_mapping(d, &d->b, m, true);
	return 0;
}

/* ---- file descriptors ---- */

static const struct torpor_slot *diff_find_slot(const struct view *v, size_t task, int fd)
{
	const struct torpor_slot *slot;

	for (size_t i = 0; (slot = torpor_image_slot(v->image, task, i)); i++)
		if (slot->fd == fd)
			return slot;
	return NULL;
}

static void diff_print_object(struct view *v, const struct torpor_slot *slot)
{
	printf("%s %s", torpor_image_object(v->image, (size_t)slot->object)->kind, view_object(v, (size_t)slot->object));
}

static void diff_slot(struct diff *d, const struct torpor_slot *a, const struct torpor_slot *b)
{
	const struct torpor_object *x = torpor_image_object(d->a.image, (size_t)a->object);
	const struct torpor_object *y = torpor_image_object(d->b.image, (size_t)b->object);
	bool same_kind = strcmp(x->kind, y->kind) == 0;
	bool same_look = same_kind && strcmp(torpor_image_describe(d->a.image, (size_t)a->object),
					     torpor_image_describe(d->b.image, (size_t)b->object)) == 0;
	bool same_state = x->state_size == y->state_size && memcmp(x->state, y->state, x->state_size) == 0;

	if (same_look && same_state)
		return;
	diff_line(d, '~', "");
	printf("fd %d ", b->fd);
	diff_print_object(&d->b, b);
	if (same_look) {
		puts(", in another state");
		return;
	}
	printf(", was ");
	diff_print_object(&d->a, a);
	putchar('\n');
}

static void diff_lone_slot(struct diff *d, struct view *v, const struct torpor_slot *s, char sign)
{
	diff_line(d, sign, "");
	printf("fd %d ", s->fd);
	diff_print_object(v, s);
	putchar('\n');
}

static void diff_slots(struct diff *d, size_t a, size_t b)
{
	const struct torpor_slot *slot, *other;

	for (size_t i = 0; (slot = torpor_image_slot(d->a.image, a, i)); i++) {
		other = diff_find_slot(&d->b, b, slot->fd);
		if (other)
			diff_slot(d, slot, other);
		else
			diff_lone_slot(d, &d->a, slot, '-');
	}
	for (size_t i = 0; (slot = torpor_image_slot(d->b.image, b, i)); i++)
		if (!diff_find_slot(&d->a, a, slot->fd))
			diff_lone_slot(d, &d->b, slot, '+');
}

/* ---- tasks and threads ---- */

static bool diff_has_thread(const struct view *v, size_t task, int tid)
{
	const struct torpor_thread *thread;

	for (size_t i = 0; (thread = torpor_image_thread(v->image, task, i)); i++)
		if (thread->tid == tid)
			return true;
	return false;
}

/* Threads of a task in `v` that the other one has not. */
static void diff_threads(struct diff *d, struct view *v, size_t task, const struct view *other, size_t other_task, char sign)
{
	const struct torpor_thread *thread;

	for (size_t i = 0; (thread = torpor_image_thread(v->image, task, i)); i++) {
		if (diff_has_thread(other, other_task, thread->tid))
			continue;
		diff_line(d, sign, "");
		printf("thread %d %s\n", thread->tid, view_name(v, thread->comm));
	}
}

static void diff_identity(struct diff *d, const struct torpor_task *a, const struct torpor_task *b)
{
	if (strcmp(a->comm ?: "", b->comm ?: "") != 0) {
		diff_line(d, '~', "");
		printf("name %s, was %s\n", view_name(&d->b, b->comm), view_name(&d->a, a->comm));
	}
	if (strcmp(a->cmdline ?: "", b->cmdline ?: "") != 0) {
		diff_line(d, '~', "");
		printf("command line %s, was %s\n", view_path(&d->b, b->cmdline), view_path(&d->a, a->cmdline));
	}
	if (a->state != b->state)
		diff_line(d, '~', "state\n");
	if (a->cwd && b->cwd && strcmp(a->cwd, b->cwd) != 0) {
		diff_line(d, '~', "");
		printf("working folder %s, was %s\n", view_path(&d->b, b->cwd), view_path(&d->a, a->cwd));
	}
}

static int diff_task(struct diff *d, size_t at, size_t bt)
{
	const struct torpor_task *a = view_task(&d->a, at), *b = view_task(&d->b, bt);

	printf("\n%d %s\n", b->pid, view_name(&d->b, b->comm));
	diff_identity(d, a, b);
	diff_threads(d, &d->a, at, &d->b, bt, '-');
	diff_threads(d, &d->b, bt, &d->a, at, '+');
	diff_slots(d, at, bt);
	return a->space >= 0 && b->space >= 0 ? diff_space(d, (size_t)a->space, (size_t)b->space) : 0;
}

/* SIZE_MAX: there is none. */
static size_t diff_find_task(const struct view *v, int pid)
{
	for (size_t i = 0; i < v->info->tasks; i++)
		if (view_task(v, i)->pid == pid)
			return i;
	return SIZE_MAX;
}

static void diff_lone_task(struct diff *d, struct view *v, const struct torpor_task *t, bool is_new)
{
	d->changes++;
	printf("\n%c %d %s, a child of %d, %s\n", is_new ? '+' : '-', t->pid, view_name(v, t->comm), t->ppid,
	       view_bytes(v, t->stored_bytes));
}

static int diff_tasks(struct diff *d)
{
	const struct torpor_task *t;

	for (size_t i = 0; (t = view_task(&d->a, i)); i++) {
		size_t other = diff_find_task(&d->b, t->pid);

		if (other == SIZE_MAX)
			diff_lone_task(d, &d->a, t, false);
		else if (diff_task(d, i, other) < 0)
			return -1;
	}
	for (size_t i = 0; (t = view_task(&d->b, i)); i++)
		if (diff_find_task(&d->a, t->pid) == SIZE_MAX)
			diff_lone_task(d, &d->b, t, true);
	return 0;
}

/* ---- shared memory and other content of files ---- */

/* The same file in the first image, with its content; SIZE_MAX: there is none. */
static size_t diff_find_inode(const struct view *v, const struct torpor_inode *b)
{
	const struct torpor_inode *a;

	for (size_t i = 0; (a = torpor_image_inode(v->image, i)); i++)
		if (a->has_content && a->kind == b->kind && a->dev == b->dev && a->ino == b->ino &&
		    strcmp(a->path ?: "", b->path ?: "") == 0)
			return i;
	return SIZE_MAX;
}

static int diff_inodes(struct diff *d)
{
	const struct torpor_inode *inode;

	for (size_t i = 0; (inode = torpor_image_inode(d->b.image, i)); i++) {
		size_t other = inode->has_content ? diff_find_inode(&d->a, inode) : SIZE_MAX;
		struct torpor_pages p = { 0 };

		if (other == SIZE_MAX)
			continue;
		if (torpor_compare_inodes(d->a.image, other, d->b.image, i, &p, &d->error) < 0)
			return -1;
		if (!diff_pages_differ(&p))
			continue;
		printf("\n");
		diff_line(d, '~', "content of ");
		printf("%s; ", view_path(&d->b, inode->path));
		diff_print_pages(d, &p);
		putchar('\n');
	}
	return 0;
}

/* ---- the command ---- */

static int diff_all(struct diff *d)
{
	const struct torpor_image_info *a = d->a.info, *b = d->b.info;
	struct torpor_pages all;

	printf("from %s to %s", view_path(&d->a, d->a.path), view_path(&d->b, d->b.path));
	if (a->boot_id && b->boot_id && strcmp(a->boot_id, b->boot_id) == 0)
		printf(", %.1f s later", (double)(b->monotonic_ns - a->monotonic_ns) / 1e9);
	putchar('\n');
	if (diff_tasks(d) < 0 || diff_inodes(d) < 0)
		return -1;
	all = d->pages;
	printf("\n%zu change%s; ", d->changes, d->changes == 1 ? "" : "s");
	diff_print_pages(d, &all);
	putchar('\n');
	return 0;
}

static int diff_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct diff d = { .changes = 0 };
	bool tells = argc > 1 && strcmp(argv[1], "--exit-code") == 0;
	int r;

	(void)g;
	argc -= tells;
	argv += tells;
	if (argc != 3 || argv[1][0] == '-' || argv[2][0] == '-')
		return cmd_usage(&cmd_diff, "two images, and nothing else");
	d.a.path = argv[1];
	d.b.path = argv[2];
	r = view_open(&d.a, 0, &d.error);
	if (r == 0)
		r = view_open(&d.b, 0, &d.error);
	if (r == 0)
		r = diff_all(&d);
	fflush(stdout);
	view_close(&d.a);
	view_close(&d.b);
	return r < 0 ? cmd_fail(d.error) : tells && d.changes;
}

const struct cmd cmd_diff = {
	.name = "diff",
	.usage = "diff [--exit-code] FILE FILE",
	.help = "Show what changed between two images of one program, by process: threads, file\n"
		"descriptors, mappings, and how many pages of each. The pages are compared.\n\n"
		"  +  only in the second    -  only in the first    ~  in both, and changed\n\n"
		"      --exit-code  exit with 1 where there are changes, not with 0\n",
	.run = diff_run,
};
