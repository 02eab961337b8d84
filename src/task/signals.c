/* SPDX-License-Identifier: Apache-2.0 */

/* Signal actions and pending signals of the thread group. */

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#include "sys/ptrace.h"
#include "task/task.h"

enum { SIGNALS = 64, PEEK_BATCH = 32, SIGINFO_SIZE = 128 };

/* struct sigaction as the kernel knows it. */
struct kernel_sigaction {
	uint64_t handler, flags, restorer, mask;
};

static uint64_t signal_bit(int signo)
{
	return 1ull << (signo - 1);
}

static int signals_collect_action(struct task_collect *c, const struct remote_question *q, Pb__Task *pb, struct err *e)
{
	struct kernel_sigaction sa;
	Pb__SigAction *action;
	int signo = (int)q->args[0];

	memcpy(&sa, q->answer, sizeof(sa));
	if (q->result < 0)
		return err_sys(e, (int)q->result, "asking for the action of signal %d", signo);
	if (!sa.handler && !sa.flags)
		return 0;
	action = pb_new(c->arena, Pb__SigAction, pb__sig_action__init);
	if (!action || !pb_add(c->arena, pb, sigactions, action))
		return err_nomem(e);
	action->signo = (uint32_t)signo;
	action->handler = sa.handler;
	action->flags = sa.flags;
	action->restorer = sa.restorer;
	action->mask = sa.mask;
	return 0;
}

/* Append to a repeated field. */
static int signals_add(struct arena *arena, Pb__Siginfo ***field, size_t *n, const void *info)
{
	Pb__Siginfo *pb = pb_new(arena, Pb__Siginfo, pb__siginfo__init);
	Pb__Siginfo **v = arena_grow(arena, *field, *n, sizeof(*v));

	if (!pb || !v)
		return -ENOMEM;
	pb->info.len = SIGINFO_SIZE;
	pb->info.data = arena_memdup(arena, info, SIGINFO_SIZE);
	*field = v;
	v[(*n)++] = pb;
	return pb->info.data ? 0 : -ENOMEM;
}

/*
 * Where a user's queue is full, the kernel keeps only the number of an ordinary
 * signal. It is delivered as if an unknown process had sent it.
 */
static int signals_add_bare(struct arena *arena, uint64_t bare, Pb__Siginfo ***field, size_t *n)
{
	int r = 0;

	for (int signo = 1; r == 0 && signo <= SIGNALS; signo++) {
		unsigned char info[SIGINFO_SIZE] = { 0 }; /* SI_USER from process 0 */

		memcpy(info, &signo, sizeof(signo));
		if (bare & signal_bit(signo))
			r = signals_add(arena, field, n, info);
	}
	return r;
}

/* A queue of pending signals, of one thread or of the group, and the repeated field that it is appended to. */
struct signal_queue {
	struct arena *arena;
	struct target *task;
	pid_t tid;
	uint32_t flags; /* PTRACE_PEEKSIGINFO_SHARED, or 0 */
	Pb__Siginfo ***field;
	size_t *n;
};

/*
 * A stop, or its end, that came when the task was frozen: of the two, the kernel keeps only the last in the queues.
 * A stop cannot be blocked, so the task is stopped, and nothing is pending. True: that was it.
 */
static bool signals_stop(struct target *t, int signo)
{
	if (signo == SIGSTOP)
		t->stop_signal = SIGSTOP;
	else if (signo == SIGCONT)
		t->stop_signal = 0;
	return signo == SIGSTOP;
}

/* Pass all of a queue, in order, to `take`. Returns the numbers that were in it in *seen. */
static int signals_peek(const struct signal_queue *q, int (*take)(const struct signal_queue *q, const void *info, void *data), void *data,
			uint64_t *seen, struct err *e)
{
	unsigned char infos[PEEK_BATCH][SIGINFO_SIZE];
	struct ptrace_peeksiginfo_args args = { .flags = q->flags, .nr = PEEK_BATCH };
	int got;

	*seen = 0;
	do {
		got = sys_ptrace(PTRACE_PEEKSIGINFO, q->tid, (uintptr_t)&args, (uintptr_t)infos);
		if (got < 0)
			return err_sys(e, got, "reading the pending signals of thread %d", q->tid);
		for (int i = 0; i < got; i++) {
			int signo;

			memcpy(&signo, infos[i], sizeof(signo));
			*seen |= signo >= 1 && signo <= SIGNALS ? signal_bit(signo) : 0;
			if (!signals_stop(q->task, signo) && take(q, infos[i], data) < 0)
				return err_nomem(e);
		}
		args.off += (uint64_t)got;
	} while (got == PEEK_BATCH);
	return 0;
}

static int signals_take(const struct signal_queue *q, const void *info, void *data)
{
	(void)data;
	return signals_add(q->arena, q->field, q->n, info);
}

/* `pending`: the numbers that /proc shows. */
static int signals_collect_queue(const struct signal_queue *q, uint64_t pending, struct err *e)
{
	uint64_t seen;

	if (signals_peek(q, signals_take, NULL, &seen, e) < 0)
		return -1;
	pending &= ~seen;
	if (pending & signal_bit(SIGSTOP))
		signals_stop(q->task, SIGSTOP);
	return signals_add_bare(q->arena, pending & ~signal_bit(SIGSTOP), q->field, q->n) < 0 ? err_nomem(e) : 0;
}

