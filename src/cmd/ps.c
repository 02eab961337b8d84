/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor ps: what could be put to sleep, and what sleeps already. Nothing is
 * stopped; what a dump would meet is told as far as /proc shows it from outside.
 */

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/json.h"
#include "cmd/text.h"
#include "cmd/view.h"
#include "core/glance.h"

enum { LINE_MAX_SHOWN = 60, TEXT_MAX = 1024 };

#define PF_KTHREAD 0x00200000

struct ps {
	struct arena arena;
	const char *folder;
	bool json, all;
	struct obstacle_list obstacles;
	struct glance *v; /* ascending by PID */
	size_t n;
};

/* ---- processes ---- */

static int ps_compare(const void *a, const void *b)
{
	const struct glance *x = a, *y = b;

	return x->stat.pid - y->stat.pid;
}

static int ps_add(struct ps *p, pid_t pid)
{
	struct glance *v = arena_grow(&p->arena, p->v, p->n, sizeof(*v)), g = { 0 };
	size_t before = p->obstacles.n;
	int r;

	if (!v)
		return -ENOMEM;
	p->v = v;
	r = glance_at(pid, &p->arena, &p->obstacles, &g);
	if (r <= 0)
		return r;
	if (g.stat.flags & PF_KTHREAD || (!p->all && g.status.uid[0] != getuid()))
		p->obstacles.n = before;
	else
		v[p->n++] = g;
	return 0;
}

static int ps_read_processes(struct ps *p)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	int r = 0;

	if (!dir)
		return -errno;
	while (r == 0 && (entry = readdir(dir))) {
		pid_t pid = cmd_parse_pid(entry->d_name);

		if (pid && pid != getpid())
			r = ps_add(p, pid);
	}
	closedir(dir);
	if (p->n)
		qsort(p->v, p->n, sizeof(*p->v), ps_compare);
	return r;
}

static const struct glance *ps_find(const struct ps *p, pid_t pid)
{
	const struct glance key = { .stat.pid = pid };

	return p->n ? bsearch(&key, p->v, p->n, sizeof(key), ps_compare) : NULL;
}

/* A tree is saved as a whole: a descendant that cannot be saved, or NULL. */
static const struct glance *ps_in_the_way(const struct ps *p, const struct glance *g)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct glance *at = &p->v[i];

		for (size_t depth = 0; p->v[i].n_obstacles && at && depth < p->n; depth++) {
			if (at == g)
				return &p->v[i];
			at = ps_find(p, at->stat.ppid);
		}
	}
	return NULL;
}

static bool ps_runs_torpor(const struct ps *p, const struct glance *g)
{
	const struct glance *self = ps_find(p, getppid());

	for (size_t depth = 0; self && depth < p->n; depth++) {
		if (self == g)
			return true;
		self = ps_find(p, self->stat.ppid);
	}
	return false;
}

static void ps_print_verdict(struct ps *p, const struct glance *g)
{
	const struct glance *other = g->n_obstacles ? NULL : ps_in_the_way(p, g);

	if (g->stat.state == 'Z')
		printf("ended");
	else if (g->n_obstacles)
		printf("no: %s", p->obstacles.v[g->first_obstacle].id);
	else if (other)
		printf("no: %d below it", other->stat.pid);
	else if (ps_runs_torpor(p, g))
		printf("yes, from elsewhere");
	else
		printf("yes");
	if (g->n_obstacles > 1)
		printf(" and %zu more", g->n_obstacles - 1);
}

static void ps_print_processes(struct ps *p)
{
	char size[32];

	puts("processes (PID, parent, threads, memory in use; can it be saved, as far as one sees from outside)");
	for (size_t i = 0; i < p->n; i++) {
		const struct glance *g = &p->v[i];

		printf("  %7d %7d %4ld %10s  %-16s ", g->stat.pid, g->stat.ppid, g->stat.n_threads,
		       cmd_format_bytes(size, g->status.vm_rss), text_safe(&p->arena, g->stat.comm, NAME_MAX_SHOWN));
		ps_print_verdict(p, g);
		printf("  %s\n", text_safe(&p->arena, g->cmdline, LINE_MAX_SHOWN));
	}
	if (p->n)
		puts("  torpor check PID looks closer, torpor help ID explains");
}

static void ps_write_processes(struct ps *p, struct json *j)
{
	json_open(j, '[');
	for (size_t i = 0; i < p->n; i++) {
		const struct glance *g = &p->v[i];

		json_open(j, '{');
		json_put_u64(j, "pid", (uint64_t)g->stat.pid);
		json_put_u64(j, "ppid", (uint64_t)g->stat.ppid);
		json_put_u64(j, "uid", g->status.uid[0]);
		json_put_string(j, "name", g->stat.comm);
		json_put_string(j, "command", g->cmdline);
		json_put_u64(j, "threads", (uint64_t)g->stat.n_threads);
		json_put_u64(j, "bytes", g->status.vm_rss);
		json_put_bool(j, "may_be_saved", g->stat.state != 'Z' && !ps_in_the_way(p, g));
		json_key(j, "obstacles");
		json_open(j, '[');
		for (size_t k = 0; k < g->n_obstacles; k++) {
			json_open(j, '{');
			json_put_string(j, "id", p->obstacles.v[g->first_obstacle + k].id);
			json_put_string(j, "text", p->obstacles.v[g->first_obstacle + k].text);
			json_close(j, '}');
		}
		json_close(j, ']');
		json_close(j, '}');
	}
	json_close(j, ']');
}

