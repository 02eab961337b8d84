/* SPDX-License-Identifier: Apache-2.0 */
#include "core/live.h"

#include "util/clock.h"
#include "util/crew.h"
#include "util/fd.h"
#include "util/interrupt.h"

enum {
	LIVE_SMALL = 8 << 20,       /* bytes that are copied sooner than the tracking begins */
	LIVE_QUICK = 64 << 20,      /* bytes of which smaps tells within a millisecond */
	LIVE_BATCH = 16384,         /* pages that are found at once: they are copied soon after */
	LIVE_FEW = 1024,            /* pages that may be left for the pause: about a millisecond */
	LIVE_ROUNDS = 8,
	LIVE_ATTEMPTS = 3,          /* stops that may be in vain; the next asks smaps itself */
	LIVE_DEAD_SHARE = 4,        /* stop when a quarter of the file is dead */
	LIVE_FRESH_NS = 100000000,  /* what smaps told is as good as new */
};

/* ---- beginning ---- */

static void live_look_at_all_fds(struct live *l)
{
	for (size_t i = 0; i < l->n; i++)
		watches_look(&l->watches, l->tasks[i].track.task.pid, l->o->path);
}

static uint64_t live_rss(struct live *l, pid_t pid)
{
	struct proc_status status;
	char *text;

	return fd_read_proc(pid, "status", l->arena, &text, NULL) == 0 && proc_parse_status(text, l->arena, &status) == 0
		? status.vm_rss : 0;
}

/* What an earlier dump has left of this task; NULL: nothing, or it is of another one that had the PID. */
static struct tracked_task *live_tracked(const struct live *l, const struct target *t)
{
	for (size_t i = 0; l->tracked && i < l->tracked->n; i++)
		if (l->tracked->tasks[i].pid == t->pid && l->tracked->tasks[i].starttime == t->stat.starttime)
			return &l->tracked->tasks[i];
	return NULL;
}

static struct live_task *live_add_task(struct live *l, const struct target *t, struct err *e)
{
	struct live_task *tasks = arena_grow(l->arena, l->tasks, l->n, sizeof(*tasks));

	if (!tasks) {
		err_nomem(e);
		return NULL;
	}
	l->tasks = tasks;
	tasks[l->n] = (struct live_task){ .starttime = t->stat.starttime };
	track_init(&tasks[l->n].track, t->pid);
	return &tasks[l->n++];
}

/* 1: there is nothing to go on with. */
static int live_adopt_task(struct live *l, struct target *t, struct live_task *task, struct err *e)
{
	struct track *track = &task->track;
	struct tracked_task *known = live_tracked(l, t);
	int r = known ? track_adopt(track, t, fd_take(&known->uffd), known->stretches, known->n, e) : 1;

	if (r)
		track_end(track);
	else
		track->bound = l->tracked->is_parent;
	task->recalled = r == 0 ? known->known : (struct vm_area_list){ 0 };
	return r;
}

static int live_begin_task(struct live *l, struct target *t, struct err *e)
{
	struct live_task *task = live_add_task(l, t, e);
	const char *why = "";
	int r;

	if (!task)
		return -1;
	r = memory_find_vdso(t, l->arena, e);
	if (r == 0)
		r = live_adopt_task(l, t, task, e);
	if (r == 1)
		r = track_begin(&task->track, t, &why, e);
	if (r == 1)
		log_say(l->o->log, LOG_INFO, "task %d (%s) is not tracked: %s", t->pid, t->stat.comm, why);
	if (r)
		track_end(&task->track);
	l->tracks |= r == 0;
	return r < 0 ? r : 0;
}

/* Whatever fails with one task will fail again in the pause, where it is told as always. */
static int live_stop(struct live *l, struct err *e)
{
	struct target_tree tree;
	struct err unheard = ERR_INIT;

	if (target_freeze(&tree, l->o->pid, l->arena, l->o->timeout_ms, e) < 0)
		return -1;
	for (size_t i = 0; i < tree.n; i++)
		if (!tree.tasks[i]->zombie && live_begin_task(l, tree.tasks[i], &unheard) < 0)
			break;
	l->watch_ns = clock_now_ns(CLOCK_MONOTONIC) - tree.frozen_at;
	target_tree_release(&tree);
	return 0;
}

