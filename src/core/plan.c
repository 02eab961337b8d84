/* SPDX-License-Identifier: Apache-2.0 */
#include "core/plan.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/user.h>

#include "arch/x86_64/regs.h"
#include "kinds/kind.h"
#include "memory/memory.h"

enum { PID_LIMIT = 4 * 1024 * 1024, FD_LIMIT = 1 << 30, FD_BASE_MIN = 64, SIGNALS = 64, SIGINFO_SIZE = 128 };

#define HUGE_PAGE_MAX (16ull << 30)

#define plan_bad(e, ...) err_set((e), ERR_IMAGE, 0, __VA_ARGS__)

/* ---- does the metadata agree with itself? ---- */

enum { CREDS_IDS = 4 }; /* real, effective, saved, and that for files */

static int plan_check_machine(const Pb__Image *meta, struct err *e)
{
	const Pb__Machine *m = meta->machine;

	if (!m->arch || strcmp(m->arch, ARCH_NAME) != 0) {
		err_state(e, "E-IMAGE-ARCHITECTURE", 0, "the image was taken on %s, this machine is %s",
			  m->arch ? m->arch : "another architecture", ARCH_NAME);
		return err_help(e, "restore it on a machine of that architecture");
	}
	if (m->page_size != MEMORY_PAGE)
		return plan_bad(e, "the image has pages of %lu bytes", m->page_size);
	return 0;
}

/* Of hugetlb pages: those of all architectures lie between these. */
static bool plan_is_page_size(uint64_t size)
{
	return size >= MEMORY_PAGE && size <= HUGE_PAGE_MAX && !(size & (size - 1));
}

static int plan_check_mapping(const Pb__Image *meta, const Pb__Mapping *m, uint64_t after, struct err *e)
{
	const uint64_t unaligned = MEMORY_PAGE - 1;
	bool file = m->kind == PB__MAPPING_KIND__FILE_PRIVATE || m->kind == PB__MAPPING_KIND__FILE_SHARED;

	if ((m->start | m->end) & unaligned || m->start < after || m->end <= m->start || m->end > MEMORY_ADDRESSES)
		return plan_bad(e, "the mapping %lx-%lx has no possible place", m->start, m->end);
	if (m->page_size && (!plan_is_page_size(m->page_size) || (m->start | m->end) & (m->page_size - 1)))
		return plan_bad(e, "the mapping %lx-%lx has no possible place", m->start, m->end);
	if (m->prot & ~(uint32_t)(PROT_READ | PROT_WRITE | PROT_EXEC))
		return plan_bad(e, "the mapping %lx-%lx has an unknown protection", m->start, m->end);
	if (m->kind > PB__MAPPING_KIND__VVAR)
		return plan_bad(e, "the mapping %lx-%lx is of an unknown kind", m->start, m->end);
	if (file && (m->inode >= meta->n_inodes || m->offset & unaligned))
		return plan_bad(e, "the mapping %lx-%lx refers to no file of the image", m->start, m->end);
	if (!file && m->kind != PB__MAPPING_KIND__ANON && !m->name)
		return plan_bad(e, "the mapping %lx-%lx has no name", m->start, m->end);
	/* By its name torpor finds its own, which is moved there. */
	if ((m->kind == PB__MAPPING_KIND__VDSO && strcmp(m->name, "[vdso]") != 0) ||
	    (m->kind == PB__MAPPING_KIND__VVAR && strncmp(m->name, "[vvar", strlen("[vvar")) != 0))
		return plan_bad(e, "the mapping %lx-%lx is the kernel's, but has the name %s", m->start, m->end, m->name);
	return 0;
}

static int plan_check_space(const Pb__Image *meta, const Pb__AddressSpace *s, struct err *e)
{
	uint64_t after = MEMORY_PAGE;

	if (s->exe >= meta->n_inodes)
		return plan_bad(e, "an address space has no executable");
	for (size_t i = 0; i < s->n_mappings; i++) {
		if (plan_check_mapping(meta, s->mappings[i], after, e) < 0)
			return -1;
		after = s->mappings[i]->end;
	}
	return 0;
}

