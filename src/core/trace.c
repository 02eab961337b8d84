/* SPDX-License-Identifier: Apache-2.0 */
#include "core/trace.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "arch/x86_64/regs.h"
#include "proc/task.h"
#include "sys/ptrace.h"
#include "task/task.h"
#include "util/fd.h"
#include "util/guard.h"
#include "util/interrupt.h"

enum {
	ABANDON_ROUNDS = 10, /* without a sign of life, before nobody is left */
	TRACE_OPTIONS = PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD, /* what is made with CLONE_PTRACE has them as well */
	TELL_EVERY_MS = 100,     /* of the progress */
	EXPECT_FROM = 64, EXPECT_PER_TASK = 4, /* so many threads are many */
	GUESSES = 16,
	SOON_NS = 1000000,
	LONE_YIELDS = 400, /* half a millisecond: a thread that is alone comes to its next stop sooner than we would be woken */
};

/* Whoever traces torpor and what it makes (strace -f, a debugger), or 0. */
static pid_t trace_tracer_of(pid_t pid)
{
	struct arena scratch = ARENA_INIT;
	struct proc_status status = { 0 };
	char *text;

	if (fd_read_proc(pid, "status", &scratch, &text, NULL) == 0)
		proc_parse_status(text, &scratch, &status);
	arena_done(&scratch);
	return status.tracer;
}

int trace_begin(pid_t root, struct err *e)
{
	int r = sys_ptrace(PTRACE_SEIZE, root, 0, TRACE_OPTIONS);
	pid_t tracer = r == -EPERM ? trace_tracer_of(root) : 0;

	if (r == 0)
		return 0;
	if (!tracer)
		return err_sys(e, r, "tracing our own child %d", root);
	err_state(e, "E-TASK-TRACED", 0, "cannot make task %d: process %d traces torpor, and so whatever that makes", root, tracer);
	return err_help(e, "restore without the debugger or strace");
}

/* ---- what became of a script ---- */

static int trace_read(pid_t pid, uint64_t addr, void *buf, size_t size)
{
	struct iovec local = { buf, size }, remote = { (void *)addr, size };

	return process_vm_readv(pid, &local, 1, &remote, 1, 0) == (ssize_t)size ? 0 : -EIO;
}

/* A thread that could not be made: its number is what matters. */
static int trace_thread_failed(pid_t pid, const struct script_op *op, struct err *e)
{
	struct script thread;

	if (trace_read(pid, op->args[2], &thread, sizeof(thread)) < 0 || (op->result != -EEXIST && op->result != -ETIME))
		return err_sys(e, (int)op->result, "making a thread with its TID");
	if (op->result == -ETIME) {
		err_state(e, "E-PID-LIMIT", 0, "the TID %lu has not come up within the limit of forks", thread.tid);
		return err_help(e, "a higher --fork-limit");
	}
	err_state(e, "E-PID-TAKEN", 0, "the TID %lu is taken by another process", thread.tid);
	return err_help(e, "try again when that has ended");
}

/* Did the script at `addr` run to its end? */
static int trace_check_end(pid_t pid, uint64_t addr, struct script *ret, struct err *e)
{
	struct script_op op;

	if (trace_read(pid, addr, ret, sizeof(*ret)) < 0)
		return err_set(e, ERR_SYSTEM, 0, "reading the script's outcome");
	if (ret->done == ret->n)
		return 0;
	if (trace_read(pid, ret->ops + ret->done * sizeof(op), &op, sizeof(op)) < 0)
		return err_set(e, ERR_SYSTEM, 0, "reading the script's outcome");
	if (op.code == SCRIPT_THREAD)
		return trace_thread_failed(pid, &op, e);
	return err_sys(e, (int)op.result, "%s (step %u of %u)", op.note ? (const char *)op.note : "the switch",
		       ret->done + 1, ret->n);
}

/* As above, for the scripts of the threads as well, of which only the leader's script knows. */
static int trace_check_scripts(pid_t pid, uint64_t addr, struct err *e)
{
	struct script script, thread;
	struct script_op *ops;
	int r = trace_check_end(pid, addr, &script, e);

	if (r < 0)
		return r;
	ops = calloc(script.n, sizeof(*ops));
	if (!ops)
		return err_nomem(e);
	if (trace_read(pid, script.ops, ops, script.n * sizeof(*ops)) < 0)
		r = err_set(e, ERR_SYSTEM, 0, "reading the script's outcome");
	for (uint32_t i = 0; r == 0 && i < script.n; i++)
		if (ops[i].code == SCRIPT_THREAD)
			r = trace_check_end(pid, ops[i].args[2], &thread, e);
	free(ops);
	return r;
}