/* Without tracking, only of the root is anything known before the pause. */
static int live_begin_root(struct live *l, struct err *e)
{
	const struct target root = { .pid = l->o->pid };

	return live_add_task(l, &root, e) ? 0 : -1;
}

/* Only the memory of the root is asked for: the tree is not known yet, and small roots have small children, as a rule. */
static bool live_wants_tracks(const struct live *l)
{
	if (l->o->track || l->tracked)
		return true;
	return l->o->pause == PAUSE_TRACK || (l->o->pause == PAUSE_AUTO && l->rss >= LIVE_SMALL);
}

int live_begin(struct live *l, const struct dump_options *o, struct tracked *tracked, struct arena *arena, struct err *e)
{
	int r;

	*l = (struct live){ .o = o, .arena = arena, .tracked = tracked };
	l->rss = live_rss(l, o->pid);
	r = live_wants_tracks(l) ? live_stop(l, e) : live_begin_root(l, e);
	live_look_at_all_fds(l);
	return r;
}

void live_begin_standing(struct live *l, const struct dump_options *o, struct tracked *tracked, struct arena *arena)
{
	*l = (struct live){ .o = o, .arena = arena, .tracked = tracked, .asks_inside = true };
}

int live_adopt_standing(struct live *l, const struct target_tree *tree, struct err *e)
{
	for (size_t i = 0; i < tree->n; i++) {
		struct target *t = tree->tasks[i];
		struct live_task *task = t->zombie ? NULL : live_add_task(l, t, e);

		if (t->zombie)
			continue;
		if (!task || memory_find_vdso(t, l->arena, e) < 0 || live_adopt_task(l, t, task, e) < 0)
			return -1;
	}
	return 0;
}

/* ---- copying while it runs ---- */

/* Whoever has ended is not in the tree any more, and nobody will ask. */
static void live_read_smaps(const struct live_task *t, struct arena *arena, struct vm_area_list *ret)
{
	struct err gone = ERR_INIT;

	*ret = (struct vm_area_list){ 0 };
	(void)areas_read_all(t->track.task.pid, "smaps", arena, NULL, ret, &gone);
}

/* What smaps tells before the pause. */
static int live_read_known(struct live *l, struct live_task *t, struct err *e)
{
	live_read_smaps(t, l->arena, &t->known);
	return interrupt_check(e);
}

/*
 * smaps looks at every page. Of a task that was tracked, the flags of its mappings were known when the parent was taken, and will be
 * compared after the pause; which are watched can be told in less time. False: something is new, so smaps it is.
 */
static bool live_recall(struct live *l, struct live_task *t)
{
	struct err unheard = ERR_INIT;

	return t->recalled.n && areas_read_all(t->track.task.pid, "maps", l->arena, NULL, &t->known, &unheard) == 0 &&
	       memory_take_flags(&t->known, &t->recalled) && track_find_watched(&t->track, &t->known) == 0;
}

static int live_watch(struct live *l, struct err *e)
{
	for (size_t i = 0; i < l->n; i++) {
		struct live_task *t = &l->tasks[i];

		if ((!live_recall(l, t) && live_read_known(l, t, e) < 0) || track_watch(&t->track, &t->known, e) < 0)
			return -1;
		track_hide(&t->track, &t->known, false);
	}
	l->known_at = clock_now_ns(CLOCK_MONOTONIC);
	return 0;
}

/*
 * The next pages of all tasks that were written. Memory of one task is copied soon after
 * it was found; that of several in one go, so that what they share is stored once.
 */
static int live_find_written(struct live *l, struct arena *arena, struct page_source *sources, struct err *e)
{
	uint64_t most = l->n == 1 ? LIVE_BATCH : UINT64_MAX;
	int more = 0;

	for (size_t i = 0; i < l->n; i++) {
		struct track *t = &l->tasks[i].track;
		int r = 0;

		sources[i] = (struct page_source){ .owner = IMAGE_OWNER_SPACE(i), .fd = -1, .copies = &t->copies };
		if (t->uffd >= 0)
			r = track_find(t, arena, most, &sources[i], e);
		if (r < 0)
			return r;
		more |= r;
	}
	return more;
}

