/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Dump, phase by phase: freeze, collect, check, memory, commit, release.
 *
 * Until the commit nothing about the tree has changed, and every way out of this
 * file lets it run on; only a complete image ends it.
 */

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "arch/x86_64/regs.h"
#include "core/ahead.h"
#include "core/clones.h"
#include "core/core.h"
#include "core/live.h"
#include "core/objects.h"
#include "core/parent.h"
#include "core/scout.h"
#include "core/tracker.h"
#include "ipc/ipc.h"
#include "memory/base.h"
#include "memory/memory.h"
#include "task/task.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/interrupt.h"
#include "util/privilege.h"

enum {
	REAP_PATIENCE = 10, REAP_POLL_US = 100, MS = 1000000,
	CLONE_LEAST = 8192, CLONE_SHARE = 8, /* pages, and part of the memory, that a clone is worth */
};

struct dump {
	const struct dump_options *o;
	struct dump_result *result;
	struct arena *arena;
	struct target_tree tree;
	struct inode_table inodes;
	struct task_namespaces namespaces;
	struct collect collect;
	struct image_writer *writer;
	struct parent parent;
	Pb__Image *image;
	struct page_source *sources;
	size_t n_sources;
	struct page_source *same; /* for each space: pages that are as in the parent, if that has them */
	uint64_t begun;
	uint64_t pages_before; /* stored before the pause, and in use */
	uint64_t pages_same;   /* left to the parent without having been read */
	struct scout scout;
	struct ahead ahead;
	uint64_t pages_ahead;  /* stored while it was collected what there is, and in use */
	struct clones clones;  /* of what is stored after it */
	bool finished;         /* the image needs no more than its name */
	struct live *live; /* it runs on, and was looked at before, or it is tracked; NULL: it is examined in the pause only */
	struct tracked tracked; /* by an earlier dump */
};

/* ---- collect ---- */

static int dump_collect_machine(struct dump *d, struct err *e)
{
	Pb__Machine *m = pb_new(d->arena, Pb__Machine, pb__machine__init);
	struct utsname u;
	uint64_t hash;
	char *boot_id;

	if (!m || uname(&u) < 0)
		return err_nomem(e);
	d->image->machine = m;
	m->torpor_version = arena_strdup(d->arena, TORPOR_VERSION);
	m->arch = arena_strdup(d->arena, ARCH_NAME);
	m->kernel_release = arena_strdup(d->arena, u.release);
	m->hostname = arena_strdup(d->arena, u.nodename);
	if (fd_read_proc(getpid(), "../sys/kernel/random/boot_id", d->arena, &boot_id, NULL) == 0) {
		boot_id[strcspn(boot_id, "\n")] = '\0';
		m->boot_id = boot_id;
	}
	if (memory_vdso_hash(&hash, e) < 0)
		return -1;
	pb_set(m, vdso_hash, hash);
	pb_set(m, xfeatures, arch_xfeatures());
	pb_set(m, page_size, MEMORY_PAGE);
	pb_set(m, realtime_ns, (int64_t)clock_now_ns(CLOCK_REALTIME));
	pb_set(m, monotonic_ns, (int64_t)clock_now_ns(CLOCK_MONOTONIC));
	pb_set(m, boottime_ns, (int64_t)clock_now_ns(CLOCK_BOOTTIME));
	pb_set(m, uid, getuid());
	m->name = d->o->name ? arena_strdup(d->arena, d->o->name) : NULL;
	return m->kernel_release && m->hostname ? 0 : err_nomem(e);
}