/* A second look at a queue. It has grown at its end, if at all. */
struct signals_late {
	size_t found; /* so much of the field was in it */
	int came;     /* since the first look, in all queues */
};

/* Only what somebody has sent: a timer's expiry, or news of a file descriptor, is in the state of that already. */
static int signals_take_late(const struct signal_queue *q, const void *info, void *data)
{
	const siginfo_t *si = info;
	struct signals_late *late = data;

	if (si->si_code != SI_USER && si->si_code != SI_QUEUE && si->si_code != SI_TKILL)
		return 0;
	for (size_t i = late->found; i < *q->n; i++) {
		if (memcmp((*q->field)[i]->info.data, info, SIGINFO_SIZE) == 0) {
			late->found = i + 1;
			return 0;
		}
	}
	late->found = *q->n + 1;
	late->came++;
	return signals_add(q->arena, q->field, q->n, info);
}

int signals_collect_late(struct arena *arena, struct target *t, Pb__Task *pb, struct err *e)
{
	struct signal_queue q = { arena, t, t->pid, PTRACE_PEEKSIGINFO_SHARED, &pb->pending, &pb->n_pending };
	struct signals_late late = { 0 };
	int stopped = t->stop_signal;
	uint64_t seen;

	if (signals_peek(&q, signals_take_late, &late, &seen, e) < 0)
		return -1;
	for (size_t i = 0; i < pb->n_threads; i++) {
		Pb__Thread *th = pb->threads[i];

		late.found = 0;
		q = (struct signal_queue){ arena, t, th->tid, 0, &th->pending, &th->n_pending };
		if (signals_peek(&q, signals_take_late, &late, &seen, e) < 0)
			return -1;
	}
	task_set_state(t, pb);
	return late.came + (t->stop_signal != stopped);
}

uint64_t signals_with_actions(const struct proc_status *status)
{
	return (status->sig_caught | status->sig_ignored | signal_bit(SIGCHLD)) & ~(signal_bit(SIGKILL) | signal_bit(SIGSTOP));
}

int signals_ask(struct questions *q, const struct proc_status *status)
{
	int ret = 0;

	for (int signo = 1; ret == 0 && signo <= SIGNALS; signo++)
		if (signals_with_actions(status) & signal_bit(signo))
			ret = questions_add(q, SYS_rt_sigaction, 2, (uint64_t)signo, 0, 0, sizeof(uint64_t));
	return ret;
}

int signals_collect(struct task_collect *c, struct target *t, struct questions *q, const struct proc_status *status, Pb__Task *pb,
		    struct err *e)
{
	int ret = 0;

	for (int signo = 1; ret == 0 && signo <= SIGNALS; signo++)
		if (signals_with_actions(status) & signal_bit(signo))
			ret = signals_collect_action(c, questions_next(q), pb, e);
	if (ret == 0)
		ret = signals_collect_queue(&(struct signal_queue){ c->arena, t, t->pid, PTRACE_PEEKSIGINFO_SHARED, &pb->pending,
								    &pb->n_pending }, status->shd_pending, e);
	return ret;
}

int signals_collect_thread(struct task_collect *c, struct target *t, pid_t tid, const struct proc_status *status, Pb__Thread *th,
			   struct err *e)
{
	return signals_collect_queue(&(struct signal_queue){ c->arena, t, tid, 0, &th->pending, &th->n_pending }, status->sig_pending, e);
}

uint64_t signals_of(Pb__Siginfo *const *infos, size_t n)
{
	uint64_t set = 0;

	for (size_t i = 0; i < n; i++) {
		int32_t signo;

		memcpy(&signo, infos[i]->info.data, sizeof(signo)); /* plan_make() has looked at them */
		set |= signal_bit(signo);
	}
	return set;
}

static int signals_full(struct err *e)
{
	return err_set(e, ERR_SYSTEM, 0, "the region for the switch is full");
}

int signals_restore(const struct task_restore *r, struct script_builder *b, struct err *e)
{
	const Pb__Task *pb = r->pb;

	for (size_t i = 0; i < pb->n_sigactions; i++) {
		const Pb__SigAction *a = pb->sigactions[i];
		const struct kernel_sigaction sa = { a->handler, a->flags, a->restorer, a->mask };
		void *p = region_put(r->region, &sa, sizeof(sa));

		if (!p)
			return signals_full(e);
		script_call(b, SCRIPT_MUST, "setting a signal action", SYS_rt_sigaction, a->signo, (uint64_t)p, 0,
			    sizeof(sa.mask));
	}
	for (size_t i = 0; i < pb->n_pending; i++) {
		void *p = region_put(r->region, pb->pending[i]->info.data, SIGINFO_SIZE);
		int signo;

		if (!p)
			return signals_full(e);
		memcpy(&signo, p, sizeof(signo));
		script_call(b, SCRIPT_MUST, "queueing a pending signal", SYS_rt_sigqueueinfo, (uint64_t)pb->pid,
			    (uint64_t)signo, (uint64_t)p);
	}
	return 0;
}