static void live_note_found(struct live *l, uint64_t pages)
{
	l->found = pages;
	l->found_at = clock_now_ns(CLOCK_MONOTONIC);
}

/* *ret_more: there are further pages. Adds how many there were to *ret_pages. */
static int live_copy_written(struct live *l, bool *ret_more, uint64_t *ret_pages, struct err *e)
{
	struct arena scratch = ARENA_INIT;
	struct page_source *sources = arena_alloc(&scratch, (l->n + 1) * sizeof(*sources));
	struct memory_stats stats = { 0 };
	int r = sources ? live_find_written(l, &scratch, sources, e) : err_nomem(e);

	*ret_more = r > 0;
	for (size_t i = 0; r >= 0 && i < l->n; i++)
		for (size_t k = 0; k < sources[i].n; k++)
			*ret_pages += sources[i].ranges[k].pages;
	if (r >= 0)
		r = memory_store(sources, l->n, l->writer, &l->base, &l->o->packing, NULL, &stats, e);
	l->stored += stats.pages_stored;
	arena_done(&scratch);
	return r < 0 ? r : interrupt_check(e);
}

static int live_round(struct live *l, uint64_t *ret_pages, struct err *e)
{
	bool more = true;

	*ret_pages = 0;
	for (size_t i = 0; i < l->n; i++)
		track_rewind(&l->tasks[i].track);
	while (more)
		if (live_copy_written(l, &more, ret_pages, e) < 0)
			return -1;
	for (size_t i = 0; i < l->n; i++)
		if (copies_settle(&l->tasks[i].track.copies, e) < 0)
			return -1;
	l->rounds++;
	live_note_found(l, *ret_pages);
	live_look_at_all_fds(l);
	return 0;
}

/*
 * Is another round worth it? It makes what it copies again dead in the file, of which no more than a part of
 * the memory may be. *ret_pages: what it would copy.
 */
static bool live_may_copy(struct live *l, uint64_t *ret_pages)
{
	*ret_pages = 0;
	for (size_t i = 0; i < l->n; i++)
		if (l->tasks[i].track.uffd >= 0)
			*ret_pages += track_count(&l->tasks[i].track);
	live_note_found(l, *ret_pages);
	return l->again + *ret_pages < l->first / LIVE_DEAD_SHARE;
}

/* What the parent holds of the tasks, as they are numbered here. */
static int live_find_base(struct live *l, const struct parent *parent, struct err *e)
{
	int32_t *pids = arena_alloc(l->arena, (l->n + 1) * sizeof(*pids));

	if (!pids)
		return err_nomem(e);
	for (size_t i = 0; i < l->n; i++)
		pids[i] = l->tasks[i].track.task.pid;
	return base_of_tasks(&l->base, parent, pids, l->n, l->writer, l->arena, e);
}

/* Nothing is to be copied before the pause. What is written from now on is little, so that marking it takes no time in the pause. */
static int live_mark(struct live *l, struct err *e)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->tasks[i].track.uffd >= 0 && track_mark(&l->tasks[i].track, e) < 0)
			return -1;
	return 0;
}

static bool live_copies(const struct live *l)
{
	return l->writer && !l->watches.direct && (l->o->pause == PAUSE_AUTO || l->o->pause == PAUSE_TRACK);
}

int live_copy(struct live *l, struct image_writer *writer, const struct parent *parent, struct err *e)
{
	uint64_t found, before;

	l->writer = writer;
	if (!l->tracks)
		return 0;
	if (!live_copies(l) && !l->tracked && !l->o->track)
		return 0;
	if (live_watch(l, e) < 0)
		return -1;
	if (!live_copies(l))
		return l->o->track ? live_mark(l, e) : 0;
	if (live_find_base(l, parent, e) < 0)
		return -1;
	if (live_round(l, &l->first, e) < 0)
		return -1;
	for (before = l->first; before > LIVE_FEW && l->rounds < LIVE_ROUNDS && live_may_copy(l, &found); before = found) {
		if (found <= LIVE_FEW || found > before / 2)
			break;
		if (live_round(l, &found, e) < 0)
			return -1;
		l->again += found;
	}
	log_say(l->o->log, LOG_INFO, "copied %lu pages while it ran, and %lu again in %u rounds", l->first, l->again, l->rounds - 1);
	return 0;
}