static int dump_collect_task(struct dump *d, size_t index, Pb__Task *pb, struct err *e)
{
	struct target *t = d->tree.tasks[index];
	struct memory_collect mc = { .arena = d->arena, .obstacles = &d->result->obstacles, .inodes = &d->inodes,
				     .told = ahead_listens(&d->ahead) };
	struct task_collect tc = { d->arena, &d->result->obstacles, &d->tree, &d->inodes, &d->namespaces, d->o->outside };
	Pb__AddressSpace *space;
	int r;

	if (t->zombie)
		return task_collect_zombie(&tc, t, pb, e);
	if (d->live)
		live_known(d->live, t->pid, &mc.known, &mc.track);
	else
		mc.now = scout_areas(&d->scout, index);
	r = memory_collect(&mc, t, &space, e);
	if (r)
		return r;
	if (d->live) {
		live_saw(d->live, t->pid, &mc.areas);
		live_search(d->live, t, space, IMAGE_OWNER_SPACE(d->image->n_spaces));
	}
	if (task_collect(&tc, t, pb, space, e) < 0)
		return -1;
	pb_set(pb, space, (uint32_t)d->image->n_spaces);
	d->result->n_threads += t->n_threads;
	return pb_add(d->arena, d->image, spaces, space) ? 0 : err_nomem(e);
}

/* Returns 1 when something is there that was not known before the pause. */
static int dump_collect_tasks(struct dump *d, struct err *e)
{
	int r;

	for (size_t i = 0; i < d->tree.n; i++) {
		struct target *t = d->tree.tasks[i];
		Pb__Task *pb = pb_new(d->arena, Pb__Task, pb__task__init);

		if (!pb || !pb_add(d->arena, d->image, tasks, pb))
			return err_nomem(e);
		if (interrupt_check(e) < 0)
			return -1;
		r = dump_collect_task(d, i, pb, e);
		if (r)
			return r < 0 ? err_wrap(e, "task %d (%s)", t->pid, t->stat.comm) : r;
	}
	d->result->n_tasks = d->tree.n;
	return 0;
}

static int dump_collect_ipc(struct dump *d, struct err *e)
{
	struct ipc_collect c = { d->arena, &d->result->obstacles, &d->tree, d->o->choice.external };

	return semaphores_collect(&c, d->image, e) < 0 ? -1 : queues_collect(&c, d->image, e);
}

static int dump_collect(struct dump *d, struct err *e)
{
	int r;

	d->collect = (struct collect){ .arena = d->arena, .tree = &d->tree, .obstacles = &d->result->obstacles,
				       .inodes = &d->inodes, .choice = d->o->choice,
				       .look_only = d->o->check_only };
	d->image = pb_new(d->arena, Pb__Image, pb__image__init);
	if (!d->image)
		return err_nomem(e);
	r = dump_collect_machine(d, e);
	if (r == 0)
		r = dump_collect_tasks(d, e);
	if (r)
		return r;
	if (objects_collect(&d->collect, d->image, e) < 0 || dump_collect_ipc(d, e) < 0)
		return -1;
	if (inode_check_segments(&d->inodes, &d->tree, d->o->choice.external) < 0 || inode_check_links(&d->inodes) < 0)
		return err_nomem(e);
	for (size_t i = 0; i < d->inodes.n; i++)
		if (!pb_add(d->arena, d->image, inodes, d->inodes.v[i].pb))
			return err_nomem(e);
	return 0;
}

/* ---- check ---- */

static int dump_check(const struct dump *d, struct err *e)
{
	size_t n = d->result->obstacles.n;

	if (!n)
		return 0;
	return err_set(e, ERR_STATE, 0, "cannot save process %d (%s): %zu %s in the way; it runs on, untouched", d->o->pid,
		       d->tree.tasks[0]->stat.comm, n, n == 1 ? "thing is" : "things are");
}

/* ---- memory ---- */

static struct target *dump_task_of_space(const struct dump *d, uint32_t space)
{
	for (size_t i = 0; i < d->tree.n; i++)
		if (!d->tree.tasks[i]->zombie && d->image->tasks[i]->space == space)
			return d->tree.tasks[i];
	return NULL;
}

/*
 * Of a space whose task was tracked: take what is in the image already. What was never copied is as in the parent if the tracking
 * began with that, else it is read.
 */
