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
#include "cmd/pool.h"
#include "cmd/text.h"
#include "cmd/view.h"

enum { LINE_MAX_SHOWN = 60, TEXT_MAX = 1024, DEPTH_MAX = 10000 };

struct ps {
	struct pool pool;
	const char *folder;
	bool json, all;
	struct torpor_processes *list;
};

/* ---- processes ---- */

static const struct torpor_process *ps_find(const struct ps *p, int pid)
{
	const struct torpor_process *at;

	for (size_t i = 0; (at = torpor_processes_at(p->list, i)); i++)
		if (at->pid == pid)
			return at;
	return NULL;
}

static bool ps_runs_torpor(const struct ps *p, const struct torpor_process *process)
{
	const struct torpor_process *self = ps_find(p, getppid());

	for (size_t depth = 0; self && depth < DEPTH_MAX; depth++) {
		if (self == process)
			return true;
		self = ps_find(p, self->ppid);
	}
	return false;
}

static void ps_print_verdict(struct ps *p, size_t i)
{
	const struct torpor_process *process = torpor_processes_at(p->list, i);

	if (process->state == 'Z')
		printf("ended");
	else if (process->obstacles)
		printf("no: %s", torpor_processes_obstacle(p->list, i, 0)->id);
	else if (process->in_the_way)
		printf("no: %d below it", process->in_the_way);
	else if (ps_runs_torpor(p, process))
		printf("yes, from elsewhere");
	else
		printf("yes");
	if (process->obstacles > 1)
		printf(" and %zu more", process->obstacles - 1);
}

static void ps_print_processes(struct ps *p)
{
	const struct torpor_process *process;
	char size[32];

	puts("processes (PID, parent, threads, memory in use; can it be saved, as far as one sees from outside)");
	for (size_t i = 0; (process = torpor_processes_at(p->list, i)); i++) {
		printf("  %7d %7d %4zu %10s  %-16s ", process->pid, process->ppid, process->threads,
		       cmd_format_bytes(size, process->bytes), text_safe(&p->pool, process->comm, NAME_MAX_SHOWN));
		ps_print_verdict(p, i);
		printf("  %s\n", text_safe(&p->pool, process->cmdline, LINE_MAX_SHOWN));
	}
	if (torpor_processes_at(p->list, 0))
		puts("  torpor check PID looks closer, torpor help ID explains");
}

static void ps_write_processes(struct ps *p, struct json *j)
{
	const struct torpor_process *process;
	const struct torpor_obstacle *o;

	json_open(j, '[');
	for (size_t i = 0; (process = torpor_processes_at(p->list, i)); i++) {
		json_open(j, '{');
		json_put_u64(j, "pid", (uint64_t)process->pid);
		json_put_u64(j, "ppid", (uint64_t)process->ppid);
		json_put_u64(j, "uid", process->uid);
		json_put_string(j, "name", process->comm);
		json_put_string(j, "command", process->cmdline);
		json_put_u64(j, "threads", process->threads);
		json_put_u64(j, "bytes", process->bytes);
		json_put_bool(j, "may_be_saved", process->state != 'Z' && !process->in_the_way);
		json_key(j, "obstacles");
		json_open(j, '[');
		for (size_t k = 0; (o = torpor_processes_obstacle(p->list, i, k)); k++) {
			json_open(j, '{');
			json_put_string(j, "id", o->id);
			json_put_string(j, "text", o->text);
			json_close(j, '}');
		}
		json_close(j, ']');
		json_close(j, '}');
	}
	json_close(j, ']');
}

/* ---- images ---- */

/* Is a process with the PID of the image's first there? */
static bool ps_is_running(const struct torpor_task *root)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", root->pid);
	return access(path, F_OK) == 0;
}

