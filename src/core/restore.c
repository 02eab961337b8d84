/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Restore, phase by phase: open and verify, plan, objects, tasks, switch, finish.
 *
 * Everything is made once, here, before the tasks are forked: they inherit it
 * and keep what is theirs. Whatever fails before the last step leaves nothing
 * behind; the image is only read.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "arch/x86_64/regs.h"
#include "arch/x86_64/syscall.h"
#include "arch/x86_64/xstate.h"
#include "core/build.h"
#include "core/core.h"
#include "core/init.h"
#include "core/name.h"
#include "core/namespace.h"
#include "core/objects.h"
#include "core/plan.h"
#include "core/trace.h"
#include "image/timing.h"
#include "ipc/ipc.h"
#include "kinds/place.h"
#include "memory/memory.h"
#include "task/task.h"
#include "util/clock.h"
#include "util/cpu.h"
#include "util/fd.h"
#include "util/interrupt.h"
#include "util/privilege.h"

enum { VERIFY_THREAD_SHARE = 4 * 1024 * 1024, OBJECT_FDS_SPARE = 256, PID_POLL_US = 20000, HOLDERS_NAMED = 8,
       STACK_USED = 256 * 1024, /* by what called us, arguments and environment */
       META_HUGE = 256 * 1024, LOADS_FIRST_MIN = 512 * 1024 /* of memory: less is read twice as quickly as another process is made */ };

struct restore {
	const struct restore_options *o;
	struct arena arena;
	struct image *image;
	Pb__Image *meta;
	bool unverified; /* the extents that the root's memory is loaded from: loading verifies them */
	struct plan plan;
	struct proc_status own; /* what is read of this process, before a namespace is made */
	struct inode_restore inodes;
	struct restore_objects objects;
	struct ipc_restore ipc;
	int *object_fds;
	struct family family;
	struct build build;
	enum tier tier; /* chosen: never TIER_AUTO */
	struct namespace ns; /* TIER_USERNS */
	bool inside;    /* we are the init of it */
	int name;       /* the program's name, locked (name.h); -1: none */
	struct obstacle_list notes;
	struct pids *pids;
	void *shared;
	size_t shared_size;
	sigset_t mask; /* what was blocked before all signals were */
	bool masked;
	struct image_timing *timing; /* shared with the init of the namespace; NULL: there is no memory for it */
	uint64_t phase_began;
};

/* ---- how long it takes ---- */

