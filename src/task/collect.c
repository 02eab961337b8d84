/* SPDX-License-Identifier: Apache-2.0 */

/* One stopped task, topic by topic; and the reasons why a task as such cannot be saved. */

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "arch/x86_64/regs.h"
#include "sys/memory.h"
#include "sys/process.h"
#include "task/task.h"
#include "util/fd.h"

static int task_read_status(struct arena *arena, pid_t pid, pid_t tid, struct proc_status *ret, struct err *e)
{
	char name[64], *text;
	int r;

	snprintf(name, sizeof(name), "task/%d/status", tid);
	r = fd_read_proc(pid, name, arena, &text, NULL);
	if (r == 0)
		r = proc_parse_status(text, arena, ret);
	return r < 0 ? err_sys(e, r, "reading /proc/%d/%s", pid, name) : 0;
}

/* ---- identity ---- */

static bool in_tree(const struct task_collect *c, pid_t pid)
{
	return target_find(c->tree, pid) != NULL;
}

/* Did it give up the controlling terminal that the others of its session have? */
static bool task_has_given_up_terminal(const struct task_collect *c, const struct target *t)
{
	const struct target *leader = target_find(c->tree, t->stat.sid);

	return !t->stat.tty_nr && leader && leader->stat.tty_nr;
}

static int task_collect_identity(struct task_collect *c, struct target *t, Pb__Task *pb)
{
	const struct proc_stat *root = &c->tree->tasks[0]->stat, *st = &t->stat;

	pb->pid = t->pid;
	pb->ppid = t->parent == SIZE_MAX ? 0 : t->ppid;
	pb->pgid = st->pgrp;
	pb->sid = st->sid;
	pb->comm = arena_strdup(c->arena, st->comm);
	pb_set(pb, session_outside, st->sid == root->sid && !in_tree(c, st->sid));
	pb_set(pb, group_outside, st->pgrp == root->pgrp && !in_tree(c, st->pgrp));
	pb_set(pb, foreground, st->tpgid == st->pgrp);
	pb_set(pb, exit_signal, st->exit_signal);
	if (task_has_given_up_terminal(c, t))
		pb_set(pb, terminal_given_up, true);
	return pb->comm ? 0 : -ENOMEM;
}

int task_collect_zombie(struct task_collect *c, struct target *t, Pb__Task *pb, struct err *e)
{
	if (task_collect_identity(c, t, pb) < 0)
		return err_nomem(e);
	pb_set(pb, state, PB__TASK_STATE__ZOMBIE);
	pb_set(pb, exit_status, t->stat.exit_code);
	return 0;
}

static int task_collect_cmdline(struct task_collect *c, struct target *t, Pb__Task *pb, struct err *e)
{
	size_t size;
	char *text;
	int r = fd_read_proc(t->pid, "cmdline", c->arena, &text, &size);

	if (r < 0)
		return err_sys(e, r, "reading /proc/%d/cmdline", t->pid);
	for (size_t i = 0; i + 1 < size; i++)
		if (!text[i])
			text[i] = ' ';
	pb->cmdline = text;
	return 0;
}

static Pb__Path *task_path(struct task_collect *c, struct target *t, const char *name, struct stat *st, struct err *e)
{
	Pb__Path *p = pb_new(c->arena, Pb__Path, pb__path__init);
	char proc[64];
	int r = p ? fd_readlink_proc(t->pid, name, c->arena, &p->path) : -ENOMEM;

	snprintf(proc, sizeof(proc), "/proc/%d/%s", t->pid, name);
	if (r == 0 && stat(proc, st) < 0)
		r = -errno;
	if (r < 0) {
		err_sys(e, r, "reading %s", proc);
		return NULL;
	}
	pb_set(p, dev, st->st_dev);
	pb_set(p, ino, st->st_ino);
	return p;
}

static int task_collect_paths(struct task_collect *c, struct target *t, Pb__Task *pb, struct err *e)
{
	struct stat cwd, root, now = { 0 };

	pb->cwd = task_path(c, t, "cwd", &cwd, e);
	pb->root = pb->cwd ? task_path(c, t, "root", &root, e) : NULL;
	if (!pb->root)
		return -1;
	if (stat(pb->cwd->path, &now) < 0 && !path_is_gone(errno))
		return err_sys(e, errno, "examining the working folder %s", pb->cwd->path);
	if (now.st_ino == cwd.st_ino)
		return 0;
	if (cwd.st_nlink)
		return task_refuse(c, t, "E-TASK-CWD", "change to another folder in the program",
				   "its working folder %s is no longer found by this path", pb->cwd->path);
	pb_set(pb, cwd_inode, 0);
	return inode_collect_gone(c->inodes, pb->cwd->path, &cwd, NULL, &pb->cwd_inode, e);
}

