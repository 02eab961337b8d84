/* SPDX-License-Identifier: Apache-2.0 */

/* Threads: registers and everything else that the kernel keeps per thread. */

#include <errno.h>
#include <linux/ptrace.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>

#include "arch/x86_64/regs.h"
#include "arch/x86_64/xstate.h"
#include "sys/process.h"
#include "sys/ptrace.h"
#include "task/task.h"
#include "util/fd.h"

#include <linux/prctl.h>

enum { SIGINFO_SIZE = 128, THREAD_STEPS = 7, RSEQ_UNREGISTER = 1, COMM_SIZE = 16 };

/* ---- dump ---- */

/* struct rseq_cs of <linux/rseq.h>, and the place of the pointer to it in struct rseq. */
struct sequence {
	uint32_t version, flags;
	uint64_t start, size, abort;
};

enum { RSEQ_SEQUENCE_OFFSET = 8 };

static int thread_rseq(pid_t tid, struct ptrace_rseq_configuration *ret)
{
	*ret = (struct ptrace_rseq_configuration){ 0 };
	return sys_ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, sizeof(*ret), (uintptr_t)ret);
}

void thread_leave_sequence(const struct target *t, struct target_thread *th)
{
	struct ptrace_rseq_configuration rseq;
	struct sequence s;
	uint64_t at;

	if (thread_rseq(th->tid, &rseq) <= 0 || !rseq.rseq_abi_pointer)
		return;
	if (fd_pread_full(t->mem_fd, &at, sizeof(at), (off_t)(rseq.rseq_abi_pointer + RSEQ_SEQUENCE_OFFSET)) < 0 || !at ||
	    fd_pread_full(t->mem_fd, &s, sizeof(s), (off_t)at) < 0)
		return;
	if (th->regs.rip - s.start < s.size)
		th->regs.rip = s.abort;
}

/* What ptrace tells. */
static int thread_collect_state(struct task_collect *c, struct target *task, const struct target_thread *t,
				const struct proc_status *status, Pb__Thread *th, struct err *e)
{
	unsigned char xstate[ARCH_XSTATE_MAX];
	struct ptrace_rseq_configuration rseq;
	struct user_regs_struct regs = t->regs;
	int size = sys_ptrace_getregset(t->tid, NT_X86_XSTATE, xstate, sizeof(xstate));

	if (size < 0)
		return err_sys(e, size, "reading the extended state of thread %d", t->tid);
	arch_regs_for_new_task(&regs);
	/* There can be ten thousand of them, and as a rule most of each is unused. */
	pb_set(th, xstate_size, (uint32_t)size);
	while (size && !xstate[size - 1])
		size--;
	if (!pb_set_bytes(c->arena, th, regs, &regs, sizeof(regs)) ||
	    !pb_set_bytes(c->arena, th, xstate, xstate, (size_t)size))
		return err_nomem(e);
	pb_set(th, sigmask, t->sigmask);
	if (thread_rseq(t->tid, &rseq) > 0 && rseq.rseq_abi_pointer) {
		pb_set(th, rseq, rseq.rseq_abi_pointer);
		pb_set(th, rseq_size, rseq.rseq_abi_size);
		pb_set(th, rseq_signature, rseq.signature);
	}
	return signals_collect_thread(c, task, t->tid, status, th, e);
}

/* What other processes may ask the kernel. */
static int thread_collect_outside(struct task_collect *c, pid_t tid, Pb__Thread *th, struct err *e)
{
	struct sys_sched_attr attr = { .size = sizeof(attr) };
	unsigned char mask[SYS_CPU_MASK_MAX], all[SYS_CPU_MASK_MAX];
	uint64_t head, size;
	int n, n_all;

	n = sys_get_robust_list(tid, &head, &size);
	if (n < 0)
		return err_sys(e, n, "asking for the robust list of thread %d", tid);
	pb_set(th, robust_list, head);
	pb_set(th, robust_list_size, size);
	n = sys_sched_getattr(tid, &attr);
	if (n < 0)
		return err_sys(e, n, "asking for the scheduling of thread %d", tid);
	if (!pb_set_bytes(c->arena, th, sched_attr, &attr, sizeof(attr)))
		return err_nomem(e);
	n = sys_sched_getaffinity(tid, sizeof(mask), mask);
	if (n < 0)
		return err_sys(e, n, "asking for the CPU affinity of thread %d", tid);
	n_all = sys_sched_getaffinity(1, sizeof(all), all); /* init's: as a rule every CPU */
	if ((n != n_all || memcmp(mask, all, (size_t)n) != 0) &&
	    !pb_set_bytes(c->arena, th, affinity, mask, (size_t)n))
		return err_nomem(e);
	n = sys_ioprio_get(tid);
	if (n < 0)
		return err_sys(e, n, "asking for the I/O priority of thread %d", tid);
	if (n > 0)
		pb_set(th, ioprio, (uint32_t)n);
	return 0;
}

