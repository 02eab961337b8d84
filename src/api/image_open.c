/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Opening an image to look at it. A damaged one is opened on request, as far as it can be read: so whatever fills the
 * lists here checks every index itself.
 */

#include <stdlib.h>

#include "api/image.h"
#include "core/objects.h"
#include "kinds/kind.h"
#include "proc/maps.h"

/* Runs of pages of an owner, counted. */
static uint64_t run_bytes(const struct image_run *run, uint64_t start, uint64_t end)
{
	uint64_t from = run->addr, to = run->addr + (uint64_t)run->pages * IMAGE_PAGE;

	if (from < start)
		from = start;
	if (to > end)
		to = end;
	return from < to ? to - from : 0;
}

static long index_or_none(bool present, uint32_t index, size_t n)
{
	return present && index < n ? (long)index : -1;
}

/* ---- memory ---- */

static enum torpor_memory memory_of(const Pb__Mapping *m)
{
	switch (m->kind) {
	case PB__MAPPING_KIND__ANON:
		return m->prot ? TORPOR_ANONYMOUS : TORPOR_RESERVED;
	case PB__MAPPING_KIND__FILE_PRIVATE:
		return TORPOR_PRIVATE_FILE;
	case PB__MAPPING_KIND__FILE_SHARED:
		return TORPOR_SHARED;
	default:
		return TORPOR_KERNEL;
	}
}

/* Runs and mappings both ascend. */
static bool fill_space(struct torpor_image *v, uint32_t space)
{
	const Pb__AddressSpace *s = v->meta->spaces[space];
	struct torpor_mapping *list = arena_alloc(&v->arena, (s->n_mappings + 1) * sizeof(*list));
	size_t n, first = 0;
	const struct image_run *runs = image_runs_of(v->image, IMAGE_OWNER_SPACE(space), &n);

	for (size_t i = 0; list && i < s->n_mappings; i++) {
		const Pb__Mapping *m = s->mappings[i];

		list[i] = (struct torpor_mapping){ .start = m->start, .end = m->end, .prot = m->prot,
						   .shared = !!(m->flags & VM_FLAG_SHARED), .memory = memory_of(m),
						   .inode = index_or_none(m->has_inode, m->inode, v->meta->n_inodes),
						   .flags = m->flags, .offset = m->offset, .name = m->name };
		while (first < n && runs[first].addr + (uint64_t)runs[first].pages * IMAGE_PAGE <= m->start)
			first++;
		for (size_t k = first; k < n && runs[k].addr < m->end; k++)
			list[i].stored_bytes += run_bytes(&runs[k], m->start, m->end);
		v->spaces[space].stored_bytes += list[i].stored_bytes;
	}
	v->spaces[space].mappings = s->n_mappings;
	v->mappings[space] = list;
	return list;
}

static bool fill_spaces(struct torpor_image *v)
{
	v->spaces = arena_alloc(&v->arena, (v->meta->n_spaces + 1) * sizeof(*v->spaces));
	v->mappings = arena_alloc(&v->arena, (v->meta->n_spaces + 1) * sizeof(*v->mappings));
	if (!v->spaces || !v->mappings)
		return false;
	for (uint32_t i = 0; i < v->meta->n_spaces; i++)
		if (!fill_space(v, i))
			return false;
	return true;
}

static enum torpor_inode_kind inode_kind_of(const Pb__Inode *pb)
{
	switch (pb->kind) {
	case PB__INODE_KIND__UNLINKED:
		return TORPOR_UNLINKED;
	case PB__INODE_KIND__MEMFD:
		return TORPOR_MEMFD;
	case PB__INODE_KIND__SHARED_ANON:
		return TORPOR_SHARED_ANONYMOUS;
	case PB__INODE_KIND__SYSV_SHM:
		return TORPOR_SEGMENT;
	default:
		return TORPOR_FILE;
	}
}