static int plan_check_inodes(const Pb__Image *meta, struct err *e)
{
	for (size_t i = 0; i < meta->n_inodes; i++) {
		const Pb__Inode *n = meta->inodes[i];

		if (!n->path || !protobuf_c_enum_descriptor_get_value(&pb__inode_kind__descriptor, (int)n->kind))
			return plan_bad(e, "inode %zu has no name or an unknown kind", i);
		if (n->size > INT64_MAX || (n->page_size && (!plan_is_page_size(n->page_size) || n->size % n->page_size)))
			return plan_bad(e, "inode %zu (%s) has an impossible size", i, n->path);
	}
	return 0;
}

static int plan_check_objects(const Pb__Image *meta, struct err *e)
{
	for (size_t i = 0; i < meta->n_objects; i++) {
		const Pb__Object *o = meta->objects[i];

		if (!kind_by_tag(o->kind))
			return plan_bad(e, "object %zu is of the unknown kind %u", i, o->kind);
		if (o->home_task >= meta->n_tasks)
			return plan_bad(e, "object %zu has no home", i);
	}
	return 0;
}

static int plan_check_pending(const Pb__Task *t, Pb__Siginfo *const *infos, size_t n, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		int32_t signo;

		if (infos[i]->info.len != SIGINFO_SIZE)
			return plan_bad(e, "task %d: a pending signal is damaged", t->pid);
		memcpy(&signo, infos[i]->info.data, sizeof(signo));
		if (signo < 1 || signo > SIGNALS)
			return plan_bad(e, "task %d: the pending signal %d does not exist", t->pid, signo);
		if (signo == SIGKILL || signo == SIGSTOP) /* nobody can block these */
			return plan_bad(e, "task %d: the signal %d cannot be pending", t->pid, signo);
	}
	return 0;
}

static int plan_check_threads(const Pb__Task *t, struct err *e)
{
	if (!t->n_threads || t->threads[0]->tid != t->pid)
		return plan_bad(e, "task %d has no first thread", t->pid);
	for (size_t i = 0; i < t->n_threads; i++) {
		const Pb__Thread *th = t->threads[i];

		if (th->tid < 1 || th->tid > PID_LIMIT)
			return plan_bad(e, "task %d: the thread id %d is impossible", t->pid, th->tid);
		if (th->regs.len != sizeof(struct user_regs_struct) || th->xstate.len > ARCH_XSTATE_MAX ||
		    th->xstate_size > ARCH_XSTATE_MAX)
			return plan_bad(e, "task %d: the registers of thread %d are damaged", t->pid, th->tid);
		if (plan_check_pending(t, th->pending, th->n_pending, e) < 0)
			return -1;
	}
	return plan_check_pending(t, t->pending, t->n_pending, e);
}

static int plan_check_slots(struct plan *plan, const Pb__Task *t, struct err *e)
{
	int64_t last = -1;

	for (size_t i = 0; i < t->n_slots; i++) {
		const Pb__Slot *s = t->slots[i];

		if ((int64_t)s->fd <= last || s->fd >= FD_LIMIT || s->object >= plan->image->n_objects)
			return plan_bad(e, "task %d: its file descriptors are damaged at fd %u", t->pid, s->fd);
		last = s->fd;
	}
	if (last + 1 > plan->fd_base)
		plan->fd_base = (int)(last + 1);
	return 0;
}

/* What a zombie had is gone. Others look for who shares a thing among all tasks, and would find it here, unchecked. */
static int plan_check_zombie(const Pb__Task *t, struct err *e)
{
	if (t->has_space || t->n_threads || t->n_slots || t->n_semaphore_uses || t->n_sysv_queue_uses || t->has_cwd_inode)
		return plan_bad(e, "task %d is a zombie and holds something", t->pid);
	return 0;
}