/* What only the thread itself could ask. */
static int thread_take_answers(const struct remote_question *q, Pb__Thread *th, struct err *e)
{
	uint64_t tid_address;
	uint32_t pdeath;
	stack_t ss;

	memcpy(&ss, q[0].answer, sizeof(ss));
	pb_set(th, altstack_sp, (uint64_t)ss.ss_sp);
	pb_set(th, altstack_size, ss.ss_size);
	pb_set(th, altstack_flags, (uint32_t)ss.ss_flags);
	if (q[1].result < 0)
		return err_sys(e, (int)q[1].result, "PR_GET_TID_ADDRESS (a kernel without CONFIG_CHECKPOINT_RESTORE?)");
	memcpy(&tid_address, q[1].answer, sizeof(tid_address));
	pb_set(th, clear_child_tid, tid_address);
	memcpy(&pdeath, q[2].answer, sizeof(pdeath));
	if (pdeath)
		pb_set(th, pdeath_signal, pdeath);
	pb_set(th, timer_slack, (uint64_t)q[3].result);
	return 0;
}

static int thread_collect_comm(struct task_collect *c, struct target *t, pid_t tid, Pb__Thread *th, struct err *e)
{
	char name[64], *text;
	size_t size;
	int r;

	snprintf(name, sizeof(name), "task/%d/comm", tid);
	r = fd_read_proc(t->pid, name, c->arena, &text, &size);
	if (r < 0)
		return err_sys(e, r, "reading /proc/%d/%s", t->pid, name);
	if (size && text[size - 1] == '\n')
		text[size - 1] = '\0';
	th->comm = text;
	return 0;
}

int thread_collect(struct task_collect *c, struct target *t, size_t thread, const struct remote_question *q,
		   const struct proc_status *status, Pb__Thread **ret, struct err *e)
{
	Pb__Thread *th = pb_new(c->arena, Pb__Thread, pb__thread__init);
	const struct target_thread *own = &t->threads[thread];

	if (!th)
		return err_nomem(e);
	th->tid = own->tid;
	*ret = th;
	if (thread_collect_comm(c, t, own->tid, th, e) < 0 || thread_collect_state(c, t, own, status, th, e) < 0 ||
	    thread_collect_outside(c, own->tid, th, e) < 0)
		return -1;
	return thread_take_answers(q, th, e);
}

/* ---- restore ---- */

int thread_forget_libc(struct err *e)
{
	uint64_t area = (uint64_t)__builtin_thread_pointer() + (uint64_t)__rseq_offset;
	uint64_t size = __rseq_size > 32 ? __rseq_size : 32;

	if (__rseq_size && syscall(SYS_rseq, area, size, RSEQ_UNREGISTER, RSEQ_SIG) < 0)
		return err_sys(e, errno, "unregistering libc's rseq area");
	return 0;
}

static int thread_restore_pending(const struct task_restore *r, const Pb__Thread *th, struct script_builder *b)
{
	for (size_t i = 0; i < th->n_pending; i++) {
		void *p = region_put(r->region, th->pending[i]->info.data, SIGINFO_SIZE);
		int signo;

		if (!p)
			return -1;
		memcpy(&signo, p, sizeof(signo));
		script_call(b, SCRIPT_MUST, "queueing a pending signal", SYS_rt_tgsigqueueinfo, (uint64_t)r->pb->pid,
			    (uint64_t)th->tid, (uint64_t)signo, (uint64_t)p);
	}
	return 0;
}