static bool fill_inodes(struct torpor_image *v)
{
	v->inodes = arena_alloc(&v->arena, (v->meta->n_inodes + 1) * sizeof(*v->inodes));
	for (uint32_t i = 0; v->inodes && i < v->meta->n_inodes; i++) {
		const Pb__Inode *pb = v->meta->inodes[i];
		size_t n;
		const struct image_run *runs = image_runs_of(v->image, IMAGE_OWNER_INODE(i), &n);

		v->inodes[i] = (struct torpor_inode){ .kind = inode_kind_of(pb), .path = pb->path, .dev = pb->dev, .ino = pb->ino,
						      .size = pb->size, .mode = pb->mode, .has_content = pb->has_content,
						      .key = pb->shm_key, .removed = pb->shm_removed,
						      .external = pb->shm_external };
		for (size_t k = 0; k < n; k++)
			v->inodes[i].stored_bytes += (uint64_t)runs[k].pages * IMAGE_PAGE;
	}
	return v->inodes;
}

/* ---- tasks ---- */

static bool fill_threads_and_slots(struct torpor_image *v, size_t task)
{
	const Pb__Task *t = v->meta->tasks[task];
	struct torpor_thread *threads = arena_alloc(&v->arena, (t->n_threads + 1) * sizeof(*threads));
	struct torpor_slot *slots = arena_alloc(&v->arena, (t->n_slots + 1) * sizeof(*slots));

	if (!threads || !slots)
		return false;
	for (size_t i = 0; i < t->n_threads; i++)
		threads[i] = (struct torpor_thread){ t->threads[i]->tid, t->threads[i]->comm };
	for (size_t i = 0; i < t->n_slots; i++)
		slots[i] = (struct torpor_slot){ (int)t->slots[i]->fd, index_or_none(true, t->slots[i]->object, v->meta->n_objects),
						 t->slots[i]->cloexec };
	v->threads[task] = threads;
	v->slots[task] = slots;
	v->info.threads += t->n_threads;
	return true;
}

static enum torpor_task_state state_of(const Pb__Task *t)
{
	return t->state == PB__TASK_STATE__ZOMBIE ? TORPOR_ZOMBIE :
	       t->state == PB__TASK_STATE__STOPPED ? TORPOR_STOPPED : TORPOR_RUNNING;
}

static bool fill_tasks(struct torpor_image *v)
{
	size_t n = v->meta->n_tasks;

	v->tasks = arena_alloc(&v->arena, (n + 1) * sizeof(*v->tasks));
	v->threads = arena_alloc(&v->arena, (n + 1) * sizeof(*v->threads));
	v->slots = arena_alloc(&v->arena, (n + 1) * sizeof(*v->slots));
	if (!v->tasks || !v->threads || !v->slots)
		return false;
	for (size_t i = 0; i < n; i++) {
		const Pb__Task *t = v->meta->tasks[i];
		long space = index_or_none(t->has_space, t->space, v->meta->n_spaces);

		v->tasks[i] = (struct torpor_task){ .pid = t->pid, .ppid = t->ppid, .pgid = t->pgid, .sid = t->sid,
						    .state = state_of(t), .exit_status = t->exit_status,
						    .stop_signal = (int)t->stop_signal, .comm = t->comm, .cmdline = t->cmdline,
						    .cwd = t->cwd ? t->cwd->path : NULL, .threads = t->n_threads,
						    .slots = t->n_slots, .space = space,
						    .stored_bytes = space < 0 ? 0 : v->spaces[space].stored_bytes };
		if (!fill_threads_and_slots(v, i))
			return false;
	}
	return true;
}

/* ---- System V ---- */

/* How many tasks have something to undo on this set. */
static size_t count_undo(const Pb__Image *meta, int id)
{
	size_t n = 0;

	for (size_t i = 0; i < meta->n_tasks; i++) {
		bool undoes = false;

		for (size_t k = 0; k < meta->tasks[i]->n_semaphore_uses; k++)
			undoes |= meta->tasks[i]->semaphore_uses[k]->id == id && meta->tasks[i]->semaphore_uses[k]->adjust;
		n += undoes;
	}
	return n;
}

static bool fill_ipc(struct torpor_image *v)
{
	const Pb__Image *meta = v->meta;

	v->semaphores = arena_alloc(&v->arena, (meta->n_semaphore_sets + 1) * sizeof(*v->semaphores));
	v->queues = arena_alloc(&v->arena, (meta->n_sysv_queues + 1) * sizeof(*v->queues));
	if (!v->semaphores || !v->queues)
		return false;
	for (size_t i = 0; i < meta->n_semaphore_sets; i++) {
		const Pb__SemaphoreSet *pb = meta->semaphore_sets[i];

		v->semaphores[i] = (struct torpor_ipc){ (int)pb->id, (unsigned)pb->key, pb->mode, pb->n_values,
							count_undo(meta, (int)pb->id) };
	}
	for (size_t i = 0; i < meta->n_sysv_queues; i++) {
		const Pb__SysvQueue *pb = meta->sysv_queues[i];

		v->queues[i] = (struct torpor_ipc){ (int)pb->id, (unsigned)pb->key, pb->mode, pb->n_messages, 0 };
	}
	return true;
}

