/* SPDX-License-Identifier: Apache-2.0 */
#include "within.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "core/build.h"
#include "memory/memory.h"
#include "sys/process.h"

#define ADDRESS_END 0x7ffffffff000ull /* of user space */

enum { SIGINFO = 128, SIGACTION = 32, SIGEVENT = 64, SEMBUF = 6, MESSAGE_TYPE = 8, NAME = 16, PARKING_LEFT = 1 << 20,
       SWITCH_DATA = 64 * 1024 };

/* One step, and whose it is. */
struct step {
	struct within *w;
	const struct plan *plan;
	const Pb__Task *task;
	const Pb__Thread *thread;
	const struct region *region;
	const struct script_op *op;
	bool mapped;
};

static bool wrong(struct within *w, const char *note, const char *what, uint64_t value)
{
	if (!w->what)
		*w = (struct within){ what, note, value, w->steps, w->values };
	return false;
}

static bool fails(const struct step *s, const char *what, uint64_t value)
{
	return wrong(s->w, s->op->note ? (const char *)s->op->note : "a step", what, value);
}

/* ---- what a value may be ---- */

/* Where something of ours lies, or the leader's script. */
static bool in_region(const struct region *r, uint64_t at, uint64_t size)
{
	const uint64_t start = r->script - r->used, end = r->script + sizeof(struct script) + r->steps * sizeof(struct script_op);

	return at >= start && at <= end && size <= end - at;
}

/* So many bytes that the kernel reads or writes. */
static bool pointer(const struct step *s, uint64_t at, uint64_t size)
{
	s->w->values++;
	if (!in_region(s->region, at, size))
		return fails(s, "memory outside of the region", at);
	return true;
}

static bool in_a_mapping(const Pb__AddressSpace *space, uint64_t at)
{
	for (size_t i = 0; i < space->n_mappings; i++)
		if (at >= space->mappings[i]->start && at < space->mappings[i]->end)
			return true;
	return false;
}

/* An address of the program: what the image says here. */
static bool address(const struct step *s, uint64_t at, uint64_t named)
{
	const Pb__Image *image = s->plan->image;

	s->w->values++;
	if (at != named)
		return fails(s, "an address that the image does not name", at);
	if (at && s->mapped && !in_a_mapping(image->spaces[s->task->space], at))
		return fails(s, "an address in none of the mappings", at);
	return true;
}

static bool is_thread(const Pb__Task *task, uint64_t tid)
{
	for (size_t i = 0; i < task->n_threads; i++)
		if ((uint64_t)task->threads[i]->tid == tid)
			return true;
	return false;
}

static bool pid_of_task(const struct step *s, uint64_t pid)
{
	s->w->values++;
	return pid == (uint64_t)s->task->pid || fails(s, "the PID of another process", pid);
}

static bool tid_of_thread(const struct step *s, uint64_t tid)
{
	s->w->values++;
	return tid == (uint64_t)s->thread->tid || fails(s, "the TID of another thread", tid);
}

static bool fd_of_task(const struct step *s, uint64_t fd)
{
	s->w->values++;
	for (size_t i = 0; i < s->task->n_slots; i++)
		if (s->task->slots[i]->fd == fd)
			return true;
	return fails(s, "a file descriptor that the task has not", fd);
}

static bool semaphores_of_image(const struct step *s, uint64_t id)
{
	const Pb__Image *image = s->plan->image;

	s->w->values++;
	for (size_t i = 0; i < image->n_semaphore_sets; i++)
		if ((uint64_t)image->semaphore_sets[i]->id == id)
			return true;
	return fails(s, "semaphores that the image does not name", id);
}

static bool queue_of_image(const struct step *s, uint64_t id)
{
	const Pb__Image *image = s->plan->image;

	s->w->values++;
	for (size_t i = 0; i < image->n_sysv_queues; i++)
		if ((uint64_t)image->sysv_queues[i]->id == id)
			return true;
	return fails(s, "a message queue that the image does not name", id);
}

static bool one_of(const struct step *s, uint64_t id, const uint32_t *ids, size_t n)
{
	s->w->values++;
	for (size_t i = 0; i < n; i++)
		if (ids[i] == id)
			return true;
	return fails(s, "a user or group that the image does not name", id);
}

