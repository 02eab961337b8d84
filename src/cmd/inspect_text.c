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

/* What /etc/passwd calls a user; NULL: nothing. getpwuid(3) would load modules, which a program that is linked statically cannot. */
static const char *inspect_user_name(struct view *v, int64_t uid)
{
	FILE *file = fopen("/etc/passwd", "re");
	const struct passwd *user;
	const char *name = NULL;

	while (file && !name && (user = fgetpwent(file)))
		if (user->pw_uid == uid)
			name = view_name(v, user->pw_name);
	if (file)
		fclose(file);
	return name;
}

static void inspect_print_taken(struct view *v)
{
	const struct torpor_image_info *info = v->info;
	const char *user = info->uid >= 0 ? inspect_user_name(v, info->uid) : NULL;

	printf("taken      ");
	if (info->realtime_ns)
		inspect_print_time(info->realtime_ns);
	printf(" on %s (%s, Linux %s)", view_name(v, info->hostname), view_name(v, info->arch), view_name(v, info->kernel));
	if (info->uid >= 0)
		printf(" by user %u%s%s%s", (unsigned)info->uid, user ? " (" : "", user ? user : "",
		       user ? ")" : "");
	printf(", torpor %s\n", view_name(v, info->torpor_version));
}

/* An image whose parent is missing is whole itself. */
static const char *inspect_damage_mark(const struct view *v)
{
	const struct torpor_error *damage = torpor_image_damage(v->image);

	if (!damage)
		return "";
	return strcmp(torpor_error_id(damage), "E-IMAGE-PARENT") == 0 ? " (PARENT MISSING)" : " (DAMAGED)";
}

static void inspect_print_head(struct view *v)
{
	size_t tasks = v->info->tasks, threads = v->info->threads;

	printf("%s: %s, %zu process%s, %zu thread%s%s\n", view_path(v, v->path), view_bytes(v, v->info->bytes), tasks,
	       tasks == 1 ? "" : "es", threads, threads == 1 ? "" : "s", inspect_damage_mark(v));
	inspect_print_taken(v);
}

/* ---- tree ---- */