/* ---- objects ---- */

/* For each object, the slots that refer to it. Two passes: count, then place. */
static bool fill_holders(struct torpor_image *v)
{
	const Pb__Image *meta = v->meta;
	size_t *next = arena_alloc(&v->arena, (meta->n_objects + 2) * sizeof(*next));
	size_t total = 0;

	if (!next)
		return false;
	for (size_t i = 0; i < meta->n_tasks; i++)
		for (size_t k = 0; k < meta->tasks[i]->n_slots; k++, total++)
			if (meta->tasks[i]->slots[k]->object < meta->n_objects)
				next[meta->tasks[i]->slots[k]->object + 1]++;
	for (size_t i = 0; i < meta->n_objects; i++)
		next[i + 1] += next[i];
	v->first_holder = arena_memdup(&v->arena, next, (meta->n_objects + 1) * sizeof(*next));
	v->holders = arena_alloc(&v->arena, (total + 1) * sizeof(*v->holders));
	if (!v->first_holder || !v->holders)
		return false;
	for (size_t i = 0; i < meta->n_tasks; i++) {
		for (size_t k = 0; k < meta->tasks[i]->n_slots; k++) {
			const Pb__Slot *s = meta->tasks[i]->slots[k];

			if (s->object < meta->n_objects)
				v->holders[next[s->object]++] = (struct torpor_holder){ i, (int)s->fd };
		}
	}
	return true;
}

static bool fill_objects(struct torpor_image *v)
{
	size_t n = v->meta->n_objects;

	v->objects = arena_alloc(&v->arena, (n + 1) * sizeof(*v->objects));
	v->descriptions = arena_alloc(&v->arena, (n + 1) * sizeof(*v->descriptions));
	if (!v->objects || !v->descriptions || !fill_holders(v))
		return false;
	for (size_t i = 0; i < n; i++) {
		const Pb__Object *o = v->meta->objects[i];

		v->objects[i] = (struct torpor_object){ .kind = api_image_kind(o),
							.holders = v->first_holder[i + 1] - v->first_holder[i],
							.state = o->body.data, .state_size = o->body.len };
	}
	return true;
}

/* ---- all of it ---- */

static void fill_phases(struct torpor_image *v)
{
	static const char *const keys[] = {
		[IMAGE_PHASE_READ] = "read_ns",
		[IMAGE_PHASE_FILES] = "files_ns",
		[IMAGE_PHASE_TASKS] = "tasks_ns",
		[IMAGE_PHASE_FINISH] = "finish_ns",
	};
	struct image_timing t;

	if (!image_timing_read(v->image->fd, &t))
		return;
	v->info.restored_ns = (int64_t)t.realtime_ns;
	for (int i = 0; i < IMAGE_PHASES; i++)
		v->phases[i] = (struct torpor_phase){ keys[i], image_phase_name((enum image_phase)i), t.phase_ns[i] };
}

/* Where the pages stand, and in how many files. */
static void fill_chain(struct torpor_image *v)
{
	const struct image *img = v->image;

	for (size_t i = 0; i < img->n_runs; i++) {
		uint64_t bytes = (uint64_t)img->runs[i].pages * IMAGE_PAGE;

		v->info.counted_bytes += bytes;
		if (img->extents[img->runs[i].extent].codec == IMAGE_CODEC_PARENT)
			v->info.parent_bytes += bytes;
	}
	for (size_t i = 0; i < img->n_extents; i++) {
		if (img->extents[i].codec == IMAGE_CODEC_PARENT)
			continue;
		v->info.own_bytes += img->extents[i].size;
		v->info.packed_bytes += img->extents[i].stored;
	}
	v->info.parent = img->parent_path;
	for (; img; img = img->parent)
		v->info.chain++;
}