/* ---- until all have parked ---- */

/* What was told of the progress last, of how many bytes in all, and how long there has been no news. */
struct trace_told {
	uint64_t made, loaded, to_load;
	unsigned idle_ms;
};

static const struct plan_task *trace_task(const struct build *b, pid_t pid)
{
	for (size_t i = 0; i < b->plan->n_tasks; i++)
		if (b->plan->tasks[i].pb->pid == pid)
			return &b->plan->tasks[i];
	return NULL;
}

/* A task or thread of the tree, or a stand-in; else a child that our caller had before it became torpor. */
static bool trace_knows(const struct build *b, pid_t tid)
{
	for (size_t i = 0; i < b->plan->n_tasks; i++) {
		const Pb__Task *pb = b->plan->tasks[i].pb;

		if (tid == pb->pid || tid == pb->pgid || tid == pb->sid)
			return true;
		for (size_t k = 1; k < pb->n_threads; k++)
			if (tid == pb->threads[k]->tid)
				return true;
	}
	return false;
}

/* Somebody ended before its time: what did it say? */
static int trace_lost(struct build *b, pid_t pid, int status, struct err *e)
{
	if (atomic_load(&b->meeting->told)) {
		*e = b->meeting->err;
		return e->number ? -e->number : -ECANCELED;
	}
	if (WIFSIGNALED(status))
		return err_set(e, ERR_SYSTEM, 0, "process %d was killed by signal %d (%s) while it was being made", pid,
			       WTERMSIG(status), strsignal(WTERMSIG(status)));
	return err_set(e, ERR_SYSTEM, 0, "process %d ended with status %d while it was being made", pid, WEXITSTATUS(status));
}