/* ---- images ---- */

/* Is a process with the PID of the image's first there? */
static bool ps_is_running(const Pb__Image *meta)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", meta->tasks[0]->pid);
	return access(path, F_OK) == 0;
}

static void ps_print_image(struct view *v)
{
	const Pb__Image *meta = v->meta;
	time_t taken = (time_t)(meta->machine->realtime_ns / 1000000000);
	char when[32] = "?";
	struct tm tm;

	if (localtime_r(&taken, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	printf("  %-32s %10s  %s  %zu process%s: %d %s%s\n", view_path(v, v->path), view_bytes(v, v->image->size), when,
	       meta->n_tasks, meta->n_tasks == 1 ? "" : "es", meta->tasks[0]->pid, view_name(v, meta->tasks[0]->comm),
	       ps_is_running(meta) ? " (its PID is in use)" : "");
}

static void ps_write_image(struct view *v, struct json *j)
{
	const Pb__Image *meta = v->meta;

	json_put_u64(j, "bytes", v->image->size);
	json_put_u64(j, "taken_ns", (uint64_t)meta->machine->realtime_ns);
	json_put_u64(j, "processes", meta->n_tasks);
	json_put_u64(j, "threads", view_count_threads(v));
	json_put_u64(j, "pid", (uint64_t)meta->tasks[0]->pid);
	json_put_string(j, "name", meta->tasks[0]->comm);
	json_put_bool(j, "pid_in_use", ps_is_running(meta));
}

/* Returns 1 if it is an image. `j` NULL: for people. */
static int ps_show_image(struct ps *p, const char *name, struct json *j)
{
	struct view v = { .path = arena_printf(&p->arena, "%s/%s", p->folder, name) };
	struct err e = ERR_INIT;
	int r = v.path ? view_open(&v, &e) : -ENOMEM;
	bool is_image = r == 0 || (e.reason == ERR_IMAGE && strcmp(e.id, "E-IMAGE-NONE") != 0 && strstr(name, ".torpor"));

	if (is_image && j) {
		json_open(j, '{');
		json_put_string(j, "path", v.path);
		if (r == 0)
			ps_write_image(&v, j);
		else
			json_put_string(j, "error", e.text);
		json_close(j, '}');
	} else if (is_image && r == 0) {
		ps_print_image(&v);
	} else if (is_image) {
		printf("  %-32s %s [%s]\n", view_path(&v, v.path), text_safe(&p->arena, e.text, TEXT_MAX), cmd_error_id(&e));
	}
	view_close(&v);
	return is_image;
}

static int ps_no_dots(const struct dirent *entry)
{
	return entry->d_name[0] != '.' && (entry->d_type == DT_REG || entry->d_type == DT_UNKNOWN);
}

static int ps_show_images(struct ps *p, struct json *j, struct err *e)
{
	struct dirent **names;
	int n = scandir(p->folder, &names, ps_no_dots, alphasort), found = 0;

	if (n < 0)
		return err_sys(e, errno, "reading the folder %s", p->folder);
	for (int i = 0; i < n; i++) {
		found += ps_show_image(p, names[i]->d_name, j);
		free(names[i]);
	}
	free(names);
	if (!found && !j)
		puts("  none");
	return 0;
}

/* ---- the command ---- */

static int ps_show(struct ps *p, struct err *e)
{
	struct json j = JSON_INIT(stdout);
	int r;

	if (!p->json) {
		ps_print_processes(p);
		printf("\nimages in %s (size, taken, what)\n", text_safe(&p->arena, p->folder, PATH_MAX_SHOWN));
		return ps_show_images(p, NULL, e);
	}
	json_open(&j, '{');
	json_key(&j, "processes");
	ps_write_processes(p, &j);
	json_key(&j, "images");
	json_open(&j, '[');
	r = ps_show_images(p, &j, e);
	json_close(&j, ']');
	json_close(&j, '}');
	return r;
}

static int ps_run(const struct cmd_globals *g, int argc, char **argv)
{
	static const struct option options[] = { { "json", no_argument, NULL, 'j' }, { "all", no_argument, NULL, 'a' }, { 0 } };
	struct ps p = { .folder = NULL };
	struct err e = ERR_INIT;
	int c, r;

	(void)g;
	opterr = 0;
	while ((c = getopt_long(argc, argv, "-a", options, NULL)) != -1) {
		if (c == 'j')
			p.json = true;
		else if (c == 'a')
			p.all = true;
		else if (c == 1 && p.folder)
			return cmd_usage(&cmd_ps, "one folder, not also '%s'", optarg);
		else if (c == 1)
			p.folder = optarg;
		else
			return cmd_usage(&cmd_ps, "unknown option: %s", argv[optind - 1]);
	}
	if (!p.folder)
		p.folder = ".";
	p.obstacles.arena = &p.arena;
	r = ps_read_processes(&p);
	r = r < 0 ? err_sys(&e, r, "looking at processes") : ps_show(&p, &e);
	arena_done(&p.arena);
	return r < 0 ? cmd_fail(&e) : 0;
}

const struct cmd cmd_ps = {
	.name = "ps",
	.usage = "ps [FOLDER] [--all] [--json]",
	.help = "List your processes, how large they are, and whether they could be saved, as far as that is\n"
		"visible from outside: none is stopped. And the images in FOLDER (default: the current one).\n"
		"torpor check PID looks closer at one process.\n\n"
		"  -a, --all   the processes of all users\n"
		"      --json  for programs; see doc/ps.schema.json\n",
	.run = ps_run,
};
