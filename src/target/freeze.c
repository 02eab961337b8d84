/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Stop a whole tree: seize and interrupt every thread of every task, and look
 * again until no thread and no child is new. A thread that stands cannot make
 * others, so the search ends, however fast the tree forks.
 *
 * Stopping changes one thing in a program: some waits return EINTR. Those are
 * put right at the stop itself (arch_eintr_was_ours), so that nothing is owed to
 * the program from then on, even if torpor dies.
 */

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "arch/x86_64/regs.h"
#include "sys/ptrace.h"
#include "target/target.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/interrupt.h"

enum { SEIZE_OPTIONS = PTRACE_O_TRACESYSGOOD, VFORK_PATIENCE_MS = 5, DETACH_PATIENCE = 50, SEIZE_ATTEMPTS = 4 };

/* task flags of /proc/PID/stat (kernel: include/linux/sched.h) */
enum { PF_EXITING = 0x4, PF_KTHREAD = 0x00200000 };

struct target *target_find(const struct target_tree *tree, pid_t pid)
{
	for (size_t i = 0; i < tree->n; i++)
		if (tree->tasks[i]->pid == pid)
			return tree->tasks[i];
	return NULL;
}

static int freeze_read_stat(pid_t pid, struct arena *arena, struct proc_stat *ret)
{
	char *text;
	int r = fd_read_proc(pid, "stat", arena, &text, NULL);

	return r < 0 ? r : proc_parse_stat(text, ret);
}

/* ---- one thread ---- */

/* `tracer` was seen to trace the thread, or 0; `uid` is whom it runs as. */
static int freeze_seize_denied(struct target *t, pid_t tracer, uint32_t uid, struct err *e)
{
	if (tracer) {
		err_state(e, "E-TASK-TRACED", 0, "cannot save task %d (%s): process %d is tracing it", t->pid, t->stat.comm, tracer);
		return err_help(e, "end the debugger or strace (or detach it), then try again");
	}
	err_set(e, ERR_PERMISSION, EPERM, "cannot stop task %d (%s) of user %u", t->pid, t->stat.comm, uid);
	err_id(e, "E-DUMP-PERMISSION");
	if (uid != getuid())
		return err_help(e, "run torpor as that user, or as root");
	return err_help(e, "it may be not dumpable (set-user-ID, execute-only, or by prctl), hold capabilities, "
			   "or a security module (Yama's ptrace_scope) may forbid ptrace");
}

/* Remember who traces the thread, if anybody does in this moment, and whom it runs as. */
static void freeze_look_at_tracer(pid_t pid, pid_t tid, pid_t *tracer, uint32_t *uid)
{
	struct arena scratch = ARENA_INIT;
	struct proc_status status;
	char name[64], *text;

	snprintf(name, sizeof(name), "task/%d/status", tid);
	if (fd_read_proc(pid, name, &scratch, &text, NULL) == 0 && proc_parse_status(text, &scratch, &status) == 0) {
		*tracer = status.tracer ? status.tracer : *tracer;
		*uid = status.uid[0];
	}
	arena_done(&scratch);
}

/* The kernel refuses to trace a thread that has ended with the same error as one that is not ours. */
static bool freeze_has_ended(pid_t pid, pid_t tid)
{
	struct arena scratch = ARENA_INIT;
	struct proc_stat stat;
	char name[64], *text;
	bool ended;

	snprintf(name, sizeof(name), "task/%d/stat", tid);
	ended = fd_read_proc(pid, name, &scratch, &text, NULL) < 0 || proc_parse_stat(text, &stat) < 0 ||
		stat.state == 'Z' || stat.state == 'X';
	arena_done(&scratch);
	return ended;
}

/*
 * 1: seized; 0: it is gone meanwhile. The kernel gives a thread that is traced and
 * one that is not ours the same error, and a tracer may let go between the refusal
 * and the look at who it is: tried again, it is seen once, or gone for good.
 */
