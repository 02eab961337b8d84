/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Theory of operation: the tree makes itself. The coordinator makes the root, each
 * task makes its children, and all meet at four barriers (unless nobody needs to wait, which is the usual case: build_must_meet()):
 *
 *   births    everybody exists, in the right session
 *   leaders   group leaders (or stand-ins for dead ones) lead their groups
 *   members   everybody is in its group; stand-ins and zombies may end
 *   loaded    everybody has its memory, and the threads that loaded it are gone
 *
 * The memory of a task that is alone is loaded before all of that, unless it is tiny, by a
 * process that is none of the tree: build_loader().
 *
 * Then each task, on its own: file descriptors, folders, limits, script; and it
 * enters the runner, which ends in a stop for the coordinator. All of them are
 * traced with PTRACE_O_EXITKILL from birth: if the coordinator dies, or finds a
 * reason to give up, nothing is left.
 */

#include "core/build.h"

#include <alloca.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch/x86_64/syscall.h"
#include "core/objects.h"
#include "ipc/ipc.h"
#include "kinds/lock.h"
#include "memory/memory.h"
#include "proc/maps.h"
#include "sys/memory.h"
#include "sys/process.h"
#include "task/task.h"
#include "util/fd.h"
#include "util/privilege.h"

enum {
	STACK_ROOM = 512 * 1024,   /* of our own stack that must stay usable among the saved mappings */
	STACK_FRAME = 8 * 1024,    /* more than a task needs until its children are born */
	EARLY_PAGES = 1024,        /* of a task that loads before the others are born */
	AREAS_CHILDREN = 2,        /* so many: reading its mappings once for all of them is worth it */
	DEPTH_MAX = 256,           /* so many are foreseen, each the child of another */
	THREAD_STACK = 1024,       /* for the runner; signals are blocked */
	STEP_DATA = 160,           /* most that a step of a script puts into the region, on average */
	REGION_BASE = 256 * 1024,
};

/*
 * What has a struct err of its own, kilobytes, and returns before its caller goes deep, has a frame of its own: each page of the
 * stack that is used costs each task a page fault.
 */
#define SHALLOW __attribute__((noinline))

/* ---- meeting the others ---- */

static long futex(_Atomic uint32_t *word, int op, uint32_t value)
{
	return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

/* Tell the coordinator why, and end. The first to fail is heard. */
static _Noreturn void build_fail(struct build *b, const Pb__Task *pb, const struct err *e)
{
	if (atomic_exchange(&b->meeting->failed, 1) == 0) {
		b->meeting->err = *e;
		err_wrap(&b->meeting->err, "task %d (%s)", pb->pid, pb->comm);
		atomic_store(&b->meeting->told, 1);
	}
	_exit(1);
}

/* Wait until `count` arrivals have been counted in all. */
static void meeting_wait(struct meeting *m, uint32_t count)
{
	uint32_t now;

	while ((now = atomic_load(&m->arrived)) < count)
		futex(&m->arrived, FUTEX_WAIT, now);
}

/* `count`: how many arrivals make this barrier and all before it. */
static void meeting_arrive(struct build *b, uint32_t count)
{
	if (atomic_fetch_add(&b->meeting->arrived, 1) + 1 >= count)
		futex(&b->meeting->arrived, FUTEX_WAKE, INT32_MAX);
	meeting_wait(b->meeting, count);
}

void build_go(struct build *b)
{
	atomic_store(&b->meeting->go, 1);
	futex(&b->meeting->go, FUTEX_WAKE, 1);
}

void build_call_off(struct build *b)
{
	atomic_store(&b->meeting->failed, 1);
	build_go(b);
}

/* The root: until it is traced. If the coordinator dies before, so do we. */
static void build_await_go(struct build *b)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!atomic_load(&b->meeting->go)) {
		if (getppid() != b->coordinator)
			_exit(1);
		futex(&b->meeting->go, FUTEX_WAIT, 0);
	}
	if (atomic_load(&b->meeting->failed))
		_exit(1);
}