static bool users(const struct step *s, const uint32_t *ids, size_t n)
{
	for (unsigned i = 0; i < (s->op->nr == SYS_setfsuid || s->op->nr == SYS_setfsgid ? 1 : 3); i++)
		if (!one_of(s, s->op->args[i], ids, n))
			return false;
	return true;
}

/* ---- what a step may be ---- */

static bool timer(const struct step *s)
{
	struct {
		uint64_t value;
		int32_t signo, notify, tid;
	} sev;
	uint64_t clock = s->op->args[0];

	if (!pointer(s, s->op->args[1], SIGEVENT) || !pointer(s, s->op->args[2], sizeof(int)))
		return false;
	memcpy(&sev, (void *)s->op->args[1], sizeof(sev));
	if (sev.notify & SIGEV_THREAD_ID && s->mapped && !is_thread(s->task, (uint64_t)sev.tid))
		return fails(s, "a timer for a thread that the image does not name", (uint64_t)sev.tid);
	for (size_t i = 0; i < s->task->n_timers; i++)
		if (s->task->timers[i]->clock == clock && s->task->timers[i]->tid == sev.tid)
			return true;
	/* one that only uses an id up */
	return (clock == CLOCK_MONOTONIC && sev.notify == SIGEV_NONE) || fails(s, "a clock that the image does not name", clock);
}

static bool option(const struct step *s)
{
	switch (s->op->args[0]) {
	case PR_SET_NAME:
		return pointer(s, s->op->args[1], NAME);
	case PR_CAP_AMBIENT:
	case PR_CAPBSET_DROP:
	case PR_SET_CHILD_SUBREAPER:
	case PR_SET_KEEPCAPS:
	case PR_SET_NO_NEW_PRIVS:
	case PR_SET_PDEATHSIG:
	case PR_SET_THP_DISABLE:
	case PR_SET_TIMERSLACK:
	case 77: /* PR_TIMER_CREATE_RESTORE_IDS */
		return true;
	}
	return fails(s, "a prctl that no restore needs", s->op->args[0]);
}

static bool action(const struct step *s)
{
	uint64_t handler;

	if (!pointer(s, s->op->args[1], SIGACTION) || s->op->args[2])
		return fails(s, "memory outside of the region", s->op->args[1]);
	memcpy(&handler, (void *)s->op->args[1], sizeof(handler));
	for (size_t i = 0; i < s->task->n_sigactions; i++)
		if (s->task->sigactions[i]->signo == s->op->args[0] && s->task->sigactions[i]->handler == handler)
			return handler <= (uint64_t)SIG_IGN || address(s, handler, handler);
	return fails(s, "a handler that the image does not name", handler);
}

static bool alternate_stack(const struct step *s)
{
	stack_t ss;

	if (!pointer(s, s->op->args[0], sizeof(ss)) || s->op->args[1])
		return fails(s, "memory outside of the region", s->op->args[0]);
	memcpy(&ss, (void *)s->op->args[0], sizeof(ss));
	return address(s, (uint64_t)ss.ss_sp, s->thread->altstack_sp);
}

static bool identity(const struct step *s)
{
	const Pb__Credentials *c = s->task->creds;
	const uint64_t *a = s->op->args;
	struct __user_cap_header_struct header;

	switch (s->op->nr) {
	case SYS_setresuid:
	case SYS_setfsuid:
		return users(s, c->uids, c->n_uids);
	case SYS_setresgid:
	case SYS_setfsgid:
		return users(s, c->gids, c->n_gids);
	case SYS_setgroups:
		return a[0] == c->n_groups && (!a[0] || pointer(s, a[1], a[0] * sizeof(gid_t)));
	}
	if (!pointer(s, a[0], sizeof(header)) || !pointer(s, a[1], 2 * sizeof(struct __user_cap_data_struct)))
		return false;
	memcpy(&header, (void *)a[0], sizeof(header));
	return header.pid == 0 || fails(s, "the capabilities of another process", (uint64_t)header.pid);
}