static int freeze_seize(struct target *t, pid_t tid, struct err *e)
{
	uint32_t uid = (uint32_t)-1;
	pid_t tracer = 0;
	int r;

	for (int i = 0; i < SEIZE_ATTEMPTS; i++) {
		if (i > 0)
			usleep(1000);
		r = sys_ptrace(PTRACE_SEIZE, tid, 0, SEIZE_OPTIONS);
		if (r != -EPERM)
			break;
		if (freeze_has_ended(t->pid, tid))
			return 0;
		freeze_look_at_tracer(t->pid, tid, &tracer, &uid);
	}
	if (r == -ESRCH)
		return 0;
	if (r == -EPERM)
		return freeze_seize_denied(t, tracer, uid, e);
	if (r < 0)
		return err_sys(e, r, "seizing thread %d of task %d (%s)", tid, t->pid, t->stat.comm);
	sys_ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	return 1;
}

/* The stop has come: take the registers, and undo the EINTR that it may have caused. */
static int freeze_examine(struct target *t, struct target_thread *th, struct err *e)
{
	struct arena scratch = ARENA_INIT;
	struct proc_status status = { 0 };
	char name[64], *text;
	int r = sys_ptrace_getregs(th->tid, &th->regs);

	if (r == 0)
		r = sys_ptrace_getsigmask(th->tid, &th->sigmask);
	if (r < 0)
		return err_sys(e, r, "reading the registers of thread %d", th->tid);
	if (!arch_eintr_was_ours(&th->regs))
		return 0;
	snprintf(name, sizeof(name), "task/%d/status", th->tid);
	r = fd_read_proc(t->pid, name, &scratch, &text, NULL);
	if (r == 0)
		r = proc_parse_status(text, &scratch, &status);
	arena_done(&scratch);
	if (r < 0)
		return err_sys(e, r, "reading the pending signals of thread %d", th->tid);
	/* The mask in force may be a temporary one (epoll_pwait), unlike th->sigmask. */
	if ((status.sig_pending | status.shd_pending) & ~status.sig_blocked)
		return 0; /* a signal is coming: the EINTR is the program's own */
	arch_restart_syscall(&th->regs);
	/* Its own mask first: a signal that comes now must find the call begun again, or the call would miss it. */
	r = sys_ptrace_setsigmask(th->tid, th->sigmask);
	if (r == 0)
		r = sys_ptrace_setregs(th->tid, &th->regs);
	return r < 0 ? err_sys(e, r, "writing the registers of thread %d", th->tid) : 0;
}

/*
 * Look whether the thread stands by now. 1: it stands, or is gone (`tid` 0 then);
 * 0: not yet. Signals that were on their way go on to the thread.
 */
static int freeze_poll(struct target *t, struct target_thread *th, struct err *e)
{
	int status;
	pid_t got = waitpid(th->tid, &status, __WALL | WNOHANG);

	if (got == 0)
		return 0;
	if (got < 0 || !WIFSTOPPED(status)) {
		th->tid = 0;
		return 1;
	}
	if (status >> 16 != PTRACE_EVENT_STOP) {
		int signo = status >> 16 ? 0 : WSTOPSIG(status);

		sys_ptrace(SYS_PTRACE_CONT, th->tid, 0, (uintptr_t)signo);
		return 0;
	}
	th->stopped = true;
	if (WSTOPSIG(status) != SIGTRAP)
		t->stop_signal = WSTOPSIG(status);
	if (freeze_examine(t, th, e) < 0)
		return -1;
	return 1;
}

/* ---- one task ---- */

static int freeze_open(struct target *t, struct err *e)
{
	t->mem_fd = fd_open_proc(t->pid, "mem", O_RDWR);
	if (t->mem_fd < 0) {
		err_sys(e, t->mem_fd, "opening /proc/%d/mem", t->pid);
		err_id(e, "E-DUMP-PERMISSION");
		return err_help(e, "the process must belong to you and be dumpable");
	}
	t->pidfd = sys_pidfd_open(t->pid, 0);
	if (t->pidfd < 0)
		return err_sys(e, t->pidfd, "pidfd_open of task %d", t->pid);
	return 0;
}

