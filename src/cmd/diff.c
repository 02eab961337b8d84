/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor diff: what changed between two images of one program, by task: threads,
 * file descriptors, mappings, and pages, whose contents are compared.
 */

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "cmd/cmd.h"
#include "cmd/view.h"
#include "proc/maps.h"
#include "util/fd.h"

enum { PAGE = IMAGE_PAGE, CHUNK = 64 * PAGE };

/* Pages of one mapping, or of all. */
struct diff_pages {
	uint64_t changed, added, gone, same;
};

struct diff {
	struct view a, b;
	char *page_a, *page_b; /* CHUNK bytes each */
	struct image_cursor cursor_a, cursor_b;
	struct diff_pages pages; /* of all */
	size_t changes;        /* lines that told of one */
};

/* ---- lines ---- */

static void diff_line(struct diff *d, char sign, const char *what)
{
	printf("  %c %s", sign, what);
	d->changes++;
}

/* ---- pages ---- */

/* Stored in both: `ra` and `rb` hold all from `addr` on. */
static int diff_compare(struct diff *d, const struct image_run *ra, const struct image_run *rb, uint64_t addr, uint64_t size,
			struct diff_pages *p, struct err *e)
{
	while (size) {
		size_t n = size < CHUNK ? size : CHUNK;

		if (image_cursor_read(&d->cursor_a, ra, addr - ra->addr, d->page_a, n, e) < 0 ||
		    image_cursor_read(&d->cursor_b, rb, addr - rb->addr, d->page_b, n, e) < 0)
			return -1;
		for (size_t at = 0; at < n; at += PAGE) {
			if (memcmp(d->page_a + at, d->page_b + at, PAGE) == 0)
				p->same++;
			else
				p->changed++;
		}
		addr += n, size -= n;
	}
	return 0;
}

static uint64_t diff_run_end(const struct image_run *run)
{
	return run->addr + (uint64_t)run->pages * PAGE;
}

/* The runs of both, side by side, cut where either begins or ends. */
static int diff_stretch(struct diff *d, uint32_t owner_a, uint32_t owner_b, uint64_t start, uint64_t end, struct diff_pages *p,
			struct err *e)
{
	size_t na, nb;
	const struct image_run *ra = image_runs_from(d->a.image, owner_a, start, &na);
	const struct image_run *rb = image_runs_from(d->b.image, owner_b, start, &nb);

	for (uint64_t at = start, next; at < end; at = next) {
		bool in_a, in_b;

		for (; na && diff_run_end(ra) <= at; ra++)
			na--;
		for (; nb && diff_run_end(rb) <= at; rb++)
			nb--;
		in_a = na && ra->addr <= at;
		in_b = nb && rb->addr <= at;
		next = end;
		if (na && (in_a ? diff_run_end(ra) : ra->addr) < next)
			next = in_a ? diff_run_end(ra) : ra->addr;
		if (nb && (in_b ? diff_run_end(rb) : rb->addr) < next)
			next = in_b ? diff_run_end(rb) : rb->addr;
		if (in_a && in_b && diff_compare(d, ra, rb, at, next - at, p, e) < 0)
			return -1;
		p->gone += in_a && !in_b ? (next - at) / PAGE : 0;
		p->added += in_b && !in_a ? (next - at) / PAGE : 0;
	}
	return 0;
}

static void diff_print_pages(struct diff *d, const struct diff_pages *p)
{
	d->pages.changed += p->changed;
	d->pages.added += p->added;
	d->pages.gone += p->gone;
	d->pages.same += p->same;
	printf("pages: %lu changed, %lu new, %lu gone, %lu the same", p->changed, p->added, p->gone, p->same);
}

static bool diff_pages_differ(const struct diff_pages *p)
{
	return p->changed || p->added || p->gone;
}

/* ---- mappings ---- */

static const Pb__Mapping *diff_find_mapping(const Pb__AddressSpace *s, uint64_t start)
{
	size_t low = 0, high = s->n_mappings;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (s->mappings[middle]->start < start)
			low = middle + 1;
		else
			high = middle;
	}
	return low < s->n_mappings && s->mappings[low]->start == start ? s->mappings[low] : NULL;
}

static void diff_print_mapping(struct view *v, const Pb__Mapping *m)
{
	printf("mapping %lx-%lx %c%c%c%c %s", m->start, m->end, m->prot & PROT_READ ? 'r' : '-', m->prot & PROT_WRITE ? 'w' : '-',
	       m->prot & PROT_EXEC ? 'x' : '-', m->flags & VM_FLAG_SHARED ? 's' : 'p',
	       m->name && m->name[0] ? view_path(v, m->name) : "anonymous");
}

static bool diff_same_mapping(const Pb__Mapping *a, const Pb__Mapping *b)
{
	return a->end == b->end && a->prot == b->prot && a->kind == b->kind && a->flags == b->flags &&
	       strcmp(a->name ?: "", b->name ?: "") == 0;
}