/* ---- births ---- */

static bool build_leads_session(const Pb__Task *pb)
{
	return pb->sid == pb->pid;
}

static _Noreturn void build_task(struct build *b, size_t index);

static int build_clone_failed(pid_t pid, int number, struct err *e)
{
	if (number == -EEXIST) {
		err_state(e, "E-PID-TAKEN", 0, "the PID %d is taken", pid);
		return err_help(e, "end the process that holds it, or wait until it has ended");
	}
	if (number == -ETIME) {
		err_state(e, "E-PID-LIMIT", 0, "the PID %d has not come up within the limit of forks", pid);
		return err_help(e, "a higher --fork-limit");
	}
	err_sys(e, number, "making a process with the PID %d", pid);
	if (number == -EPERM) {
		err_id(e, "E-PID-PERMISSION");
		err_help(e, "%s", privilege_why_not() ?: "give torpor the capability: setcap cap_checkpoint_restore=ep torpor");
	}
	return number;
}

/* The child is traced as we are, without a stop for us. */
static pid_t build_clone(const struct build *b, pid_t pid, uint64_t flags, int exit_signal)
{
	return pids_clone(b->pids, NULL, pid, flags | CLONE_PTRACE, exit_signal);
}

static SHALLOW _Noreturn void build_birth_failed(struct build *b, const Pb__Task *pb, pid_t pid, int number)
{
	struct err e = ERR_INIT;

	build_clone_failed(pid, number, &e);
	build_fail(b, pb, &e);
}

/* Fork the task with this index; returns in the parent only. */
static void build_birth(struct build *b, size_t index, uint64_t flags)
{
	const Pb__Task *pb = b->plan->tasks[index].pb;
	int exit_signal = pb->has_exit_signal && pb->exit_signal <= 64 ? (int)pb->exit_signal : SIGCHLD;
	pid_t pid = build_clone(b, pb->pid, flags, exit_signal);

	if (pid == 0)
		build_task(b, index);
	if (pid < 0)
		build_birth_failed(b, pb, pb->pid, pid);
}

/* A stand-in must be gone before its parent goes on as the saved program. */
static void build_reap(pid_t pid)
{
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
}

/* The dead leader of a session, for as long as it takes to make the session's members. */
static void build_session_standin(struct build *b, size_t first)
{
	const struct plan *p = b->plan;
	pid_t pid = build_clone(b, p->tasks[first].pb->sid, 0, SIGCHLD);

	if (pid < 0)
		build_birth_failed(b, p->tasks[first].pb, p->tasks[first].pb->sid, pid);
	if (pid > 0) {
		build_reap(pid);
		return;
	}
	if (setsid() < 0)
		_exit(1);
	for (size_t i = first; i < p->n_tasks; i++)
		if (p->tasks[i].birth == BIRTH_BY_STANDIN && p->tasks[i].parent == p->tasks[first].parent &&
		    p->tasks[i].pb->sid == p->tasks[first].pb->sid)
			build_birth(b, i, CLONE_PARENT);
	_exit(0);
}

/* A session of its own, with its controlling terminal: who is born into the session has it as well. */
static SHALLOW void build_session(struct build *b, struct restore_task *rt)
{
	struct err e = ERR_INIT;
	int r = setsid() < 0 ? err_sys(&e, errno, "making a session") : objects_lead(rt, &e);

	if (r < 0)
		build_fail(b, rt->task, &e);
}