/* ---- around the pause ---- */

/* What smaps has just told of all mappings need not be asked once more. */
static bool live_knows(const struct live *l)
{
	return l->known_at && clock_now_ns(CLOCK_MONOTONIC) - l->known_at < LIVE_FRESH_NS;
}

static int live_learn(struct live *l, struct err *e)
{
	for (size_t i = 0; i < l->n; i++) {
		struct live_task *t = &l->tasks[i];

		if (live_read_known(l, t, e) < 0)
			return -1;
		track_hide(&t->track, &t->known, false);
	}
	return 0;
}

/* To look once more takes as long as to copy a few pages in the pause. */
static bool live_has_just_looked(const struct live *l)
{
	return l->found <= LIVE_FEW && clock_now_ns(CLOCK_MONOTONIC) - l->found_at < LIVE_FRESH_NS;
}

int live_prepare(struct live *l, struct err *e)
{
	uint64_t found;

	l->attempts++;
	if (l->rss < LIVE_QUICK || l->attempts > LIVE_ATTEMPTS)
		l->asks_inside = true;
	if (!l->asks_inside && !live_knows(l) && live_learn(l, e) < 0)
		return -1;
	l->known_at = 0;
	if (!l->rounds || live_has_just_looked(l) || !live_may_copy(l, &found) || found <= LIVE_FEW)
		return 0;
	if (live_round(l, &found, e) < 0)
		return -1;
	l->again += found;
	return 0;
}

static struct live_task *live_find(const struct live *l, pid_t pid)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->tasks[i].track.task.pid == pid)
			return &l->tasks[i];
	return NULL;
}

void live_known(struct live *l, pid_t pid, const struct vm_area_list **ret_known, const struct track **ret_track)
{
	struct live_task *t = live_find(l, pid);

	*ret_known = t && !l->asks_inside ? &t->known : NULL;
	*ret_track = t ? &t->track : NULL;
}

void live_saw(struct live *l, pid_t pid, const struct vm_area_list *areas)
{
	struct live_task *t = live_find(l, pid);

	if (t)
		t->seen = *areas;
}

const struct track *live_track(const struct live *l, pid_t pid)
{
	const struct live_task *t = live_find(l, pid);

	return t && t->track.uffd >= 0 && (l->rounds || t->track.bound || l->o->track) ? &t->track : NULL;
}

bool live_distrusts(const struct live *l)
{
	return l->watches.direct;
}

/* ---- the search for pages ---- */

/*
 * What is written behind our back, by who is not in the tree, is not lost: pages that were not found keep no mark, and those that were
 * marked here are read later, as they are known not to be copied.
 */
static int live_search_now(struct live_search *s)
{
	int r = memory_find_pages(&s->arena, s->task, s->space, s->owner, &s->found, s->watched ? &s->kept : NULL, &s->err);

	return r == 0 && s->mark ? track_mark_found(s->mark, &s->found, &s->err) : r;
}

static void *live_search_run(void *arg)
{
	struct live_search *s = arg;

	s->result = live_search_now(s);
	return NULL;
}

/* The kernel looks at a GiB for some milliseconds; what the tasks are asked meanwhile takes as long. */
static void live_search_prepare(struct live *l, struct live_task *t, const struct target *task, Pb__AddressSpace *space, uint32_t owner)
{
	t->search.task = task;
	t->search.space = space;
	t->search.owner = owner;
	t->search.watched = live_track(l, task->pid) != NULL;
	t->search.mark = l->o->track && t->track.uffd >= 0 ? &t->track : NULL;
	t->search.err = ERR_INIT;
}

void live_search(struct live *l, const struct target *task, Pb__AddressSpace *space, uint32_t owner)
{
	struct live_task *t = l->rss < LIVE_QUICK ? NULL : live_find(l, task->pid);

	if (!t)
		return;
	live_search_prepare(l, t, task, space, owner);
	t->search.runs = crew_thread(&t->search.thread, live_search_run, &t->search) == 0;
}