static void fill_pause(struct torpor_image_info *info, const Pb__DumpStats *s)
{
	static const char *const ways[] = {
		[PB__PAUSE_WAY__PAUSE_COPY] = "copy", [PB__PAUSE_WAY__PAUSE_TRACK] = "track", [PB__PAUSE_WAY__PAUSE_CLONE] = "clone",
	};

	if (!s->has_way || (unsigned)s->way >= sizeof(ways) / sizeof(ways[0]))
		return;
	info->pause = ways[s->way];
	info->before_bytes = s->pages_before * IMAGE_PAGE;
	info->paused_bytes = s->pages_paused * IMAGE_PAGE;
	info->after_bytes = s->pages_after * IMAGE_PAGE;
	info->dead_bytes = s->pages_dead * IMAGE_PAGE;
}

static void fill_info(struct torpor_image *v)
{
	const Pb__Machine *m = v->meta->machine;
	const Pb__DumpStats *s = v->meta->stats;

	v->info = (struct torpor_image_info){
		.path = v->image->path, .bytes = v->image->size, .metadata_bytes = v->image->meta_size,
		.extents = v->image->n_extents, .runs = v->image->n_runs,
		.tasks = v->meta->n_tasks, .spaces = v->meta->n_spaces, .objects = v->meta->n_objects,
		.inodes = v->meta->n_inodes, .semaphores = v->meta->n_semaphore_sets, .queues = v->meta->n_sysv_queues,
		.torpor_version = m->torpor_version, .arch = m->arch, .kernel = m->kernel_release, .hostname = m->hostname,
		.boot_id = m->boot_id, .name = m->name, .uid = m->has_uid ? (int64_t)m->uid : -1,
		.realtime_ns = m->realtime_ns, .monotonic_ns = m->monotonic_ns, .has_stats = s != NULL,
	};
	fill_chain(v);
	fill_phases(v);
	if (!s)
		return;
	v->info.total_ns = s->total_ns;
	v->info.frozen_ns = s->frozen_ns;
	v->info.collect_ns = s->collect_ns;
	v->info.memory_ns = s->memory_ns;
	v->info.stored_bytes = s->pages_stored * IMAGE_PAGE;
	v->info.zero_bytes = s->pages_zero * IMAGE_PAGE;
	v->info.unread_bytes = s->pages_unread * IMAGE_PAGE;
	fill_pause(&v->info, s);
}

/* What core_open() refused: metadata that does not agree with itself can still be looked at. */
static int image_open_damaged(struct torpor_image *v, const char *path, struct err *e)
{
	const struct err damage = *e;

	*e = ERR_INIT;
	if (image_salvage(&v->image, path, e) < 0) {
		v->image = NULL;
		*e = damage;
		return -1;
	}
	v->arena.limit = v->arena.used + 64 * (v->image->meta_size + 4096);
	v->meta = (Pb__Image *)pb_unpack(&v->arena, &pb__image__descriptor, v->image->meta, v->image->meta_size);
	v->arena.limit = 0;
	if (!v->meta) {
		*e = damage;
		return -1;
	}
	v->damage = api_error_new(&damage);
	return v->damage ? 0 : err_nomem(e);
}

static int image_open_any(struct torpor_image *v, const char *path, unsigned flags, struct err *e)
{
	enum core_verify verify = flags & TORPOR_OPEN_VERIFY ? VERIFY_PAGES : VERIFY_NONE;
	const char *copy = arena_strdup(&v->arena, path);
	int r = copy ? core_open(copy, verify, &v->arena, &v->image, &v->meta, e) : err_nomem(e);

	if (r < 0)
		v->image = NULL; /* closed already */
	if (r < 0 && copy && flags & TORPOR_OPEN_SALVAGE && e->reason == ERR_IMAGE)
		r = image_open_damaged(v, copy, e);
	if (r < 0)
		return r;
	v->verified = verify == VERIFY_PAGES && !v->damage;
	fill_info(v);
	return fill_spaces(v) && fill_inodes(v) && fill_tasks(v) && fill_ipc(v) && fill_objects(v) ? 0 : err_nomem(e);
}

int api_image_open(const char *path, unsigned flags, struct torpor_image **ret, struct err *e)
{
	struct torpor_image *v = calloc(1, sizeof(*v));
	int r = v ? image_open_any(v, path, flags, e) : err_nomem(e);

	if (r < 0)
		torpor_image_close(v);
	else
		*ret = v;
	return r;
}