/* All that this task makes, in the order that puts each into its session. */
static SHALLOW void build_children(struct build *b, size_t index, struct restore_task *rt)
{
	const struct plan *p = b->plan;
	const Pb__Task *pb = p->tasks[index].pb;

	for (size_t i = index + 1; i < p->n_tasks; i++)
		if (p->tasks[i].parent == index && p->tasks[i].birth == BIRTH_BEFORE_SESSION)
			build_birth(b, i, 0);
	if (build_leads_session(pb))
		build_session(b, rt);
	for (size_t i = index + 1; i < p->n_tasks; i++)
		if (p->tasks[i].parent == index && p->tasks[i].birth == BIRTH_BY_STANDIN && plan_first_of_session(p, i))
			build_session_standin(b, i);
	for (size_t i = 0; i < p->n_tasks; i++) {
		if (p->tasks[i].parent == index && p->tasks[i].birth == BIRTH_CHILD)
			build_birth(b, i, 0);
		else if (p->tasks[i].birth == BIRTH_BY_LEADER && p->tasks[i].leader == index)
			build_birth(b, i, CLONE_PARENT);
	}
}

/* ---- groups ---- */

/* The group outside is 0. */
static pid_t build_group_of(const struct plan *p, size_t index)
{
	return p->tasks[index].pb->group_outside ? 0 : p->tasks[index].pb->pgid;
}

/* The group that a task is born in, where each leader leads before it makes anybody. */
static pid_t build_group_at_birth(const struct plan *p, size_t index)
{
	uint32_t maker = plan_maker(p, index);

	while (maker != UINT32_MAX && p->tasks[index].birth == BIRTH_BEFORE_SESSION) {
		index = maker;
		maker = plan_maker(p, index);
	}
	return maker == UINT32_MAX ? 0 : build_group_of(p, maker);
}

static bool build_leads_group(const struct plan *p, size_t index)
{
	return build_group_of(p, index) == p->tasks[index].pb->pid;
}

/*
 * Does it need somebody to be there, or somebody's number to be free, but for its maker and what it was born with? Or has
 * it a timer, which runs from when it is armed, so that it should be late?
 */
static bool build_task_must_meet(const struct build *b, size_t index)
{
	const struct plan_task *t = &b->plan->tasks[index];
	bool leads = build_leads_group(b->plan, index);

	return t->pb->state == PB__TASK_STATE__ZOMBIE || t->pb->n_timers || t->pb->n_itimers || t->makes_group ||
	       t->birth == BIRTH_BY_STANDIN || t->pb->terminal_given_up || (build_leads_session(t->pb) && !leads) ||
	       (!leads && build_group_at_birth(b->plan, index) != build_group_of(b->plan, index)) ||
	       image_pages_of(b->image, IMAGE_OWNER_SPACE(t->pb->space)) >= EARLY_PAGES;
}

bool build_must_meet(const struct build *b)
{
	if (b->way != PID_SET_TID || b->loads_first || objects_need_tasks(b->plan->image))
		return true;
	for (size_t i = 0; i < b->plan->n_tasks; i++)
		if (build_task_must_meet(b, i))
			return true;
	return false;
}

/* The dead leader of a process group, until everybody has joined. Returns its PID, or 0. */
static pid_t build_group_standin(struct build *b, const struct plan_task *t)
{
	pid_t pid;

	if (!t->makes_group || getpgrp() == t->pb->pgid)
		return 0;
	pid = build_clone(b, t->pb->pgid, 0, SIGCHLD);
	if (pid < 0)
		build_birth_failed(b, t->pb, t->pb->pgid, pid);
	if (pid == 0) {
		meeting_wait(b->meeting, (uint32_t)b->plan->n_tasks * 3);
		_exit(0);
	}
	if (setpgid(pid, pid) < 0) {
		struct err e = ERR_INIT;

		err_sys(&e, errno, "making the process group %d", pid);
		build_fail(b, t->pb, &e);
	}
	return pid;
}

static void build_join(struct build *b, const Pb__Task *pb)
{
	struct err e = ERR_INIT;

	if (pb->group_outside || getpgrp() == pb->pgid || setpgid(0, pb->pgid) == 0)
		return;
	err_sys(&e, errno, "joining the process group %d", pb->pgid);
	build_fail(b, pb, &e);
}