static int freeze_add_task(struct target_tree *tree, pid_t pid, size_t parent, struct err *e)
{
	struct target *t = arena_new(tree->arena, struct target);
	struct target **tasks = arena_grow(tree->arena, tree->tasks, tree->n, sizeof(*tasks));
	int r;

	if (!t || !tasks)
		return err_nomem(e);
	tree->tasks = tasks;
	t->pid = pid;
	t->parent = parent;
	t->mem_fd = t->pidfd = -1;
	t->resident = UINT64_MAX;
	r = freeze_read_stat(pid, tree->arena, &t->stat);
	if (r == -ENOENT || r == -ESRCH)
		return 0; /* it ended and was reaped meanwhile */
	if (r < 0)
		return err_sys(e, r, "reading /proc/%d/stat", pid);
	if (t->stat.flags & PF_KTHREAD)
		return err_state(e, "E-TASK-KERNEL", 0, "process %d (%s) is a kernel thread", pid, t->stat.comm);
	t->ppid = t->stat.ppid;
	t->zombie = t->stat.state == 'Z' && t->stat.n_threads <= 1;
	tree->tasks[tree->n++] = t;
	return 0;
}

static bool freeze_knows_thread(const struct target *t, pid_t tid)
{
	for (size_t i = t->n_threads; i-- > 0;)
		if (t->threads[i].tid == tid)
			return true;
	return false;
}

static int freeze_add_thread(struct target_tree *tree, struct target *t, pid_t tid, struct err *e)
{
	struct target_thread *threads;
	int r = freeze_seize(t, tid, e);

	if (r <= 0)
		return r;
	threads = arena_grow(tree->arena, t->threads, t->n_threads, sizeof(*threads));
	if (!threads)
		return err_nomem(e);
	t->threads = threads;
	t->threads[t->n_threads++] = (struct target_thread){ .tid = tid };
	return 1;
}

/* Seize the threads of this task that are new. Returns how many, or negative. */
static int freeze_find_threads(struct target_tree *tree, struct target *t, struct err *e)
{
	char path[64];
	struct dirent *d;
	int found = 0, number, r;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", t->pid);
	dir = opendir(path);
	if (!dir) /* reaped meanwhile, like any task that ends while it is being stopped */
		return errno == ENOENT ? 0 : err_sys(e, errno, "reading %s", path);
	while ((d = fd_next_entry(dir, &number))) {
		pid_t tid = atoi(d->d_name);

		if (freeze_knows_thread(t, tid))
			continue;
		r = freeze_add_thread(tree, t, tid, e);
		if (r < 0) {
			closedir(dir);
			return r;
		}
		found += r;
	}
	closedir(dir);
	if (number && number != ENOENT && number != ESRCH) /* these: it has been reaped, too */
		return err_sys(e, number, "reading %s", path);
	return found;
}

static int freeze_add_child(struct target_tree *tree, pid_t pid, size_t parent, struct err *e)
{
	if (target_find(tree, pid))
		return 0;
	if (pid == getpid()) {
		err_set(e, ERR_USAGE, 0, "torpor itself runs inside the tree of process %d", tree->tasks[0]->pid);
		err_id(e, "E-DUMP-INSIDE");
		return err_help(e, "start it from elsewhere: another terminal, or a child of another process");
	}
	return freeze_add_task(tree, pid, parent, e);
}

/* The children of one thread, as the kernel lists them. -ENOTSUP where it does not (CONFIG_PROC_CHILDREN). */
static int freeze_list_children_with(struct arena *scratch, struct target_tree *tree, size_t index, pid_t tid, struct err *e)
{
	struct target *t = tree->tasks[index];
	char name[64], *text;
	size_t n = 0;
	pid_t *pids;
	int r;

	snprintf(name, sizeof(name), "task/%d/children", tid);
	r = fd_read_proc(t->pid, name, scratch, &text, NULL);
	if (r == -ENOENT)
		return faccessat(AT_FDCWD, "/proc/thread-self/children", R_OK, 0) < 0 ? -ENOTSUP : 0;
	if (r == -ESRCH)
		return 0;
	if (r == 0)
		r = proc_parse_pids(text, scratch, &pids, &n);
	if (r < 0)
		return err_sys(e, r, "reading /proc/%d/%s", t->pid, name);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = freeze_add_child(tree, pids[i], index, e);
	return r;
}

static int freeze_list_children(struct target_tree *tree, size_t index, pid_t tid, struct err *e)
{
	struct arena scratch = ARENA_INIT;
	int r = freeze_list_children_with(&scratch, tree, index, tid, e);

	arena_done(&scratch);
	return r;
}