static int plan_check_task(struct plan *plan, size_t i, struct err *e)
{
	const Pb__Task *t = plan->tasks[i].pb;

	if (t->pid < 2 || t->pid > PID_LIMIT || t->pgid < 0 || t->sid < 0 || !t->comm)
		return plan_bad(e, "task %zu has the impossible PID %d", i, t->pid);
	if (t->state > PB__TASK_STATE__ZOMBIE)
		return plan_bad(e, "task %d is in an unknown state", t->pid);
	if (t->state == PB__TASK_STATE__ZOMBIE)
		return plan_check_zombie(t, e);
	if (!t->has_space || t->space >= plan->image->n_spaces || !t->cwd || !t->root || !t->creds)
		return plan_bad(e, "task %d is incomplete", t->pid);
	if (t->creds->n_uids != CREDS_IDS || t->creds->n_gids != CREDS_IDS)
		return plan_bad(e, "task %d has not all its user and group ids", t->pid);
	if (plan_check_threads(t, e) < 0 || plan_check_slots(plan, t, e) < 0)
		return -1;
	plan->n_threads += t->n_threads;
	return 0;
}

static int plan_compare_ids(const void *a, const void *b)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

	return x < y ? -1 : x > y;
}

/* Every process and thread has a number of its own. */
static int plan_check_ids(const struct plan *plan, struct arena *arena, struct err *e)
{
	int32_t *ids = arena_alloc(arena, (plan->n_tasks + plan->n_threads) * sizeof(*ids));
	size_t n = 0;

	if (!ids)
		return err_nomem(e);
	for (size_t i = 0; i < plan->n_tasks; i++) {
		const Pb__Task *t = plan->tasks[i].pb;

		ids[n++] = t->pid;
		for (size_t k = 1; k < t->n_threads; k++)
			ids[n++] = t->threads[k]->tid;
	}
	qsort(ids, n, sizeof(*ids), plan_compare_ids);
	for (size_t i = 1; i < n; i++)
		if (ids[i] == ids[i - 1])
			return plan_bad(e, "two tasks or threads have the number %d", ids[i]);
	return 0;
}

/* ---- who makes whom ---- */

static uint32_t plan_find(const struct plan *plan, int32_t pid)
{
	for (size_t i = 0; i < plan->n_tasks; i++)
		if (plan->tasks[i].pb->pid == pid)
			return (uint32_t)i;
	return UINT32_MAX;
}

/* The session that a task was in before it led one itself, as far as the image tells; 0: the one outside. */
static int32_t plan_birth_session(const struct plan *plan, const struct plan_task *t)
{
	if (t->parent == UINT32_MAX)
		return 0;
	return plan->tasks[t->parent].pb->session_outside ? 0 : plan->tasks[t->parent].pb->sid;
}

static int32_t plan_session(const Pb__Task *pb)
{
	return pb->session_outside ? 0 : pb->sid;
}

static int plan_birth(struct plan *plan, struct plan_task *t, struct err *e)
{
	const struct plan_task *parent = t->parent == UINT32_MAX ? NULL : &plan->tasks[t->parent];
	int32_t session = plan_session(t->pb);

	if (!parent) {
		t->birth = BIRTH_ROOT;
		if (session && session != t->pb->pid)
			return plan_bad(e, "the root task %d is in the session of nobody", t->pb->pid);
		return 0;
	}
	if (session == t->pb->pid || session == plan_session(parent->pb)) {
		t->birth = BIRTH_CHILD;
		return 0;
	}
	if (parent->pb->sid == parent->pb->pid && session == plan_birth_session(plan, parent)) {
		t->birth = BIRTH_BEFORE_SESSION;
		return 0;
	}
	t->leader = plan_find(plan, session);
	if (t->leader == UINT32_MAX && session) {
		t->birth = BIRTH_BY_STANDIN;
		return 0;
	}
	if (t->leader != UINT32_MAX && plan->tasks[t->leader].parent == t->parent &&
	    plan->tasks[t->leader].pb->state != PB__TASK_STATE__ZOMBIE) {
		t->birth = BIRTH_BY_LEADER;
		return 0;
	}
	return err_state(e, "E-TREE-SESSION", 0,
			 "cannot make task %d (%s) again: it is a child of %d, but in the session of task %d", t->pb->pid,
			 t->pb->comm, parent->pb->pid, session);
}