/* It was born with the controlling terminal of its session, which it had given up. */
static void build_give_up_terminal(void)
{
	cleanup_close int fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd >= 0)
		ioctl(fd, TIOCNOTTY);
}

static SHALLOW void build_groups(struct build *b, size_t index, struct restore_task *rt)
{
	const struct plan_task *t = &b->plan->tasks[index];
	uint32_t n = (uint32_t)b->plan->n_tasks;
	struct err e = ERR_INIT;
	pid_t standin;

	if (!b->meets)
		return; /* it is in its group */
	meeting_arrive(b, n);
	pids_reap_strays(b->pids);
	if (t->pb->pgid == t->pb->pid)
		build_join(b, t->pb);
	standin = build_group_standin(b, t);
	meeting_arrive(b, n * 2);
	build_join(b, t->pb);
	meeting_arrive(b, n * 3);
	if (build_leads_session(t->pb) && objects_group(rt, &e) < 0)
		build_fail(b, t->pb, &e);
	if (t->pb->terminal_given_up)
		build_give_up_terminal();
	if (standin)
		build_reap(standin);
}

/* ---- a zombie ends as it had ended ---- */

static _Noreturn void build_zombie(const Pb__Task *pb)
{
	int signo = WTERMSIG(pb->exit_status);

	privilege_end(); /* the exit status of one with more capabilities is hidden from its own user: proc_pid_stat(5) */
	prctl(PR_SET_NAME, pb->comm);
	if (WIFEXITED(pb->exit_status))
		_exit(WEXITSTATUS(pb->exit_status));
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	signal(signo, SIG_DFL);
	sigprocmask(SIG_SETMASK, &(sigset_t){ 0 }, NULL);
	raise(signo);
	_exit(128 + signo);
}

/* ---- the script ---- */

uint64_t build_steps_bytes(const struct task_restore *tr)
{
	const Pb__Task *pb = tr->pb;
	uint64_t bytes = REGION_BASE + (task_script_ops(pb) + lock_script_ops(pb) + semaphores_script_ops(pb) +
						   queues_script_ops(pb)) * STEP_DATA + queues_script_bytes(pb);

	for (size_t i = 0; i < pb->n_threads; i++)
		bytes += thread_script_ops(tr, pb->threads[i]) * (sizeof(struct script_op) + STEP_DATA) + THREAD_STACK + 512 +
			 pb_xstate_size(pb->threads[i]) + ARCH_XSTATE_ALIGN;
	return bytes;
}

/* The page of struct steer, where the runner can reach it. NULL where TIDs are chosen by clone3. */
static int build_map_steer(const struct build *b, const struct task_restore *tr, void **ret, struct err *e)
{
	void *p;

	*ret = NULL;
	if (b->way == PID_SET_TID || tr->pb->n_threads == 1)
		return 0;
	p = region_alloc_aligned(tr->region, MEMORY_PAGE, MEMORY_PAGE);
	if (!p)
		return err_set(e, ERR_SYSTEM, 0, "the region for the switch is full");
	*ret = mremap(b->pids, 0, MEMORY_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p);
	return *ret == MAP_FAILED ? err_sys(e, errno, "mapping what tells how to choose TIDs") : 0;
}

/* At the end, all signals are still blocked but for the one by which the thread stops. */
static int build_let_through(const struct task_restore *tr, int signo, struct script_builder *s, struct err *e)
{
	const uint64_t blocked = ~(1ull << (signo - 1));
	void *p = region_put(tr->region, &blocked, sizeof(blocked));

	if (!p)
		return err_set(e, ERR_SYSTEM, 0, "the region for the switch is full");
	script_call(s, SCRIPT_MUST, "letting one signal through", SYS_rt_sigprocmask, SIG_SETMASK, (uint64_t)p, 0, sizeof(blocked));
	return 0;
}

static int build_park(const struct build *b, const struct task_restore *tr, struct script_builder *s, struct err *e)
{
	s->script->park = (uint64_t)b->park;
	return b->park ? build_let_through(tr, b->park, s, e) : 0;
}