/* The children of all known tasks, the long way: every process of the system says who its parent is. */
static int freeze_scan_children(struct target_tree *tree, struct err *e)
{
	DIR *proc = opendir("/proc");
	struct dirent *d;
	int r = 0, number = 0;

	if (!proc)
		return err_sys(e, errno, "reading /proc");
	while (r == 0 && (d = fd_next_entry(proc, &number))) {
		struct proc_stat stat;

		if (!isdigit(d->d_name[0]) || freeze_read_stat(atoi(d->d_name), tree->arena, &stat) < 0)
			continue;
		for (size_t i = 0; i < tree->n; i++) {
			if (tree->tasks[i]->pid == stat.ppid) {
				r = freeze_add_child(tree, stat.pid, i, e);
				break;
			}
		}
	}
	closedir(proc);
	return number ? err_sys(e, number, "reading /proc") : r;
}

/* The children of all known tasks that are new. Returns how many, or negative. */
static int freeze_find_children(struct target_tree *tree, struct err *e)
{
	size_t before = tree->n;
	int r = 0;

	for (size_t i = 0; r == 0 && i < before; i++)
		for (size_t k = 0; r == 0 && k < tree->tasks[i]->n_threads; k++)
			r = freeze_list_children(tree, i, tree->tasks[i]->threads[k].tid, e);
	if (r == -ENOTSUP)
		r = freeze_scan_children(tree, e);
	return r < 0 ? r : (int)(tree->n - before);
}

/* ---- waiting ---- */

/*
 * A parent in vfork(2) cannot be interrupted until its child has executed a
 * program or ended: let its children run on for a moment.
 */
static void freeze_indulge_vfork(struct target_tree *tree, size_t index)
{
	for (size_t i = 0; i < tree->n; i++) {
		struct target *child = tree->tasks[i];

		if (child->parent != index)
			continue;
		for (size_t k = 0; k < child->n_threads; k++) {
			struct target_thread *th = &child->threads[k];

			if (!th->tid || !th->stopped)
				continue;
			th->stopped = false;
			sys_ptrace(SYS_PTRACE_CONT, th->tid, 0, 0);
		}
	}
	usleep(300);
	for (size_t i = 0; i < tree->n; i++)
		for (size_t k = 0; tree->tasks[i]->parent == index && k < tree->tasks[i]->n_threads; k++)
			if (tree->tasks[i]->threads[k].tid)
				sys_ptrace(PTRACE_INTERRUPT, tree->tasks[i]->threads[k].tid, 0, 0);
}

/*
 * A leader that was killed reports its end only when its threads, those that
 * stood already as well, have been waited for.
 */
static void freeze_bury_threads(struct target *t)
{
	for (size_t k = 0; k < t->n_threads; k++) {
		struct target_thread *th = &t->threads[k];
		int status;

		if (th->tid && th->stopped && waitpid(th->tid, &status, __WALL | WNOHANG) > 0 && !WIFSTOPPED(status))
			th->tid = 0;
	}
}

static int freeze_timed_out(struct target_tree *tree, size_t index, pid_t tid, unsigned timeout_ms, struct err *e)
{
	struct target *t = tree->tasks[index];

	err_set(e, ERR_SYSTEM, ETIMEDOUT, "thread %d of task %d (%s) does not stop within %u ms; it sleeps uninterruptibly in %s",
		tid, t->pid, t->stat.comm, timeout_ms, fd_read_wchan(tid, tree->arena));
	err_id(e, "E-DUMP-TIMEOUT");
	return err_help(e, "it waits for a device or a file server; try again when that answers, or raise --timeout");
}

/* Most stop as soon as they are on a CPU: that is less than the shortest sleep. */
static void freeze_pause(unsigned round)
{
	if (round < 20)
		sched_yield();
	else
		usleep(round < 40 ? 20 : 500);
}

