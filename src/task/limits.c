/* SPDX-License-Identifier: Apache-2.0 */

/* Resource limits, out-of-memory score, working and root folder, umask: set in ordinary C before the switch. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "task/task.h"
#include "util/fd.h"

/* ---- dump ---- */

int limits_collect(struct task_collect *c, struct target *t, Pb__Task *pb, struct err *e)
{
	char *text;

	for (int i = 0; i < RLIM_NLIMITS; i++) {
		Pb__Limit *limit = pb_new(c->arena, Pb__Limit, pb__limit__init);
		struct rlimit rl;

		if (prlimit(t->pid, (__rlimit_resource_t)i, NULL, &rl) < 0)
			return err_sys(e, errno, "reading the resource limits of task %d", t->pid);
		if (!limit || !pb_add(c->arena, pb, limits, limit))
			return err_nomem(e);
		limit->resource = (uint32_t)i;
		limit->soft = rl.rlim_cur;
		limit->hard = rl.rlim_max;
	}
	if (fd_read_proc(t->pid, "oom_score_adj", c->arena, &text, NULL) == 0)
		pb_set(pb, oom_score_adj, atoi(text));
	return 0;
}

/* ---- restore ---- */

/* A hard limit cannot be raised without privilege: then it stays lower, as at a new login. */
static int limits_restore_one(const Pb__Limit *saved, struct err *e)
{
	struct rlimit now, wanted = { saved->soft, saved->hard };

	if (saved->resource >= RLIM_NLIMITS)
		return err_set(e, ERR_IMAGE, 0, "unknown resource limit %u", saved->resource);
	if (getrlimit((__rlimit_resource_t)saved->resource, &now) < 0)
		return err_sys(e, errno, "getrlimit");
	if (now.rlim_cur == wanted.rlim_cur && now.rlim_max == wanted.rlim_max)
		return 0;
	if (setrlimit((__rlimit_resource_t)saved->resource, &wanted) == 0)
		return 0;
	wanted.rlim_max = now.rlim_max;
	if (wanted.rlim_cur > wanted.rlim_max)
		wanted.rlim_cur = wanted.rlim_max;
	if (setrlimit((__rlimit_resource_t)saved->resource, &wanted) < 0)
		return err_sys(e, errno, "setting resource limit %u", saved->resource);
	return 0;
}

static int limits_write_proc(const char *name, const char *text, struct err *e)
{
	cleanup_close int fd = fd_open_proc(getpid(), name, O_WRONLY);
	int r = fd < 0 ? fd : fd_write_full(fd, text, __builtin_strlen(text));

	return r < 0 ? err_sys(e, r, "writing %s to /proc/self/%s", text, name) : 0;
}

static int limits_restore_proc(const struct task_restore *r, struct err *e)
{
	char text[32], *now;

	if (fd_read_proc(getpid(), "oom_score_adj", r->arena, &now, NULL) == 0 && atoi(now) != r->pb->oom_score_adj) {
		snprintf(text, sizeof(text), "%d", r->pb->oom_score_adj);
		if (limits_write_proc("oom_score_adj", text, e) < 0 && e->reason == ERR_SYSTEM)
			return -1;
		*e = ERR_INIT; /* lowering it takes CAP_SYS_RESOURCE: stays as it is */
	}
	if (r->space->has_coredump_filter) {
		snprintf(text, sizeof(text), "%#lx", r->space->coredump_filter);
		return limits_write_proc("coredump_filter", text, e);
	}
	return 0;
}

static int limits_restore_folders(const Pb__Task *pb, struct err *e)
{
	struct stat st;

	if (pb->root && pb->root->path[0] && (pb->root->path[0] != '/' || pb->root->path[1]) && chroot(pb->root->path) < 0)
		return err_sys(e, errno, "changing the root folder to %s", pb->root->path);
	if (chdir(pb->cwd->path) < 0 || stat(".", &st) < 0) {
		err_sys(e, errno, "changing to the working folder %s", pb->cwd->path);
		return err_help(e, "make that folder again");
	}
	umask((mode_t)pb->umask);
	return 0;
}

int limits_restore(const struct task_restore *r, struct err *e)
{
	if (limits_restore_folders(r->pb, e) < 0 || limits_restore_proc(r, e) < 0)
		return -1;
	for (size_t i = 0; i < r->pb->n_limits; i++)
		if (limits_restore_one(r->pb->limits[i], e) < 0)
			return -1;
	return 0;
}
