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

int task_next_foreign_namespace(pid_t pid, struct task_namespaces *ours, size_t *at, struct arena *arena, const char **ret)
{
	static const char *const names[TASK_NAMESPACES] = { "pid", "user", "mnt", "net", "ipc", "uts", "cgroup", "time" };

	for (*ret = NULL; *at < TASK_NAMESPACES; ++*at) {
		char name[32], *theirs;
		int r;

		snprintf(name, sizeof(name), "ns/%s", names[*at]);
		r = fd_readlink_proc(pid, name, arena, &theirs);
		if (r == 0 && !ours->links[*at])
			r = fd_readlink_proc(getpid(), name, arena, &ours->links[*at]);
		if (r == -ENOENT) /* a kernel without this type of namespace */
			continue;
		if (r < 0 || strcmp(theirs, ours->links[*at]) != 0) {
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

	while ((r = task_next_foreign_namespace(t->pid, c->namespaces, &at, c->arena, &name)) == 0 && name)
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

int questions_add(struct questions *q, int64_t nr, unsigned where, uint64_t arg0, uint64_t arg1, uint64_t arg2, uint64_t arg3)
{
	struct remote_question *v = arena_grow(q->arena, q->v, q->n, sizeof(*v));

	if (!v)
		return -ENOMEM;
	q->v = v;
	v[q->n++] = (struct remote_question){ .nr = nr, .args = { arg0, arg1, arg2, arg3 }, .where = where };
	return 0;
}

const struct remote_question *questions_next(struct questions *q)
{
	return &q->v[q->read++];
}

static int task_ask(struct questions *q)
{
	if (questions_add(q, SYS_brk, 0, 0, 0, 0, 0) < 0 ||
	    questions_add(q, SYS_membarrier, 0, SYS_MEMBARRIER_GET_REGISTRATIONS, 0, 0, 0) < 0 ||
	    questions_add(q, SYS_prctl, 0, PR_GET_DUMPABLE, 0, 0, 0) < 0 ||
	    questions_add(q, SYS_prctl, 0, PR_GET_THP_DISABLE, 0, 0, 0) < 0 ||
	    questions_add(q, SYS_prctl, 1, PR_GET_CHILD_SUBREAPER, 0, 0, 0) < 0)
		return -ENOMEM;
	return 0;
}

static void task_take_answers(struct questions *q, Pb__Task *pb, Pb__AddressSpace *space)
{
	const struct remote_question *subreaper;
	int64_t registrations;
	uint32_t word;

	pb_set(space, brk, (uint64_t)questions_next(q)->result);
	registrations = questions_next(q)->result;
	if (registrations > 0)
		pb_set(space, membarrier, (uint64_t)registrations);
	pb_set(pb, dumpable, (uint32_t)questions_next(q)->result);
	pb_set(pb, thp_disable, questions_next(q)->result > 0);
	subreaper = questions_next(q);
	memcpy(&word, subreaper->answer, sizeof(word));
	pb_set(pb, child_subreaper, subreaper->result == 0 && word);
}

/* Any but the first. `scratch` is for what is not needed afterwards: there can be ten thousand threads. */
static int task_collect_thread(struct task_collect *c, struct remote *leader, size_t thread, struct arena *scratch, Pb__Task *pb,
			       struct err *e)
{
	struct target *t = leader->task;
	struct remote_question q[REMOTE_THREAD_QUESTIONS];
	struct proc_status status = { 0 };
	Pb__Thread *th;
	int r = task_read_status(scratch, t->pid, t->threads[thread].tid, &status, e);

	if (r == 0)
		r = task_check_status(c, t, &status);
	thread_leave_sequence(t, &t->threads[thread]);
	if (r == 0)
		r = remote_ask_thread(leader, thread, q, e);
	if (r == 0)
		r = thread_collect(c, t, thread, q, &status, &th, e);
	return r == 0 && !pb_add(c->arena, pb, threads, th) ? err_nomem(e) : r;
}

static int task_collect_threads(struct task_collect *c, struct remote *leader, struct questions *q, const struct proc_status *own,
				Pb__Task *pb, struct err *e)
{
	Pb__Thread *th;
	int r = thread_collect(c, leader->task, 0, q->v + q->read, own, &th, e);

	if (r == 0 && !pb_add(c->arena, pb, threads, th))
		r = err_nomem(e);
	for (size_t i = 1; r == 0 && i < leader->task->n_threads; i++) {
		struct arena scratch = ARENA_INIT;

		r = task_collect_thread(c, leader, i, &scratch, pb, e);
		arena_done(&scratch);
	}
	return r;
}

static int task_ask_all(struct questions *q, const struct proc_status *status, const struct timers *timers)
{
	struct remote_question own[REMOTE_THREAD_QUESTIONS];

	if (task_ask(q) < 0 || signals_ask(q, status) < 0 || timers_ask(q, timers) < 0)
		return -ENOMEM;
	remote_thread_questions(own);
	for (size_t i = 0; i < REMOTE_THREAD_QUESTIONS; i++)
		if (questions_add(q, own[i].nr, own[i].where, own[i].args[0], 0, 0, 0) < 0)
			return -ENOMEM;
	return 0;
}

static int task_collect_answers(struct task_collect *c, struct remote *leader, struct questions *q, const struct timers *timers,
				const struct proc_status *status, Pb__Task *pb, Pb__AddressSpace *space, struct err *e)
{
	if (remote_ask(leader, q->v, q->n, e) < 0)
		return -1;
	task_take_answers(q, pb, space);
	if (signals_collect(c, leader->task, q, status, pb, e) < 0 || timers_collect(c, q, timers, status, pb, e) < 0)
		return -1;
	if (task_collect_threads(c, leader, q, status, pb, e) < 0)
		return -1;
	for (size_t i = 0; i < pb->n_threads; i++)
		timers_drop_early(pb, pb->threads[i]);
	return 0;
}

/* The part that runs inside the task. */
static int task_collect_inside(struct task_collect *c, struct target *t, const struct proc_status *status,
			       Pb__Task *pb, Pb__AddressSpace *space, struct err *e)
{
	struct questions q = { .arena = c->arena };
	struct timers timers;
	struct remote leader;
	int r = timers_find(c, t, &timers, e);

	if (r == 0 && task_ask_all(&q, status, &timers) < 0)
		r = err_nomem(e);
	if (r < 0)
		return r;
	/* Under a filter it may not signal to itself; and in a PID namespace of its own it has other numbers than we know. */
	for (size_t i = 0; !status->seccomp && status->ns_pids == 1 && i < t->n_threads; i++)
		t->threads[i].knock = remote_find_knock(status->sig_caught, status->sig_ignored, t->threads[i].sigmask);
	thread_leave_sequence(t, &t->threads[0]);
	r = remote_open(&leader, t, e);
	if (r == 0)
		r = task_collect_answers(c, &leader, &q, &timers, status, pb, space, e);
	return remote_close_after(&leader, r, e);
}

void task_set_state(const struct target *t, Pb__Task *pb)
{
	pb_set(pb, state, t->stop_signal ? PB__TASK_STATE__STOPPED : PB__TASK_STATE__RUNNING);
	pb->has_stop_signal = t->stop_signal != 0;
	pb->stop_signal = (uint32_t)t->stop_signal;
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
	r = task_read_status(c->arena, t->pid, t->pid, &status, e);
	if (r < 0)
		return r;
	pb_set(pb, umask, status.umask);
	t->resident = status.vm_rss;
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
	task_set_state(t, pb); /* a signal that was on its way can have stopped it meanwhile */
	return r;
}
