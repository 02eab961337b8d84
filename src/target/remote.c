/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Theory of operation: system calls inside a foreign thread, without harm.
 *
 * The promise is that the thread goes on unharmed even when torpor is killed
 * between any two instructions. Hence:
 *
 * - The stage (arch/.../stage.S) is written into the zero tail of the vdso's last
 *   page through /proc/PID/mem, which copies that page for this process; no
 *   mapping of the program changes. It holds the thread's own registers and mask.
 * - One PTRACE_SETREGS is the commit: before it nothing has happened to the
 *   thread, after it the stage knows how to put everything back.
 * - The thread then runs only from syscall-stop to syscall-stop. A tracer that
 *   dies while its tracee is single-stepping or at a breakpoint kills it; one that
 *   dies at a syscall-stop lets it run on: into the idle call, which finds that no
 *   new number came, unmaps the scratch page, restores mask and registers, and
 *   jumps back.
 * - The signal mask is closed only after the commit, so it is never lost.
 * - Where one thing after another need only be asked, all is asked in one go, without
 *   a stop in between (remote_ask). At the end the stage knocks: it sends itself a
 *   signal that this program ignores. That stops a tracee, and is nothing
 *   to any other process; so a stage whose tracer has died goes on and puts everything back.
 * - The scratch page's address reaches the stage in the register file of the very
 *   mmap(2) that makes it: there is no moment where it is mapped and not known. An
 *   fd that is made there, or a child, is known to it in the same way.
 *
 * A torpor that was killed leaves its stage in the vdso page, where nothing goes
 * any more; it is overwritten or erased by the next. Rarely a thread is still
 * inside (its program stands still, say): remote_rescue() brings it out.
 *
 * The way back is not the stage's but exact: PTRACE_INTERRUPT, or the last knock,
 * brings the thread to a plain stop, where the kernel itself will finish the interrupted system
 * call (restart_block included) with the original registers.
 */

#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch/x86_64/regs.h"
#include "arch/x86_64/stage.h"
#include "sys/ptrace.h"
#include "target/target.h"
#include "util/clock.h"
#include "util/fd.h"

enum {
	PAGE = 4096, STAGE_SLOTS = 2,
	KNOCK_YIELDS = 100, KNOCK_POLL_US = 50,
};

#define KNOCK_PATIENCE_NS 2000000000ull

static bool remote_is_leader(const struct remote *r)
{
	return r->thread == &r->task->threads[0];
}

/* Is this stage room free? It is zero, or what a torpor that was killed left there. */
static bool remote_room_is_free(const unsigned char *room, bool leader)
{
	const struct stage stage = stage_of(leader);
	unsigned char any = 0;

	for (size_t i = 0; i < STAGE_ROOM; i++)
		any |= room[i];
	return !any || memcmp(room, stage.code, stage.code_size) == 0;
}

/* Room at the end of the vdso for both stages (the leader's and one more). */
static int remote_find_room(struct target *t, uint64_t *ret, struct err *e)
{
	unsigned char page[PAGE];
	uint64_t last = t->vdso + t->vdso_size - PAGE;
	const size_t need = STAGE_SLOTS * STAGE_ROOM;
	int r;

	if (!t->vdso)
		return err_state(e, "E-TASK-VDSO", 0, "it has no [vdso] mapping, which torpor needs");
	r = fd_pread_full(t->mem_fd, page, sizeof(page), (off_t)last);
	if (r < 0)
		return err_sys(e, r, "reading its [vdso]");
	for (size_t slot = 0; slot < STAGE_SLOTS; slot++)
		if (!remote_room_is_free(page + PAGE - need + slot * STAGE_ROOM, slot == 0))
			return err_state(e, "E-TASK-VDSO", 0, "its [vdso] has no room for the stage at its end");
	*ret = last + PAGE - need;
	return 0;
}

/*
 * Wait for the next report of the thread. The end of a leader is reported only
 * when all its threads, which we trace as well, have been waited for: they may
 * report in its place.
 */
