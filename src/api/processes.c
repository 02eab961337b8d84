/* SPDX-License-Identifier: Apache-2.0 */

/* torpor_processes_list(): what could be put to sleep, as far as /proc shows it from outside. */

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "api/api.h"
#include "core/glance.h"

#define PF_KTHREAD 0x00200000

struct torpor_processes {
	struct arena arena;
	struct obstacle_list obstacles;
	struct glance *v; /* ascending by PID */
	struct torpor_process *public; /* likewise */
	size_t n;
};

/* ---- reading ---- */

static int processes_compare(const void *a, const void *b)
{
	const struct glance *x = a, *y = b;

	return x->stat.pid - y->stat.pid;
}

static int processes_add(struct torpor_processes *p, pid_t pid, bool all)
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
	if (g.stat.flags & PF_KTHREAD || (!all && g.status.uid[0] != getuid()))
		p->obstacles.n = before;
	else
		v[p->n++] = g;
	return 0;
}

static int processes_read(struct torpor_processes *p, bool all)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	int r = 0;

	if (!dir)
		return -errno;
	while (r == 0 && (entry = readdir(dir))) {
		pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? atoi(entry->d_name) : 0;

		if (pid && pid != getpid())
			r = processes_add(p, pid, all);
	}
	closedir(dir);
	if (p->n)
		qsort(p->v, p->n, sizeof(*p->v), processes_compare);
	return r;
}

/* ---- trees ---- */

static const struct glance *processes_find(const struct torpor_processes *p, pid_t pid)
{
	const struct glance key = { .stat.pid = pid };

	return p->n ? bsearch(&key, p->v, p->n, sizeof(key), processes_compare) : NULL;
}

/* A tree is saved as a whole: the first of its processes that cannot be stands in the way of all its ancestors. */
static void processes_mark(struct torpor_processes *p, const struct glance *obstacle)
{
	const struct glance *at = obstacle;

	for (size_t depth = 0; at && depth < p->n; depth++) {
		struct torpor_process *public = &p->public[at - p->v];

		if (!public->in_the_way)
			public->in_the_way = obstacle->stat.pid;
		at = processes_find(p, at->stat.ppid);
	}
}

static int processes_fill(struct torpor_processes *p)
{
	p->public = arena_alloc(&p->arena, (p->n + 1) * sizeof(*p->public));
	if (!p->public)
		return -ENOMEM;
	for (size_t i = 0; i < p->n; i++) {
		const struct glance *g = &p->v[i];

		p->public[i] = (struct torpor_process){
			.pid = g->stat.pid, .ppid = g->stat.ppid, .uid = g->status.uid[0], .state = g->stat.state,
			.comm = g->stat.comm, .cmdline = g->cmdline, .threads = (size_t)g->stat.n_threads,
			.bytes = g->status.vm_rss, .obstacles = g->n_obstacles,
		};
	}
	for (size_t i = 0; i < p->n; i++)
		if (p->v[i].n_obstacles)
			processes_mark(p, &p->v[i]);
	return 0;
}

/* ---- the handle ---- */

int torpor_processes_list(int all, struct torpor_processes **ret, struct torpor_error **error)
{
	struct torpor_processes *p = calloc(1, sizeof(*p));
	struct err e = ERR_INIT;
	int r;

	if (!p)
		return err_nomem(&e), api_fail(error, &e);
	p->obstacles.arena = &p->arena;
	r = processes_read(p, all);
	if (r == 0)
		r = processes_fill(p);
	if (r < 0) {
		torpor_processes_free(p);
		err_sys(&e, r, "looking at processes");
		return api_fail(error, &e);
	}
	*ret = p;
	return 0;
}

const struct torpor_process *torpor_processes_at(const struct torpor_processes *list, size_t i)
{
	return i < list->n ? &list->public[i] : NULL;
}

const struct torpor_obstacle *torpor_processes_obstacle(const struct torpor_processes *list, size_t process, size_t i)
{
	if (process >= list->n || i >= list->v[process].n_obstacles)
		return NULL;
	return (const struct torpor_obstacle *)&list->obstacles.v[list->v[process].first_obstacle + i];
}

void torpor_processes_free(struct torpor_processes *list)
{
	if (!list)
		return;
	arena_done(&list->arena);
	free(list);
}