static bool ipc(const struct step *s)
{
	const uint64_t *a = s->op->args;

	switch (s->op->nr) {
	case SYS_semop:
		return semaphores_of_image(s, a[0]) && pointer(s, a[1], a[2] * SEMBUF);
	case SYS_msgsnd:
		return queue_of_image(s, a[0]) && pointer(s, a[1], MESSAGE_TYPE + a[2]);
	}
	return queue_of_image(s, a[0]) && pointer(s, a[1], MESSAGE_TYPE + a[2]);
}

/* Every system call that a script may have; of each, every argument that leads somewhere. */
static bool step(const struct step *s)
{
	const uint64_t *a = s->op->args;

	switch (s->op->nr) {
	case SYS_close_range:
		return a[0] == (uint64_t)s->plan->fd_base || fails(s, "file descriptors of the program", a[0]);
	case SYS_membarrier:
	case SYS_personality:
	case SYS_timer_delete:
		return true;
	case SYS_prctl:
		return option(s);
	case SYS_fcntl:
		return fd_of_task(s, a[0]) && a[1] == F_SETLK && pointer(s, a[2], sizeof(struct flock));
	case SYS_rt_sigaction:
		return action(s);
	case SYS_rt_sigqueueinfo:
		return pid_of_task(s, a[0]) && pointer(s, a[2], SIGINFO);
	case SYS_rt_tgsigqueueinfo:
		return pid_of_task(s, a[0]) && tid_of_thread(s, a[1]) && pointer(s, a[3], SIGINFO);
	case SYS_sigaltstack:
		return alternate_stack(s);
	case SYS_set_tid_address:
		return address(s, a[0], s->thread->clear_child_tid);
	case SYS_set_robust_list:
		return address(s, a[0], s->thread->robust_list);
	case SYS_rseq:
		return address(s, a[0], s->thread->rseq) && a[2] == 0;
	case SYS_timer_create:
		return timer(s);
	case SYS_timer_settime:
		return a[3] == 0 && pointer(s, a[2], sizeof(struct itimerspec));
	case SYS_setitimer:
		return a[2] == 0 && pointer(s, a[1], sizeof(struct itimerval));
	case SYS_prlimit64:
		return (a[0] == 0 && a[3] == 0 && pointer(s, a[2], sizeof(struct rlimit))) ||
		       fails(s, "limits of another process", a[0]);
	case SYS_setresuid:
	case SYS_setresgid:
	case SYS_setfsuid:
	case SYS_setfsgid:
	case SYS_setgroups:
	case SYS_capset:
		return identity(s);
	case SYS_semop:
	case SYS_msgsnd:
	case SYS_msgrcv:
		return ipc(s);
	}
	return fails(s, "a system call that no script needs", (uint64_t)s->op->nr);
}

/* ---- scripts ---- */

static bool steps_of(struct step s, const struct script *script);

static const Pb__Thread *thread_by_tid(const Pb__Task *task, uint64_t tid)
{
	for (size_t i = 1; i < task->n_threads; i++)
		if ((uint64_t)task->threads[i]->tid == tid)
			return task->threads[i];
	return NULL;
}

/* A thread of this process, with the TID that its own script is for. */
static bool birth(struct step s)
{
	const uint64_t wanted = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PTRACE;
	const uint64_t *a = s.op->args;
	struct clone_args c = { 0 };
	const struct script *script;
	pid_t tid;

	if (a[1] > sizeof(c) || !pointer(&s, a[0], a[1]) || !pointer(&s, a[2], sizeof(*script)))
		return false;
	memcpy(&c, (void *)a[0], a[1]);
	if (c.flags != wanted || c.set_tid_size != 1 || !pointer(&s, c.stack, c.stack_size) ||
	    !pointer(&s, c.set_tid, sizeof(tid)))
		return fails(&s, "a clone that makes no thread", c.flags);
	memcpy(&tid, (void *)c.set_tid, sizeof(tid));
	script = (const void *)a[2];
	s.thread = thread_by_tid(s.task, (uint64_t)tid);
	if (!s.thread || script->tid != (uint64_t)tid)
		return fails(&s, "a thread that the image does not name", (uint64_t)tid);
	return steps_of(s, script);
}

