/* SPDX-License-Identifier: Apache-2.0 */

/* Interval timers (setitimer(2)) and POSIX timers (timer_create(2)). */

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "sys/memory.h"
#include "task/task.h"
#include "util/fd.h"

enum {
	ITIMERS = 3,
	TIMER_ID_MAX = 4096, /* on kernels that cannot choose ids, how far to count */
	STEPS_PER_TIMER = 2,
};

/* struct sigevent as the kernel knows it. */
struct kernel_sigevent {
	uint64_t value;
	int32_t signo, notify;
	int32_t tid;
	int32_t pad[11];
};

_Static_assert(sizeof(struct kernel_sigevent) == 64, "the kernel's size");

static uint64_t timespec_ns(const struct timespec *ts)
{
	return (uint64_t)ts->tv_sec * 1000000000u + (uint64_t)ts->tv_nsec;
}

static struct timespec ns_timespec(uint64_t ns)
{
	return (struct timespec){ (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
}

static uint64_t timeval_ns(const struct timeval *tv)
{
	return (uint64_t)tv->tv_sec * 1000000000u + (uint64_t)tv->tv_usec * 1000u;
}

static struct timeval ns_timeval(uint64_t ns)
{
	return (struct timeval){ (time_t)(ns / 1000000000u), (suseconds_t)(ns % 1000000000u / 1000u) };
}

/* ---- dump ---- */

static bool timers_is_signal(const Pb__Siginfo *pb, const siginfo_t *of)
{
	const siginfo_t *si = (const siginfo_t *)pb->info.data;

	return si->si_signo == of->si_signo && si->si_code == of->si_code && (of->si_code != SI_TIMER || si->si_timerid == of->si_timerid);
}

/*
 * Clocks go on while a task stands. This timer was still to expire when it was asked for its time, and has done so
 * before the pending signals were read: after a restore it is to expire again, so this signal is not there yet.
 */
static void timers_drop_signal(Pb__Siginfo **v, size_t *n, const siginfo_t *of)
{
	size_t kept = 0;

	for (size_t i = 0; i < *n; i++)
		if (!timers_is_signal(v[i], of))
			v[kept++] = v[i];
	*n = kept;
}

static bool timers_was_pending(const struct proc_status *before, int signo)
{
	return before->shd_pending >> (signo - 1) & 1;
}

static int timers_collect_interval(struct task_collect *c, const struct remote_question *q, const struct proc_status *before, Pb__Task *pb,
				   struct err *e)
{
	static const int signals[ITIMERS] = { [ITIMER_REAL] = SIGALRM, [ITIMER_VIRTUAL] = SIGVTALRM, [ITIMER_PROF] = SIGPROF };
	const siginfo_t expired = { .si_signo = signals[q->args[0]], .si_code = SI_KERNEL };
	struct itimerval it;
	Pb__IntervalTimer *timer;

	memcpy(&it, q->answer, sizeof(it));
	if (q->result < 0 || (!timeval_ns(&it.it_value) && !timeval_ns(&it.it_interval)))
		return 0;
	timer = pb_new(c->arena, Pb__IntervalTimer, pb__interval_timer__init);
	if (!timer || !pb_add(c->arena, pb, itimers, timer))
		return err_nomem(e);
	timer->which = (uint32_t)q->args[0];
	timer->value_ns = timeval_ns(&it.it_value);
	timer->interval_ns = timeval_ns(&it.it_interval);
	/*
	 * Expired, with its signal still pending: the kernel would arm it again when the signal is taken.
	 * To setitimer(2), a value of 0 means to disarm it.
	 */
	if (!timer->value_ns)
		timer->value_ns = timer->interval_ns;
	else if (!timers_was_pending(before, expired.si_signo))
		timers_drop_signal(pb->pending, &pb->n_pending, &expired);
	return 0;
}

/* /proc shows CPU clocks as the kernel encodes them: with the thread's id, or 0 for whoever made the timer. */
enum { CLOCK_OF_MAKERS_PROCESS = -6, CLOCK_OF_MAKER = -2 };

/*
 * All timers are made again by the first thread. A timer on the CPU clock of
 * another maker: who that was is not told, but such timers are for themselves.
 */
static int timer_clock(const struct proc_timer *t)
{
	if (t->clock == CLOCK_OF_MAKERS_PROCESS)
		return CLOCK_PROCESS_CPUTIME_ID;
	if (t->clock == CLOCK_OF_MAKER)
		return t->notify & SIGEV_THREAD_ID ? (int)((~(unsigned)t->tid << 3) | 6) : CLOCK_THREAD_CPUTIME_ID;
	return t->clock;
}

static int timers_collect_posix(struct task_collect *c, const struct remote_question *time, const struct remote_question *overrun,
				const struct proc_timer *t, const struct proc_status *before, Pb__Task *pb, struct err *e)
{
	const siginfo_t expired = { .si_signo = t->signo, .si_code = SI_TIMER, .si_timerid = t->id };
	struct itimerspec it;
	Pb__PosixTimer *timer = pb_new(c->arena, Pb__PosixTimer, pb__posix_timer__init);

	if (!timer || !pb_add(c->arena, pb, timers, timer))
		return err_nomem(e);
	memcpy(&it, time->answer, sizeof(it));
	if (time->result < 0)
		return err_sys(e, (int)time->result, "timer_gettime of timer %d", t->id);
	timer->id = (uint32_t)t->id;
	timer->clock = (uint32_t)timer_clock(t);
	timer->notify = (uint32_t)t->notify;
	timer->signo = (uint32_t)t->signo;
	timer->sigval = t->sigval;
	if (t->notify & SIGEV_THREAD_ID)
		pb_set(timer, tid, t->tid);
	pb_set(timer, value_ns, timespec_ns(&it.it_value));
	pb_set(timer, interval_ns, timespec_ns(&it.it_interval));
	if (overrun->result > 0)
		pb_set(timer, overrun, (uint32_t)overrun->result);
	/* One that expires once has no signal pending while it is armed, or only an old one of no meaning. */
	if (timer->value_ns && t->signo > 0 && (!timer->interval_ns || !timers_was_pending(before, t->signo)))
		timers_drop_signal(pb->pending, &pb->n_pending, &expired);
	return 0;
}

static int timer_compare(const void *a, const void *b)
{
	const struct proc_timer *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

int timers_find(struct task_collect *c, struct target *t, struct timers *ret, struct err *e)
{
	char *text;
	int r = fd_read_proc(t->pid, "timers", c->arena, &text, NULL);

	*ret = (struct timers){ 0 };
	if (r == 0)
		r = proc_parse_timers(text, c->arena, &ret->v, &ret->n);
	if (r < 0)
		return err_sys(e, r, "reading /proc/%d/timers", t->pid);
	if (ret->n)
		qsort(ret->v, ret->n, sizeof(*ret->v), timer_compare);
	return 0;
}

int timers_ask(struct questions *q, const struct timers *timers)
{
	int r = 0;

	for (unsigned which = 0; r == 0 && which < ITIMERS; which++)
		r = questions_add(q, SYS_getitimer, 1, which, 0, 0, 0);
	for (size_t i = 0; r == 0 && i < timers->n; i++) {
		r = questions_add(q, SYS_timer_gettime, 1, (uint64_t)timers->v[i].id, 0, 0, 0);
		if (r == 0)
			r = questions_add(q, SYS_timer_getoverrun, 0, (uint64_t)timers->v[i].id, 0, 0, 0);
	}
	return r;
}

void timers_drop_early(const Pb__Task *pb, Pb__Thread *th)
{
	for (size_t i = 0; i < pb->n_timers; i++) {
		const Pb__PosixTimer *t = pb->timers[i];
		const siginfo_t expired = { .si_signo = (int)t->signo, .si_code = SI_TIMER, .si_timerid = (int)t->id };

		if (t->value_ns && !t->interval_ns)
			timers_drop_signal(th->pending, &th->n_pending, &expired);
	}
}

int timers_collect(struct task_collect *c, struct questions *q, const struct timers *timers, const struct proc_status *before,
		   Pb__Task *pb, struct err *e)
{
	int r = 0;

	for (unsigned which = 0; r == 0 && which < ITIMERS; which++)
		r = timers_collect_interval(c, questions_next(q), before, pb, e);
	for (size_t i = 0; r == 0 && i < timers->n; i++) {
		const struct remote_question *time = questions_next(q), *overrun = questions_next(q);

		r = timers_collect_posix(c, time, overrun, &timers->v[i], before, pb, e);
	}
	return r;
}

/* ---- restore ---- */

static bool timers_ids_can_be_chosen(void)
{
	if (prctl(PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0) < 0)
		return false;
	prctl(PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0);
	return true;
}

static int timers_full(struct err *e)
{
	return err_set(e, ERR_SYSTEM, 0, "the region for the switch is full");
}

static int timers_restore_posix(const struct task_restore *r, struct script_builder *b, const Pb__PosixTimer *t, struct err *e)
{
	const struct kernel_sigevent sev = {
		.value = t->sigval, .signo = (int32_t)t->signo, .notify = (int32_t)t->notify, .tid = t->tid
	};
	const struct itimerspec it = { ns_timespec(t->interval_ns), ns_timespec(t->value_ns) };
	void *sev_at = region_put(r->region, &sev, sizeof(sev)), *it_at = region_put(r->region, &it, sizeof(it));
	void *id_at = region_put(r->region, &t->id, sizeof(t->id));

	if (!sev_at || !it_at || !id_at)
		return timers_full(e);
	script_call(b, SCRIPT_MUST, "timer_create", SYS_timer_create, t->clock, (uint64_t)sev_at, (uint64_t)id_at);
	if (t->value_ns)
		script_call(b, SCRIPT_MUST, "timer_settime", SYS_timer_settime, t->id, 0, (uint64_t)it_at);
	return 0;
}

/* Older kernels count ids up from 0: make and remove timers for those that are not there. */
static int timers_skip_id(const struct task_restore *r, struct script_builder *b, uint32_t id, struct err *e)
{
	const struct kernel_sigevent none = { .notify = SIGEV_NONE };
	void *sev_at = region_put(r->region, &none, sizeof(none)), *id_at = region_alloc(r->region, sizeof(id));

	if (!sev_at || !id_at)
		return timers_full(e);
	script_call(b, SCRIPT_MUST, "timer_create", SYS_timer_create, CLOCK_MONOTONIC, (uint64_t)sev_at, (uint64_t)id_at);
	script_call(b, SCRIPT_MUST, "timer_delete", SYS_timer_delete, id);
	return 0;
}

static int timers_restore_counting(const struct task_restore *r, struct script_builder *b, struct err *e)
{
	uint32_t next = 0;
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < r->pb->n_timers; i++) {
		const Pb__PosixTimer *t = r->pb->timers[i];

		if (t->id >= TIMER_ID_MAX)
			return err_state(e, "E-TIMER-ID", 0, "the POSIX timer %u cannot be made: this kernel cannot choose timer ids",
					 t->id);
		for (; ret == 0 && next < t->id; next++)
			ret = timers_skip_id(r, b, next, e);
		if (ret == 0)
			ret = timers_restore_posix(r, b, t, e);
		next = t->id + 1;
	}
	return ret;
}

int timers_restore(const struct task_restore *r, struct script_builder *b, struct err *e)
{
	const Pb__Task *pb = r->pb;
	int ret = 0;

	if (pb->n_timers && timers_ids_can_be_chosen()) {
		script_call(b, SCRIPT_MUST, "PR_TIMER_CREATE_RESTORE_IDS", SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 1);
		for (size_t i = 0; ret == 0 && i < pb->n_timers; i++)
			ret = timers_restore_posix(r, b, pb->timers[i], e);
		script_call(b, SCRIPT_MUST, "PR_TIMER_CREATE_RESTORE_IDS", SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 0);
	} else {
		ret = timers_restore_counting(r, b, e);
	}
	for (size_t i = 0; ret == 0 && i < pb->n_itimers; i++) {
		const Pb__IntervalTimer *t = pb->itimers[i];
		const struct itimerval it = { ns_timeval(t->interval_ns), ns_timeval(t->value_ns) };
		void *p = region_put(r->region, &it, sizeof(it));

		if (!p)
			return timers_full(e);
		script_call(b, SCRIPT_MUST, "setitimer", SYS_setitimer, t->which, (uint64_t)p, 0);
	}
	return ret;
}

size_t task_script_ops(const Pb__Task *pb)
{
	size_t ids = pb->n_timers ? pb->timers[pb->n_timers - 1]->id : 0;

	return pb->n_sigactions + pb->n_pending + pb->n_itimers + pb->n_limits +
	       (pb->n_timers + (ids < TIMER_ID_MAX ? ids : TIMER_ID_MAX)) * STEPS_PER_TIMER + 16;
}