/* ---- what cannot be saved ---- */

int task_next_foreign_namespace(pid_t pid, size_t *at, struct arena *arena, const char **ret)
{
	static const char *const names[] = { "pid", "user", "mnt", "net", "ipc", "uts", "cgroup", "time" };

	for (*ret = NULL; *at < sizeof(names) / sizeof(names[0]); ++*at) {
		char name[32], *theirs, *ours;
		int r;

		snprintf(name, sizeof(name), "ns/%s", names[*at]);
		r = fd_readlink_proc(pid, name, arena, &theirs);
		if (r == 0)
			r = fd_readlink_proc(getpid(), name, arena, &ours);
		if (r == -ENOENT) /* a kernel without this type of namespace */
			continue;
		if (r < 0 || strcmp(theirs, ours) != 0) {
			*ret = names[(*at)++];
			return r;
		}
	}
	return 0;
}

static int task_check_namespaces(struct task_collect *c, struct target *t, struct err *e)
{
	const char *name;
	size_t at = 0;
	int r;

	while ((r = task_next_foreign_namespace(t->pid, &at, c->arena, &name)) == 0 && name)
		if (task_refuse(c, t, "E-TASK-NAMESPACE", "run torpor inside the same namespaces",
				"it lives in another %s namespace than torpor", name) < 0)
			return err_nomem(e);
	return r < 0 ? err_sys(e, r, "reading /proc/PID/ns/%s of task %d and of torpor", name, t->pid) : 0;
}

static int task_check_status(struct task_collect *c, struct target *t, const struct proc_status *status)
{
	int r = 0;

	if (status->seccomp)
		r = task_refuse(c, t, "E-TASK-SECCOMP", "start the program without its sandbox",
				"it is confined by seccomp %s, which only the kernel could make again",
				status->seccomp == 1 ? "strict mode" : "filters");
	if (r == 0 && !arch_is_64bit(&t->threads[0].regs))
		r = task_refuse(c, t, "E-TASK-32BIT", "use a 64-bit build of the program", "it is a 32-bit program");
	return r;
}

static int task_check_sharing(struct task_collect *c, struct target *t)
{
	const struct target *parent = t->parent == SIZE_MAX ? NULL : c->tree->tasks[t->parent];
	int r = 0;

	if (parent && !parent->zombie && sys_kcmp(t->pid, parent->pid, SYS_KCMP_VM, 0, 0) == 0)
		r = task_refuse(c, t, "E-TASK-SHARED-MEMORY", "wait until it has executed its program",
				"it shares its whole memory with its parent %d (vfork or clone)", parent->pid);
	else if (parent && !parent->zombie && sys_kcmp(t->pid, parent->pid, SYS_KCMP_FILES, 0, 0) == 0)
		r = task_refuse(c, t, "E-TASK-SHARED-FILES", "none is known",
				"it shares its file descriptor table with its parent %d", parent->pid);
	if (r == 0 && parent && !parent->zombie && sys_kcmp(t->pid, parent->pid, SYS_KCMP_FS, 0, 0) == 0)
		r = task_refuse(c, t, "E-TASK-SHARED-FOLDER", "none is known",
				"it shares its working folder, root and umask with its parent %d", parent->pid);
	for (size_t i = 1; r == 0 && i < t->n_threads; i++) {
		pid_t tid = t->threads[i].tid;

		if (sys_kcmp(t->pid, tid, SYS_KCMP_FILES, 0, 0) > 0)
			r = task_refuse(c, t, "E-TASK-UNSHARED-FILES", "none is known",
					"its thread %d has a file descriptor table of its own", tid);
		else if (sys_kcmp(t->pid, tid, SYS_KCMP_FS, 0, 0) > 0)
			r = task_refuse(c, t, "E-TASK-UNSHARED-FOLDER", "none is known",
					"its thread %d has a working folder, root and umask of its own", tid);
	}
	return r;
}

/* ---- what only the task itself can tell ---- */

static int task_ask(struct remote *r, Pb__Task *pb, Pb__AddressSpace *space, struct err *e)
{
	int64_t result;
	uint32_t word;

	if (remote_call(r, &result, e, SYS_brk, 0) < 0)
		return -1;
	pb_set(space, brk, (uint64_t)result);
	if (remote_call(r, &result, e, SYS_membarrier, SYS_MEMBARRIER_GET_REGISTRATIONS) < 0)
		return -1;
	if (result > 0)
		pb_set(space, membarrier, (uint64_t)result);
	if (remote_call(r, &result, e, SYS_prctl, PR_GET_DUMPABLE) < 0)
		return -1;
	pb_set(pb, dumpable, (uint32_t)result);
	if (remote_call(r, &result, e, SYS_prctl, PR_GET_THP_DISABLE) < 0)
		return -1;
	pb_set(pb, thp_disable, result > 0);
	if (remote_call(r, &result, e, SYS_prctl, PR_GET_CHILD_SUBREAPER, r->scratch) < 0 ||
	    remote_read(r, &word, sizeof(word), e) < 0)
		return -1;
	pb_set(pb, child_subreaper, result == 0 && word);
	return 0;
}