static bool steps_of(struct step s, const struct script *script)
{
	const struct script_op *ops = (const void *)script->ops;

	for (uint32_t i = 0; i < script->n; i++) {
		s.op = &ops[i];
		s.w->steps++;
		if (i == 0 && !pointer(&s, script->ops, script->n * sizeof(*ops)))
			return false;
		if (!(s.op->code == SCRIPT_THREAD ? birth(s) : step(&s)))
			return fails(&s, "an argument that no restore needs", s.op->args[0]);
	}
	return true;
}

bool within_script(struct within *w, const struct plan *plan, size_t task, const struct explain *x, bool mapped)
{
	const Pb__Task *pb = plan->tasks[task].pb;

	return steps_of((struct step){ w, plan, pb, pb->threads[0], &x->region, NULL, mapped }, x->script);
}

/* ---- plan ---- */

bool within_plan(struct within *w, const struct plan *plan)
{
	for (size_t i = 0; i < plan->n_tasks; i++) {
		const Pb__Task *pb = plan->tasks[i].pb;
		bool there = false;

		for (size_t k = 0; k < plan->image->n_tasks; k++)
			there = there || plan->image->tasks[k] == pb;
		if (!there)
			return wrong(w, "the plan", "a task that the image has not", (uint64_t)pb->pid);
		for (size_t k = 0; k < pb->n_slots; k++)
			if (pb->slots[k]->fd >= (uint64_t)plan->fd_base)
				return wrong(w, "the plan", "an fd among torpor's own", pb->slots[k]->fd);
	}
	return true;
}

/* ---- the switch of address spaces ---- */

struct space {
	struct within *w;
	const struct memory_load *m;
	const struct script_op *op;
	uint64_t unmapped, end; /* bytes so far; the last address + 1 */
	uint64_t stayed; /* of the vdso, until it was moved; bytes */
	size_t moved;
};

static bool space_fails(const struct space *s, const char *what, uint64_t value)
{
	return wrong(s->w, (const char *)s->op->note, what, value);
}

static bool is_special(const Pb__Mapping *map)
{
	return map->kind == PB__MAPPING_KIND__VDSO || map->kind == PB__MAPPING_KIND__VVAR;
}

static bool in_place(const struct memory_load *m, size_t i)
{
	return !is_special(m->space->mappings[i]) && m->place[i] == m->space->mappings[i]->start;
}

static bool unmapping(struct space *s, uint64_t start, uint64_t size)
{
	const struct region *r = &s->m->region;
	uint64_t end = start + size;

	if (start < s->end || end <= start || (start < r->start + r->size && r->start < end))
		return space_fails(s, "unmaps the region, or something twice", start);
	for (size_t i = 0; i < s->m->space->n_mappings; i++)
		if (in_place(s->m, i) && start < s->m->space->mappings[i]->end && s->m->space->mappings[i]->start < end)
			return space_fails(s, "unmaps a mapping of the program", start);
	s->unmapped += size;
	s->end = end;
	return true;
}

static bool in_parking(const struct region *r, uint64_t at, uint64_t size)
{
	return at >= r->parking && size <= r->parking_size && at - r->parking <= r->parking_size - size;
}

/* The vdso stays where the kernel put it, or is parked. */
static bool is_own_vdso(const struct memory_load *m, uint64_t at, uint64_t size)
{
	for (size_t i = 0; i < m->own.n; i++) {
		const struct vm_area *a = &m->own.areas[i];

		if (a->start == at && a->end - at == size && (strncmp(a->name, "[vvar", 5) == 0 || strcmp(a->name, "[vdso]") == 0))
			return true;
	}
	return false;
}

static bool moving(struct space *s, const uint64_t *a)
{
	const struct region *r = &s->m->region;

	if (a[1] != a[2])
		return space_fails(s, "moves to another size", a[2]);
	if (in_parking(r, a[4], a[1]))
		return is_own_vdso(s->m, a[0], a[1]) || space_fails(s, "parks what is not the vdso", a[0]);
	if (is_own_vdso(s->m, a[0], a[1]))
		s->stayed += a[1];
	else if (!in_parking(r, a[0], a[1]))
		return space_fails(s, "moves what was not parked", a[0]);
	for (size_t i = 0; i < s->m->space->n_mappings; i++) {
		const Pb__Mapping *map = s->m->space->mappings[i];

		if (!in_place(s->m, i) && map->start == a[4] && map->end - map->start == a[1])
			return ++s->moved;
	}
	return space_fails(s, "moves to where the image has no such mapping", a[4]);
}