static int dump_take_copies(struct dump *d, uint32_t space, const struct track *track, const struct page_source *kept,
			    struct page_source *s, struct err *e)
{
	struct copies_use use = { .copies = &track->copies, .owner = IMAGE_OWNER_SPACE(space), .writer = d->writer,
				  .arena = d->arena, .distrust = live_distrusts(d->live) };
	int r = copies_take(&use, kept, s, track->bound ? &d->same[space] : s, e);

	d->pages_before += use.pages;
	return r;
}

static int dump_find_space_pages(struct dump *d, uint32_t space, struct page_source *s, struct err *e)
{
	struct target *task = dump_task_of_space(d, space);
	const struct track *track = d->live ? live_track(d->live, task->pid) : NULL;
	struct page_source kept = { 0 };
	int r;

	if (d->live)
		r = live_find_pages(d->live, task, d->image->spaces[space], IMAGE_OWNER_SPACE(space), s, &kept, e);
	else
		r = memory_find_pages(d->arena, task, d->image->spaces[space], IMAGE_OWNER_SPACE(space), s, NULL, e);
	return r < 0 || !track ? r : dump_take_copies(d, space, track, &kept, s, e);
}

static int dump_find_pages(struct dump *d, struct err *e)
{
	size_t n = d->image->n_spaces + d->inodes.n;

	d->sources = arena_alloc(d->arena, (n + 1) * sizeof(*d->sources));
	d->same = arena_alloc(d->arena, (d->image->n_spaces + 1) * sizeof(*d->same));
	if (!d->sources || !d->same)
		return err_nomem(e);
	for (uint32_t i = 0; i < d->image->n_spaces; i++)
		if (dump_find_space_pages(d, i, &d->sources[d->n_sources++], e) < 0)
			return -1;
	for (uint32_t i = 0; i < d->inodes.n; i++)
		if (d->inodes.v[i].pb->has_content &&
		    memory_find_inode_pages(d->arena, &d->inodes.v[i], IMAGE_OWNER_INODE(i), &d->sources[d->n_sources++], e) < 0)
			return -1;
	for (size_t i = 0; i < d->n_sources; i++)
		for (size_t k = 0; k < d->sources[i].n; k++)
			d->result->bytes += d->sources[i].ranges[k].pages * MEMORY_PAGE;
	return 0;
}

static int dump_new_writer(struct dump *d, struct err *e)
{
	if (image_writer_new(&d->writer, d->o->path, !d->o->no_sync, e) < 0)
		return -1;
	return d->parent.image ? image_writer_parent(d->writer, d->parent.image, d->parent.path, e) : 0;
}

/* What need not be read, as the parent has it. What that does not have (it was zero, or not there) is read. */
static int dump_take_same(struct dump *d, struct err *e)
{
	struct base base;

	if (!d->parent.image)
		return 0;
	if (base_of_image(&base, &d->parent, d->image, d->writer, d->arena, e) < 0)
		return -1;
	for (uint32_t i = 0; i < d->image->n_spaces; i++) {
		uint64_t pages;

		if (base_take(&base, IMAGE_OWNER_SPACE(i), &d->same[i], d->arena, &d->sources[i], &pages, e) < 0)
			return -1;
		d->pages_same += pages;
	}
	return 0;
}

/* What was copied while it was collected need not be found and read any more. Only of a tree of one task: its pages are the first source. */
static int dump_take_ahead(struct dump *d, struct err *e)
{
	if (ahead_end(&d->ahead, e) < 0)
		return -1;
	d->writer = ahead_take_writer(&d->ahead);
	return !d->writer ? 0 : memory_take_ahead(&d->ahead.memory, d->writer, d->sources[0].owner, d->arena, &d->sources[0],
						  &d->pages_ahead, e);
}

