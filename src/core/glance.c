/* SPDX-License-Identifier: Apache-2.0 */
#include "core/glance.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/visit.h"
#include "kinds/unsupported.h"
#include "memory/memory.h"
#include "proc/maps.h"
#include "task/task.h"
#include "util/fd.h"

struct glancing {
	struct glance *g;
	struct arena *arena;
	struct obstacle_list *list;
};

#define glance_add(x, id, ...) \
	obstacle_add((x)->list, (id), (x)->g->stat.pid, (x)->g->stat.comm, "torpor help explains it", __VA_ARGS__)

/* ---- what it is ---- */

static int glance_read(struct glancing *x, pid_t pid)
{
	char *text;
	size_t size;

	if (fd_read_proc(pid, "stat", x->arena, &text, NULL) < 0 || proc_parse_stat(text, &x->g->stat) < 0 ||
	    fd_read_proc(pid, "status", x->arena, &text, NULL) < 0 ||
	    proc_parse_status(text, x->arena, &x->g->status) < 0)
		return 0;
	x->g->cmdline = "";
	if (fd_read_proc(pid, "cmdline", x->arena, &text, &size) < 0 || !size)
		return 1;
	for (size_t i = 0; i + 1 < size; i++)
		if (!text[i])
			text[i] = ' ';
	x->g->cmdline = text;
	return 1;
}

/* ---- what stands in the way ---- */

static int glance_task(struct glancing *x)
{
	pid_t pid = x->g->stat.pid;
	struct err unheard = ERR_INIT;
	struct task_namespaces ours = { 0 };
	struct visit visit;
	const char *name;
	size_t at = 0;
	int r = 0;

	if (x->g->status.tracer)
		r = glance_add(x, "E-TASK-TRACED", "process %d is tracing it", x->g->status.tracer);
	if (r == 0 && x->g->status.seccomp)
		r = glance_add(x, "E-TASK-SECCOMP", "it is confined by seccomp");
	if (visit_find(pid, x->arena, &visit, &unheard) > 0)
		return r; /* a dump goes there */
	while (r == 0 && task_next_foreign_namespace(pid, &ours, &at, x->arena, &name) == 0 && name)
		r = glance_add(x, "E-TASK-NAMESPACE", "it lives in another %s namespace", name);
	return r;
}

static int glance_program(struct glancing *x)
{
	cleanup_close int fd = fd_open_proc(x->g->stat.pid, "exe", O_RDONLY);
	unsigned char head[EI_NIDENT];

	if (fd >= 0 && fd_pread_full(fd, head, sizeof(head), 0) == 0 && memcmp(head, ELFMAG, SELFMAG) == 0 &&
	    head[EI_CLASS] == ELFCLASS32)
		return glance_add(x, "E-TASK-32BIT", "it is a 32-bit program");
	return 0;
}

static int glance_fd(struct glancing *x, int number)
{
	char name[64], *link;
	const char *what, *id;
	struct stat st;

	snprintf(name, sizeof(name), "/proc/%d/fd/%d", x->g->stat.pid, number);
	if (stat(name, &st) < 0)
		return 0;
	snprintf(name, sizeof(name), "fd/%d", number);
	if (fd_readlink_proc(x->g->stat.pid, name, x->arena, &link) < 0)
		return 0;
	id = unsupported_by_link(link, &st, &what);
	return id ? glance_add(x, id, "fd %d (%s) %s", number, link, what) : 0;
}

static int glance_fds(struct glancing *x)
{
	char path[64];
	struct dirent *entry;
	DIR *dir;
	int r = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", x->g->stat.pid);
	dir = opendir(path);
	if (!dir)
		return errno == EACCES ? glance_add(x, "E-DUMP-PERMISSION", "it may not be looked at") : 0;
	while (r == 0 && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			r = glance_fd(x, atoi(entry->d_name));
	closedir(dir);
	return r;
}

/* Flags of mappings take the kernel a walk over all pages (smaps): only the names are looked at. */
static int glance_maps(struct glancing *x)
{
	struct vm_area_list list;
	const char *what, *help;
	char *text;
	int r = 0;

	if (fd_read_proc(x->g->stat.pid, "maps", x->arena, &text, NULL) < 0 || proc_parse_maps(text, x->arena, &list) < 0)
		return 0;
	for (size_t i = 0; r == 0 && i < list.n; i++) {
		const char *id = memory_obstacle(&list.areas[i], &what, &help);

		if (id)
			r = glance_add(x, id, "the mapping %lx-%lx (%s) %s", list.areas[i].start, list.areas[i].end,
				       list.areas[i].name, what);
	}
	return r;
}

int glance_at(pid_t pid, struct arena *arena, struct obstacle_list *list, struct glance *g)
{
	static int (*const looks[])(struct glancing *) = { glance_task, glance_program, glance_fds, glance_maps };
	struct glancing x = { g, arena, list };
	int r = glance_read(&x, pid);

	if (r <= 0)
		return r;
	g->first_obstacle = list->n;
	r = 0;
	for (size_t i = 0; r == 0 && g->stat.state != 'Z' && i < sizeof(looks) / sizeof(looks[0]); i++)
		r = looks[i](&x);
	g->n_obstacles = list->n - g->first_obstacle;
	return r < 0 ? r : 1;
}