static int remote_wait_report(const struct remote *r, int *ret_status)
{
	pid_t tid = r->thread->tid, got;
	bool leader = tid == r->task->pid && r->task->n_threads > 1;

	do
		got = waitpid(leader ? -1 : tid, ret_status, __WALL);
	while ((got < 0 && errno == EINTR) || (got > 0 && got != tid));
	return got < 0 ? -errno : 0;
}

/*
 * As above, but no longer than for ever: where something keeps the stage from sending itself a signal (a security
 * module, say), it takes us for dead, and the thread runs on. 1: it was interrupted after a while.
 */
static int remote_wait_knock(const struct remote *r, int *ret_status)
{
	const uint64_t begun = clock_now_ns(CLOCK_MONOTONIC);
	pid_t tid = r->thread->tid, got;

	for (unsigned round = 0;; round++) {
		got = waitpid(tid, ret_status, __WALL | WNOHANG);
		if (got > 0)
			return 0;
		if (got < 0 && errno != EINTR)
			return -errno;
		if (round < KNOCK_YIELDS)
			sched_yield();
		else
			usleep(KNOCK_POLL_US);
		if (round % KNOCK_YIELDS == KNOCK_YIELDS - 1 && clock_now_ns(CLOCK_MONOTONIC) - begun > KNOCK_PATIENCE_NS)
			break;
	}
	sys_ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	got = (pid_t)remote_wait_report(r, ret_status);
	return got < 0 ? got : 1;
}

/* Wait for the next stop of the thread: one that the tracer wants, or a knock. Other signals that come meanwhile are handed on. */
static int remote_wait(struct remote *r, int resume, int *ret_status, struct err *e)
{
	pid_t tid = r->thread->tid;
	int status, ret;

	for (;;) {
		ret = r->at == REMOTE_AT_KNOCK ? remote_wait_knock(r, &status) : remote_wait_report(r, &status);
		if (ret < 0)
			return err_sys(e, ret, "waiting for thread %d", tid);
		if (!WIFSTOPPED(status)) {
			r->thread->stopped = false;
			return err_set(e, ERR_SYSTEM, 0, "thread %d ended while it was examined", tid);
		}
		if (status >> 16 || WSTOPSIG(status) == (SIGTRAP | 0x80) ||
		    (r->at == REMOTE_AT_KNOCK && WSTOPSIG(status) == r->thread->knock)) {
			*ret_status = status;
			return 0;
		}
		/* A signal-delivery-stop: only SIGSTOP gets past the mask. Deliver it. */
		if (sys_ptrace(resume, tid, 0, (uintptr_t)WSTOPSIG(status)) < 0)
			return err_set(e, ERR_SYSTEM, 0, "thread %d was killed", tid);
		if (WSTOPSIG(status) == SIGSTOP)
			r->task->stop_signal = SIGSTOP;
	}
}

/* Run on to the next syscall-stop of the wanted side that belongs to the stage. */
static int remote_run_to(struct remote *r, unsigned side, struct err *e)
{
	pid_t tid = r->thread->tid;

	for (;;) {
		struct ptrace_syscall_info info = { 0 };
		int status = 0, ret = sys_ptrace(SYS_PTRACE_SYSCALL, tid, 0, 0);

		if (ret < 0)
			return err_sys(e, ret, "resuming thread %d", tid);
		ret = remote_wait(r, SYS_PTRACE_SYSCALL, &status, e);
		if (ret < 0)
			return ret;
		if (status >> 16)
			continue; /* a group stop: run on all the same */
		ret = sys_ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), (uintptr_t)&info);
		if (ret < 0)
			return err_sys(e, ret, "asking thread %d for its system call", tid);
		if (info.op == side && info.instruction_pointer - r->stage < STAGE_ROOM)
			return 0;
	}
}

static int remote_getregs(struct remote *r, struct user_regs_struct *regs, struct err *e)
{
	int ret = sys_ptrace_getregs(r->thread->tid, regs);

	return ret < 0 ? err_sys(e, ret, "reading the registers of thread %d", r->thread->tid) : 0;
}

static int remote_setregs(struct remote *r, const struct user_regs_struct *regs, struct err *e)
{
	int ret = sys_ptrace_setregs(r->thread->tid, regs);

	return ret < 0 ? err_sys(e, ret, "writing the registers of thread %d", r->thread->tid) : 0;
}