int live_find_pages(struct live *l, const struct target *task, Pb__AddressSpace *space, uint32_t owner,
		    struct page_source *ret_found, struct page_source *ret_kept, struct err *e)
{
	struct live_task *t = live_find(l, task->pid);

	if (!t)
		return memory_find_pages(l->arena, task, space, owner, ret_found, NULL, e);
	if (t->search.runs) {
		pthread_join(t->search.thread, NULL);
	} else {
		live_search_prepare(l, t, task, space, owner);
		t->search.result = live_search_now(&t->search);
	}
	t->search.runs = false;
	if (t->search.result < 0)
		*e = t->search.err;
	*ret_found = t->search.found;
	*ret_kept = t->search.kept;
	return t->search.result;
}

/* ---- was it as it was known? ---- */

/*
 * Each line was true when it was read, which is when the tasks stood, or later. So one reading is as good as two: one of all that stands,
 * and one of all that runs again.
 */
static void *live_review_run(void *arg)
{
	struct live *l = arg;

	for (size_t i = 0; i < l->n; i++)
		if (l->tasks[i].seen.n) /* else it was not there any more */
			live_read_smaps(&l->tasks[i], &l->review.arena, &l->tasks[i].after);
	return NULL;
}

void live_review(struct live *l)
{
	if (l->review.runs || l->asks_inside)
		return;
	arena_done(&l->review.arena);
	l->review.runs = crew_thread(&l->review.thread, live_review_run, l) == 0;
}

void live_review_early(struct live *l)
{
	if (l->rounds && l->found <= LIVE_FEW && l->o->pause != PAUSE_CLONE)
		live_review(l);
}

static void live_review_end(struct live *l)
{
	if (l->review.runs)
		pthread_join(l->review.thread, NULL);
	l->review.runs = false;
}

int live_verify(struct live *l, struct err *e)
{
	if (l->asks_inside)
		return 1;
	if (!l->review.runs)
		live_review_run(l); /* there was no thread to be had */
	live_review_end(l);
	for (size_t i = 0; !l->asks_inside && i < l->n; i++) {
		struct live_task *t = &l->tasks[i];

		track_hide(&t->track, &t->after, false);
		l->asks_inside = t->seen.n && !memory_same_flags(&t->seen, &t->after);
	}
	return interrupt_check(e) < 0 ? -1 : !l->asks_inside;
}

void live_settle(struct live *l)
{
	live_review_end(l);
	for (size_t i = 0; i < l->n; i++)
		if (l->tasks[i].search.runs)
			pthread_join(l->tasks[i].search.thread, NULL);
	for (size_t i = 0; i < l->n; i++)
		l->tasks[i].search.runs = false;
}

enum pause_way live_way(const struct live *l)
{
	return l->rounds && !l->watches.direct ? PAUSE_TRACK : PAUSE_COPY;
}

/* Of those that were in the image; who was born since is not tracked. */
void live_keep_tracking(struct live *l, const struct image_identity *image)
{
	struct tracked t = { .link = -1, .image = *image };
	struct err e = ERR_INIT;
	const char *why = "";
	int r = 0;

	t.tasks = arena_alloc(l->arena, (l->n + 1) * sizeof(*t.tasks));
	for (size_t i = 0; t.tasks && i < l->n; i++) {
		const struct live_task *of = &l->tasks[i];

		if (of->track.uffd >= 0 && of->seen.n)
			t.tasks[t.n++] = (struct tracked_task){ of->track.task.pid, of->starttime, of->track.uffd, of->track.stretches,
								of->track.n, of->seen };
	}
	if (t.n)
		r = tracker_begin(l->o->pid, &t, &why, &e);
	if (!t.n || r)
		log_say(l->o->log, LOG_INFO, "what the program writes is not tracked any more: %s",
			r < 0 ? e.text : t.n ? why : "no task can be");
}

void live_unwatch(struct live *l)
{
	for (size_t i = 0; i < l->n; i++)
		track_end(&l->tasks[i].track);
}

void live_end(struct live *l)
{
	live_settle(l);
	live_unwatch(l);
	for (size_t i = 0; i < l->n; i++)
		arena_done(&l->tasks[i].search.arena);
	arena_done(&l->review.arena);
	l->n = 0;
}