/* How much of the memory stands where. What was copied while it ran may stand in the parent, too. */
static void dump_count_bytes(struct dump *d, const struct memory_stats *stored)
{
	uint64_t in_parent = d->parent.image ? image_writer_parent_pages(d->writer) : 0;
	uint64_t before = d->pages_before + d->pages_ahead + d->pages_same - (in_parent - stored->pages_parent);

	d->result->bytes = (stored->pages_stored + before) * MEMORY_PAGE;
	d->result->bytes_packed = image_writer_stored(d->writer);
	d->result->bytes_parent = in_parent * MEMORY_PAGE;
	pb_set(d->image->stats, pages_stored, stored->pages_stored + before);
	if (d->parent.image)
		pb_set(d->image->stats, pages_parent, in_parent);
	if (d->pages_same)
		pb_set(d->image->stats, pages_unread, d->pages_same);
}

/* What was copied while it was examined is a part of the whole. */
static void dump_tell_saved(void *data, const char *what, uint64_t done, uint64_t total)
{
	const struct dump *d = data;
	uint64_t ahead = d->pages_ahead * MEMORY_PAGE;

	progress_step(d->o->progress, what, ahead + done, ahead + total);
}

static int dump_store_pages(struct dump *d, struct err *e)
{
	const struct progress progress = { .step = dump_tell_saved, .data = d };
	Pb__DumpStats *stats = pb_new(d->arena, Pb__DumpStats, pb__dump_stats__init);
	struct memory_stats stored;
	struct base base;
	uint64_t begun = clock_now_ns(CLOCK_MONOTONIC);

	if (!stats)
		return err_nomem(e);
	if (base_of_image(&base, &d->parent, d->image, d->writer, d->arena, e) < 0)
		return -1;
	if (memory_store(d->sources, d->n_sources, d->writer, &base, &d->o->packing, &progress, &stored, e) < 0)
		return -1;
	pb_set(stats, pages_zero, stored.pages_zero + d->ahead.memory.stats.pages_zero);
	pb_set(stats, collect_ns, begun - d->tree.frozen_at);
	pb_set(stats, memory_ns, clock_now_ns(CLOCK_MONOTONIC) - begun);
	pb_set(stats, pages_paused, stored.pages_stored + d->pages_ahead);
	d->image->stats = stats;
	dump_count_bytes(d, &stored);
	return 0;
}

/* What was put off: the program runs, and its clones are copied. */
static int dump_store_clones(struct dump *d, struct err *e)
{
	Pb__DumpStats *stats = d->image->stats;
	struct memory_stats stored;
	struct base base;

	if (!d->clones.n_sources)
		return 0;
	if (base_of_image(&base, &d->parent, d->image, d->writer, d->arena, e) < 0 ||
	    memory_store(d->clones.sources, d->clones.n_sources, d->writer, &base, &d->o->packing, d->o->progress, &stored, e) < 0)
		return -1;
	clones_end(&d->clones);
	pb_set(stats, pages_after, stored.pages_stored);
	stats->pages_stored += stored.pages_stored;
	stats->pages_zero += stored.pages_zero;
	stats->pages_parent += stored.pages_parent;
	d->result->bytes += stored.pages_stored * MEMORY_PAGE;
	d->result->bytes_parent += stored.pages_parent * MEMORY_PAGE;
	d->result->bytes_packed = image_writer_stored(d->writer);
	return 0;
}

/* The tree runs again, or is about to be ended: how long it has stood. */
static void dump_note_pause(struct dump *d)
{
	uint64_t now = clock_now_ns(CLOCK_MONOTONIC), frozen = now - d->tree.frozen_at;

	if (frozen > d->result->frozen_ns)
		d->result->frozen_ns = frozen;
	pb_set(d->image->stats, frozen_ns, d->result->frozen_ns);
	pb_set(d->image->stats, total_ns, now - d->begun);
}