/* What a call means for the one thing that the stage looks after: nothing, or that it comes or goes. */
struct charge {
	bool comes, goes;
	uint64_t undo, more; /* the call that undoes it, and its second argument */
};

/* To the entry of the idle call, from wherever it stands in the stage. */
static int remote_to_idle(struct remote *r, struct err *e)
{
	struct user_regs_struct regs;

	if (r->at == REMOTE_AT_IDLE)
		return 0;
	if (r->at == REMOTE_AT_KNOCK) {
		if (remote_getregs(r, &regs, e) < 0)
			return -1;
		stage_begin_idle(&regs, r->stage);
		if (remote_setregs(r, &regs, e) < 0)
			return -1;
	}
	r->at = REMOTE_AT_IDLE;
	return remote_run_to(r, PTRACE_SYSCALL_INFO_ENTRY, e);
}

/* Make another call in the place of the idle one, and stop at its exit. */
static int remote_exchange(struct remote *r, int64_t nr, const uint64_t args[6], struct charge charge,
			   int64_t *ret_result, struct err *e)
{
	struct user_regs_struct regs;
	int ret = remote_to_idle(r, e);

	if (ret == 0)
		ret = remote_getregs(r, &regs, e);
	if (ret < 0)
		return ret;
	arch_set_syscall(&regs, nr, args);
	if (charge.comes)
		stage_keep_result(&regs, charge.undo, charge.more);
	if (charge.goes)
		stage_forget_result(&regs);
	ret = remote_setregs(r, &regs, e);
	if (ret < 0)
		return ret;
	ret = remote_run_to(r, PTRACE_SYSCALL_INFO_EXIT, e);
	if (ret < 0)
		return ret;
	ret = remote_getregs(r, &regs, e);
	if (ret < 0)
		return ret;
	*ret_result = arch_syscall_result(&regs);
	stage_next(&regs);
	r->at = REMOTE_AT_EXIT;
	return remote_setregs(r, &regs, e);
}

static int remote_map_scratch(struct remote *r, struct err *e)
{
	const uint64_t args[6] = { 0, r->scratch_size, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, (uint64_t)-1, 0 };
	int64_t addr;
	const struct charge charge = { .comes = true, .undo = SYS_munmap, .more = r->scratch_size };
	int ret = remote_exchange(r, SYS_mmap, args, charge, &addr, e);

	if (ret < 0)
		return ret;
	if (addr < 0)
		return err_sys(e, (int)addr, "mapping a scratch page in it");
	r->scratch = (uint64_t)addr;
	r->owns_scratch = true;
	return 0;
}

/*
 * Write the stage into the vdso's tail, and enter it with a single PTRACE_SETREGS of `regs`, which were made by
 * remote_prepare(). The thread does not run yet.
 */
static int remote_enter_with(struct remote *r, const struct user_regs_struct *regs, struct err *e)
{
	const struct stage stage = stage_of(remote_is_leader(r));
	struct user_regs_struct own = r->thread->regs;
	unsigned char code[STAGE_ROOM];
	size_t size;
	int ret;

	arch_regs_for_jump(&own);
	size = stage_fill(&stage, code, &own, &r->thread->regs, r->thread->sigmask);
	ret = fd_pwrite_full(r->task->mem_fd, code, size, (off_t)r->stage);
	if (ret < 0)
		return err_sys(e, ret, "writing the stage into its [vdso]");
	ret = remote_setregs(r, regs, e);
	if (ret < 0)
		return ret;
	r->entered = true;
	ret = sys_ptrace_setsigmask(r->thread->tid, ~(r->thread->knock ? 1ull << (r->thread->knock - 1) : 0));
	return ret < 0 ? err_sys(e, ret, "blocking the signals of thread %d", r->thread->tid) : 0;
}

static void remote_prepare(const struct remote *r, struct user_regs_struct *ret)
{
	*ret = r->thread->regs;
	arch_regs_for_jump(ret);
	stage_enter(ret, r->stage);
}