/* Zombies and stand-ins are meant to end; tasks and failures are not. */
static bool trace_may_end(const struct build *b, pid_t pid, int status)
{
	const struct plan_task *t = trace_task(b, pid);

	if (atomic_load(&b->meeting->failed))
		return false;
	if (WIFEXITED(status) && WEXITSTATUS(status) == PID_STRAY)
		return true; /* another process had snatched the number that it should have got */
	return t ? t->pb->state == PB__TASK_STATE__ZOMBIE : WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/*
 * A leader that has given up has not made all its threads: nobody must wait for those. It parks by SIGSTOP; the other
 * signal is let through by the last step of its script.
 */
static int trace_check_parked(const struct build *b, const struct plan_task *t, pid_t tid, int signo, struct err *e)
{
	struct script script;

	if (!t || signo != SIGSTOP || trace_check_end(tid, b->regions[t - b->plan->tasks].script, &script, e) == 0)
		return 0;
	return err_wrap(e, "task %d (%s)", t->pb->pid, t->pb->comm);
}

/*
 * A SIGSEGV of this task: 1 if it is the end of its script, behind which nothing is mapped. One that another process has sent
 * comes too early for the program. Another crash is its end.
 */
static int trace_crash(const struct build *b, const struct plan_task *t, pid_t tid)
{
	const struct build_region *region = &b->regions[t - b->plan->tasks];
	siginfo_t info;

	if (sys_ptrace_getsiginfo(tid, &info) < 0)
		return 0;
	if (info.si_code == SEGV_MAPERR && (uint64_t)info.si_addr - region->start < region->size)
		return 1;
	sys_ptrace(SYS_PTRACE_CONT, tid, 0, info.si_code > 0 ? SIGSEGV : 0);
	return 0;
}

/* One event. Returns 1 when a thread has parked, 0 for all else, negative when the restore has failed. */
static int trace_event(struct build *b, pid_t tid, int status, struct err *e)
{
	const struct plan_task *t = trace_task(b, tid);
	const bool zombie = t && t->pb->state == PB__TASK_STATE__ZOMBIE; /* or what will be one, which dies of its signal */
	int signo = 0;

	if (!WIFSTOPPED(status))
		return !trace_knows(b, tid) || trace_may_end(b, tid, status) ? 0 : trace_lost(b, tid, status, e);
	if (!(status >> 16)) {
		signo = WSTOPSIG(status);
		if ((signo == SIGSTOP || signo == b->park) && !zombie)
			return trace_check_parked(b, t, tid, signo, e) < 0 ? -1 : 1;
		if (signo == SIGSEGV && t && !zombie)
			return trace_crash(b, t, tid);
	}
	sys_ptrace(SYS_PTRACE_CONT, tid, 0, (uintptr_t)signo); /* gone: its end will be reported */
	return 0;
}

/* Bytes of memory, by all tasks. */
static uint64_t trace_loaded(const struct build *b)
{
	uint64_t loaded = 0;

	for (size_t i = 0; i < b->plan->n_tasks; i++)
		loaded += atomic_load(&b->regions[i].loaded);
	return loaded;
}

/* How far the tasks have come: forking until PIDs come up, or loading. */
static void trace_tell(const struct build *b, struct trace_told *told)
{
	uint64_t made = __atomic_load_n(&b->pids->steer.made, __ATOMIC_RELAXED), loaded = trace_loaded(b);

	if (made != told->made || loaded != told->loaded)
		told->idle_ms = 0;
	if (made != told->made)
		progress_count(b->progress, "forking until its PID comes up", made, b->pids->steer.limit);
	/* What is loaded for those that share it counts, too, even where whoever loads it does not keep it. */
	if (loaded != told->loaded)
		progress_step(b->progress, "loading memory", loaded < told->to_load ? loaded : told->to_load, told->to_load);
	told->made = made;
	told->loaded = loaded;
}

/* There is no more to tell, but how long nobody comes further. */
static struct trace_told trace_told_all(const struct build *b)
{
	return (struct trace_told){ .made = __atomic_load_n(&b->pids->steer.made, __ATOMIC_RELAXED), .loaded = trace_loaded(b) };
}

/* Was this thread born, and has not stopped for us? */
static bool trace_runs(pid_t tid, struct arena *scratch)
{
	struct proc_stat stat;
	char *text;

	return fd_read_proc(tid, "stat", scratch, &text, NULL) == 0 && proc_parse_stat(text, &stat) == 0 && stat.state != 't';
}

static int trace_stuck(const struct build *b, struct err *e)
{
	struct arena scratch = ARENA_INIT;

	err_set(e, ERR_SYSTEM, ETIMEDOUT, "nothing has come further for %u ms", b->timeout_ms);
	for (size_t i = 0; i < b->plan->n_tasks; i++) {
		const Pb__Task *pb = b->plan->tasks[i].pb;

		for (size_t k = 0; k < pb->n_threads; k++)
			if (trace_runs(pb->threads[k]->tid, &scratch))
				err_set(e, ERR_SYSTEM, ETIMEDOUT, "thread %d of task %d (%s) has come no further for %u ms; it is in %s",
					pb->threads[k]->tid, pb->pid, pb->comm, b->timeout_ms,
					fd_read_wchan(pb->threads[k]->tid, &scratch));
	}
	arena_done(&scratch);
	err_id(e, "E-RESTORE-TIMEOUT");
	return err_help(e, "it waits for a device or a file server; try again when that answers, or raise --timeout");
}

/* SIGCHLD, which is blocked: for at most so long. False: it did not come. */
static bool trace_take_signal(uint64_t ns)
{
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	return sigtimedwait(&child, NULL, &(struct timespec){ .tv_nsec = (long)ns }) > 0;
}

/*
 * For news, for a moment. The moments without any are counted, not the time: torpor may have been stopped, or the
 * machine asleep.
 */
static int trace_pause(const struct build *b, struct trace_told *told, struct err *e)
{
	if (!trace_take_signal(TELL_EVERY_MS * 1000000ull))
		told->idle_ms += TELL_EVERY_MS;
	trace_tell(b, told);
	return told->idle_ms <= b->timeout_ms ? 0 : trace_stuck(b, e);
}

/* As waitpid(2), for as long as anybody comes further. Returns 0 where there is nobody to wait for. */
static pid_t trace_waitpid(const struct build *b, struct trace_told *told, pid_t pid, int *ret_status, struct err *e)
{
	unsigned yields = b->plan->n_threads == 1 ? LONE_YIELDS : 0;
	pid_t got;

	for (unsigned round = 0; (got = waitpid(pid, ret_status, __WALL | WNOHANG)) == 0; round++)
		if (round < yields)
			sched_yield();
		else if (trace_pause(b, told, e) < 0)
			return -1;
	told->idle_ms = 0;
	return got > 0 ? got : 0;
}

/*
 * To ask for the next report of anybody, the kernel looks at each tracee; to ask for one of them, it does not. So
 * with many, whose report is it likely to be? The threads of a task are born in the order of their numbers, as a rule, and park in it.
 */
struct trace_expected {
	struct trace_member {
		pid_t tid;
		enum trace_seen { TRACE_UNSEEN, TRACE_BORN, TRACE_PARKED } seen;
	} *v; /* sorted; NULL: there are few, or no memory for it */
	size_t n, next[2]; /* of those who are not born yet, and of those who have not parked */
};

static int trace_compare_members(const void *a, const void *b)
{
	return ((const struct trace_member *)a)->tid - ((const struct trace_member *)b)->tid;
}

static void trace_expect(struct trace_expected *x, const struct plan *p)
{
	*x = (struct trace_expected){ 0 };
	if (p->n_threads < EXPECT_FROM || p->n_threads < EXPECT_PER_TASK * p->n_tasks)
		return; /* tasks come in any order */
	x->v = calloc(p->n_threads, sizeof(*x->v));
	for (size_t i = 0; x->v && i < p->n_tasks; i++)
		for (size_t k = 0; p->tasks[i].pb->state != PB__TASK_STATE__ZOMBIE && k < p->tasks[i].pb->n_threads; k++)
			x->v[x->n++].tid = p->tasks[i].pb->threads[k]->tid;
	if (x->v)
		qsort(x->v, x->n, sizeof(*x->v), trace_compare_members);
}

static void trace_note_seen(struct trace_expected *x, pid_t tid, enum trace_seen seen)
{
	const struct trace_member key = { .tid = tid };
	struct trace_member *m = x->v ? bsearch(&key, x->v, x->n, sizeof(*x->v), trace_compare_members) : NULL;

	if (m && m->seen < seen)
		m->seen = seen;
}

/* A report of somebody who is likely to have one; 0: there is none. */
static pid_t trace_guess(struct trace_expected *x, int *ret_status)
{
	for (int round = 0; x->v && round < GUESSES; round++) {
		for (int what = 0; what < 2; what++) {
			pid_t got;

			while (x->next[what] < x->n && x->v[x->next[what]].seen > (enum trace_seen)what)
				x->next[what]++;
			if (x->next[what] == x->n)
				continue;
			got = waitpid(x->v[x->next[what]].tid, ret_status, __WALL | WNOHANG);
			if (got > 0)
				return got;
		}
		sched_yield();
	}
	return 0;
}

/* As trace_waitpid(), of anybody. */
static pid_t trace_wait_any(const struct build *b, struct trace_expected *x, struct trace_told *told, int *ret_status, struct err *e)
{
	pid_t tid = trace_guess(x, ret_status);

	if (tid)
		return tid;
	/* Soon somebody may have one; and the kernel's look at each of many takes as long. */
	if (x->v && trace_take_signal(SOON_NS) && (tid = trace_guess(x, ret_status)) != 0)
		return tid;
	return trace_waitpid(b, told, -1, ret_status, e);
}

static uint64_t trace_to_load(const struct build *b)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < b->plan->n_tasks; i++) {
		const Pb__Task *pb = b->plan->tasks[i].pb;

		pages += pb->has_space ? image_pages_of(b->image, IMAGE_OWNER_SPACE(pb->space)) : 0;
	}
	return pages * IMAGE_PAGE;
}