static int thread_restore_altstack(const struct task_restore *r, const Pb__Thread *th, struct script_builder *b)
{
	stack_t ss;
	void *p;

	memset(&ss, 0, sizeof(ss)); /* its padding as well: the same image gives the same script */
	ss.ss_sp = (void *)th->altstack_sp;
	ss.ss_flags = (int)(th->altstack_flags & ~(uint32_t)SS_ONSTACK); /* that is reported, and cannot be set */
	ss.ss_size = th->altstack_size;
	p = region_put(r->region, &ss, sizeof(ss));
	if (p) /* also where it had none: torpor has one, when it was compiled with a sanitizer */
		script_call(b, SCRIPT_MUST, "sigaltstack", SYS_sigaltstack, (uint64_t)p, 0);
	return p ? 0 : -1;
}

bool thread_loads_xstate(const struct arch_xstate *here, const Pb__Thread *th)
{
	return arch_xstate_fits(here, th->xstate.data, th->xstate.len, pb_xstate_size(th));
}

/* The zeros that were left out are there, as the region is fresh: pages of them are not touched. */
static int thread_restore_xstate(const struct task_restore *r, const Pb__Thread *th, struct script_builder *b)
{
	void *p;

	if (!thread_loads_xstate(r->xstate, th))
		return 0;
	p = region_alloc_aligned(r->region, pb_xstate_size(th), ARCH_XSTATE_ALIGN);
	if (!p)
		return -1;
	memcpy(p, th->xstate.data, th->xstate.len);
	b->script->xstate = (uint64_t)p;
	b->script->xstate_components = r->xstate->load;
	return 0;
}

int thread_restore(const struct task_restore *r, const Pb__Thread *th, struct script_builder *b, struct err *e)
{
	char comm[COMM_SIZE] = { 0 };
	void *comm_at;

	snprintf(comm, sizeof(comm), "%s", th->comm ? th->comm : "");
	comm_at = region_put(r->region, comm, sizeof(comm));
	if (!comm_at || thread_restore_altstack(r, th, b) < 0 || thread_restore_pending(r, th, b) < 0 ||
	    thread_restore_xstate(r, th, b) < 0)
		return err_set(e, ERR_SYSTEM, 0, "the region for the switch is full");
	script_call(b, SCRIPT_MUST, "PR_SET_NAME", SYS_prctl, PR_SET_NAME, (uint64_t)comm_at);
	script_call(b, SCRIPT_MUST, "set_tid_address", SYS_set_tid_address, th->clear_child_tid);
	script_call(b, SCRIPT_MUST, "set_robust_list", SYS_set_robust_list, th->robust_list,
		    th->robust_list_size ? th->robust_list_size : 24);
	if (th->rseq)
		script_call(b, SCRIPT_MUST, "registering the rseq area", SYS_rseq, th->rseq, th->rseq_size, 0, th->rseq_signature);
	script_call(b, SCRIPT_MUST, "PR_SET_TIMERSLACK", SYS_prctl, PR_SET_TIMERSLACK, th->timer_slack);
	if (creds_restore(r, b, e) < 0)
		return -1;
	/* The root's parent is torpor now, whose end means nothing to it. */
	script_call(b, SCRIPT_MUST, "PR_SET_PDEATHSIG", SYS_prctl, PR_SET_PDEATHSIG, r->pb->ppid ? th->pdeath_signal : 0);
	return 0;
}

size_t thread_script_ops(const struct task_restore *r, const Pb__Thread *th)
{
	return th->n_pending + THREAD_STEPS + creds_script_ops(r);
}

/* The kernel refuses what an ordinary user may not do; then a word to the user, no failure. */
static int thread_note(struct obstacle_list *notes, const Pb__Thread *th, const char *what, int number)
{
	return obstacle_add(notes, "N-THREAD", th->tid, th->comm ? th->comm : "", "restore as root",
			    "%s could not be set again: %s", what, strerror(-number));
}