/* Any but the first. `scratch` is for what is not needed afterwards: there can be ten thousand threads. */
static int task_collect_thread(struct task_collect *c, struct remote *leader, size_t thread, struct arena *scratch, Pb__Task *pb,
			       struct err *e)
{
	struct target *t = leader->task;
	struct proc_status status = { 0 };
	struct err later = ERR_INIT;
	struct remote remote;
	Pb__Thread *th;
	int closed, r = task_read_status(scratch, t->pid, t->threads[thread].tid, &status, e);

	if (r == 0)
		r = task_check_status(c, t, &status);
	thread_leave_sequence(t, &t->threads[thread]);
	if (r == 0)
		r = remote_open(&remote, t, thread, leader, e);
	if (r < 0)
		return r;
	r = thread_collect(c, &remote, &status, &th, e);
	closed = remote_close(&remote, &later);
	if (r == 0 && closed < 0) {
		*e = later;
		r = closed;
	}
	return r == 0 && !pb_add(c->arena, pb, threads, th) ? err_nomem(e) : r;
}

static int task_collect_threads(struct task_collect *c, struct remote *leader, const struct proc_status *own,
				Pb__Task *pb, struct err *e)
{
	Pb__Thread *th;
	int r = thread_collect(c, leader, own, &th, e);

	if (r == 0 && !pb_add(c->arena, pb, threads, th))
		r = err_nomem(e);
	for (size_t i = 1; r == 0 && i < leader->task->n_threads; i++) {
		struct arena scratch = ARENA_INIT;

		r = task_collect_thread(c, leader, i, &scratch, pb, e);
		arena_done(&scratch);
	}
	return r;
}

/* The part that runs inside the task. */
static int task_collect_inside(struct task_collect *c, struct target *t, const struct proc_status *status,
			       Pb__Task *pb, Pb__AddressSpace *space, struct err *e)
{
	struct err later = ERR_INIT;
	struct remote leader;
	int closed, r;

	thread_leave_sequence(t, &t->threads[0]);
	r = remote_open(&leader, t, 0, NULL, e);
	if (r == 0)
		r = task_ask(&leader, pb, space, e);
	if (r == 0)
		r = signals_collect(c, &leader, status, pb, e);
	if (r == 0)
		r = timers_collect(c, &leader, pb, e);
	if (r == 0)
		r = task_collect_threads(c, &leader, status, pb, e);
	closed = remote_close(&leader, &later);
	if (r == 0 && closed < 0) {
		*e = later;
		r = closed;
	}
	return r;
}

int task_collect(struct task_collect *c, struct target *t, Pb__Task *pb, Pb__AddressSpace *space, struct err *e)
{
	struct proc_status status = { 0 };
	char *text;
	int r;

	if (task_collect_identity(c, t, pb) < 0)
		return err_nomem(e);
	if (task_collect_cmdline(c, t, pb, e) < 0)
		return -1;
	pb_set(pb, state, t->stop_signal ? PB__TASK_STATE__STOPPED : PB__TASK_STATE__RUNNING);
	if (t->stop_signal)
		pb_set(pb, stop_signal, (uint32_t)t->stop_signal);
	r = task_read_status(c->arena, t->pid, t->pid, &status, e);
	if (r < 0)
		return r;
	pb_set(pb, umask, status.umask);
	r = fd_read_proc_if_any(t->pid, "personality", c->arena, &text);
	if (r < 0)
		return err_sys(e, r, "reading /proc/%d/personality", t->pid);
	if (text)
		pb_set(pb, personality, strtoull(text, NULL, 16));
	if (task_check_namespaces(c, t, e) < 0)
		return -1;
	if (task_check_status(c, t, &status) < 0 || task_check_sharing(c, t) < 0)
		return err_nomem(e);
	r = task_collect_paths(c, t, pb, e);
	if (r == 0)
		r = creds_collect(c, t, &status, pb, e);
	if (r == 0)
		r = limits_collect(c, t, pb, e);
	if (r == 0 && arch_is_64bit(&t->threads[0].regs))
		r = task_collect_inside(c, t, &status, pb, space, e);
	return r;
}