static struct trace_told trace_begin_telling(const struct build *b)
{
	struct trace_told told = { .loaded = trace_loaded(b), .to_load = trace_to_load(b) };

	progress_step(b->progress, "loading memory", told.loaded, told.to_load);
	return told;
}

/* ---- the loader ---- */

/* Until it has ended: then *ret_status is that of waitpid(2). Meanwhile, the progress is told. */
static int trace_wait_loader(const struct build *b, pid_t loader, int *ret_status, struct err *e)
{
	struct trace_told told = trace_begin_telling(b);
	pid_t got;

	while ((got = waitpid(loader, ret_status, WNOHANG)) == 0)
		if (interrupt_check_for(&b->interrupts, e) < 0 || trace_pause(b, &told, e) < 0)
			return -1;
	trace_tell(b, &told);
	return got < 0 ? err_sys(e, errno, "waiting for the memory to be loaded") : 0;
}

int trace_await_loader(struct build *b, pid_t loader, struct err *e)
{
	int status = 0, r = b->help ? help_give(b->help, b->image, loader, e) : 0;

	if (r == 0)
		r = trace_wait_loader(b, loader, &status, e);
	if (r < 0)
		kill(loader, SIGKILL);
	if (r < 0 && waitpid(loader, &status, 0) < 0)
		return r;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return r < 0 ? r : trace_lost(b, loader, status, e);
	*e = ERR_INIT; /* what has been made by now is not called off */
	return 0;
}

/* ---- parked tasks ---- */