static void inspect_print_state(const struct torpor_task *t)
{
	int status = t->exit_status;

	if (t->state == TORPOR_ZOMBIE && WIFEXITED(status))
		printf(", ended with status %d", WEXITSTATUS(status));
	else if (t->state == TORPOR_ZOMBIE)
		printf(", ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else if (t->state == TORPOR_STOPPED)
		printf(", stopped by signal %d (%s)", t->stop_signal, strsignal(t->stop_signal));
	else
		printf(", running");
}

/* Who shows its doings in its command line pads that with blanks. */
static void inspect_print_command(const char *command)
{
	size_t size = strlen(command);

	while (size && command[size - 1] == ' ')
		size--;
	printf("  %.*s", (int)size, command);
}

static void inspect_print_task(struct inspect *s, const struct torpor_task *t)
{
	struct view *v = s->v;

	printf("%d %s", t->pid, view_name(v, t->comm));
	inspect_print_state(t);
	if (t->threads)
		printf(", %zu thread%s", t->threads, t->threads == 1 ? "" : "s");
	if (t->space >= 0)
		printf(", %s", view_bytes(v, t->stored_bytes));
	if (t->cmdline && t->cmdline[0])
		inspect_print_command(text_safe(&v->pool, t->cmdline, s->everything ? PATH_MAX_SHOWN * 8 : LINE_MAX_SHOWN));
	putchar('\n');
}

static void inspect_print_threads(struct inspect *s, size_t task, const char *indent)
{
	const struct torpor_thread *thread;

	for (size_t i = 0; s->parts & INSPECT_THREADS && (thread = torpor_image_thread(s->v->image, task, i)); i++)
		printf("  %s    thread %d %s\n", indent, thread->tid, view_name(s->v, thread->comm));
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
	uint32_t *path = pool_alloc(&v->pool, (v->info->tasks + 1) * sizeof(*path));
	size_t depth = 0, size = (v->info->tasks + 1) * 8 + 8;
	char *indent = pool_alloc(&v->pool, size);

	if (!path || !indent || !view_find_children(v, &t))
		return -ENOMEM;
	puts("\nprocesses (PID, name, state, threads, memory stored)");
	for (uint32_t at = 0; v->info->tasks;) {
		inspect_indent(&t, path, depth, at, indent, size);
		if (inspect_shows(s, at)) {
			printf("  %s", s->task == SIZE_MAX ? indent : "");
			inspect_print_task(s, view_task(v, at));
			inspect_print_threads(s, at, s->task == SIZE_MAX ? indent : "");
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
static void inspect_print_holders(const struct view *v, size_t object, size_t task, int fd)
{
	const struct torpor_holder *h;
	size_t n = torpor_image_object(v->image, object)->holders, shown = 0;

	if (n < 2)
		return;
	for (size_t i = 0; (h = torpor_image_holder(v->image, object, i)); i++) {
		if (h->task == task && h->fd == fd)
			continue;
		if (shown == HOLDERS_SHOWN) {
			printf(" and %zu more", n - 1 - shown);
			break;
		}
		printf("%s", shown++ ? ", " : "  [same as ");
		if (h->task != task)
			printf("%d ", view_task(v, h->task)->pid);
		printf("fd %d", h->fd);
	}
	putchar(']');
}

/* " <-> 4712 fd 3": who has the other end of a pipe, connection or terminal. */
static void inspect_print_other_end(const struct view *v, size_t object, size_t task)
{
	const struct torpor_holder *h;
	size_t shown = 0;
	long other;

	for (size_t i = 0; (other = torpor_image_other(v->image, object, i)) >= 0; i++) {
		for (size_t k = 0; (h = torpor_image_holder(v->image, (size_t)other, k)); k++) {
			if (shown == HOLDERS_SHOWN) {
				printf(" ...");
				return;
			}
			printf("%s", shown++ ? ", " : text_utf8() ? "  ⇄ " : "  <-> ");
			if (h->task != task)
				printf("%d ", view_task(v, h->task)->pid);
			printf("fd %d", h->fd);
		}
	}
}

static void inspect_print_fds(struct inspect *s, size_t task)
{
	struct view *v = s->v;
	const struct torpor_task *t = view_task(v, task);
	const struct torpor_slot *slot;

	if (!t->slots || !inspect_shows(s, task))
		return;
	printf("  %d %s\n", t->pid, view_name(v, t->comm));
	for (size_t i = 0; (slot = torpor_image_slot(v->image, task, i)); i++) {
		if (!s->everything && i == FDS_SHOWN) {
			printf("         and %zu more (--fds shows them)\n", t->slots - i);
			return;
		}
		if (slot->object < 0)
			continue;
		printf("    %4d %-12s %s", slot->fd, torpor_image_object(v->image, (size_t)slot->object)->kind,
		       view_object(v, (size_t)slot->object));
		inspect_print_other_end(v, (size_t)slot->object, task);
		inspect_print_holders(v, (size_t)slot->object, task, slot->fd);
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
	const struct torpor_phase *phase;
	uint64_t all = 0;

	if (!v->info->restored_ns)
		return;
	for (size_t i = 0; (phase = torpor_image_phase(v->image, i)); i++)
		all += phase->ns;
	printf("\ntime of the last restore (%.1f ms)\n", (double)all / 1e6);
	for (size_t i = 0; (phase = torpor_image_phase(v->image, i)); i++)
		inspect_print_step(phase->name, phase->ns, all);
}

/* Of a tree that ran on. */
static void inspect_print_pause(const struct torpor_image_info *info)
{
	char before[32], paused[32], after[32], dead[32];

	if (!info->pause)
		return;
	printf("  it ran on; way %s: %s copied before the pause, %s in it, %s after it; %s of the file are dead copies\n", info->pause,
	       cmd_format_bytes(before, info->before_bytes), cmd_format_bytes(paused, info->paused_bytes),
	       cmd_format_bytes(after, info->after_bytes), cmd_format_bytes(dead, info->dead_bytes));
}

static void inspect_print_stats(const struct torpor_image_info *info)
{
	uint64_t known = info->collect_ns + info->memory_ns;

	if (!info->total_ns)
		return;
	printf("\ntime (the tree stood still for %.1f ms)\n", (double)info->frozen_ns / 1e6);
	inspect_print_step("looking", info->collect_ns, info->total_ns);
	inspect_print_step("copying memory", info->memory_ns, info->total_ns);
	inspect_print_step("stopping and the rest", info->total_ns > known ? info->total_ns - known : 0, info->total_ns);
	inspect_print_pause(info);
}

/* ---- all of it ---- */

int inspect_print(struct inspect *s)
{
	struct view *v = s->v;
	int r = 0;

	inspect_print_head(v);
	if (r == 0 && s->parts & INSPECT_TREE)
		r = inspect_print_tree(s);
	if (s->parts & INSPECT_FDS)
		puts("\nfile descriptors");
	for (size_t i = 0; r == 0 && s->parts & INSPECT_FDS && i < v->info->tasks; i++)
		inspect_print_fds(s, i);
	if (s->parts & INSPECT_FDS && s->task == SIZE_MAX)
		inspect_print_ipc(v);
	if (r == 0 && s->parts & INSPECT_MEMORY)
		r = inspect_print_memory(s);
	if (r == 0 && s->parts & INSPECT_MAPS)
		r = inspect_print_maps(s);
	if (s->parts & INSPECT_TIME && s->task == SIZE_MAX) {
		inspect_print_stats(v->info);
		inspect_print_last_restore(v);
	}
	return r;
}