static int thread_restore_policy(const Pb__Thread *th, struct obstacle_list *notes)
{
	struct sys_sched_attr saved, now = { .size = sizeof(now) };
	int r = 0;

	if (!th->has_sched_attr || th->sched_attr.len != sizeof(saved) || sys_sched_getattr(th->tid, &now) < 0)
		return 0;
	memcpy(&saved, th->sched_attr.data, sizeof(saved));
	/* With SCHED_IDLE, sched_setattr(2) passes over the nice value. */
	if (saved.nice != now.nice && saved.policy == SCHED_IDLE &&
	    setpriority(PRIO_PROCESS, (id_t)th->tid, saved.nice) < 0)
		r = -errno;
	if (r == 0 && memcmp(&saved, &now, sizeof(now)) != 0)
		r = sys_sched_setattr(th->tid, &saved);
	return r < 0 ? thread_note(notes, th, "its scheduling policy or nice value", r) : 0;
}

bool thread_may_use_every_cpu(pid_t tid)
{
	unsigned char own[SYS_CPU_MASK_MAX], every[SYS_CPU_MASK_MAX];
	int n_own = sys_sched_getaffinity(tid, sizeof(own), own), n_every;

	if (n_own < 0 || sys_sched_allow_all(tid) < 0)
		return false;
	n_every = sys_sched_getaffinity(tid, sizeof(every), every);
	if (n_every == n_own && memcmp(own, every, (size_t)n_own) == 0)
		return true;
	sys_sched_setaffinity(tid, (size_t)n_own, own);
	return false;
}

/* Also where the image says nothing: torpor's own affinity and I/O priority are not the program's. */
static int thread_restore_scheduling(const Pb__Thread *th, bool every_cpu, struct obstacle_list *notes)
{
	int ioprio = th->has_ioprio ? (int)th->ioprio : 0, r = 0, ret = thread_restore_policy(th, notes);

	if (th->has_affinity)
		r = sys_sched_setaffinity(th->tid, th->affinity.len, th->affinity.data);
	else if (!every_cpu)
		r = sys_sched_allow_all(th->tid);
	ret = r < 0 ? thread_note(notes, th, "its CPU affinity", r) : ret;
	if (sys_ioprio_get(th->tid) != ioprio) {
		r = sys_ioprio_set(th->tid, ioprio);
		ret = r < 0 ? thread_note(notes, th, "its I/O priority", r) : ret;
	}
	return ret;
}

int thread_note_parent(const Pb__Task *pb, struct obstacle_list *notes)
{
	for (size_t i = 0; !pb->ppid && i < pb->n_threads; i++)
		if (pb->threads[i]->pdeath_signal)
			return obstacle_add(notes, "N-PDEATHSIG", pb->pid, pb->comm, "none is needed",
					    "signal %u, which it wanted at its parent's end, is not set again: that parent "
					    "is not part of the tree", pb->threads[i]->pdeath_signal);
	return 0;
}

/* For this, the kernel allocates memory by vmalloc(), which takes longer than all else that is done here. */
static int thread_set_xstate(const Pb__Thread *th, struct err *e)
{
	unsigned char xstate[ARCH_XSTATE_MAX];
	int r = sys_ptrace_setregset(th->tid, NT_X86_XSTATE, xstate, pb_xstate(th, xstate, sizeof(xstate)));

	return r < 0 ? err_state(e, "E-CPU", -r, "thread %d: this CPU cannot hold its extended state", th->tid) : 0;
}

int thread_restore_outside(const Pb__Thread *th, const struct arch_xstate *here, bool every_cpu, struct obstacle_list *notes,
			   struct err *e)
{
	struct user_regs_struct regs;
	int r;

	if (th->regs.len != sizeof(regs))
		return err_set(e, ERR_IMAGE, 0, "the registers of thread %d are not of this architecture", th->tid);
	memcpy(&regs, th->regs.data, sizeof(regs));
	if (!thread_loads_xstate(here, th) && thread_set_xstate(th, e) < 0)
		return -1;
	r = sys_ptrace_setregs(th->tid, &regs);
	if (r == 0)
		r = sys_ptrace_setsigmask(th->tid, th->sigmask);
	if (r < 0)
		return err_sys(e, r, "setting the registers of thread %d", th->tid);
	return thread_restore_scheduling(th, every_cpu, notes) < 0 ? err_nomem(e) : 0;
}