/*
 * May the task unmap the region itself, and stop by the crash that follows? Only one without other threads, which stand in
 * the region as well; and the kernel drops the action of a signal that it must send while that is ignored, and does not
 * send it twice (force_sig_info_to_task() and legacy_queue() in kernel/signal.c).
 */
static bool build_may_crash(const Pb__Task *pb)
{
	const Pb__Thread *leader = pb->threads[0];
	const uint64_t pending = signals_of(pb->pending, pb->n_pending) | signals_of(leader->pending, leader->n_pending);

	if (pb->n_threads > 1 || pending >> (SIGSEGV - 1) & 1)
		return false;
	for (size_t i = 0; i < pb->n_sigactions; i++)
		if (pb->sigactions[i]->signo == SIGSEGV && pb->sigactions[i]->handler == (uint64_t)SIG_IGN)
			return false;
	return true;
}

/* The last step of the leader's script. */
static int build_end(const struct build *b, const struct task_restore *tr, struct script_builder *s, struct err *e)
{
	if (!build_may_crash(tr->pb))
		return build_park(b, tr, s, e);
	s->script->unmap_start = tr->region->start;
	s->script->unmap_size = tr->region->size;
	return build_let_through(tr, SIGSEGV, s, e);
}

/* With what build_park() adds. */
static size_t build_thread_ops(const struct task_restore *tr, const Pb__Thread *th)
{
	return thread_script_ops(tr, th) + 1;
}

static int build_thread_script(const struct build *b, const struct task_restore *tr, const Pb__Thread *th, struct script **ret,
			       struct err *e)
{
	struct script_builder s;

	if (script_begin_thread(&s, tr->region, build_thread_ops(tr, th), e) < 0 || thread_restore(tr, th, &s, e) < 0 ||
	    build_park(b, tr, &s, e) < 0)
		return -1;
	*ret = s.script;
	s.script->tid = (uint64_t)th->tid;
	return script_finish(&s, e);
}

/* The other threads: each starts in the runner, with its saved TID, and executes its own script. */
static int build_threads(const struct build *b, const struct task_restore *tr, struct script_builder *leader, struct err *e)
{
	void *steer;

	if (build_map_steer(b, tr, &steer, e) < 0)
		return -1;
	for (size_t i = 1; i < tr->pb->n_threads; i++) {
		const Pb__Thread *th = tr->pb->threads[i];
		struct clone_args args = {
			.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PTRACE,
			.stack = (uint64_t)region_alloc(tr->region, THREAD_STACK),
			.stack_size = THREAD_STACK,
			.set_tid = (uint64_t)region_put(tr->region, &th->tid, sizeof(th->tid)),
			.set_tid_size = 1,
		};
		struct script *script;
		void *at = region_put(tr->region, &args, sizeof(args));

		if (!at || !args.stack || !args.set_tid)
			return err_set(e, ERR_SYSTEM, 0, "the region for the switch is full");
		if (build_thread_script(b, tr, th, &script, e) < 0)
			return -1;
		script_thread(leader, "making a thread with its TID", at, sizeof(args), script, steer);
	}
	return 0;
}

/* What concerns the whole task, once it stands in its own address space. */
static void build_task_steps(const struct task_restore *tr, struct script_builder *s, int fd_base)
{
	const Pb__Task *pb = tr->pb;

	script_call(s, SCRIPT_MUST, "closing torpor's own file descriptors", SYS_close_range, (uint64_t)fd_base, ~0u, 0);
	for (unsigned bit = 0; bit < 16; bit++) /* the registrations are told as the commands that make them */
		if (tr->space->membarrier >> bit & 1)
			script_call(s, 0, "registering for membarrier", SYS_membarrier, 1ull << bit, 0, 0);
	if (pb->child_subreaper)
		script_call(s, SCRIPT_MUST, "PR_SET_CHILD_SUBREAPER", SYS_prctl, PR_SET_CHILD_SUBREAPER, 1);
	if (pb->thp_disable)
		script_call(s, SCRIPT_MUST, "PR_SET_THP_DISABLE", SYS_prctl, PR_SET_THP_DISABLE, 1);
	script_call(s, SCRIPT_MUST, "personality", SYS_personality, pb->personality);
}