/* Where in the vdso is a `syscall` instruction? Our own is the same as every task's. */
static int trace_find_gadget(uint64_t *ret, struct err *e)
{
	const char *vdso = (const char *)getauxval(AT_SYSINFO_EHDR), *found = NULL;
	const Elf64_Ehdr *header = (const Elf64_Ehdr *)vdso;

	for (int i = 0; vdso && !found && i < header->e_phnum; i++) {
		const Elf64_Phdr *part = (const Elf64_Phdr *)(vdso + header->e_phoff) + i;

		if (part->p_type == PT_LOAD && part->p_flags & PF_X)
			found = memmem(vdso + part->p_offset, part->p_filesz, "\x0f\x05", 2);
	}
	if (!found)
		return err_state(e, "E-KERNEL-VDSO", 0, "the vdso has no system call instruction");
	*ret = (uint64_t)(found - vdso);
	return 0;
}

static int trace_lost_thread(pid_t tid, struct err *e)
{
	return err_set(e, ERR_SYSTEM, 0, "thread %d was lost", tid);
}

/* Every signal is blocked, so the kernel itself has sent this one: the thread would crash again and again. */
static int trace_check_stop(int status, struct err *e)
{
	int signo = WSTOPSIG(status);

	if (status >> 16 || (signo != SIGSEGV && signo != SIGBUS && signo != SIGILL && signo != SIGFPE && signo != SIGTRAP))
		return 0;
	return err_set(e, ERR_SYSTEM, 0, "it crashed by signal %d (%s) as soon as it was complete", signo, strsignal(signo));
}

/*
 * The next stop of this leader. Of one with threads, others may end first, or its end would never be reported; so
 * nobody else's stop must be on its way then.
 */
static int trace_wait(const struct build *b, const Pb__Task *pb, int *ret_status, struct err *e)
{
	struct trace_told told = trace_told_all(b);
	pid_t got;

	do
		got = trace_waitpid(b, &told, pb->n_threads > 1 ? -1 : pb->pid, ret_status, e);
	while (got > 0 && got != pb->pid);
	if (got < 0)
		return -1;
	return got && WIFSTOPPED(*ret_status) ? trace_check_stop(*ret_status, e) : trace_lost_thread(pb->pid, e);
}

static int trace_resume(const Pb__Task *pb, int request, struct err *e)
{
	return sys_ptrace(request, pb->pid, 0, 0) < 0 ? trace_lost_thread(pb->pid, e) : 0;
}

/*
 * One system call in a parked leader, in three steps, so that several tasks take each of them at once. At the end it
 * stands in a plain stop: only there does the kernel treat the final registers like those of an interrupted call.
 */
static int trace_call_begin(const Pb__Task *pb, const Pb__AddressSpace *space, uint64_t gadget, int64_t nr, const uint64_t args[6],
			    struct err *e)
{
	struct user_regs_struct regs;
	uint64_t vdso = 0;
	int r = sys_ptrace_getregs(pb->pid, &regs);

	for (size_t i = 0; i < space->n_mappings; i++)
		if (space->mappings[i]->kind == PB__MAPPING_KIND__VDSO)
			vdso = space->mappings[i]->start;
	if (!vdso)
		return err_state(e, "E-KERNEL-VDSO", 0, "it has no vdso");
	arch_set_syscall(&regs, nr, args);
	regs.rip = vdso + gadget;
	regs.orig_rax = (uint64_t)-1;
	if (r == 0)
		r = sys_ptrace_setregs(pb->pid, &regs);
	return r < 0 ? err_sys(e, r, "changing the registers of thread %d", pb->pid) : trace_resume(pb, SYS_PTRACE_SYSCALL, e);
}

/* Its stop: at the beginning of the call? Returns 1 if so: it goes on, and stops when the call is done. */
static int trace_call_enter(const Pb__Task *pb, int status, struct err *e)
{
	if (WSTOPSIG(status) != (SIGTRAP | 0x80))
		return trace_resume(pb, SYS_PTRACE_SYSCALL, e);
	sys_ptrace(PTRACE_INTERRUPT, pb->pid, 0, 0);
	return trace_resume(pb, SYS_PTRACE_CONT, e) < 0 ? -1 : 1;
}

/* Its stop: when the call is done? Returns 1 if so, and the call, `what`, has succeeded. */
static int trace_call_end(const Pb__Task *pb, int status, const char *what, struct err *e)
{
	struct user_regs_struct regs;
	int r;

	if (status >> 16 != PTRACE_EVENT_STOP)
		return trace_resume(pb, SYS_PTRACE_CONT, e);
	r = sys_ptrace_getregs(pb->pid, &regs);
	if (r < 0)
		return err_sys(e, r, "reading the registers of thread %d", pb->pid);
	return arch_syscall_result(&regs) < 0 ? err_sys(e, (int)arch_syscall_result(&regs), "%s", what) : 1;
}