/* One that is there in both, and its pages as far as it reached and reaches. */
static int diff_mapping(struct diff *d, const Pb__Task *ta, const Pb__Task *tb, const Pb__Mapping *a, const Pb__Mapping *b,
			struct err *e)
{
	const uint64_t end = a->end > b->end ? a->end : b->end;
	struct diff_pages p = { 0 };

	if (diff_stretch(d, IMAGE_OWNER_SPACE(ta->space), IMAGE_OWNER_SPACE(tb->space), a->start, end, &p, e) < 0)
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
static void diff_lone_mapping(struct diff *d, struct view *v, const Pb__Task *t, size_t i, bool is_new)
{
	uint64_t stored = v->mapping_bytes[t->space][i] / PAGE;
	const struct diff_pages p = { .added = is_new ? stored : 0, .gone = is_new ? 0 : stored };

	diff_line(d, is_new ? '+' : '-', "");
	diff_print_mapping(v, v->meta->spaces[t->space]->mappings[i]);
	printf("; ");
	diff_print_pages(d, &p);
	putchar('\n');
}

static int diff_space(struct diff *d, const Pb__Task *ta, const Pb__Task *tb, struct err *e)
{
	const Pb__AddressSpace *a = d->a.meta->spaces[ta->space], *b = d->b.meta->spaces[tb->space];

	for (size_t i = 0; i < a->n_mappings; i++) {
		const Pb__Mapping *other = diff_find_mapping(b, a->mappings[i]->start);

		if (!other)
			diff_lone_mapping(d, &d->a, ta, i, false);
		else if (diff_mapping(d, ta, tb, a->mappings[i], other, e) < 0)
			return -1;
	}
	for (size_t i = 0; i < b->n_mappings; i++)
		if (!diff_find_mapping(a, b->mappings[i]->start))
			diff_lone_mapping(d, &d->b, tb, i, true);
	return 0;
}

/* ---- file descriptors ---- */

static const Pb__Slot *diff_find_slot(const Pb__Task *t, uint32_t fd)
{
	for (size_t i = 0; i < t->n_slots; i++)
		if (t->slots[i]->fd == fd)
			return t->slots[i];
	return NULL;
}

static void diff_print_object(struct view *v, uint32_t object)
{
	printf("%s %s", view_kind_name(v->meta->objects[object]), view_path(v, view_describe(v, object)));
}

static void diff_slot(struct diff *d, const Pb__Slot *a, const Pb__Slot *b)
{
	const Pb__Object *x = d->a.meta->objects[a->object], *y = d->b.meta->objects[b->object];
	bool same_kind = x->kind == y->kind;
	bool same_look = same_kind && strcmp(view_describe(&d->a, a->object), view_describe(&d->b, b->object)) == 0;
	bool same_body = x->body.len == y->body.len && memcmp(x->body.data, y->body.data, x->body.len) == 0;

	if (same_look && same_body)
		return;
	diff_line(d, '~', "");
	printf("fd %u ", b->fd);
	diff_print_object(&d->b, b->object);
	if (same_look) {
		puts(", in another state");
		return;
	}
	printf(", was ");
	diff_print_object(&d->a, a->object);
	putchar('\n');
}

static void diff_lone_slot(struct diff *d, struct view *v, const Pb__Slot *s, char sign)
{
	diff_line(d, sign, "");
	printf("fd %u ", s->fd);
	diff_print_object(v, s->object);
	putchar('\n');
}

static void diff_slots(struct diff *d, const Pb__Task *a, const Pb__Task *b)
{
	for (size_t i = 0; i < a->n_slots; i++) {
		const Pb__Slot *other = diff_find_slot(b, a->slots[i]->fd);

		if (other)
			diff_slot(d, a->slots[i], other);
		else
			diff_lone_slot(d, &d->a, a->slots[i], '-');
	}
	for (size_t i = 0; i < b->n_slots; i++)
		if (!diff_find_slot(a, b->slots[i]->fd))
			diff_lone_slot(d, &d->b, b->slots[i], '+');
}

/* ---- tasks and threads ---- */

static bool diff_has_thread(const Pb__Task *t, int32_t tid)
{
	for (size_t i = 0; i < t->n_threads; i++)
		if (t->threads[i]->tid == tid)
			return true;
	return false;
}

static void diff_threads(struct diff *d, struct view *v, const Pb__Task *t, const Pb__Task *other, char sign)
{
	for (size_t i = 0; i < t->n_threads; i++) {
		if (diff_has_thread(other, t->threads[i]->tid))
			continue;
		diff_line(d, sign, "");
		printf("thread %d %s\n", t->threads[i]->tid, view_name(v, t->threads[i]->comm));
	}
}

static void diff_identity(struct diff *d, const Pb__Task *a, const Pb__Task *b)
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
	if (a->cwd && b->cwd && strcmp(a->cwd->path, b->cwd->path) != 0) {
		diff_line(d, '~', "");
		printf("working folder %s, was %s\n", view_path(&d->b, b->cwd->path), view_path(&d->a, a->cwd->path));
	}
}