/* Enter the stage, as far as the idle call. */
static int remote_enter(struct remote *r, struct err *e)
{
	struct user_regs_struct regs;
	int ret;

	remote_prepare(r, &regs);
	ret = remote_enter_with(r, &regs, e);
	r->at = REMOTE_AT_IDLE;
	return ret < 0 ? ret : remote_run_to(r, PTRACE_SYSCALL_INFO_ENTRY, e);
}

int remote_open_bare(struct remote *r, struct target *task, struct err *e)
{
	int ret;

	*r = (struct remote){ .task = task, .thread = &task->threads[0] };
	ret = remote_find_room(task, &r->stage, e);
	return ret < 0 ? ret : remote_enter(r, e);
}

int remote_open_with_room(struct remote *r, struct target *task, uint64_t room, struct err *e)
{
	int ret = remote_open_bare(r, task, e);

	r->scratch_size = REMOTE_SCRATCH_SIZE + room;
	return ret < 0 ? ret : remote_map_scratch(r, e);
}

int remote_open(struct remote *r, struct target *task, struct err *e)
{
	return remote_open_with_room(r, task, 0, e);
}

int remote_syscall(struct remote *r, int64_t nr, const uint64_t args[6], int64_t *ret_result, struct err *e)
{
	return remote_exchange(r, nr, args, (struct charge){ 0 }, ret_result, e);
}

int remote_make(struct remote *r, int64_t nr, const uint64_t args[6], int64_t undo, int64_t *ret_result, struct err *e)
{
	return remote_exchange(r, nr, args, (struct charge){ .comes = true, .undo = (uint64_t)undo }, ret_result, e);
}

int remote_unmake(struct remote *r, int64_t nr, const uint64_t args[6], int64_t *ret_result, struct err *e)
{
	return remote_exchange(r, nr, args, (struct charge){ .goes = true }, ret_result, e);
}

/* ---- many calls in one go ---- */

uint8_t remote_find_knock(uint64_t caught, uint64_t ignored, uint64_t blocked)
{
	static const uint8_t by_default[] = { SIGWINCH, SIGURG }, others[] = { SIGPIPE, SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGINT };

	for (size_t i = 0; i < sizeof(by_default); i++)
		if (!((caught | blocked) >> (by_default[i] - 1) & 1))
			return by_default[i];
	for (size_t i = 0; i < sizeof(others); i++)
		if ((ignored & ~blocked) >> (others[i] - 1) & 1)
			return others[i];
	return 0;
}

/* Let it run until it has knocked; *regs are its registers then. The same signal from somebody else is nothing to it. */
static int remote_run_to_knock(struct remote *r, struct user_regs_struct *regs, struct err *e)
{
	const uint64_t knocked = r->stage + stage_of(remote_is_leader(r)).knocked;
	int status, signo = 0, ret;

	r->at = REMOTE_AT_KNOCK;
	do {
		ret = sys_ptrace(SYS_PTRACE_CONT, r->thread->tid, 0, (uintptr_t)signo);
		if (ret < 0)
			return err_sys(e, ret, "resuming thread %d", r->thread->tid);
		ret = remote_wait(r, SYS_PTRACE_CONT, &status, e);
		if (ret == 0)
			ret = remote_getregs(r, regs, e);
		if (ret < 0)
			return ret;
		signo = status >> 16 ? 0 : WSTOPSIG(status);
		if (!signo && regs->rip - r->stage >= STAGE_ROOM) {
			r->entered = false; /* it has put everything back by itself */
			r->owns_scratch = false;
			return err_set(e, ERR_SYSTEM, 0, "thread %d has left the stage by itself", r->thread->tid);
		}
	} while (!signo || regs->rip != knocked);
	return 0;
}

/* As many as fit into the scratch page, with the end of their list. */
enum { ASK_MOST = (REMOTE_SCRATCH_SIZE - (int)sizeof(struct stage_call)) / (int)(sizeof(struct stage_call) + REMOTE_ANSWER) };