size_t build_steps_ops(const struct task_restore *tr)
{
	const Pb__Task *pb = tr->pb;

	return task_script_ops(pb) + lock_script_ops(pb) + semaphores_script_ops(pb) + queues_script_ops(pb) +
	       pb->n_threads + 32 + thread_script_ops(tr, pb->threads[0]);
}

int build_steps(const struct build *b, const struct task_restore *tr, struct script_builder *s, struct err *e)
{
	build_task_steps(tr, s, b->plan->fd_base);
	/* Behind the last close: a task that closes any fd of a file loses its POSIX locks on it. */
	if (lock_restore_script(tr->pb, tr->region, s, e) < 0 ||
	    semaphores_restore_script(b->plan->image, tr->pb, tr->region, s, e) < 0 ||
	    queues_restore_script(b->plan->image, tr->pb, tr->region, s, e) < 0)
		return -1;
	if (signals_restore(tr, s, e) < 0 || build_threads(b, tr, s, e) < 0 || timers_restore(tr, s, e) < 0 ||
	    limits_restore_script(tr, s, e) < 0 || thread_restore(tr, tr->pb->threads[0], s, e) < 0)
		return -1;
	return 0;
}

static int build_script(struct build *b, struct memory_load *m, const struct task_restore *tr, struct err *e)
{
	struct script_builder s;

	script_begin(&s, &m->region);
	if (memory_switch(m, &s, e) < 0 || build_steps(b, tr, &s, e) < 0 || build_end(b, tr, &s, e) < 0)
		return -1;
	return script_finish(&s, e);
}

/* ---- a task ---- */

/* Signals that came while the tree was being made (children's ends) are not the program's. */
static void build_discard_signals(void)
{
	const struct timespec now = { 0 };
	const uint64_t all = ~0ull, args[6] = { (uint64_t)&all, 0, (uint64_t)&now, sizeof(all) };

	while (arch_syscall(SYS_rt_sigtimedwait, args) > 0) /* by libc, it would end in an errno: a page that is written */
		;
}

/*
 * Handlers and dispositions of our own must not shine through where the program
 * has the default. By system call: libc hides the signals that it uses itself.
 */
static void build_reset_actions(const struct proc_status *own)
{
	static const uint64_t dfl[4]; /* handler SIG_DFL, no flags, no restorer, empty mask */
	const uint64_t ours = signals_with_actions(own);

	for (int signo = 1; signo < NSIG; signo++)
		if (ours >> (signo - 1) & 1)
			syscall(SYS_rt_sigaction, signo, dfl, NULL, sizeof(dfl[0]));
}

size_t build_stack_bytes(const struct plan *p)
{
	return STACK_ROOM + (p->n_tasks < DEPTH_MAX ? p->n_tasks : DEPTH_MAX) * STACK_FRAME;
}

static __attribute__((noinline)) void build_touch_stack(size_t size)
{
	*(volatile char *)alloca(size) = 0;
}

/*
 * Our stack must have its room before the saved mappings surround it. Who inherits
 * some of them stands deeper in the same stack, and cannot get more.
 */
static void build_stretch_stack(const struct build *b, size_t index)
{
	if (index == 0)
		build_touch_stack(build_stack_bytes(b->plan));
}

/* The threads that loaded memory are gone everywhere: now the saved ones can have their TIDs. */
static void build_loaded(struct build *b)
{
	uint32_t n = (uint32_t)b->plan->n_tasks, living = 0;

	if (!b->meets)
		return;
	for (size_t i = 0; i < n; i++)
		living += b->plan->tasks[i].pb->state != PB__TASK_STATE__ZOMBIE;
	meeting_arrive(b, n * 3 + living);
}

