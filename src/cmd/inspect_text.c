/* SPDX-License-Identifier: Apache-2.0 */

/* torpor inspect for people: head, processes, file descriptors, time. */

#include "cmd/inspect.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "cmd/text.h"
#include "image/timing.h"

enum {
	LINE_MAX_SHOWN = 100, /* characters of a command line */
	FDS_SHOWN = 40,       /* per task */
	HOLDERS_SHOWN = 3,
	BAR_WIDTH = 24,
};

void inspect_print_bar(uint64_t part, uint64_t whole)
{
	const char *full = text_utf8() ? "█" : "#", *empty = text_utf8() ? "░" : ".";
	int n = whole ? (int)((double)part / (double)whole * BAR_WIDTH + 0.5) : 0;

	for (int i = 0; i < BAR_WIDTH; i++)
		fputs(i < n ? full : empty, stdout);
}

/* ---- head ---- */

static void inspect_print_time(int64_t ns)
{
	time_t t = (time_t)(ns / 1000000000);
	char text[64];
	struct tm tm;

	if (localtime_r(&t, &tm) && strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S %z", &tm))
		printf("%s", text);
}

static void inspect_print_taken(struct view *v)
{
	const Pb__Machine *m = v->meta->machine;
	const struct passwd *user = m->has_uid ? getpwuid(m->uid) : NULL;

	printf("taken      ");
	if (m->has_realtime_ns)
		inspect_print_time(m->realtime_ns);
	printf(" on %s (%s, Linux %s)", view_name(v, m->hostname), view_name(v, m->arch), view_name(v, m->kernel_release));
	if (m->has_uid)
		printf(" by user %u%s%s%s", m->uid, user ? " (" : "", user ? view_name(v, user->pw_name) : "", user ? ")" : "");
	printf(", torpor %s\n", view_name(v, m->torpor_version));
}

static void inspect_print_head(struct view *v)
{
	size_t tasks = v->meta->n_tasks, threads = view_count_threads(v);

	printf("%s: %s, %zu process%s, %zu thread%s%s\n", view_path(v, v->path), view_bytes(v, v->image->size), tasks,
	       tasks == 1 ? "" : "es", threads, threads == 1 ? "" : "s", v->damage.reason ? " (DAMAGED)" : "");
	inspect_print_taken(v);
}

/* ---- tree ---- */

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

static void inspect_print_task(struct inspect *s, const Pb__Task *t)
{
	struct view *v = s->v;

	printf("%d %s", t->pid, view_name(v, t->comm));
	inspect_print_state(t);
	if (t->n_threads)
		printf(", %zu thread%s", t->n_threads, t->n_threads == 1 ? "" : "s");
	if (t->has_space && t->space < v->meta->n_spaces)
		printf(", %s", view_bytes(v, v->space_bytes[t->space]));
	if (t->cmdline && t->cmdline[0])
		printf("  %s", text_safe(&v->arena, t->cmdline, s->everything ? PATH_MAX_SHOWN * 8 : LINE_MAX_SHOWN));
	putchar('\n');
}

static void inspect_print_threads(struct inspect *s, const Pb__Task *t, const char *indent)
{
	if (!(s->parts & INSPECT_THREADS))
		return;
	for (size_t i = 0; i < t->n_threads; i++)
		printf("  %s    thread %d %s\n", indent, t->threads[i]->tid, view_name(s->v, t->threads[i]->comm));
}

/* The lines that lead to a task: one bar for each of its ancestors that has more children to come. */
static void inspect_indent(const struct view_tree *t, const uint32_t *path, size_t depth, uint32_t at, char *buf, size_t size)
{
	const bool utf8 = text_utf8();
	size_t used = 0;

	for (size_t i = 1; i <= depth; i++) {
		bool more = t->sibling[i == depth ? at : path[i]];
		const char *bar = i == depth ? (utf8 ? more ? "├─ " : "└─ " : more ? "|- " : "`- ")
					     : (more ? utf8 ? "│  " : "|  " : "   ");

		used += (size_t)snprintf(buf + used, size - used, "%s", bar);
	}
	buf[used] = '\0';
}

/* Depth first, without recursion: an image may hold a chain of any length. */
static int inspect_print_tree(struct inspect *s)
{
	struct view *v = s->v;
	struct view_tree t;
	uint32_t *path = arena_alloc(&v->arena, (v->meta->n_tasks + 1) * sizeof(*path));
	size_t depth = 0, size = (v->meta->n_tasks + 1) * 8 + 8;
	char *indent = arena_alloc(&v->arena, size);

	if (!path || !indent || !view_find_children(v, &t))
		return -ENOMEM;
	puts("\nprocesses (PID, name, state, threads, memory stored)");
	for (uint32_t at = 0; v->meta->n_tasks;) {
		inspect_indent(&t, path, depth, at, indent, size);
		if (inspect_shows(s, at)) {
			printf("  %s", s->task == SIZE_MAX ? indent : "");
			inspect_print_task(s, v->meta->tasks[at]);
			inspect_print_threads(s, v->meta->tasks[at], s->task == SIZE_MAX ? indent : "");
		}
		path[depth] = at;
		if (t.child[at]) {
			at = t.child[at];
			depth++;
			continue;
		}
		while (depth && !t.sibling[path[depth]])
			depth--;
		if (!depth)
			break;
		at = t.sibling[path[depth]];
	}
	return 0;
}

/* ---- file descriptors ---- */

/* " [same as 4712 fd 3]": the other slots of the same object. */
static void inspect_print_holders(const struct view *v, uint32_t object, size_t task, uint32_t fd)
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

/* " <-> 4712 fd 3": who has the other end of a pipe, connection or terminal. */
static void inspect_print_other_end(const struct view *v, uint32_t object, size_t task)
{
	const struct view_end *end = view_end_of(v, object);
	size_t n, shown = 0;
	const struct view_end *others = end ? view_other_ends(v, end, &n) : NULL;

	for (size_t i = 0; others && i < n; i++) {
		size_t from = v->first_holder[others[i].object], to = v->first_holder[others[i].object + 1];

		for (size_t k = from; k < to; k++) {
			if (shown == HOLDERS_SHOWN) {
				printf(" ...");
				return;
			}
			printf("%s", shown++ ? ", " : text_utf8() ? "  ⇄ " : "  <-> ");
			if (v->holders[k].task != task)
				printf("%d ", v->meta->tasks[v->holders[k].task]->pid);
			printf("fd %u", v->holders[k].fd);
		}
	}
}

static void inspect_print_fds(struct inspect *s, size_t task)
{
	struct view *v = s->v;
	const Pb__Task *t = v->meta->tasks[task];

	if (!t->n_slots || !inspect_shows(s, task))
		return;
	printf("  %d %s\n", t->pid, view_name(v, t->comm));
	for (size_t i = 0; i < t->n_slots; i++) {
		const uint32_t fd = t->slots[i]->fd, object = t->slots[i]->object;

		if (!s->everything && i == FDS_SHOWN) {
			printf("         and %zu more (--fds shows them)\n", t->n_slots - i);
			return;
		}
		if (object >= v->meta->n_objects)
			continue;
		printf("    %4u %-12s %s", fd, view_kind_name(v->meta->objects[object]), view_path(v, view_describe(v, object)));
		inspect_print_other_end(v, object, task);
		inspect_print_holders(v, object, task, fd);
		putchar('\n');
	}
}

/* ---- where the time went ---- */

static void inspect_print_step(const char *what, uint64_t ns, uint64_t total)
{
	printf("  %-22s %9.1f ms  ", what, (double)ns / 1e6);
	inspect_print_bar(ns, total);
	putchar('\n');
}

static void inspect_print_last_restore(const struct view *v)
{
	struct image_timing t;
	uint64_t all = 0;

	if (!image_timing_read(v->image->fd, &t))
		return;
	for (int i = 0; i < IMAGE_PHASES; i++)
		all += t.phase_ns[i];
	printf("\ntime of the last restore (%.1f ms)\n", (double)all / 1e6);
	for (int i = 0; i < IMAGE_PHASES; i++)
		inspect_print_step(image_phase_name((enum image_phase)i), t.phase_ns[i], all);
}

static void inspect_print_stats(const Pb__DumpStats *s)
{
	uint64_t known;

	if (!s || !s->total_ns)
		return;
	known = s->collect_ns + s->memory_ns;
	printf("\ntime (the tree stood still for %.1f ms)\n", (double)s->frozen_ns / 1e6);
	inspect_print_step("looking", s->collect_ns, s->total_ns);
	inspect_print_step("copying memory", s->memory_ns, s->total_ns);
	inspect_print_step("stopping and the rest", s->total_ns > known ? s->total_ns - known : 0, s->total_ns);
}

/* ---- all of it ---- */

int inspect_print(struct inspect *s)
{
	struct view *v = s->v;
	int r = view_find_ends(v);

	inspect_print_head(v);
	if (r == 0 && s->parts & INSPECT_TREE)
		r = inspect_print_tree(s);
	if (s->parts & INSPECT_FDS)
		puts("\nfile descriptors");
	for (size_t i = 0; r == 0 && s->parts & INSPECT_FDS && i < v->meta->n_tasks; i++)
		inspect_print_fds(s, i);
	if (s->parts & INSPECT_FDS && s->task == SIZE_MAX)
		inspect_print_ipc(v->meta);
	if (r == 0 && s->parts & INSPECT_MEMORY)
		r = inspect_print_memory(s);
	if (r == 0 && s->parts & INSPECT_MAPS)
		r = inspect_print_maps(s);
	if (s->parts & INSPECT_TIME && s->task == SIZE_MAX) {
		inspect_print_stats(v->meta->stats);
		inspect_print_last_restore(v);
	}
	return r;
}