static void remote_write_calls(const struct remote *r, const struct remote_question *q, size_t n, struct stage_call *calls)
{
	for (size_t i = 0; i < n; i++) {
		calls[i] = (struct stage_call){ .nr = q[i].nr };
		memcpy(calls[i].args, q[i].args, sizeof(calls[i].args));
		if (q[i].where)
			calls[i].args[q[i].where] = r->scratch + (n + 1) * sizeof(*calls) + i * REMOTE_ANSWER;
	}
	calls[n] = (struct stage_call){ .nr = -1, .args = { (uint64_t)r->task->pid, (uint64_t)r->thread->tid, r->thread->knock } };
}

static int remote_ask_batch(struct remote *r, struct remote_question *q, size_t n, struct err *e)
{
	unsigned char page[REMOTE_SCRATCH_SIZE];
	struct stage_call *calls = (struct stage_call *)page;
	struct user_regs_struct regs;

	remote_write_calls(r, q, n, calls);
	if (remote_write(r, calls, (n + 1) * sizeof(*calls), e) < 0 || remote_getregs(r, &regs, e) < 0)
		return -1;
	stage_set_knock(&regs, 0, 0, 0); /* the list has its own; in these registers are the arguments 4 and 5 of each call */
	stage_own(&regs, r->scratch, r->scratch_size);
	stage_begin_batch(&regs, r->stage + stage_of(true).batch, r->scratch);
	if (remote_setregs(r, &regs, e) < 0 || remote_run_to_knock(r, &regs, e) < 0 ||
	    remote_read(r, page, (n + 1) * sizeof(*calls) + n * REMOTE_ANSWER, e) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		q[i].result = calls[i].result;
		memcpy(q[i].answer, page + (n + 1) * sizeof(*calls) + i * REMOTE_ANSWER, REMOTE_ANSWER);
	}
	return 0;
}

static int remote_ask_singly(struct remote *r, struct remote_question *q, struct err *e)
{
	uint64_t args[6] = { q->args[0], q->args[1], q->args[2], q->args[3] };

	if (q->where)
		args[q->where] = r->scratch;
	if (remote_syscall(r, q->nr, args, &q->result, e) < 0)
		return -1;
	return q->where ? remote_read(r, q->answer, sizeof(q->answer), e) : 0;
}

int remote_ask(struct remote *r, struct remote_question *q, size_t n, struct err *e)
{
	int ret = 0;

	if (!r->thread->knock)
		for (size_t i = 0; ret == 0 && i < n; i++)
			ret = remote_ask_singly(r, &q[i], e);
	else
		for (size_t i = 0; ret == 0 && i < n; i += ASK_MOST)
			ret = remote_ask_batch(r, q + i, n - i < ASK_MOST ? n - i : ASK_MOST, e);
	return ret;
}

void remote_thread_questions(struct remote_question q[REMOTE_THREAD_QUESTIONS])
{
	q[0] = (struct remote_question){ .nr = SYS_sigaltstack, .where = 1 };
	q[1] = (struct remote_question){ .nr = SYS_prctl, .args = { PR_GET_TID_ADDRESS }, .where = 1 };
	q[2] = (struct remote_question){ .nr = SYS_prctl, .args = { PR_GET_PDEATHSIG }, .where = 1 };
	q[3] = (struct remote_question){ .nr = SYS_prctl, .args = { PR_GET_TIMERSLACK } };
}

/* The stage of a thread has these calls in its code. */
static int remote_ask_thread_at_once(struct remote *r, struct remote_question q[REMOTE_THREAD_QUESTIONS], struct err *e)
{
	struct stage_answers answers;
	struct user_regs_struct regs;

	remote_prepare(r, &regs);
	stage_set_knock(&regs, r->task->pid, r->thread->tid, r->thread->knock);
	stage_begin_batch(&regs, r->stage + stage_of(false).batch, r->scratch);
	if (remote_enter_with(r, &regs, e) < 0 || remote_run_to_knock(r, &regs, e) < 0 ||
	    remote_read(r, &answers, sizeof(answers), e) < 0)
		return -1;
	memcpy(q[0].answer, answers.altstack, sizeof(answers.altstack));
	memcpy(q[1].answer, &answers.tid_address, sizeof(answers.tid_address));
	memcpy(q[2].answer, &answers.pdeath_signal, sizeof(answers.pdeath_signal));
	q[3].result = (int64_t)regs.r12;
	return 0;
}