static void dump_note_live(struct dump *d)
{
	Pb__DumpStats *stats = d->image->stats;

	d->result->way = d->clones.pages ? PAUSE_CLONE : live_way(d->live);
	pb_set(stats, way, d->result->way == PAUSE_CLONE ? PB__PAUSE_WAY__PAUSE_CLONE
			   : d->result->way == PAUSE_TRACK ? PB__PAUSE_WAY__PAUSE_TRACK : PB__PAUSE_WAY__PAUSE_COPY);
	pb_set(stats, attempts, d->live->attempts);
	if (live_way(d->live) != PAUSE_TRACK)
		return;
	pb_set(stats, watch_ns, d->live->watch_ns);
	pb_set(stats, rounds, d->live->rounds);
	pb_set(stats, pages_before, d->pages_before);
	if (d->live->stored > d->pages_before)
		pb_set(stats, pages_dead, d->live->stored - d->pages_before);
}

/* ---- commit ---- */

/* To store the memory takes time, in which others can have sent signals: the last look while it stands. */
static int dump_take_signals(const struct dump *d, struct err *e)
{
	for (size_t i = 0; i < d->tree.n; i++) {
		struct target *t = d->tree.tasks[i];

		if (!t->zombie && signals_collect_late(d->arena, t, d->image->tasks[i], e) < 0)
			return err_wrap(e, "task %d (%s)", t->pid, t->stat.comm);
	}
	return 0;
}

/* All but the name. */
static int dump_finish(struct dump *d, struct err *e)
{
	size_t size;
	uint8_t *meta = pb_pack(d->arena, &d->image->base, &size);
	int r = meta ? image_writer_finish(d->writer, meta, size, e) : err_nomem(e);

	d->finished = r == 0;
	return r;
}

static int dump_commit(struct dump *d, struct err *e)
{
	int r = d->finished ? 0 : dump_finish(d, e);

	return r < 0 ? r : image_writer_publish(d->writer, e);
}

/* It ends now, and what has come since the image was closed ends with it. */
static void dump_note_lost_signals(const struct dump *d)
{
	struct err unheard = ERR_INIT;

	for (size_t i = 0; i < d->tree.n; i++) {
		struct target *t = d->tree.tasks[i];

		if (!t->zombie && signals_collect_late(d->arena, t, d->image->tasks[i], &unheard) > 0)
			log_say(d->o->log, LOG_NOTE, "a signal came to process %d (%s) when its image was complete: send it again after a restore",
				t->pid, t->stat.comm);
	}
}

/* ---- release ---- */

static bool is_zombie(pid_t pid, struct arena *arena, struct proc_stat *ret)
{
	char *text;

	return fd_read_proc(pid, "stat", arena, &text, NULL) == 0 && proc_parse_stat(text, ret) == 0 && ret->state == 'Z';
}

/* The tree is dead; its zombies go when their parents reap them. Say whose turn it is. */
static void dump_report_zombies(struct dump *d, const pid_t *pids, size_t n)
{
	struct proc_stat stat;
	size_t left = 0, last = 0, gone = 0;

	for (int i = 0; i <= REAP_PATIENCE; i++) {
		while (gone < n && !is_zombie(pids[gone], d->arena, &stat))
			gone++;
		if (gone == n)
			return;
		usleep(REAP_POLL_US);
	}
	for (size_t i = gone; i < n; i++)
		if (is_zombie(pids[i], d->arena, &stat))
			left++, last = i;
	if (left && is_zombie(pids[last], d->arena, &stat))
		d->result->leftovers = left == 1
			? arena_printf(d->arena, "process %d stays a zombie until its parent %d reaps it", pids[last], stat.ppid)
			: arena_printf(d->arena, "%zu processes stay zombies until their parents reap them (process %d: its parent %d)",
				       left, pids[last], stat.ppid);
}

static void dump_end_tree(struct dump *d)
{
	size_t n = d->tree.n;
	pid_t *pids = arena_alloc(d->arena, n * sizeof(*pids));

	for (size_t i = 0; pids && i < n; i++)
		pids[i] = d->tree.tasks[i]->pid;
	target_tree_kill(&d->tree);
	kind_release_kept(&d->collect, true);
	if (pids)
		dump_report_zombies(d, pids, n);
}