/* Memory, in ordinary C. */
static int build_load(struct build *b, struct memory_load *m, const struct task_restore *tr, struct err *e)
{
	if (limits_widen(tr, e) < 0 || stock_adopt(&b->stock, m, e) < 0 ||
	    memory_reserve(m, memory_switch_ops(m) + build_steps_ops(tr), build_steps_bytes(tr), e) < 0 || memory_place(m, e) < 0 ||
	    memory_fill(m, e) < 0)
		return -1;
	return memory_settle(m, e);
}

/*
 * May it load while others are still being born? One that makes nobody, with so little memory that it makes no
 * thread for it either, whose TID the tree might need.
 */
static bool build_loads_early(const struct build *b, size_t index, size_t n_children)
{
	const struct plan *p = b->plan;

	if (n_children || p->n_tasks == 1 || b->way != PID_SET_TID || p->tasks[index].makes_group)
		return false;
	return image_pages_of(b->image, IMAGE_OWNER_SPACE(p->tasks[index].pb->space)) < EARLY_PAGES;
}

/* As the loader, that is: with the memory, we become the root. */
static int build_load_first(struct build *b, struct memory_load *m, const struct task_restore *tr, struct err *e)
{
	pid_t r = build_load(b, m, tr, e);

	if (r < 0)
		return r;
	r = pids_hand_over(tr->pb->pid);
	if (r < 0)
		return build_clone_failed(tr->pb->pid, r, e);
	build_await_go(b);
	return 0;
}

static int build_state(struct build *b, size_t index, struct memory_load *m, const struct task_restore *tr, struct restore_task *rt,
		       struct err *e)
{
	build_loaded(b);
	if (objects_install(rt, index, b->plan->fd_base, e) < 0 || limits_restore(tr, e) < 0)
		return -1;
	build_discard_signals();
	build_reset_actions(&tr->own);
	b->regions[index].changes_ids = creds_change_ids(tr);
	return build_script(b, m, tr, e);
}

/* What those that this task makes have in common with it is in memory before they are born. */
static int build_stock(struct build *b, size_t index, struct memory_load *m, struct err *e)
{
	struct task_restore tr = { .arena = m->arena, .pb = b->plan->tasks[index].pb, .born = &b->born };

	if (!family_makes(b->family, (uint32_t)index))
		return 0;
	return limits_widen(&tr, e) < 0 ? -1 : stock_prepare(&b->stock, b->family, (uint32_t)index, m, e);
}

static size_t build_count_children(const struct build *b, size_t index)
{
	size_t n = 0;

	for (size_t i = 0; i < b->plan->n_tasks; i++)
		n += plan_maker(b->plan, i) == index;
	return n;
}

/* Once for many: what each child would read of itself. */
static int build_note_areas(struct build *b, size_t n_children, struct arena *arena, struct err *e)
{
	struct vm_area_list *areas = n_children < AREAS_CHILDREN ? NULL : arena_new(arena, struct vm_area_list);

	if (!n_children)
		return 0; /* nobody would read what is noted */
	b->areas = areas;
	return areas ? memory_own_areas(arena, areas, e) : 0;
}

/*
 * Of a process that becomes a task, and written there only. Each page that it touches costs it a page fault: this is one for
 * nearly all of its arena, where the heap would take three, and none for the error until there is one.
 */
static struct {
	alignas(MEMORY_PAGE) char room[MEMORY_PAGE];
	struct err err;
} of_task;