bool plan_first_of_session(const struct plan *plan, size_t task)
{
	for (size_t i = 0; i < task; i++)
		if (plan->tasks[i].birth == BIRTH_BY_STANDIN && plan->tasks[i].parent == plan->tasks[task].parent &&
		    plan->tasks[i].pb->sid == plan->tasks[task].pb->sid)
			return false;
	return true;
}

/* A group whose leader is dead needs a stand-in, unless a stand-in for its session brings the group along. */
static void plan_group(struct plan *plan, size_t i)
{
	struct plan_task *t = &plan->tasks[i];

	if (t->pb->group_outside || plan_find(plan, t->pb->pgid) != UINT32_MAX || t->pb->pgid == t->pb->sid)
		return;
	for (size_t k = 0; k < i; k++)
		if (plan->tasks[k].pb->pgid == t->pb->pgid)
			return;
	t->makes_group = true;
}

static int plan_tree(struct plan *plan, struct err *e)
{
	for (size_t i = 0; i < plan->n_tasks; i++) {
		struct plan_task *t = &plan->tasks[i];

		t->parent = i ? plan_find(plan, t->pb->ppid) : UINT32_MAX;
		if (i && t->parent >= i)
			return plan_bad(e, "task %d does not come after its parent", t->pb->pid);
		if (t->parent != UINT32_MAX && plan->tasks[t->parent].pb->state == PB__TASK_STATE__ZOMBIE)
			return plan_bad(e, "task %d is the child of a zombie", t->pb->pid);
	}
	for (size_t i = 0; i < plan->n_tasks; i++) {
		if (plan_birth(plan, &plan->tasks[i], e) < 0)
			return -1;
		plan_group(plan, i);
	}
	return 0;
}

int plan_make(struct plan *plan, const Pb__Image *meta, const struct image *img, struct arena *arena, struct err *e)
{
	*plan = (struct plan){ .image = meta, .n_tasks = meta->n_tasks, .fd_base = FD_BASE_MIN };
	plan->tasks = arena_alloc(arena, (meta->n_tasks + 1) * sizeof(*plan->tasks));
	if (!plan->tasks)
		return err_nomem(e);
	if (!meta->n_tasks || meta->tasks[0]->state == PB__TASK_STATE__ZOMBIE)
		return plan_bad(e, "the image holds no living task");
	for (size_t i = 0; i < meta->n_tasks; i++)
		plan->tasks[i].pb = meta->tasks[i];
	if (plan_check_machine(meta, e) < 0 || plan_check_inodes(meta, e) < 0 || plan_check_objects(meta, e) < 0)
		return -1;
	for (size_t i = 0; i < meta->n_spaces; i++)
		if (plan_check_space(meta, meta->spaces[i], e) < 0)
			return -1;
	for (size_t i = 0; i < meta->n_tasks; i++)
		if (plan_check_task(plan, i, e) < 0)
			return -1;
	for (size_t i = 0; i < img->n_runs; i++) {
		uint32_t owner = img->runs[i].owner, inode = owner & ~IMAGE_OWNER_INODE(0);

		if (owner & IMAGE_OWNER_INODE(0) ? inode >= meta->n_inodes : owner >= meta->n_spaces)
			return plan_bad(e, "the image holds pages of nobody");
	}
	return plan_check_ids(plan, arena, e) < 0 ? -1 : plan_tree(plan, e);
}

int plan_check_here(const Pb__Machine *machine, uint64_t vdso_hash, uint64_t xfeatures, struct err *e)
{
	if (machine->has_vdso_hash && machine->vdso_hash != vdso_hash) {
		err_state(e, "E-KERNEL-VDSO", 0, "the image was taken on kernel %s, whose vdso differs from this one's",
			  machine->kernel_release ?: "?");
		return err_help(e, "restore it on that kernel");
	}
	if (machine->has_xfeatures && machine->xfeatures != xfeatures) {
		err_state(e, "E-CPU", 0, "the image was taken on a processor with other registers (XCR0 %#lx, here %#lx)",
			  machine->xfeatures, xfeatures);
		return err_help(e, "restore it on a machine with the same sort of processor");
	}
	return 0;
}
