/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A clone of a task's memory, made by the task itself through its stage, and
 * unknown to it:
 *
 *   task -- clone(CLONE_VM) --> helper -- clone() --> the clone
 *
 * The helper shares the task's memory and lays down its file descriptors; so the
 * clone holds none of them, and no pipe or connection stays open for its sake. When
 * the clone is there, the helper ends and the task reaps it, all while the task
 * stands still. The clone then is a child of init, or of whoever else adopts orphans.
 *
 * The clone never executes anything: it stands in the ptrace stop of its birth
 * until it is killed. If torpor dies, the kernel kills it and the helper
 * (PTRACE_O_EXITKILL). What a tracee makes is born with the tracee's options; only
 * the helper is not, for the task must survive us. Until the helper has them, the
 * stage would let it end by itself; and the task's stage reaps it, if torpor cannot.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys/ptrace.h"
#include "target/target.h"
#include "util/fd.h"

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2 /* Linux 5.9 */
#endif

enum {
	PLAIN_OPTIONS = PTRACE_O_TRACESYSGOOD,
	PARENT_OPTIONS = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE,
	HELPER_OPTIONS = PARENT_OPTIONS | PTRACE_O_EXITKILL,
};

static int clone_set_options(pid_t pid, int options, struct err *e)
{
	int r = sys_ptrace(PTRACE_SETOPTIONS, pid, 0, (uintptr_t)options);

	return r < 0 ? err_sys(e, r, "setting the ptrace options of task %d", pid) : 0;
}

static void clone_kill(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	while (waitpid(pid, &status, __WALL) > 0 && WIFSTOPPED(status))
		;
}

/* The helper stands in the stage. Returns 0 with the clone, 1 when it could not be made. */
static int clone_make(struct remote *helper, pid_t *ret, struct err *e)
{
	int64_t closed, pid;

	if (remote_call(helper, &closed, e, SYS_close_range, 0, ~0u, CLOSE_RANGE_UNSHARE) < 0)
		return -1;
	if (closed < 0)
		return 1;
	if (remote_call(helper, &pid, e, SYS_clone, 0, 0, 0, 0, 0) < 0)
		return -1;
	if (pid < 0)
		return 1;
	*ret = (pid_t)pid;
	return remote_await_birth(*ret, e);
}

/* The task is in the stage, and lets it make a helper. */
static int clone_by_helper(struct remote *r, pid_t *ret, struct err *e)
{
	const uint64_t make[6] = { CLONE_VM | CLONE_FILES };
	struct target task = { .mem_fd = -1, .pidfd = -1, .n_threads = 1 };
	struct target_thread thread = { 0 };
	struct remote helper;
	struct err later = ERR_INIT;
	int64_t pid, reaped;
	int made;

	task.threads = &thread;
	if (clone_set_options(r->thread->tid, PARENT_OPTIONS, e) < 0 ||
	    remote_make(r, SYS_clone, make, SYS_wait4, &pid, e) < 0)
		return -1;
	if (pid < 0)
		return 1;
	task.pid = thread.tid = (pid_t)pid;
	made = remote_await_birth(task.pid, e);
	if (made == 0)
		made = clone_set_options(task.pid, HELPER_OPTIONS, e);
	if (made == 0)
		made = remote_adopt(&helper, &task, r, e);
	if (made == 0)
		made = clone_make(&helper, ret, e);
	clone_kill(task.pid);
	if (remote_unmake(r, SYS_wait4, (const uint64_t[6]){ (uint64_t)pid, 0, __WALL, 0 }, &reaped, &later) < 0) {
		*e = later;
		return -1;
	}
	return made;
}

int target_clone(struct target *t, struct target *ret, struct err *e)
{
	struct remote remote;
	struct err later = ERR_INIT;
	pid_t pid = 0;
	int r;

	*ret = (struct target){ .mem_fd = -1, .pidfd = -1 };
	r = remote_open_bare(&remote, t, e);
	if (r == 0)
		r = clone_by_helper(&remote, &pid, e);
	if (remote.entered && clone_set_options(remote.thread->tid, PLAIN_OPTIONS, &later) < 0 && r >= 0)
		*e = later, r = -1;
	r = remote_close_after(&remote, r, e);
	ret->pid = pid;
	if (r == 0) {
		ret->mem_fd = fd_open_proc(pid, "mem", O_RDONLY);
		if (ret->mem_fd < 0)
			r = err_sys(e, ret->mem_fd, "opening the memory of the clone of task %d", t->pid);
	}
	if (r != 0)
		target_clone_end(ret);
	return r;
}

void target_clone_end(struct target *clone)
{
	if (clone->pid)
		clone_kill(clone->pid);
	target_close(clone);
	clone->pid = 0;
}