/* ---- all of it ---- */

/* What is known of it before, by a parent or by marks, is not to be copied once more. */
static bool dump_goes_ahead(const struct dump *d)
{
	return !d->o->keep_running && !d->o->check_only && !d->live && !d->parent.image;
}

/* Everything that changes nothing: can it be saved, and what is there to save? 1: it is not as it was known. */
static int dump_examine(struct dump *d, struct err *e)
{
	int r;

	if (target_freeze(&d->tree, d->o->pid, d->arena, d->o->timeout_ms, e) < 0)
		return -1;
	log_say(d->o->log, LOG_INFO, "froze %zu task(s) in %.1f ms", d->tree.n,
		(double)(d->tree.frozen_at - d->begun) / MS);
	if (dump_goes_ahead(d))
		ahead_begin(&d->ahead, &d->tree, d->o);
	/* Nobody tracks it; but who did, and was killed, may not be gone yet: what is read from now on would tell of its marks. */
	if (!d->o->keep_running && !d->tracked.n && tracker_await_end(d->o->pid, e) < 0)
		return -1;
	if (!d->live)
		scout_begin(&d->scout, &d->tree);
	if (!d->o->keep_running && d->live && live_adopt_standing(d->live, &d->tree, e) < 0)
		return -1;
	r = dump_collect(d, e);
	scout_end(&d->scout);
	if (r)
		return r;
	if (d->live)
		live_review_early(d->live);
	if (interrupt_check(e) < 0 || dump_check(d, e) < 0 || dump_find_pages(d, e) < 0)
		return -1;
	log_say(d->o->log, LOG_INFO, "collected %zu object(s) and %zu file(s) in %.1f ms; up to %lu bytes of memory to store",
		d->image->n_objects, d->image->n_inodes, (double)(clock_now_ns(CLOCK_MONOTONIC) - d->tree.frozen_at) / MS,
		d->result->bytes);
	return 0;
}

/* It stands until the image is complete, and is ended then. */
static int dump_save(struct dump *d, struct err *e)
{
	/* No file before this, if it watches its folder: it would see that, and have an event to read. */
	if (dump_take_ahead(d, e) < 0 || (!d->writer && dump_new_writer(d, e) < 0) || dump_take_same(d, e) < 0 ||
	    dump_store_pages(d, e) < 0)
		return -1;
	dump_note_pause(d);
	ahead_join(&d->ahead);
	if (interrupt_check(e) < 0 || dump_take_signals(d, e) < 0 || dump_commit(d, e) < 0)
		return -1;
	dump_note_lost_signals(d);
	dump_end_tree(d);
	return 0;
}

/* Let it run on, as if nothing had been. */
static void dump_release(struct dump *d)
{
	kind_release_kept(&d->collect, false);
	target_tree_release(&d->tree);
}

/* An attempt was in vain: the next begins with nothing but what was copied while it ran. */
static int dump_forget(struct dump *d, struct err *e)
{
	bool finished = d->finished;

	live_settle(d->live);
	dump_release(d);
	clones_end(&d->clones);
	inode_table_done(&d->inodes);
	d->inodes = (struct inode_table){ .arena = d->arena, .obstacles = &d->result->obstacles };
	d->result->obstacles = (struct obstacle_list){ .arena = d->arena };
	d->result->n_threads = 0;
	d->result->bytes = 0;
	d->pages_before = 0;
	d->pages_same = 0;
	d->n_sources = 0;
	d->finished = false;
	if (finished)
		return image_writer_reopen(d->writer, e);
	if (d->writer)
		image_writer_forget_runs(d->writer);
	return 0;
}

/*
 * Per GiB, a clone takes 34 ms of the whole memory, and a copy 200 ms or more of what is to be copied. Afterwards the
 * program pays for a clone, page by page as it writes: so it must be worth it.
 */