static int remote_ask_thread_singly(struct remote *r, struct remote_question q[REMOTE_THREAD_QUESTIONS], struct err *e)
{
	int ret = remote_enter(r, e);

	for (size_t i = 0; ret == 0 && i < REMOTE_THREAD_QUESTIONS; i++)
		ret = remote_ask_singly(r, &q[i], e);
	return ret;
}

int remote_ask_thread(const struct remote *leader, size_t thread, struct remote_question q[REMOTE_THREAD_QUESTIONS], struct err *e)
{
	struct remote r = { .task = leader->task, .thread = &leader->task->threads[thread], .stage = leader->stage + STAGE_ROOM,
			    .scratch = leader->scratch };
	int ret;

	remote_thread_questions(q);
	ret = (r.thread->knock ? remote_ask_thread_at_once : remote_ask_thread_singly)(&r, q, e);
	return remote_close_after(&r, ret, e);
}

int remote_read(const struct remote *r, void *buf, size_t size, struct err *e)
{
	int ret = fd_pread_full(r->task->mem_fd, buf, size, (off_t)r->scratch);

	return ret < 0 ? err_sys(e, ret, "reading the scratch page") : 0;
}

int remote_write(const struct remote *r, const void *buf, size_t size, struct err *e)
{
	int ret = fd_pwrite_full(r->task->mem_fd, buf, size, (off_t)r->scratch);

	return ret < 0 ? err_sys(e, ret, "writing the scratch page") : 0;
}

/* A process that a tracee has made is traced from its birth, and stands before its first instruction. */
int remote_await_birth(pid_t pid, struct err *e)
{
	struct user_regs_struct regs;
	int status;

	/* Its report may have been taken already by somebody who waited for another one (remote_wait_report). */
	while (sys_ptrace_getregs(pid, &regs) < 0) {
		pid_t got = waitpid(pid, &status, __WALL | WNOHANG);

		if (got < 0 || (got > 0 && !WIFSTOPPED(status)))
			return err_set(e, ERR_SYSTEM, 0, "process %d ended at its birth", pid);
		sched_yield();
	}
	return 0;
}

int remote_adopt(struct remote *r, struct target *child, const struct remote *parent, struct err *e)
{
	struct user_regs_struct regs;

	*r = (struct remote){ .task = child, .thread = &child->threads[0], .stage = parent->stage, .entered = true,
			      .at = REMOTE_AT_IDLE };
	if (remote_getregs(r, &regs, e) < 0)
		return -1;
	stage_adopt(&regs);
	if (remote_setregs(r, &regs, e) < 0)
		return -1;
	return remote_run_to(r, PTRACE_SYSCALL_INFO_ENTRY, e);
}

/* From the stage back to a plain stop, where the kernel finishes what it had begun. */
static int remote_leave(struct remote *r, struct err *e)
{
	pid_t tid = r->thread->tid;
	int status = 0, ret = 0;

	/* A stop for a signal serves as well. */
	if (r->at != REMOTE_AT_KNOCK)
		ret = sys_ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	while (r->at != REMOTE_AT_KNOCK && ret >= 0) {
		ret = sys_ptrace(SYS_PTRACE_CONT, tid, 0, 0);
		if (ret < 0)
			break;
		ret = remote_wait(r, SYS_PTRACE_CONT, &status, e);
		if (ret < 0)
			return ret;
		if (status >> 16 == PTRACE_EVENT_STOP)
			break;
	}
	if (ret >= 0)
		ret = sys_ptrace_setsigmask(tid, r->thread->sigmask);
	if (ret < 0)
		return err_sys(e, ret, "giving thread %d back", tid);
	return remote_setregs(r, &r->thread->regs, e);
}