static void ps_print_image(struct view *v)
{
	const struct torpor_task *root = view_task(v, 0);
	time_t taken = (time_t)(v->info->realtime_ns / 1000000000);
	char when[32] = "?";
	struct tm tm;

	if (localtime_r(&taken, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	printf("  %-32s %10s  %s  %zu process%s: %d %s%s\n", view_path(v, v->path), view_bytes(v, v->info->bytes), when,
	       v->info->tasks, v->info->tasks == 1 ? "" : "es", root->pid, view_name(v, root->comm),
	       ps_is_running(root) ? " (its PID is in use)" : "");
}

static void ps_write_image(struct view *v, struct json *j)
{
	const struct torpor_task *root = view_task(v, 0);

	json_put_u64(j, "bytes", v->info->bytes);
	json_put_u64(j, "taken_ns", (uint64_t)v->info->realtime_ns);
	json_put_u64(j, "processes", v->info->tasks);
	json_put_u64(j, "threads", v->info->threads);
	json_put_u64(j, "pid", (uint64_t)root->pid);
	json_put_string(j, "name", root->comm);
	json_put_bool(j, "pid_in_use", ps_is_running(root));
}

/* Returns 1 if it is an image. `j` NULL: for people. */
static int ps_show_image(struct ps *p, const char *name, struct json *j)
{
	struct view v = { .path = pool_printf(&p->pool, "%s/%s", p->folder, name) };
	struct torpor_error *error = NULL;
	bool opened = v.path && view_open(&v, 0, &error) == 0;
	bool is_image = opened || (error && torpor_error_reason(error) == TORPOR_IMAGE &&
				   strcmp(torpor_error_id(error), "E-IMAGE-NONE") != 0 && strstr(name, ".torpor"));

	if (is_image && j) {
		json_open(j, '{');
		json_put_string(j, "path", v.path);
		if (opened)
			ps_write_image(&v, j);
		else
			json_put_string(j, "error", torpor_error_text(error));
		json_close(j, '}');
	} else if (opened) {
		ps_print_image(&v);
	} else if (is_image) {
		printf("  %-32s %s [%s]\n", view_path(&v, v.path), text_safe(&p->pool, torpor_error_text(error), TEXT_MAX),
		       torpor_error_id(error));
	}
	torpor_error_free(error);
	view_close(&v);
	return is_image;
}

static int ps_no_dots(const struct dirent *entry)
{
	return entry->d_name[0] != '.' && (entry->d_type == DT_REG || entry->d_type == DT_UNKNOWN);
}

/* Returns the exit status. */
static int ps_show_images(struct ps *p, struct json *j)
{
	struct dirent **names;
	int n = scandir(p->folder, &names, ps_no_dots, alphasort), found = 0;

	if (n < 0)
		return cmd_complain(errno == EACCES || errno == EPERM ? TORPOR_PERMISSION : TORPOR_SYSTEM, NULL,
				    "reading the folder %s: %s", p->folder, strerror(errno));
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

static int ps_show(struct ps *p)
{
	struct json j = JSON_INIT(stdout);
	int r;

	if (!p->json) {
		ps_print_processes(p);
		printf("\nimages in %s (size, taken, what)\n", text_safe(&p->pool, p->folder, PATH_MAX_SHOWN));
		return ps_show_images(p, NULL);
	}
	json_open(&j, '{');
	json_key(&j, "processes");
	ps_write_processes(p, &j);
	json_key(&j, "images");
	json_open(&j, '[');
	r = ps_show_images(p, &j);
	json_close(&j, ']');
	json_close(&j, '}');
	return r;
}

static int ps_run(const struct cmd_globals *g, int argc, char **argv)
{
	static const struct option options[] = { { "json", no_argument, NULL, 'j' }, { "all", no_argument, NULL, 'a' }, { 0 } };
	struct ps p = { .folder = NULL };
	struct torpor_error *error = NULL;
	int c, status;

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
	if (torpor_processes_list(p.all, &p.list, &error) < 0)
		return cmd_fail(error);
	status = ps_show(&p);
	torpor_processes_free(p.list);
	pool_done(&p.pool);
	return status;
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