static bool dump_wants_clones(const struct dump *d)
{
	uint64_t can = clones_count(&d->tree, d->image, d->sources, d->n_sources), all = d->pages_before + d->pages_same + d->result->bytes / MEMORY_PAGE;

	if (d->o->pause != PAUSE_AUTO && d->o->pause != PAUSE_CLONE)
		return false;
	return d->o->pause == PAUSE_CLONE ? can > 0 : can > CLONE_LEAST && can > all / CLONE_SHARE;
}

/*
 * One pause. Returns 1 when it was in vain, because something was not known. All that
 * belongs to the image is read in it: the program need not wait for the disk.
 */
static int dump_pause(struct dump *d, struct err *e)
{
	int r = live_prepare(d->live, e);

	if (r == 0)
		r = dump_examine(d, e);
	if (r)
		return r;
	if ((!d->writer && dump_new_writer(d, e) < 0) || dump_take_same(d, e) < 0)
		return -1;
	if (dump_wants_clones(d) && clones_make(&d->clones, d->arena, &d->tree, d->image, d->sources, e) < 0)
		return -1;
	live_review(d->live);
	if (dump_store_pages(d, e) < 0 || dump_take_signals(d, e) < 0)
		return -1;
	dump_release(d);
	dump_note_pause(d);
	return 0;
}

/*
 * While it is reviewed what was known of the program, the image is written to its end. Not where that may be for nothing and takes
 * long, with clones to be copied first; nor where the program is to be untracked before anybody waits for the disk.
 */
static int dump_finish_early(struct dump *d, struct err *e)
{
	if (!d->o->track || d->clones.n_sources)
		return 0;
	dump_note_live(d);
	return dump_finish(d, e);
}

/* As above, and 1 also when something was not as it was known. */
static int dump_attempt(struct dump *d, struct err *e)
{
	int r = dump_pause(d, e);

	if (r == 0)
		r = dump_finish_early(d, e);
	if (r)
		return r;
	r = live_verify(d->live, e);
	return r < 0 ? r : !r;
}

/* It runs on: most is done while it runs, before the pause. */
static int dump_live(struct dump *d, struct err *e)
{
	struct live live;
	struct image_identity image;
	int r = live_begin(&live, d->o, d->tracked.is_parent ? &d->tracked : NULL, d->arena, e);

	d->live = &live;
	/* A program that watches the folder would have an event to read: then no file is made before the pause. */
	if (r == 0 && !live.watches.folder)
		r = dump_new_writer(d, e);
	if (r == 0)
		r = live_copy(&live, d->writer, &d->parent, e);
	while (r == 0 && (r = dump_attempt(d, e)) == 1)
		r = dump_forget(d, e);
	if (r == 0)
		r = dump_store_clones(d, e);
	if (r == 0 && !d->finished)
		dump_note_live(d);
	clones_end(&d->clones);
	if (!d->o->track)
		live_unwatch(&live);
	if (r == 0)
		r = interrupt_check(e);
	if (r == 0)
		r = dump_commit(d, e);
	if (r == 0 && d->o->track) {
		image_writer_identify(d->writer, &image);
		live_keep_tracking(&live, &image);
	}
	live_end(&live);
	return r;
}

/* It is to be ended, or only looked at. */
static int dump_standing(struct dump *d, struct err *e)
{
	struct live live;
	int r;

	if (d->tracked.n) {
		d->live = &live;
		live_begin_standing(&live, d->o, &d->tracked, d->arena);
	}
	r = dump_examine(d, e);
	if (r == 0 && !d->o->check_only)
		r = dump_save(d, e);
	ahead_done(&d->ahead);
	if (d->live)
		live_end(&live);
	return r;
}

/*
 * What an earlier dump has left to track the program. A dump that lets it run on takes over from the tracker, which has to go before
 * the marks tell of anything else than of its image; any other dump only looks.
 */
