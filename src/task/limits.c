/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Resource limits, out-of-memory score, working and root folder, umask.
 *
 * Saved limits say nothing about the making of a task: the program may have more
 * processes, memory or queued signals than it may make now, and torpor needs
 * room beside it. So the soft limits are raised to the hard ones first, and the
 * saved ones are set by the script, once all else is there.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "task/task.h"
#include "util/fd.h"

static const char *limits_name(uint32_t resource)
{
	static const char *const names[RLIM_NLIMITS] = {
		[RLIMIT_CPU] = "RLIMIT_CPU",         [RLIMIT_FSIZE] = "RLIMIT_FSIZE",
		[RLIMIT_DATA] = "RLIMIT_DATA",       [RLIMIT_STACK] = "RLIMIT_STACK",
		[RLIMIT_CORE] = "RLIMIT_CORE",       [RLIMIT_RSS] = "RLIMIT_RSS",
		[RLIMIT_NPROC] = "RLIMIT_NPROC",     [RLIMIT_NOFILE] = "RLIMIT_NOFILE",
		[RLIMIT_MEMLOCK] = "RLIMIT_MEMLOCK", [RLIMIT_AS] = "RLIMIT_AS",
		[RLIMIT_LOCKS] = "RLIMIT_LOCKS",     [RLIMIT_SIGPENDING] = "RLIMIT_SIGPENDING",
		[RLIMIT_MSGQUEUE] = "RLIMIT_MSGQUEUE", [RLIMIT_NICE] = "RLIMIT_NICE",
		[RLIMIT_RTPRIO] = "RLIMIT_RTPRIO",   [RLIMIT_RTTIME] = "RLIMIT_RTTIME",
	};

	return resource < RLIM_NLIMITS && names[resource] ? names[resource] : "of an unknown name";
}

_Static_assert(PROC_LIMITS == (int)RLIM_NLIMITS, "the limits that libc knows of");

static int limits_read(pid_t pid, struct arena *arena, struct proc_limits *ret)
{
	char *text;
	int r = fd_read_proc(pid, "limits", arena, &text, NULL);

	return r < 0 ? r : proc_parse_limits(text, ret);
}

/* ---- dump ---- */

int limits_collect(struct task_collect *c, struct target *t, Pb__Task *pb, struct err *e)
{
	struct proc_limits limits;
	int r = limits_read(t->pid, c->arena, &limits);
	char *text;

	if (r < 0)
		return err_sys(e, r, "reading the resource limits of task %d", t->pid);
	for (uint32_t i = 0; i < PROC_LIMITS; i++) {
		Pb__Limit *limit = pb_new(c->arena, Pb__Limit, pb__limit__init);

		if (!limit || !pb_add(c->arena, pb, limits, limit))
			return err_nomem(e);
		limit->resource = i;
		limit->soft = limits.soft[i];
		limit->hard = limits.hard[i];
	}
	r = fd_read_proc_if_any(t->pid, "oom_score_adj", c->arena, &text);
	if (r < 0)
		return err_sys(e, r, "reading /proc/%d/oom_score_adj", t->pid);
	if (text)
		pb_set(pb, oom_score_adj, atoi(text));
	return 0;
}

/* ---- restore ---- */

/* That of this process. */
static int limits_now(const struct task_restore *r, uint32_t resource, struct rlimit *ret, struct err *e)
{
	if (resource >= RLIM_NLIMITS)
		return err_set(e, ERR_IMAGE, 0, "unknown resource limit %u", resource);
	if (r->born && r->born->knows_limits) {
		*ret = r->born->limits[resource];
		return 0;
	}
	return getrlimit((__rlimit_resource_t)resource, ret) < 0 ? err_sys(e, errno, "getrlimit") : 0;
}

static bool limits_set(const struct task_restore *r, uint32_t resource, const struct rlimit *wanted)
{
	if (setrlimit((__rlimit_resource_t)resource, wanted) < 0)
		return false;
	if (r->born)
		r->born->limits[resource] = *wanted;
	return true;
}

/* As much room as we may have. A hard limit below the saved one can be raised only with privilege. */
static int limits_widen_one(const struct task_restore *r, const Pb__Limit *saved, struct err *e)
{
	struct rlimit now, wanted;

	if (limits_now(r, saved->resource, &now, e) < 0)
		return -1;
	wanted = (struct rlimit){ now.rlim_cur, saved->hard > now.rlim_max ? saved->hard : now.rlim_max };
	if (wanted.rlim_max > now.rlim_max && !limits_set(r, saved->resource, &wanted))
		wanted.rlim_max = now.rlim_max;
	switch (saved->resource) {
	case RLIMIT_AS:
	case RLIMIT_DATA:
	case RLIMIT_MEMLOCK:
	case RLIMIT_NPROC:
	case RLIMIT_SIGPENDING:
		wanted.rlim_cur = wanted.rlim_max;
		if (wanted.rlim_cur != now.rlim_cur) /* the maker has done so already, as a rule */
			limits_set(r, saved->resource, &wanted);
	}
	return 0;
}

int limits_widen(const struct task_restore *r, struct err *e)
{
	for (size_t i = 0; i < r->pb->n_limits; i++)
		if (limits_widen_one(r, r->pb->limits[i], e) < 0)
			return -1;
	return 0;
}

static void limits_lower(const struct task_restore *r)
{
	if (r->lowered)
		*r->lowered = true;
}