/* Wait until every thread known so far stands or is gone. */
static int freeze_wait(struct target_tree *tree, uint64_t deadline, unsigned timeout_ms, struct err *e)
{
	uint64_t begun = clock_now_ns(CLOCK_MONOTONIC);
	unsigned rounds = 0;

	for (;;) {
		size_t missing = 0, last_task = 0;
		pid_t last_tid = 0;

		for (size_t i = 0; i < tree->n; i++) {
			for (size_t k = 0; k < tree->tasks[i]->n_threads; k++) {
				struct target_thread *th = &tree->tasks[i]->threads[k];
				int r = !th->tid || th->stopped ? 1 : freeze_poll(tree->tasks[i], th, e);

				if (r < 0)
					return r;
				if (r == 0)
					missing++, last_task = i, last_tid = th->tid;
			}
		}
		if (interrupt_check(e) < 0)
			return -1;
		if (!missing)
			return 0;
		if (clock_now_ns(CLOCK_MONOTONIC) > deadline)
			return freeze_timed_out(tree, last_task, last_tid, timeout_ms, e);
		if (clock_now_ns(CLOCK_MONOTONIC) - begun > VFORK_PATIENCE_MS * 1000000ull) {
			freeze_bury_threads(tree->tasks[last_task]);
			freeze_indulge_vfork(tree, last_task);
		}
		freeze_pause(rounds++);
	}
}

/* Forget threads that ended while the tree was being stopped, and tasks that have none left. */
static void freeze_drop_gone(struct target_tree *tree)
{
	for (size_t i = 0; i < tree->n; i++) {
		struct target *t = tree->tasks[i];
		size_t kept = 0;

		for (size_t k = 0; k < t->n_threads; k++)
			if (t->threads[k].tid)
				t->threads[kept++] = t->threads[k];
		t->n_threads = kept;
	}
}

/* One pass over the tree. Returns the number of tasks and threads that were new, or negative. */
static int freeze_pass(struct target_tree *tree, uint64_t deadline, unsigned timeout_ms, struct err *e)
{
	int found = 0, r;

	for (size_t i = 0; i < tree->n; i++) {
		if (tree->tasks[i]->zombie)
			continue;
		r = freeze_find_threads(tree, tree->tasks[i], e);
		if (r < 0)
			return r;
		found += r;
	}
	r = freeze_wait(tree, deadline, timeout_ms, e);
	if (r < 0)
		return r;
	freeze_drop_gone(tree);
	r = freeze_find_children(tree, e);
	return r < 0 ? r : found + r;
}

/* ---- the tree ---- */

/*
 * A sleep that goes on under the name of restart_syscall could only end with
 * EINTR in a restored thread: give it back its own name.
 */
static void freeze_name_restarted(struct target *t)
{
	for (size_t i = 0; i < t->n_threads; i++) {
		struct user_regs_struct *regs = &t->threads[i].regs;
		unsigned char code[ARCH_CALL_CODE];
		uint64_t end;
		int64_t nr;

		if (!arch_is_64bit(regs) || !arch_in_restart(regs, &end) ||
		    fd_pread_full(t->mem_fd, code, sizeof(code), (off_t)(end - sizeof(code))) < 0)
			continue;
		nr = arch_restarted_call(regs, code);
		if (nr >= 0)
			arch_name_restarted(regs, end, nr);
	}
}

bool target_blame_ended(const struct target_tree *tree, const struct target *t, struct err *e)
{
	struct proc_stat stat;

	if (t->zombie || (freeze_read_stat(t->pid, tree->arena, &stat) == 0 && stat.state != 'Z' && stat.state != 'X' &&
			  !(stat.flags & PF_EXITING)))
		return false;
	err_state(e, "E-TASK-ENDED", 0, "task %d (%s) was killed while it was being saved", t->pid, t->stat.comm);
	return true;
}