static int dump_take_over(struct dump *d, struct err *e)
{
	int r = tracker_find(d->o->pid, d->arena, &d->tracked, e);

	if (r < 0)
		return r;
	if (r == 0) /* of a program that is to be ended, dump_examine() waits, while another thread copies it already */
		return d->o->keep_running ? tracker_await_end(d->o->pid, e) : 0;
	d->tracked.is_parent = d->parent.image && image_is(d->parent.image, &d->tracked.image);
	log_say(d->o->log, LOG_INFO, "process %d keeps track of what it writes since %s", d->tracked.tracker,
		d->tracked.is_parent ? "the parent" : "another image");
	if (!d->o->keep_running)
		return 0;
	for (size_t i = 0; !d->tracked.is_parent && i < d->tracked.n; i++) {
		fd_closep(&d->tracked.tasks[i].uffd);
		d->tracked.tasks[i].uffd = -1;
	}
	r = tracker_end(&d->tracked, e);
	return r < 0 || d->tracked.is_parent ? r : tracker_await_end(d->o->pid, e);
}

/* A program that holds capabilities can only be looked at by one who holds them, too. */
static uint64_t dump_capabilities(const struct dump_options *o, struct arena *arena)
{
	struct proc_status status;
	char *text;

	if (fd_read_proc(o->pid, "status", arena, &text, NULL) < 0 || proc_parse_status(text, arena, &status) < 0)
		return 0;
	return status.cap_prm;
}

/* As many fds as the limit permits: some things are held until the tree is gone. Returns the limit as it was. */
static struct rlimit dump_raise_fd_limit(void)
{
	struct rlimit before, most;

	if (getrlimit(RLIMIT_NOFILE, &before) < 0)
		return (struct rlimit){ 0 };
	most = before;
	most.rlim_cur = most.rlim_max;
	setrlimit(RLIMIT_NOFILE, &most);
	return before;
}

int core_dump(const struct dump_options *o, struct dump_result *result, struct err *e)
{
	struct dump_options own = *o;
	struct dump d = { .o = &own, .result = result, .arena = &result->arena, .begun = clock_now_ns(CLOCK_MONOTONIC),
			  .tracked.link = -1 };
	cleanup_privilege struct privilege p = { 0 };
	struct rlimit files;
	int r;

	*result = (struct dump_result){ .obstacles.arena = &result->arena };
	own.track &= o->keep_running;
	own.packing.automatic &= !o->keep_running; /* packing would take longer than copying, and so would the pause */
	d.inodes = (struct inode_table){ .arena = d.arena, .obstacles = &result->obstacles };
	if (o->pid == getpid() || o->pid == 1)
		return err_set(e, ERR_USAGE, 0, "process %d is %s", o->pid, o->pid == 1 ? "init" : "torpor itself");
	p = privilege_raise(privilege_extra() | dump_capabilities(o, d.arena));
	files = dump_raise_fd_limit();
	r = o->parent && !o->check_only ? parent_open(&d.parent, o->parent, o->path, d.arena, e) : 0;
	if (r == 0)
		r = dump_take_over(&d, e);
	if (r == 0)
		r = o->keep_running ? dump_live(&d, e) : dump_standing(&d, e);
	for (size_t i = 0; r < 0 && i < d.tree.n; i++)
		if (target_blame_ended(&d.tree, d.tree.tasks[i], e))
			break;
	if (!result->frozen_ns && d.tree.frozen_at)
		result->frozen_ns = clock_now_ns(CLOCK_MONOTONIC) - d.tree.frozen_at;
	scout_done(&d.scout);
	kind_release_kept(&d.collect, false);
	target_tree_release(&d.tree);
	tracked_done(&d.tracked);
	image_writer_free(d.writer);
	parent_close(&d.parent);
	inode_table_done(&d.inodes);
	if (files.rlim_max)
		setrlimit(RLIMIT_NOFILE, &files);
	return r;
}

void dump_result_done(struct dump_result *result)
{
	arena_done(&result->arena);
}