static int diff_task(struct diff *d, const Pb__Task *a, const Pb__Task *b, struct err *e)
{
	bool living = a->state != PB__TASK_STATE__ZOMBIE && b->state != PB__TASK_STATE__ZOMBIE;

	printf("\n%d %s\n", b->pid, view_name(&d->b, b->comm));
	diff_identity(d, a, b);
	diff_threads(d, &d->a, a, b, '-');
	diff_threads(d, &d->b, b, a, '+');
	diff_slots(d, a, b);
	return living ? diff_space(d, a, b, e) : 0;
}

static const Pb__Task *diff_find_task(const struct view *v, int32_t pid)
{
	for (size_t i = 0; i < v->meta->n_tasks; i++)
		if (v->meta->tasks[i]->pid == pid)
			return v->meta->tasks[i];
	return NULL;
}

static void diff_lone_task(struct diff *d, struct view *v, const Pb__Task *t, bool is_new)
{
	d->changes++;
	printf("\n%c %d %s, a child of %d, %s\n", is_new ? '+' : '-', t->pid, view_name(v, t->comm), t->ppid,
	       view_bytes(v, t->has_space ? v->space_bytes[t->space] : 0));
}

static int diff_tasks(struct diff *d, struct err *e)
{
	for (size_t i = 0; i < d->a.meta->n_tasks; i++) {
		const Pb__Task *a = d->a.meta->tasks[i], *b = diff_find_task(&d->b, a->pid);

		if (!b)
			diff_lone_task(d, &d->a, a, false);
		else if (diff_task(d, a, b, e) < 0)
			return -1;
	}
	for (size_t i = 0; i < d->b.meta->n_tasks; i++)
		if (!diff_find_task(&d->a, d->b.meta->tasks[i]->pid))
			diff_lone_task(d, &d->b, d->b.meta->tasks[i], true);
	return 0;
}

/* ---- shared memory and other content of files ---- */

static int diff_inodes(struct diff *d, struct err *e)
{
	for (uint32_t i = 0; i < d->b.meta->n_inodes; i++) {
		const Pb__Inode *b = d->b.meta->inodes[i];
		struct diff_pages p = { 0 };

		for (uint32_t k = 0; b->has_content && k < d->a.meta->n_inodes; k++) {
			const Pb__Inode *a = d->a.meta->inodes[k];
			uint64_t size = a->size > b->size ? a->size : b->size;

			if (!a->has_content || a->kind != b->kind || a->dev != b->dev || a->ino != b->ino ||
			    strcmp(a->path, b->path) != 0)
				continue;
			if (diff_stretch(d, IMAGE_OWNER_INODE(k), IMAGE_OWNER_INODE(i), 0, (size + PAGE - 1) & ~(uint64_t)(PAGE - 1),
					 &p, e) < 0)
				return -1;
			if (diff_pages_differ(&p)) {
				printf("\n");
				diff_line(d, '~', "content of ");
				printf("%s; ", view_path(&d->b, b->path));
				diff_print_pages(d, &p);
				putchar('\n');
			}
			break;
		}
	}
	return 0;
}

/* ---- the command ---- */

static int diff_all(struct diff *d, struct err *e)
{
	const Pb__Machine *a = d->a.meta->machine, *b = d->b.meta->machine;
	struct diff_pages all;

	printf("from %s to %s", view_path(&d->a, d->a.path), view_path(&d->b, d->b.path));
	if (a->boot_id && b->boot_id && strcmp(a->boot_id, b->boot_id) == 0)
		printf(", %.1f s later", (double)(b->monotonic_ns - a->monotonic_ns) / 1e9);
	putchar('\n');
	if (diff_tasks(d, e) < 0 || diff_inodes(d, e) < 0)
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
	struct err e = ERR_INIT;
	bool tells = argc > 1 && strcmp(argv[1], "--exit-code") == 0;
	int r;

	(void)g;
	argc -= tells;
	argv += tells;
	if (argc != 3 || argv[1][0] == '-' || argv[2][0] == '-')
		return cmd_usage(&cmd_diff, "two images, and nothing else");
	d.a.path = argv[1];
	d.b.path = argv[2];
	r = view_open(&d.a, &e);
	if (r == 0)
		r = view_open(&d.b, &e);
	if (r == 0) {
		d.cursor_a.img = d.a.image;
		d.cursor_b.img = d.b.image;
		d.page_a = arena_alloc(&d.a.arena, CHUNK);
		d.page_b = arena_alloc(&d.b.arena, CHUNK);
		r = d.page_a && d.page_b ? diff_all(&d, &e) : err_nomem(&e);
	}
	fflush(stdout);
	image_cursor_done(&d.cursor_a);
	image_cursor_done(&d.cursor_b);
	view_close(&d.a);
	view_close(&d.b);
	return r < 0 ? cmd_fail(&e) : tells && d.changes;
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