/* struct prctl_mm_map: eleven addresses, and the vector, which lies in the region. */
static bool layout(struct space *s, const uint64_t *a)
{
	const Pb__AddressSpace *p = s->m->space;
	const struct region *r = &s->m->region;
	const uint64_t named[] = { p->start_code, p->end_code, p->start_data, p->end_data, p->start_brk, p->brk, p->start_stack,
				   p->arg_start, p->arg_end, p->env_start, p->env_end };
	struct prctl_mm_map map;

	if (a[0] != PR_SET_MM || a[1] != PR_SET_MM_MAP || a[3] != sizeof(map) || !in_region(r, a[2], a[3]))
		return space_fails(s, "a prctl that is not the switch's", a[0]);
	memcpy(&map, (void *)a[2], sizeof(map));
	if (memcmp(&map, named, sizeof(named)) || map.auxv_size != p->auxv.len ||
	    !in_region(r, (uint64_t)map.auxv, map.auxv_size))
		return space_fails(s, "a layout that the image does not name", a[2]);
	return true;
}

static bool space_step(struct space *s)
{
	const uint64_t *a = s->op->args;

	s->w->steps++;
	s->w->values++;
	switch (s->op->nr) {
	case SYS_munmap: return unmapping(s, a[0], a[1]);
	case SYS_mremap: return moving(s, a);
	case SYS_prctl: return layout(s, a);
	}
	return space_fails(s, "a system call that the switch does not need", (uint64_t)s->op->nr);
}

/* Nothing was forgotten: what is neither unmapped nor kept, or parked and not moved. */
static bool space_whole(const struct space *s)
{
	uint64_t kept = s->m->region.size;
	size_t parked = 0;

	for (size_t i = 0; i < s->m->space->n_mappings; i++) {
		const Pb__Mapping *map = s->m->space->mappings[i];

		if (in_place(s->m, i))
			kept += map->end - map->start;
		else
			parked++;
	}
	kept += s->stayed;
	if (s->unmapped + kept != ADDRESS_END)
		return wrong(s->w, "the switch", "something stays mapped: bytes", ADDRESS_END - kept - s->unmapped);
	return s->moved == parked || wrong(s->w, "the switch", "something stays parked", parked - s->moved);
}

/* As memory_place() would, but nothing is mapped. */
static void place(struct memory_load *m, size_t parked)
{
	for (size_t i = 0; i < m->space->n_mappings; i++) {
		const Pb__Mapping *map = m->space->mappings[i];
		uint64_t size = map->end - map->start, room = m->region.parking_size - m->region.parking_used, at = 0;

		if (parked && i % parked == 0 && !is_special(map) && size + PARKING_LEFT < room)
			at = region_park(&m->region, size, map->start, MEMORY_PAGE);
		m->place[i] = is_special(map) ? 0 : at ? at : map->start;
	}
}

bool within_switch(struct within *w, const struct plan *plan, size_t task, const struct image *img, size_t parked,
		   struct arena *arena, struct err *e)
{
	const Pb__Task *pb = plan->tasks[task].pb;
	struct inode_restore inodes = { .arena = arena };
	struct memory_load m = { .arena = arena, .image = img, .inodes = &inodes, .space = plan->image->spaces[pb->space] };
	struct space s = { .w = w, .m = &m };
	struct script_builder b;

	if (memory_reserve(&m, memory_switch_ops(&m), SWITCH_DATA, e) < 0)
		return false;
	place(&m, parked);
	script_begin(&b, &m.region);
	if (memory_switch(&m, &b, e) < 0 || script_finish(&b, e) < 0)
		return false;
	for (uint32_t i = 0; i < b.script->n; i++) {
		s.op = &((const struct script_op *)b.script->ops)[i];
		if (!space_step(&s))
			return false;
	}
	return space_whole(&s);
}