/* All of a call that has begun. */
static int trace_call_await(const struct build *b, const Pb__Task *pb, const char *what, struct err *e)
{
	bool entered = false;
	int status, r;

	do {
		if (trace_wait(b, pb, &status, e) < 0)
			return -1;
		r = entered ? trace_call_end(pb, status, what, e) : trace_call_enter(pb, status, e);
		if (r > 0 && entered)
			return 0;
		entered |= r > 0;
	} while (r >= 0);
	return r;
}

static const char UNMAPPING[] = "unmapping the runner";

/* The region is the last trace of torpor. Most tasks unmap it by themselves: build_may_crash(). */
static int trace_clean_begin(struct build *b, size_t index, uint64_t gadget, struct err *e)
{
	const Pb__Task *pb = b->plan->tasks[index].pb;
	const uint64_t unmap[6] = { b->regions[index].start, b->regions[index].size };

	return trace_call_begin(pb, b->plan->image->spaces[pb->space], gadget, SYS_munmap, unmap, e);
}

/* But for what changing credentials did to the process. 2 cannot be set: it comes of itself with set-user-ID. */
static int trace_set_dumpable(struct build *b, size_t index, uint64_t gadget, struct err *e)
{
	const Pb__Task *pb = b->plan->tasks[index].pb;
	const uint64_t dumpable[6] = { PR_SET_DUMPABLE, pb->dumpable };

	if (pb->dumpable > 1 || (pb->dumpable == 1 && !b->regions[index].changes_ids))
		return 0;
	if (trace_call_begin(pb, b->plan->image->spaces[pb->space], gadget, SYS_prctl, dumpable, e) < 0)
		return -1;
	return trace_call_await(b, pb, "PR_SET_DUMPABLE", e);
}

/* What is left when the region is gone. */
static int trace_finish_task(struct build *b, size_t index, uint64_t gadget, struct obstacle_list *notes, struct err *e)
{
	const Pb__Task *pb = b->plan->tasks[index].pb;

	if (trace_set_dumpable(b, index, gadget, e) < 0)
		return -1;
	for (size_t i = 0; i < pb->n_threads; i++)
		if (thread_restore_outside(pb->threads[i], &b->xstate, b->every_cpu, notes, e) < 0)
			return -1;
	if (b->regions[index].lowered && limits_note(notes->arena, pb, notes) < 0)
		return err_nomem(e);
	return thread_note_parent(pb, notes) < 0 ? err_nomem(e) : 0;
}

/* One with threads, from begin to end, when all have parked. */
static int trace_finish_threads(struct build *b, size_t index, uint64_t gadget, struct obstacle_list *notes, struct err *e)
{
	const Pb__Task *pb = b->plan->tasks[index].pb;

	if (trace_check_scripts(pb->pid, b->regions[index].script, e) < 0 || trace_clean_begin(b, index, gadget, e) < 0 ||
	    trace_call_await(b, pb, UNMAPPING, e) < 0)
		return -1;
	return trace_finish_task(b, index, gadget, notes, e);
}

/* ---- from birth to the final state ---- */

/* A task without other threads: what does it do? */
enum trace_stage { TRACE_MAKES, TRACE_ENTERS_CALL, TRACE_UNMAPS };

/* The tree, while it makes itself. */
struct trace_making {
	struct build *b;
	struct trace_expected expected;
	struct trace_told told;
	uint64_t gadget;
	struct trace_single { /* of each task, used if it has no other threads */
		enum trace_stage stage;
		struct obstacle_list notes;
	} *singles;
	size_t left; /* threads */
};