static void restore_begin_timing(struct restore *r)
{
	void *p = mmap(NULL, sizeof(*r->timing), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	r->timing = p == MAP_FAILED ? NULL : p;
	r->phase_began = clock_now_ns(CLOCK_REALTIME);
}

/* The clock is one that time namespaces leave alone: a step of it may make a phase nonsense, and no more. */
static void restore_end_phase(struct restore *r, enum image_phase phase)
{
	uint64_t now = clock_now_ns(CLOCK_REALTIME);

	if (r->timing) {
		r->timing->phase_ns[phase] = now > r->phase_began ? now - r->phase_began : 0;
		r->timing->realtime_ns = now;
	}
	r->phase_began = now;
}

static void restore_done_timing(struct restore *r, bool failed)
{
	cleanup_privilege struct privilege none = privilege_none();

	if (!r->timing)
		return;
	if (!failed)
		image_timing_write(r->image->fd, r->timing);
	munmap(r->timing, sizeof(*r->timing));
}

/* ---- open ---- */

/* As many as there are CPUs, if there is so much to do that starting them pays. */
static unsigned core_verify_threads(const struct image *img)
{
	uint64_t bytes = 0, useful;

	for (size_t i = 0; i < img->n_extents; i++)
		bytes += img->extents[i].size;
	useful = bytes / VERIFY_THREAD_SHARE;
	return useful < cpu_count() ? (unsigned)useful : cpu_count();
}

/* Parse and validate. */
static int core_read_meta(const struct image *img, struct arena *arena, Pb__Image **ret, struct err *e)
{
	struct plan plan;

	arena->huge = img->meta_size >= META_HUGE;
	/* Unpacked, metadata is a few times its packed size; a hostile one must not grow without bounds. */
	arena->limit = arena->used + 64 * (img->meta_size + 4096);
	*ret = (Pb__Image *)pb_unpack(arena, &pb__image__descriptor, img->meta, img->meta_size);
	arena->limit = 0;
	if (!*ret)
		return err_set(e, ERR_IMAGE, 0, "the metadata of %s is damaged", img->path);
	return plan_make(&plan, *ret, img, arena, e);
}

int core_open(const char *path, enum core_verify verify, struct arena *arena, struct image **ret, Pb__Image **ret_meta, struct err *e)
{
	struct image *img;
	cleanup_privilege struct privilege none = { 0 };
	int r = image_open(&img, path, e);

	if (r < 0)
		return r;
	none = privilege_none();
	if (verify == VERIFY_PAGES)
		r = image_verify_pages(img, core_verify_threads(img), e);
	*ret_meta = NULL;
	if (r == 0)
		r = core_read_meta(img, arena, ret_meta, e);
	if (r < 0) {
		image_close(img);
		return r;
	}
	*ret = img;
	return 0;
}

/* ---- verify ---- */

/*
 * One pass over an image, where a process that is none of the tree can load the memory of all of it, which is of one
 * task: build_loader(). Whether PIDs can be chosen as that needs it is seen later.
 */
static bool restore_may_load_first(const struct restore *r)
{
	const Pb__Task *pb = r->meta->tasks[0];

	if (r->o->tier == TIER_FORK || r->meta->n_tasks != 1 || pb->state == PB__TASK_STATE__ZOMBIE || arch_has_shadow_stack())
		return false;
	return image_pages_of(r->image, IMAGE_OWNER_SPACE(pb->space)) * IMAGE_PAGE >= LOADS_FIRST_MIN;
}

/* The extents that the one task's memory is loaded from: of each, all of it is read then. NULL: no memory for that. */
static bool *restore_find_loaded(struct restore *r)
{
	bool *loaded = arena_alloc(&r->arena, r->image->n_extents);
	size_t n;
	const struct image_run *runs = image_runs_of(r->image, IMAGE_OWNER_SPACE(r->meta->tasks[0]->space), &n);

	for (size_t i = 0; loaded && i < n; i++)
		loaded[runs[i].extent] = true;
	return loaded;
}

/* All extents, or all but those that loading verifies. */
static int restore_verify(struct restore *r, struct err *e)
{
	bool *loaded = restore_may_load_first(r) ? restore_find_loaded(r) : NULL;

	r->unverified = loaded != NULL;
	return image_verify_extents(r->image, loaded, core_verify_threads(r->image), e);
}

struct restore_reading {
	struct restore *r;
	int result;
	struct err err;
};

static void restore_read_meta(void *data)
{
	struct restore_reading *x = data;

	x->result = core_read_meta(x->r->image, &x->r->arena, &x->r->meta, &x->err);
}

/* Of several address spaces, all is verified, whatever the metadata say: they are unpacked meanwhile, which one thread does. */
static int restore_read_tree(struct restore *r, struct err *e)
{
	struct restore_reading x = { .r = r, .err = ERR_INIT };
	int result = image_verify_beside(r->image, core_verify_threads(r->image), restore_read_meta, &x, e);

	if (x.result < 0)
		*e = x.err;
	return x.result < 0 ? x.result : result;
}

/* Nothing of the program is made before what it is made of is known to be right. */
static int restore_open(struct restore *r, struct err *e)
{
	cleanup_privilege struct privilege none = { 0 };
	size_t of_second;

	if (image_open(&r->image, r->o->path, e) < 0)
		return -1;
	none = privilege_none();
	(void)image_runs_of(r->image, IMAGE_OWNER_SPACE(1), &of_second);
	if (of_second)
		return restore_read_tree(r, e);
	return core_read_meta(r->image, &r->arena, &r->meta, e) < 0 ? -1 : restore_verify(r, e);
}

/* As ever: before anything is made. */
static int restore_verify_now(struct restore *r, struct err *e)
{
	r->unverified = false;
	return image_verify_extents(r->image, NULL, core_verify_threads(r->image), e);
}

/* Several threads have loaded it, and the first to see a damage has told of it. Say what is wrong first in the file. */
static void restore_blame_image(struct restore *r, struct err *e)
{
	struct err first = ERR_INIT;

	if (e->reason == ERR_IMAGE && restore_verify_now(r, &first) < 0 && first.reason == ERR_IMAGE)
		*e = first;
}

/* ---- plan: can it be done here? ---- */

/* An image is a program. With more privilege than its own, torpor runs none that another user has written. */
static int restore_check_file(const struct image *image, struct err *e)
{
	struct stat st;

	if (fstat(image->fd, &st) < 0)
		return err_sys(e, errno, "examining %s", image->path);
	if (st.st_uid == getuid() && !(st.st_mode & (S_IWGRP | S_IWOTH)))
		return 0;
	if (st.st_uid != getuid())
		err_set(e, ERR_PERMISSION, 0, "%s belongs to user %u, and you are user %u", image->path, st.st_uid, getuid());
	else
		err_set(e, ERR_PERMISSION, 0, "%s can be written to by others than you", image->path);
	err_id(e, "E-IMAGE-FOREIGN");
	return err_help(e, "if you trust whoever could write it as much as a program you run: --allow-foreign-image");
}

static int restore_check_owner(const struct restore *r, struct err *e)
{
	if (r->o->allow_foreign || !privilege_exceeds_caller())
		return 0;
	for (const struct image *image = r->image; image; image = image->parent)
		if (restore_check_file(image, e) < 0)
			return -1;
	return 0;
}

static int restore_check_machine(struct restore *r, struct err *e)
{
	uint64_t hash;

	return memory_vdso_hash(&hash, e) < 0 ? -1 : plan_check_here(r->meta->machine, hash, arch_xfeatures(), e);
}

/* Killed, and not yet a zombie: its PID will be free in a moment. */
static bool restore_holder_ends(struct restore *r, const struct proc_stat *stat)
{
	struct proc_status status;
	char *text;

	if (stat->flags & PROC_FLAGS_ENDING)
		return true;
	return fd_read_proc(stat->pid, "status", &r->arena, &text, NULL) == 0 &&
	       proc_parse_status(text, &r->arena, &status) == 0 &&
	       (status.sig_pending | status.shd_pending) >> (SIGKILL - 1) & 1;
}

/* Who holds this PID? 0: nobody; 1: who has ended, or is about to; 2: somebody, named in `e`. */
static int restore_pid_holder(struct restore *r, pid_t pid, struct err *e)
{
	struct proc_stat stat;
	char *text;

	if (kill(pid, 0) < 0 && errno == ESRCH)
		return 0;
	if (fd_read_proc(pid, "stat", &r->arena, &text, NULL) < 0 || proc_parse_stat(text, &stat) < 0)
		return 0;
	if (stat.state == 'Z' || stat.state == 'X') {
		err_state(e, "E-PID-TAKEN", 0, "the PID %d is still held by the zombie of %s, which process %d has not reaped", pid,
			  stat.comm, stat.ppid);
		return 1;
	}
	err_state(e, "E-PID-TAKEN", 0, "the PID %d is taken by %s", pid, stat.comm);
	if (restore_holder_ends(r, &stat))
		return 1;
	return 2;
}

static int restore_wait_for_pid(struct restore *r, pid_t pid, unsigned *left_ms, struct err *e)
{
	int held;

	while ((held = restore_pid_holder(r, pid, e)) == 1 && *left_ms) {
		unsigned step = PID_POLL_US / 1000;

		usleep(PID_POLL_US);
		*left_ms = *left_ms > step ? *left_ms - step : 0;
	}
	return held ? -1 : 0;
}

/* Add one that is held to those that are already named. */
static void restore_name_holder(struct err *e, const struct err *holder, unsigned n_held)
{
	size_t used = strlen(e->text);

	if (n_held == 1)
		*e = *holder;
	else if (n_held <= HOLDERS_NAMED)
		snprintf(e->text + used, sizeof(e->text) - used, "; %s", holder->text);
	else if (n_held == HOLDERS_NAMED + 1)
		snprintf(e->text + used, sizeof(e->text) - used, "; and others are");
}

static int restore_check_pids(struct restore *r, struct err *e)
{
	unsigned left_ms = r->o->pid_wait_ms, n_held = 0;

	for (size_t i = 0; i < r->plan.n_tasks; i++) {
		const Pb__Task *pb = r->plan.tasks[i].pb;

		for (size_t k = 0; k == 0 || k < pb->n_threads; k++) {
			struct err holder = ERR_INIT;

			if (restore_wait_for_pid(r, k ? pb->threads[k]->tid : pb->pid, &left_ms, &holder) < 0)
				restore_name_holder(e, &holder, ++n_held);
		}
	}
	if (!n_held)
		return 0;
	return err_help(e, "end %s, or wait until %s ended; or restore in a PID namespace of its own, where all PIDs are free: "
			   "--tier userns", n_held > 1 ? "these processes" : "that process", n_held > 1 ? "they have" : "it has");
}

/* ---- tiers ---- */

/* Is there something in the image that only a privilege outside the namespace could give back? */
static int restore_check_namespace(const struct restore *r, struct err *e)
{
	if (geteuid() == 0) {
		err_set(e, ERR_USAGE, 0, "tier userns is for ordinary users");
		return err_help(e, "root chooses PIDs without it: --tier root");
	}
	for (size_t i = 0; i < r->meta->n_tasks; i++) {
		const Pb__Task *pb = r->meta->tasks[i];

		if (pb->creds && pb->creds->cap_permitted) {
			err_set(e, ERR_PERMISSION, 0, "cannot restore task %d (%s) in a user namespace: it held capabilities (%#lx)",
				pb->pid, pb->comm, pb->creds->cap_permitted);
			err_id(e, "E-RESTORE-CAPABILITIES");
			return err_help(e, "restore as root, or where they are ambient capabilities of yours");
		}
	}
	return 0;
}

/* May torpor choose PIDs where it is? `way` tells how. */
static int restore_check_way(enum pid_way *way, struct err *e)
{
	if (pids_find_way(way) == 0 && *way != PID_FORK)
		return 0;
	err_set(e, ERR_PERMISSION, 0, "torpor may not choose PIDs");
	err_id(e, "E-PID-PERMISSION");
	return err_help(e, "%s", privilege_why_not() ?:
			"give it the capability: setcap cap_checkpoint_restore=ep torpor; or --tier userns");
}

/* Its name, unless another program (it may be another copy of this one) has that. */
static void restore_take_name(struct restore *r)
{
	const char *name = r->meta->machine->name;
	struct err e = ERR_INIT;

	if (!name || !name_is_valid(name))
		return;
	r->name = name_take(name, &e);
	if (r->name < 0)
		log_say(r->o->log, LOG_NOTE, "%s; the restored one goes without", e.text);
}

/* Returns 1 in the init of the new namespace, 0 outside. */
static int restore_enter(struct restore *r, struct err *e)
{
	if (restore_check_namespace(r, e) < 0)
		return -1;
	restore_take_name(r);
	return namespace_make(&r->ns, r->meta->machine, e);
}

/* The best tier that works. Returns as restore_enter(), but does not fail: tier fork is always left. */
static int restore_choose_best(struct restore *r, enum pid_way *way)
{
	struct err why = ERR_INIT;
	int inside;

	r->tier = geteuid() == 0 ? TIER_ROOT : TIER_CAP;
	if (restore_check_way(way, &why) == 0)
		return 0;
	why = ERR_INIT;
	inside = restore_enter(r, &why);
	r->tier = inside < 0 ? TIER_FORK : TIER_USERNS;
	if (inside < 0) {
		log_say(r->o->log, LOG_NOTE, "tier fork: torpor may not choose PIDs, and makes processes until they come up (%s)",
			why.text);
		*way = PID_FORK;
	} else if (inside == 0) {
		log_say(r->o->log, LOG_NOTE,
			"tier userns: torpor may not choose PIDs here; the program gets them in a PID namespace of its own");
	}
	return inside > 0;
}

/* Which tier, and how PIDs are chosen in it. Returns as restore_enter(). */
static int restore_choose_way(struct restore *r, enum pid_way *way, struct err *e)
{
	r->tier = r->o->tier;
	switch (r->tier) {
	case TIER_AUTO:
		return restore_choose_best(r, way);
	case TIER_USERNS:
		return restore_enter(r, e);
	case TIER_FORK:
		*way = PID_FORK;
		return 0;
	case TIER_ROOT:
		if (geteuid() != 0)
			return err_set(e, ERR_PERMISSION, 0, "tier root: torpor does not run as root");
		return restore_check_way(way, e);
	case TIER_CAP:
		return restore_check_way(way, e);
	}
	return err_set(e, ERR_USAGE, 0, "tier %d is not known", r->tier);
}

static int restore_prepare_pids(struct restore *r, enum pid_way way, struct err *e)
{
	r->pids = pids_new(way, r->o->fork_limit, e);
	if (!r->pids)
		return -1;
	if (way == PID_LAST_PID)
		log_say(r->o->log, LOG_INFO, "clone3 with set_tid is not there: PIDs are chosen by ns_last_pid");
	for (size_t i = 0; i < r->plan.n_tasks; i++)
		if (pids_foresee(r->pids, r->plan.tasks[i].pb->pid, e) < 0)
			return -1;
	return 0;
}

/* In tier userns we go on in two processes: inside as its init, outside to wait for it. */
static int restore_choose_tier(struct restore *r, struct err *e)
{
	enum pid_way way;
	int inside = restore_choose_way(r, &way, e);

	if (inside < 0)
		return -1;
	r->inside = inside;
	if (r->tier == TIER_USERNS && !inside)
		return 0;
	if (inside ? restore_check_way(&way, e) < 0 : restore_check_pids(r, e) < 0)
		return -1;
	return restore_prepare_pids(r, way, e);
}

static int restore_plan(struct restore *r, struct err *e)
{
	if (plan_make(&r->plan, r->meta, r->image, &r->arena, e) < 0 || restore_check_machine(r, e) < 0 ||
	    creds_read_own(&r->arena, &r->own, e) < 0)
		return -1;
	for (size_t i = 0; i < r->plan.n_tasks; i++)
		if (r->plan.tasks[i].pb->state != PB__TASK_STATE__ZOMBIE && creds_check(r->plan.tasks[i].pb, &r->own, e) < 0)
			return -1;
	return restore_choose_tier(r, e);
}

/* ---- objects ---- */

/*
 * Let the soft limit be `most`, or as much of that as the hard one allows, if it is below what is needed. Returns 0; 1
 * when that is below it as well, with *ret_hard set; or negative.
 */
static int restore_raise_limit(int resource, rlim_t need, rlim_t most, rlim_t *ret_hard, struct err *e)
{
	struct rlimit rl;

	if (getrlimit(resource, &rl) < 0)
		return err_sys(e, errno, "getrlimit");
	*ret_hard = rl.rlim_max;
	if (rl.rlim_cur >= need)
		return 0;
	if (rl.rlim_max < need)
		return 1;
	rl.rlim_cur = most < rl.rlim_max ? most : rl.rlim_max;
	return setrlimit(resource, &rl) < 0 ? err_sys(e, errno, "setrlimit") : 0;
}

/* The saved fds, and above them one for each object: more than the usual soft limit may be needed. */
static int restore_raise_fd_limit(struct restore *r, struct err *e)
{
	rlim_t need = (rlim_t)r->plan.fd_base + r->meta->n_objects * 2 + r->meta->n_inodes + OBJECT_FDS_SPARE, hard;
	int result = restore_raise_limit(RLIMIT_NOFILE, need, RLIM_INFINITY, &hard, e);

	if (result <= 0)
		return result;
	err_set(e, ERR_SYSTEM, 0, "the limit of open files (%lu) is too low, %lu are needed", hard, need);
	err_id(e, "E-LIMIT-FILES");
	return err_help(e, "raise it: ulimit -Hn %lu", need);
}

/* The tasks have the limit of the coordinator until their scripts set their own. */
static int restore_raise_stack_limit(const struct plan *p, struct err *e)
{
	rlim_t need = build_stack_bytes(p) + STACK_USED, hard;
	int result = restore_raise_limit(RLIMIT_STACK, need, need, &hard, e);

	if (result <= 0)
		return result;
	err_set(e, ERR_SYSTEM, 0, "the limit of the stack (%lu KiB) is too low, %lu KiB are needed", hard / 1024, need / 1024);
	err_id(e, "E-LIMIT-STACK");
	return err_help(e, "raise it: ulimit -Hs %lu", need / 1024);
}

static int restore_make_objects(struct restore *r, struct err *e)
{
	if (restore_raise_fd_limit(r, e) < 0)
		return -1;
	r->inodes = (struct inode_restore){
		.arena = &r->arena, .image = r->image, .fd_base = r->plan.fd_base, .allow_changed = r->o->allow_changed,
		.one_thread = r->pids->steer.way == PID_FORK,
	};
	if (inode_restore_all(&r->inodes, r->meta, e) < 0)
		return -1;
	for (struct image *image = r->image; image; image = image->parent) {
		image->fd = fd_raise(image->fd, r->plan.fd_base, e);
		if (image->fd < 0)
			return -1;
	}
	r->objects = (struct restore_objects){ .arena = &r->arena,
					       .image = r->meta,
					       .inodes = &r->inodes,
					       .notes = &r->notes,
					       .fd_base = r->plan.fd_base,
					       .allow_changed = r->o->allow_changed };
	memcpy(r->objects.streams, r->o->streams, sizeof(r->objects.streams));
	r->ipc = (struct ipc_restore){ .arena = &r->arena, .image = r->meta, .allow_changed = r->o->allow_changed };
	if (semaphores_restore(&r->ipc, e) < 0 || queues_restore(&r->ipc, e) < 0)
		return -1;
	return objects_restore(&r->objects, r->meta, &r->object_fds, e);
}

/* What is made has its own mode at last, whatever is masked for the files of our caller. */
static int restore_make_objects_privately(struct restore *r, struct err *e)
{
	mode_t mask = umask(S_IRWXG | S_IRWXO);
	int result = restore_make_objects(r, e);

	umask(mask);
	return result;
}

static void restore_close_objects(struct restore *r)
{
	for (size_t i = 0; r->object_fds && i < r->meta->n_objects; i++)
		fd_closep(&r->object_fds[i]);
	r->object_fds = NULL;
}

/* ---- tasks ---- */

static int restore_prepare_family(struct restore *r, struct err *e)
{
	struct family_member *members = arena_alloc(&r->arena, r->plan.n_tasks * sizeof(*members));

	if (!members)
		return err_nomem(e);
	for (size_t i = 0; i < r->plan.n_tasks; i++) {
		const Pb__Task *pb = r->plan.tasks[i].pb;
		bool living = pb->state != PB__TASK_STATE__ZOMBIE;

		members[i] = (struct family_member){ living ? r->meta->spaces[pb->space] : NULL,
						     IMAGE_OWNER_SPACE(living ? pb->space : 0), plan_maker(&r->plan, i) };
	}
	return family_make(&r->family, &r->arena, r->image, members, r->plan.n_tasks, e);
}

/* A signal for threads to park by, that nobody sends and that is not pending anywhere. Not a queued one: queues may be full. */
static int restore_choose_park(const struct plan *p)
{
	static const int signals[] = { SIGSTKFLT, SIGPWR, SIGSYS, SIGXCPU, SIGURG };
	uint64_t pending = 0;

	for (size_t i = 0; i < p->n_tasks; i++) {
		const Pb__Task *pb = p->tasks[i].pb;

		pending |= signals_of(pb->pending, pb->n_pending);
		for (size_t k = 0; k < pb->n_threads; k++)
			pending |= signals_of(pb->threads[k]->pending, pb->threads[k]->n_pending);
	}
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		if (!(pending >> (signals[i] - 1) & 1))
			return signals[i];
	return 0;
}

static int restore_prepare_build(struct restore *r, struct err *e)
{
	const size_t regions = r->plan.n_tasks * sizeof(struct build_region);
	const bool helps = r->unverified && cpu_count() > 1;
	struct build_region *of_tasks;

	if (restore_raise_stack_limit(&r->plan, e) < 0 || restore_prepare_family(r, e) < 0)
		return -1;
	r->shared_size = sizeof(struct meeting) + regions + (helps ? sizeof(struct help) : 0);
	r->shared = mmap(NULL, r->shared_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (r->shared == MAP_FAILED) {
		r->shared = NULL;
		return err_nomem(e);
	}
	of_tasks = (struct build_region *)((struct meeting *)r->shared + 1);
	r->build = (struct build){
		.plan = &r->plan, .image = r->image, .inodes = &r->inodes, .object_fds = r->object_fds,
		.meeting = r->shared, .coordinator = getpid(), .pids = r->pids, .way = r->pids->steer.way,
		.park = restore_choose_park(&r->plan),
		.loads_first = r->unverified, .maps_vdso = arch_can_map_vdso(), .keeps_groups = r->inside,
		.xstate = arch_xstate_here(arch_xfeatures()),
		.family = &r->family, .progress = r->o->progress, .timeout_ms = r->o->timeout_ms,
		.regions = of_tasks, .help = helps ? (struct help *)(of_tasks + r->plan.n_tasks) : NULL,
	};
	if (privilege_can(PRIVILEGE_CHECKPOINT)) {
		r->build.settable_exes = memory_settable_exes(r->meta, &r->inodes, &r->arena);
		if (!r->build.settable_exes)
			return err_nomem(e);
	}
	if (r->timing)
		madvise(r->timing, sizeof(*r->timing), MADV_DONTFORK); /* each task would have to give it back */
	r->build.meets = build_must_meet(&r->build);
	r->build.born = limits_read_born(&r->arena);
	r->build.own = r->own;
	return r->inside ? creds_read_own(&r->arena, &r->build.own, e) : 0;
}

/* All tasks stand, and have closed what was not theirs; now we do. */
static int restore_complete(struct restore *r, struct err *e)
{
	if (inode_complete(&r->inodes, e) < 0 || queues_complete(&r->ipc, e) < 0)
		return -1;
	inode_restore_close(&r->inodes);
	if (objects_complete(&r->objects, r->meta, e) < 0)
		return -1;
	restore_close_objects(r); /* before they run: a lock is given up by the last who closes */
	return 0;
}

static void restore_report_notes(struct restore *r)
{
	for (size_t i = 0; i < r->notes.n; i++)
		log_say(r->o->log, LOG_NOTE, "%s", r->notes.v[i].text);
}

/* The PIDs of what the tree makes later go on behind its own. */
static pid_t restore_highest_pid(const struct restore *r)
{
	pid_t highest = 0;

	for (size_t i = 0; i < r->plan.n_tasks; i++) {
		const Pb__Task *pb = r->plan.tasks[i].pb;

		highest = pb->pid > highest ? pb->pid : highest;
		for (size_t k = 0; k < pb->n_threads; k++)
			highest = pb->threads[k]->tid > highest ? pb->threads[k]->tid : highest;
	}
	return highest;
}

/* Where the root is announced before it runs: to whoever called us, or to the outside. */
static int restore_ready(struct restore *r, pid_t root, struct err *e)
{
	if (r->inside) {
		namespace_continue_pids(restore_highest_pid(r));
		return namespace_announce(&r->ns, root, e);
	}
	return r->o->ready ? r->o->ready(r->o->ready_data, root, r->meta, e) : 0;
}

/* Its memory is loaded, and verified, before it is there. */
static pid_t restore_make_loaded_root(struct restore *r, struct err *e)
{
	pid_t loader = build_loader(&r->build, e);

	if (loader < 0)
		return loader;
	if (trace_await_loader(&r->build, loader, e) < 0) {
		build_call_off(&r->build);
		restore_blame_image(r, e);
		return -1;
	}
	r->unverified = false;
	log_say(r->o->log, LOG_INFO, "the memory is loaded, and the image is whole");
	return r->plan.tasks[0].pb->pid;
}

static pid_t restore_make_tasks(struct restore *r, struct err *e)
{
	pid_t root = r->unverified ? restore_make_loaded_root(r, e) : build_root(&r->build, e);

	if (root < 0)
		return root;
	if (trace_begin(root, e) < 0)
		goto abandon;
	r->build.every_cpu = r->plan.n_threads > 1 && thread_may_use_every_cpu(root);
	build_go(&r->build);
	if (trace_until_parked(&r->build, &r->notes, e) < 0)
		goto abandon;
	restore_end_phase(r, IMAGE_PHASE_TASKS);
	if (trace_finish(&r->build, &r->notes, e) < 0 || restore_complete(r, e) < 0)
		goto abandon;
	if (restore_ready(r, root, e) < 0)
		goto abandon;
	objects_release(&r->objects);
	if (trace_release(&r->build, e) < 0)
		goto abandon;
	restore_end_phase(r, IMAGE_PHASE_FINISH);
	if (!r->build.settable_exes && obstacle_add(&r->notes, "N-EXE", root, r->meta->tasks[0]->comm, "restore with the capability",
					       "its link /proc/%d/exe, and those of its descendants, lead to torpor", root) < 0)
		log_say(r->o->log, LOG_NOTE, "the links /proc/PID/exe lead to torpor");
	restore_report_notes(r);
	return root;
abandon:
	kill(root, SIGKILL);
	trace_abandon(&r->build);
	return -1;
}

/* ---- all of it ---- */

static pid_t restore_make(struct restore *r, struct err *e)
{
	sigset_t all;
	pid_t root;

	if (r->unverified && r->pids->steer.way != PID_SET_TID && restore_verify_now(r, e) < 0)
		return -1;
	log_say(r->o->log, LOG_INFO, "the image is whole%s; making %zu task(s), %zu thread(s), %zu object(s)",
		r->unverified ? ", but for the memory, which is verified while it is loaded" : "", r->plan.n_tasks,
		r->plan.n_threads, r->meta->n_objects);
	restore_end_phase(r, IMAGE_PHASE_READ);
	if (restore_make_objects_privately(r, e) < 0 || restore_prepare_build(r, e) < 0)
		return -1;
	restore_end_phase(r, IMAGE_PHASE_FILES);
	/* The tasks inherit the closed mask: nothing is delivered to them before they are complete. */
	sigfillset(&all);
	r->masked = sigprocmask(SIG_SETMASK, &all, &r->mask) == 0;
	if (!r->inside) /* outside, somebody hears them who can end us */
		interrupt_signals_held(&r->mask, &r->build.interrupts);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	root = restore_make_tasks(r, e);
	prctl(PR_SET_CHILD_SUBREAPER, 0);
	return root;
}

static void restore_done(struct restore *r, bool failed)
{
	restore_close_objects(r);
	objects_done(&r->objects);
	place_settle(&r->objects, failed);
	semaphores_done(&r->ipc, failed);
	queues_done(&r->ipc, failed);
	inode_restore_done(&r->inodes, failed);
	pids_free(r->pids);
	if (r->shared)
		munmap(r->shared, r->shared_size);
	image_close(r->image);
	arena_done(&r->arena);
}

/* Inside the namespace: make the tree, then be its init. */
static _Noreturn void restore_inside(struct restore *r)
{
	struct err e = ERR_INIT;
	pid_t root = restore_make(r, &e);

	restore_done(r, root < 0);
	if (root < 0)
		namespace_give_up(&r->ns, &e);
	namespace_say_done(&r->ns);
	init_serve(root, r->ns.reports, r->name);
}

static int restore_ready_outside(void *data, pid_t root, struct err *e)
{
	const struct restore *r = data;

	if (r->name >= 0 && name_tell(r->name, root, r->ns.init, e) < 0)
		return -1;
	return r->o->ready ? r->o->ready(r->o->ready_data, root, r->meta, e) : 0;
}

static int restore_run(struct restore *r, struct program *ret, struct err *e)
{
	if (restore_plan(r, e) < 0) {
		if (r->inside)
			namespace_give_up(&r->ns, e);
		return -1;
	}
	if (r->inside)
		restore_inside(r);
	if (r->tier == TIER_USERNS)
		return namespace_await(&r->ns, restore_ready_outside, r, ret, e);
	*ret = (struct program){ .root = restore_make(r, e), .reports = -1 };
	return ret->root < 0 ? -1 : 0;
}

int core_restore(const struct restore_options *o, struct program *ret, struct err *e)
{
	struct restore r = { .o = o, .name = -1 };
	cleanup_privilege struct privilege p = { 0 };
	struct rlimit files, stack;
	int result;

	getrlimit(RLIMIT_NOFILE, &files);
	getrlimit(RLIMIT_STACK, &stack);
	r.notes.arena = &r.arena;
	restore_begin_timing(&r);
	result = restore_open(&r, e);
	p = privilege_raise(privilege_extra());
	if (result == 0)
		image_forget_meta(r.image); /* what is still in memory, each task is made with, and has to give back */
	if (result == 0)
		result = restore_check_owner(&r, e) < 0 ? -1 : restore_run(&r, ret, e);
	restore_done_timing(&r, result < 0);
	restore_done(&r, result < 0);
	fd_closep(&r.name); /* its init has it */
	setrlimit(RLIMIT_NOFILE, &files);
	setrlimit(RLIMIT_STACK, &stack);
	if (r.masked) /* last: by one that has come meanwhile, we may end here */
		sigprocmask(SIG_SETMASK, &r.mask, NULL);
	return result;
}