/* The vdso's tail as it was: zero. The leader, who leaves last, clears all of it. */
static int remote_erase(struct remote *r, struct err *e)
{
	const unsigned char zero[STAGE_SLOTS * STAGE_ROOM] = { 0 };
	int ret = remote_is_leader(r) ? fd_pwrite_full(r->task->mem_fd, zero, sizeof(zero), (off_t)r->stage) : 0;

	return ret < 0 ? err_sys(e, ret, "clearing the stage") : 0;
}

static int remote_unmap_scratch(struct remote *r, struct err *e)
{
	const uint64_t args[6] = { r->scratch, r->scratch_size };
	struct user_regs_struct regs;
	int64_t result;

	r->owns_scratch = false;
	if (!r->thread->knock)
		return remote_unmake(r, SYS_munmap, args, &result, e);
	if (remote_getregs(r, &regs, e) < 0)
		return -1;
	stage_set_knock(&regs, r->task->pid, r->thread->tid, r->thread->knock);
	stage_begin_finish(&regs, r->stage, r->scratch, r->scratch_size);
	return remote_setregs(r, &regs, e) < 0 ? -1 : remote_run_to_knock(r, &regs, e);
}

int remote_close(struct remote *r, struct err *e)
{
	int ret = 0;

	if (r->owns_scratch)
		ret = remote_unmap_scratch(r, e);
	if (r->entered && r->thread->stopped) {
		int left = remote_leave(r, e);

		ret = ret < 0 ? ret : left;
		r->entered = false;
		if (left >= 0)
			left = remote_erase(r, e);
		ret = ret < 0 ? ret : left;
	}
	return ret;
}

int remote_close_after(struct remote *r, int result, struct err *e)
{
	struct err later = ERR_INIT;
	int closed = remote_close(r, &later);

	if (result < 0 || closed >= 0)
		return result;
	*e = later;
	return closed;
}

/* ---- after a torpor that was killed ---- */

/* Does the thread stand in a stage that we did not write? Then its data. */
static bool remote_find_stage(const struct target *t, const struct user_regs_struct *regs, uint64_t *ret_stage,
			      struct stage_data *ret_data)
{
	const uint64_t end = regs->rip / PAGE * PAGE + PAGE; /* the rooms are counted from there */
	const uint64_t room = (end - 1 - regs->rip) / STAGE_ROOM + 1, at = end - room * STAGE_ROOM;
	const struct stage stage = stage_of(room == STAGE_SLOTS);
	unsigned char code[STAGE_ROOM];

	if (regs->rip % PAGE < PAGE - STAGE_SLOTS * STAGE_ROOM || fd_pread_full(t->mem_fd, code, sizeof(code), (off_t)at) < 0 ||
	    memcmp(code, stage.code, stage.code_size) != 0)
		return false;
	memcpy(ret_data, code + stage.code_size, sizeof(*ret_data));
	*ret_stage = at;
	return true;
}

/* Let the stage remove its scratch page: it has done so when it comes to close with the mask. */
static int remote_run_to_mask(struct remote *r, struct err *e)
{
	struct user_regs_struct regs;
	int ret;

	do {
		ret = remote_run_to(r, PTRACE_SYSCALL_INFO_ENTRY, e);
		if (ret == 0)
			ret = remote_getregs(r, &regs, e);
	} while (ret == 0 && regs.orig_rax != SYS_rt_sigprocmask);
	return ret;
}

static int remote_rescue_thread(struct target *t, struct target_thread *th, struct err *e)
{
	struct remote r = { .task = t, .thread = th, .entered = true };
	struct stage_data data;
	int ret = 0;

	if (!remote_find_stage(t, &th->regs, &r.stage, &data))
		return 0;
	if (th->regs.rip - r.stage < stage_of(remote_is_leader(&r)).masked) {
		ret = remote_run_to_mask(&r, e);
		if (ret < 0)
			return ret;
	}
	stage_undo(&data, &th->regs);
	th->sigmask = data.sigmask;
	return remote_leave(&r, e);
}

int remote_rescue(struct target *t, struct err *e)
{
	for (size_t i = 0; i < t->n_threads; i++)
		if (remote_rescue_thread(t, &t->threads[i], e) < 0)
			return err_wrap(e, "undoing what a torpor that was killed had begun");
	return 0;
}