static _Noreturn void build_task(struct build *b, size_t index)
{
	struct err *e = &of_task.err;
	const Pb__Task *pb = b->plan->tasks[index].pb;
	const size_t n_children = build_count_children(b, index);
	struct arena arena = ARENA_INIT;
	struct memory_load m = { .arena = &arena, .image = b->image, .inodes = b->inodes, .loaded = &b->regions[index].loaded,
				 .settable_exes = b->settable_exes, .one_thread = b->way == PID_FORK,
				 .maps_vdso = b->maps_vdso, .verifies = b->loads_first, .help = b->help,
				 .born_with = n_children || b->stock.space.n_mappings ? NULL : b->areas };
	struct restore_task rt = {
		.arena = &arena, .image = b->plan->image, .task = pb, .object_fds = b->object_fds
	};
	struct task_restore tr = { .arena = &arena, .region = &m.region, .pb = pb, .inodes = b->inodes, .own = b->own, .born = &b->born,
				   .keeps_groups = b->keeps_groups, .xstate = &b->xstate, .lowered = &b->regions[index].lowered };
	bool early = false;

	if (!n_children) /* its children would inherit it used */
		arena_begin_in(&arena, of_task.room, sizeof(of_task.room));
	if (pb->state != PB__TASK_STATE__ZOMBIE) {
		m.space = b->plan->image->spaces[pb->space];
		m.runs = image_runs_of(b->image, IMAGE_OWNER_SPACE(pb->space), &m.n_runs);
		build_stretch_stack(b, index);
		if (build_stock(b, index, &m, e) < 0)
			build_fail(b, pb, e);
		tr.space = m.space;
		early = build_loads_early(b, index, n_children);
	}
	if ((b->loads_first && build_load_first(b, &m, &tr, e) < 0) || build_note_areas(b, n_children, &arena, e) < 0)
		build_fail(b, pb, e);
	if (!b->meets && build_leads_group(b->plan, index) && !build_leads_session(pb))
		build_join(b, pb); /* who is born into the group need not join it */
	build_children(b, index, &rt);
	if (early && build_load(b, &m, &tr, e) < 0)
		build_fail(b, pb, e);
	build_groups(b, index, &rt);
	if (pb->state == PB__TASK_STATE__ZOMBIE)
		build_zombie(pb);
	if ((!early && !b->loads_first && build_load(b, &m, &tr, e) < 0) ||
	    build_state(b, index, &m, &tr, &rt, e) < 0)
		build_fail(b, pb, e);
	b->regions[index].start = m.region.start;
	b->regions[index].size = m.region.size;
	b->regions[index].script = m.region.script;
	privilege_raise(PRIVILEGE_CHECKPOINT); /* for the script, which ends with the capabilities that were saved */
	script_enter(&m.region);
}

pid_t build_root(struct build *b, struct err *e)
{
	const Pb__Task *pb = b->plan->tasks[0].pb;
	pid_t pid = pids_clone(b->pids, b->progress, pb->pid, 0, SIGCHLD);

	if (pid < 0) {
		build_clone_failed(pb->pid, pid, e);
		return pid;
	}
	if (pid > 0)
		return pid;
	build_await_go(b);
	if (thread_forget_libc(e) < 0) /* once for all of them; a loader's root is not registered (build_loader()) */
		build_fail(b, pb, e);
	build_task(b, 0);
}

/* ---- the loader ---- */

/* One that has got the root's own PID is not the loader: it waits for its end. Not by fork(3), which lets the kernel write. */
static pid_t build_fork_loader(struct build *b, struct err *e)
{
	struct clone_args args = { .exit_signal = SIGCHLD };
	pid_t pid = sys_clone3(&args);

	if (pid < 0)
		return err_sys(e, pid, "making a process that loads the memory");
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != b->coordinator)
		_exit(1);
	while (getpid() == b->plan->tasks[0].pb->pid)
		pause();
	build_task(b, 0);
}

pid_t build_loader(struct build *b, struct err *e)
{
	pid_t first = build_fork_loader(b, e), second;

	if (first != b->plan->tasks[0].pb->pid)
		return first;
	second = build_fork_loader(b, e);
	kill(first, SIGKILL);
	build_reap(first);
	return second;
}