int limits_restore_script(const struct task_restore *r, struct script_builder *b, struct err *e)
{
	for (size_t i = 0; i < r->pb->n_limits; i++) {
		const Pb__Limit *saved = r->pb->limits[i];
		struct rlimit now, wanted = { saved->soft, saved->hard };
		void *p;

		if (limits_now(r, saved->resource, &now, e) < 0)
			return -1;
		if (wanted.rlim_max > now.rlim_max) {
			wanted.rlim_max = now.rlim_max;
			limits_lower(r);
		}
		if (wanted.rlim_cur > wanted.rlim_max)
			wanted.rlim_cur = wanted.rlim_max;
		if (wanted.rlim_cur == now.rlim_cur && wanted.rlim_max == now.rlim_max)
			continue;
		p = region_put(r->region, &wanted, sizeof(wanted));
		if (!p)
			return err_set(e, ERR_SYSTEM, 0, "the region for the switch is full");
		script_call(b, SCRIPT_MUST, "setting a resource limit", SYS_prlimit64, 0, saved->resource, (uint64_t)p, 0);
	}
	return 0;
}

static int limits_note_one(const Pb__Task *pb, const Pb__Limit *saved, const struct proc_limits *now, struct obstacle_list *notes)
{
	if (saved->resource >= PROC_LIMITS || now->hard[saved->resource] >= saved->hard)
		return 0;
	return obstacle_add(notes, "N-LIMIT", pb->pid, pb->comm, "restore where the hard limit is as high, or as root",
			    "its resource limit %s stays at %lu; it was %lu", limits_name(saved->resource),
			    now->hard[saved->resource], saved->hard);
}

int limits_note(struct arena *arena, const Pb__Task *pb, struct obstacle_list *notes)
{
	struct proc_limits now;
	char *text;
	int r = 0, known = limits_read(pb->pid, arena, &now);

	for (size_t i = 0; r == 0 && known == 0 && i < pb->n_limits; i++)
		r = limits_note_one(pb, pb->limits[i], &now, notes);
	if (r == 0 && fd_read_proc(pb->pid, "oom_score_adj", arena, &text, NULL) == 0 && atoi(text) != pb->oom_score_adj)
		r = obstacle_add(notes, "N-OOM", pb->pid, pb->comm, "restore as root",
				 "its oom_score_adj stays at %d; it was %d, and only root may lower it", atoi(text),
				 pb->oom_score_adj);
	return r;
}

static int limits_write_proc(const char *name, const char *text, struct err *e)
{
	cleanup_close int fd = fd_open_proc(getpid(), name, O_WRONLY);
	int r = fd < 0 ? fd : fd_write_full(fd, text, __builtin_strlen(text));

	return r < 0 ? err_sys(e, r, "writing %s to /proc/self/%s", text, name) : 0;
}

struct limits_born limits_read_born(struct arena *arena)
{
	struct limits_born born = { .knows_limits = true };
	char *text;

	for (int i = 0; i < (int)RLIM_NLIMITS; i++)
		born.knows_limits &= getrlimit((__rlimit_resource_t)i, &born.limits[i]) == 0;
	born.knows_oom = fd_read_proc(getpid(), "oom_score_adj", arena, &text, NULL) == 0;
	if (born.knows_oom)
		born.oom_score_adj = atoi(text);
	born.knows_filter = fd_read_proc(getpid(), "coredump_filter", arena, &text, NULL) == 0;
	if (born.knows_filter)
		born.coredump_filter = strtoull(text, NULL, 16);
	return born;
}

static int limits_restore_oom(const struct task_restore *r, struct err *e)
{
	char text[32];

	if (!r->born->knows_oom || r->born->oom_score_adj == r->pb->oom_score_adj)
		return 0;
	snprintf(text, sizeof(text), "%d", r->pb->oom_score_adj);
	if (limits_write_proc("oom_score_adj", text, e) == 0)
		return 0;
	if (e->reason == ERR_SYSTEM)
		return -1;
	*e = ERR_INIT; /* lowering it takes CAP_SYS_RESOURCE: stays as it is */
	limits_lower(r);
	return 0;
}

static int limits_restore_filter(const struct task_restore *r, struct err *e)
{
	char text[32];

	if (!r->space->has_coredump_filter || (r->born->knows_filter && r->born->coredump_filter == r->space->coredump_filter))
		return 0;
	snprintf(text, sizeof(text), "%#lx", r->space->coredump_filter);
	return limits_write_proc("coredump_filter", text, e);
}

static int limits_restore_cwd(const struct task_restore *r, struct err *e)
{
	const char *path = r->pb->cwd->path;
	struct stat st;

	if (r->pb->has_cwd_inode)
		return inode_enter(r->inodes, r->pb->cwd_inode, e);
	if (chdir(path) < 0 || stat(".", &st) < 0) {
		err_sys(e, errno, "changing to the working folder %s", path);
		err_id(e, "E-FOLDER-GONE");
		return err_help(e, "make that folder again");
	}
	return 0;
}

static int limits_restore_folders(const struct task_restore *r, struct err *e)
{
	const Pb__Task *pb = r->pb;

	if (pb->root && pb->root->path[0] && (pb->root->path[0] != '/' || pb->root->path[1]) && chroot(pb->root->path) < 0)
		return err_sys(e, errno, "changing the root folder to %s", pb->root->path);
	if (limits_restore_cwd(r, e) < 0)
		return -1;
	umask((mode_t)pb->umask);
	return 0;
}

int limits_restore(const struct task_restore *r, struct err *e)
{
	return limits_restore_folders(r, e) < 0 || limits_restore_oom(r, e) < 0 ? -1 : limits_restore_filter(r, e);
}