/* One that has parked, or has stopped since. It has threads: returns 1. It has none: 1 when it has its final state, 0 before. */
static int trace_go_on(struct trace_making *m, size_t index, int status, struct err *e)
{
	const Pb__Task *pb = m->b->plan->tasks[index].pb;
	struct trace_single *s = &m->singles[index];
	int r;

	switch (s->stage) {
	case TRACE_MAKES:
		if (pb->n_threads > 1)
			return 1;
		if (WSTOPSIG(status) == SIGSEGV) /* the region is gone already */
			return trace_finish_task(m->b, index, m->gadget, &s->notes, e) < 0 ? -1 : 1;
		s->stage = TRACE_ENTERS_CALL;
		return trace_clean_begin(m->b, index, m->gadget, e);
	case TRACE_ENTERS_CALL:
		r = trace_check_stop(status, e) < 0 ? -1 : trace_call_enter(pb, status, e);
		s->stage = r > 0 ? TRACE_UNMAPS : s->stage;
		return r < 0 ? -1 : 0;
	case TRACE_UNMAPS:
		r = trace_check_stop(status, e) < 0 ? -1 : trace_call_end(pb, status, UNMAPPING, e);
		return r > 0 && trace_finish_task(m->b, index, m->gadget, &s->notes, e) < 0 ? -1 : r;
	}
	return -1;
}

/* One report. Returns 1 when there is nothing more to do with a thread before all have come as far, else 0, or negative. */
static int trace_next(struct trace_making *m, struct err *e)
{
	int status, r = 1;
	pid_t tid = trace_wait_any(m->b, &m->expected, &m->told, &status, e);
	const struct plan_task *t = trace_task(m->b, tid);
	size_t index = t ? (size_t)(t - m->b->plan->tasks) : 0;

	if (tid <= 0)
		return tid < 0 ? -1 : err_set(e, ERR_SYSTEM, 0, "the tree that is being made is gone");
	if (!t || !WIFSTOPPED(status) || m->singles[index].stage == TRACE_MAKES)
		r = trace_event(m->b, tid, status, e);
	if (r >= 0)
		trace_note_seen(&m->expected, tid, r ? TRACE_PARKED : TRACE_BORN);
	if (r > 0 && t && (r = trace_go_on(m, index, status, e)) < 0)
		return err_wrap(e, "task %d (%s)", t->pb->pid, t->pb->comm);
	return r;
}

/* The notes in the order of the tasks, whichever was first. */
static int trace_take_notes(const struct trace_making *m, struct obstacle_list *notes, struct err *e)
{
	for (size_t i = 0; i < m->b->plan->n_tasks; i++)
		if (obstacle_add_all(notes, &m->singles[i].notes) < 0)
			return err_nomem(e);
	return 0;
}

static int trace_make(struct trace_making *m, struct err *e)
{
	int r = trace_find_gadget(&m->gadget, e);

	while (r >= 0 && m->left) {
		r = trace_next(m, e);
		m->left -= r > 0;
	}
	trace_tell(m->b, &m->told);
	return r < 0 ? r : 0;
}

int trace_until_parked(struct build *b, struct obstacle_list *notes, struct err *e)
{
	struct trace_making m = { .b = b, .told = trace_begin_telling(b), .left = b->plan->n_threads };
	int r;

	m.singles = calloc(b->plan->n_tasks, sizeof(*m.singles));
	if (!m.singles)
		return err_nomem(e);
	for (size_t i = 0; i < b->plan->n_tasks; i++)
		m.singles[i].notes.arena = notes->arena;
	trace_expect(&m.expected, b->plan);
	r = trace_make(&m, e);
	if (r == 0)
		r = trace_take_notes(&m, notes, e);
	free(m.expected.v);
	free(m.singles);
	return r;
}

/* ---- when all have parked ---- */

/*
 * A tracer is told first that its tracee has ended: only then does the parent in the tree see the zombie. One that
 * comes late stops first, to tell of its birth, and of the signal that it is going to die of.
 */
static int trace_await_zombie(struct build *b, pid_t pid, struct err *e)
{
	struct trace_told told = trace_told_all(b);
	int status;
	pid_t got;

	do {
		got = trace_waitpid(b, &told, pid, &status, e);
		if (got < 0 || (got && trace_event(b, pid, status, e) < 0))
			return -1;
	} while (got && WIFSTOPPED(status));
	return 0; /* if nobody was there, its end has been reported before */
}

static int trace_await_zombies(struct build *b, struct err *e)
{
	for (size_t i = 0; i < b->plan->n_tasks; i++) {
		const Pb__Task *pb = b->plan->tasks[i].pb;

		if (pb->state == PB__TASK_STATE__ZOMBIE && trace_await_zombie(b, pb->pid, e) < 0)
			return -1;
	}
	return 0;
}

int trace_finish(struct build *b, struct obstacle_list *notes, struct err *e)
{
	uint64_t gadget = 0;

	if (trace_await_zombies(b, e) < 0 || trace_find_gadget(&gadget, e) < 0)
		return -1;
	for (size_t i = 0; i < b->plan->n_tasks; i++) {
		const Pb__Task *pb = b->plan->tasks[i].pb;

		if (pb->n_threads > 1 && trace_finish_threads(b, i, gadget, notes, e) < 0)
			return err_wrap(e, "task %d (%s)", pb->pid, pb->comm);
	}
	return 0;
}