/* Everything stands: read again what may have changed while it was being stopped. */
static int freeze_settle(struct target_tree *tree, struct err *e)
{
	size_t kept = 0;

	for (size_t i = 0; i < tree->n; i++) {
		struct target *t = tree->tasks[i];
		int r = freeze_read_stat(t->pid, tree->arena, &t->stat);

		if (r == -ENOENT || r == -ESRCH)
			continue; /* ended and reaped */
		if (r < 0)
			return err_sys(e, r, "reading /proc/%d/stat", t->pid);
		t->zombie = t->stat.state == 'Z' && !t->n_threads;
		t->ppid = t->stat.ppid;
		if (!t->zombie && t->n_threads && t->threads[0].tid != t->pid && freeze_knows_thread(t, t->pid))
			return err_set(e, ERR_USAGE, 0, "%d is a thread of process %d: dump that", t->pid, t->threads[0].tid);
		if (!t->zombie && (!t->n_threads || t->threads[0].tid != t->pid))
			return err_state(e, "E-TASK-LEADER-ENDED", 0, "cannot save task %d (%s): its first thread has ended",
					 t->pid, t->stat.comm);
		if (!t->zombie) {
			r = freeze_open(t, e);
			if (r == 0)
				r = remote_rescue(t, e);
			if (r < 0) {
				target_blame_ended(tree, t, e);
				return r;
			}
			freeze_name_restarted(t);
		}
		tree->tasks[kept++] = t;
	}
	tree->n = kept;
	for (size_t i = 0; i < tree->n; i++) {
		struct target *t = tree->tasks[i];

		t->parent = SIZE_MAX;
		for (size_t k = 0; i && k < tree->n; k++)
			if (tree->tasks[k]->pid == t->ppid)
				t->parent = k;
	}
	if (!tree->n || tree->tasks[0]->zombie)
		return err_state(e, "E-TASK-ENDED", 0, "the process ended while it was being stopped");
	tree->frozen_at = clock_now_ns(CLOCK_MONOTONIC);
	return 0;
}

int target_freeze(struct target_tree *tree, pid_t root, struct arena *arena, unsigned timeout_ms, struct err *e)
{
	uint64_t deadline = clock_now_ns(CLOCK_MONOTONIC) + timeout_ms * 1000000ull;
	int r;

	*tree = (struct target_tree){ .arena = arena };
	r = freeze_add_task(tree, root, SIZE_MAX, e);
	if (r == 0 && !tree->n)
		r = err_state(e, "E-TASK-NONE", 0, "there is no process %d", root);
	if (r == 0 && tree->tasks[0]->zombie)
		r = err_state(e, "E-TASK-ENDED", 0, "process %d (%s) has already ended; its parent %d has not reaped it yet", root,
			      tree->tasks[0]->stat.comm, tree->tasks[0]->ppid);
	while (r == 0) {
		r = freeze_pass(tree, deadline, timeout_ms, e);
		if (r <= 0)
			break;
		r = 0;
	}
	if (r == 0)
		r = freeze_settle(tree, e);
	if (r < 0)
		target_tree_release(tree);
	return r;
}

void target_close(struct target *t)
{
	fd_closep(&t->mem_fd);
	fd_closep(&t->pidfd);
	t->mem_fd = t->pidfd = -1;
}

/* A thread that is not yet in a stop must be brought into one before it can be let go. */
static void target_detach(struct target *t, struct target_thread *th)
{
	struct err unheard = ERR_INIT;
	int status;

	/* Its stop is on the way, and may have ended a wait with EINTR: see it through. */
	for (int i = 0; i < DETACH_PATIENCE && th->tid && !th->stopped && freeze_poll(t, th, &unheard) == 0; i++)
		usleep(200);
	if (!th->tid)
		return;
	while (sys_ptrace(SYS_PTRACE_DETACH, th->tid, 0, 0) < 0) {
		pid_t got;

		sys_ptrace(PTRACE_INTERRUPT, th->tid, 0, 0);
		got = waitpid(th->tid, &status, __WALL | WNOHANG);
		if (got < 0 || (got > 0 && !WIFSTOPPED(status)))
			return; /* gone */
		if (got == 0)
			return; /* sleeps uninterruptibly: our exit detaches it, harmlessly */
		if (!(status >> 16) && WSTOPSIG(status) != (SIGTRAP | 0x80)) {
			sys_ptrace(SYS_PTRACE_DETACH, th->tid, 0, (uintptr_t)WSTOPSIG(status));
			return;
		}
	}
}

void target_tree_release(struct target_tree *tree)
{
	for (size_t i = tree->n; i-- > 0;) {
		for (size_t k = 0; k < tree->tasks[i]->n_threads; k++)
			target_detach(tree->tasks[i], &tree->tasks[i]->threads[k]);
		target_close(tree->tasks[i]);
	}
	tree->n = 0;
}