/* ---- letting go ---- */

static void release_undo(void *data)
{
	const struct plan *p = data;

	for (size_t i = 0; i < p->n_tasks; i++)
		kill(p->tasks[i].pb->pid, SIGKILL);
}

/* A task outlives us when each of its threads may; one that was stopped stops again. */
static int release_allow(const struct plan_task *t, struct err *e)
{
	const Pb__Task *pb = t->pb;

	for (size_t k = 0; pb->state != PB__TASK_STATE__ZOMBIE && k < pb->n_threads; k++) {
		int r = sys_ptrace(PTRACE_SETOPTIONS, pb->threads[k]->tid, 0, 0);

		if (r < 0)
			return err_sys(e, r, "task %d was lost before it could run", pb->pid);
	}
	return 0;
}

static int release_stop(const struct plan_task *t, struct err *e)
{
	if (t->pb->state != PB__TASK_STATE__STOPPED || kill(t->pb->pid, SIGSTOP) == 0)
		return 0;
	return err_sys(e, errno, "stopping task %d, as it was", t->pb->pid);
}

static void release_detach(const struct plan_task *t)
{
	for (size_t k = 0; t->pb->state != PB__TASK_STATE__ZOMBIE && k < t->pb->n_threads; k++)
		sys_ptrace(SYS_PTRACE_DETACH, t->pb->threads[k]->tid, 0, 0);
}

/*
 * The tree outlives us from here on: first for all, then it runs. Children first, so that nobody misses anybody.
 *
 * It lives as soon as it may outlive us, which we must say of each thread. If we were killed meanwhile, some tasks
 * would die and the others run on: so a guard ends the tree then. To dismiss it is the commit of a restore. A tree
 * of one task dies or lives as a whole by itself.
 */
int trace_release(struct build *b, struct err *e)
{
	const struct plan *p = b->plan;
	bool guarded = p->n_tasks > 1;
	struct guard guard;
	int r = 0;

	if (guarded && guard_begin(&guard, release_undo, (void *)p, e) < 0)
		return -1;
	for (size_t i = p->n_tasks; r == 0 && i-- > 0;)
		r = release_allow(&p->tasks[i], e);
	for (size_t i = 0; r == 0 && i < p->n_tasks; i++)
		r = release_stop(&p->tasks[i], e);
	if (guarded && r < 0)
		guard_end(&guard);
	else if (guarded)
		r = guard_dismiss(&guard, e);
	for (size_t i = p->n_tasks; r == 0 && i-- > 0;)
		release_detach(&p->tasks[i]);
	return r < 0 ? -1 : 0;
}

/* Only of our own tracees can we ask this, and nobody else is to be killed. */
static bool trace_kill(pid_t pid)
{
	return pid > 0 && sys_ptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0 && kill(pid, SIGKILL) == 0;
}

/* Returns whether anybody was there. */
static bool trace_kill_all(const struct build *b)
{
	bool any = false;

	for (size_t i = 0; i < b->plan->n_tasks; i++) {
		const Pb__Task *pb = b->plan->tasks[i].pb;

		any |= trace_kill(pb->pid);
		any |= trace_kill(pb->pgid); /* it may be a stand-in */
		any |= trace_kill(pb->sid);
		for (size_t k = 1; k < pb->n_threads; k++)
			any |= trace_kill(pb->threads[k]->tid);
	}
	return any;
}

/*
 * We are subreaper and tracer of everything. Who has parked, or waits for the
 * others, will not report any more: kill it at once. Whatever else reports to us
 * belongs to the failed restore; kill it at each report until nobody is left.
 * Children that our caller had before it became torpor may live on.
 */
void trace_abandon(const struct build *b)
{
	int status, quiet = 0;
	pid_t tid;

	trace_kill_all(b);
	while (quiet < ABANDON_ROUNDS) {
		tid = waitpid(-1, &status, __WALL | WNOHANG);
		if (tid < 0 && errno == EINTR)
			continue;
		if (tid < 0)
			return;
		if (tid > 0 && WIFSTOPPED(status)) {
			kill(tid, SIGKILL);
			sys_ptrace(SYS_PTRACE_CONT, tid, 0, 0);
		}
		quiet = tid == 0 && !trace_kill_all(b) ? quiet + 1 : 0;
		if (tid == 0)
			usleep(200);
	}
}
