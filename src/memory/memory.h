/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Address spaces: which mappings there are, which pages are worth storing,
 * how they get into the image and back.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image/codec.h"
#include "image/image.h"
#include "image/pb.h"
#include "inode/inode.h"
#include "memory/areas.h"
#include "memory/copies.h"
#include "proc/maps.h"
#include "target/script.h"
#include "target/target.h"
#include "util/err.h"
#include "util/obstacle.h"
#include "util/progress.h"

enum { MEMORY_PAGE = 4096 };

/* A program has none from here on, unless it asks for them by name (Documentation/arch/x86/x86_64/5level-paging.rst). */
#define MEMORY_ADDRESSES 0x7ffffffff000ull

/* ---- dump ---- */

struct track;

struct memory_collect {
	struct arena *arena;
	struct obstacle_list *obstacles;
	struct inode_table *inodes;
	const struct vm_area_list *known; /* what smaps told of it shortly before; NULL: ask now, 15 ms per GiB of memory */
	const struct vm_area_list *now;   /* what smaps tells of it, since it stands; NULL: ask */
	struct areas_told *told;          /* who listens to what smaps tells now; NULL: nobody */
	const struct track *track;        /* of this task; NULL: it is not tracked */
	struct vm_area_list areas;        /* out: all mappings of the task that was collected last */
};

/*
 * Everything about a task's address space but the pages (collect.c). Also finds
 * task->vdso and task->alone. Returns 1 when it has a mapping that is not among those known.
 */
int memory_collect(struct memory_collect *c, struct target *task, Pb__AddressSpace **ret, struct err *e);

/*
 * The flags of mappings, which only smaps shows, from what it told at another time
 * (flags.c). A mapping is known when one like it was there, or a part of it. False
 * when one is not, or when it had several flags.
 */
bool memory_take_flags(struct vm_area_list *areas, const struct vm_area_list *known);

/* Had all mappings that were collected the same flags at that other time? */
bool memory_same_flags(const struct vm_area_list *areas, const struct vm_area_list *known);

/* Find task->vdso alone. */
int memory_find_vdso(struct target *task, struct arena *arena, struct err *e);

/* Why a mapping cannot be saved: an id, with what it is and what would help; NULL: it can be. */
const char *memory_obstacle(const struct vm_area *a, const char **ret_what, const char **ret_help);

/* XXH3-64 of the [vdso] pages of this very process, as the kernel supplied them. */
int memory_vdso_hash(uint64_t *ret, struct err *e);

/* A stretch of pages to store. */
struct page_range {
	uint64_t addr;  /* in the owner: what the image will say */
	uint64_t from;  /* where it is read: address in the target, or offset in the file */
	uint64_t pages;
	const struct target *task; /* whose memory it is read from; NULL: from the source's file */
	bool keep_zero; /* zero pages count too: something else lies beneath them */
	bool alone;     /* nobody but the task maps them */
};

/* The pages of one owner, and where they are read from. */
struct page_source {
	uint32_t owner; /* IMAGE_OWNER_* */
	int fd;         /* what the ranges without a task are read from; -1: there are none */
	struct page_range *ranges;
	size_t n;
	struct page_copies *copies; /* where it is noted what was stored; NULL: in the image */
};

/* Add a range at the end; -1 when out of memory. */
int page_source_add(struct arena *arena, struct page_source *s, const struct page_range *range, struct err *e);

/*
 * Find the private pages of a task that differ from what a fresh mapping would hold
 * (pages.c). With `kept`, those that are watched (track.h) and were not written since they
 * were found written last go there.
 */
int memory_find_pages(struct arena *arena, const struct target *task, Pb__AddressSpace *space, uint32_t owner,
		      struct page_source *ret, struct page_source *kept, struct err *e);

/* The content of an inode that must be stored. */
int memory_find_inode_pages(struct arena *arena, struct inode_entry *inode, uint32_t owner, struct page_source *ret,
			    struct err *e);

/* As above, for an inode that cannot be opened: through the mappings of it (windows.c). Also finds its size. */
int memory_find_window_pages(struct arena *arena, struct inode_entry *inode, struct page_source *s, struct err *e);

struct memory_stats {
	uint64_t pages_stored, pages_zero;
	uint64_t pages_parent; /* not stored: the parent has them */
};

/*
 * Copy all the sources' pages into the image, packed as `packing` says, on all CPUs (store.c); those that `base` has are
 * only referred to (base.h).
 */
struct base;
int memory_store(const struct page_source *sources, size_t n, struct image_writer *w, const struct base *base,
		 const struct image_packing *packing, const struct progress *progress, struct memory_stats *ret, struct err *e);

/* What one thread stores, and another helps it to finish. */
struct store_job;
struct memory_shared {
	pthread_mutex_t lock;
	pthread_cond_t left;   /* nobody helps any more */
	struct store_job *job; /* what is being stored; NULL: nothing just now */
	unsigned helpers;
	atomic_bool enough;    /* nothing more is to be begun; set under the lock */
	atomic_bool abandoned; /* what has been begun need not be finished */
};

#define MEMORY_SHARED_INIT { .lock = PTHREAD_MUTEX_INITIALIZER, .left = PTHREAD_COND_INITIALIZER }

/*
 * As above, of one source, by this thread and whoever helps; nothing if there is enough. What was copied is noted in its
 * `copies`.
 */
int memory_store_shared(struct memory_shared *shared, const struct page_source *source, struct image_writer *w,
			const struct image_packing *packing, struct memory_stats *ret, struct err *e);

/* In another thread: there is enough. Help with what is being stored, until no piece of it is left to take. */
void memory_help(struct memory_shared *shared);

/* In another thread: stop. What is stored by then may be anything. */
void memory_abandon(struct memory_shared *shared);

/* Pages that are copied while smaps is read (ahead.c). */
struct memory_ahead {
	struct memory_shared shared;
	struct areas_told told; /* by who reads smaps meanwhile, if it is read */
	struct page_copies copies;
	struct memory_stats stats;
};

void memory_ahead_init(struct memory_ahead *a);
void memory_ahead_done(struct memory_ahead *a);

/*
 * Copy private anonymous memory of a stopped task, of which nothing is known, until there is enough (memory_help()); not
 * being able to is no failure. Nobody but who traces it may write to its memory, nor share it with it.
 */
int memory_copy_ahead(struct memory_ahead *a, const struct target *task, struct image_writer *w,
		      const struct image_packing *packing, struct err *e);

/*
 * Of the pages that were found, those that were copied ahead need not be read: they become runs of `owner`, and leave `s`.
 * *ret_pages is how many are stored.
 */
int memory_take_ahead(struct memory_ahead *a, struct image_writer *w, uint32_t owner, struct arena *arena,
		      struct page_source *s, uint64_t *ret_pages, struct err *e);

/* ---- restore: all of it inside the task that is being made ---- */

/* Mappings that stand side by side, as one. */
struct memory_stretch {
	uint32_t first, end; /* indices of mappings */
};

struct memory_load {
	struct arena *arena;
	const struct image *image;
	const struct inode_restore *inodes;
	const Pb__AddressSpace *space;
	const struct image_run *runs; /* what is to be loaded; ascending */
	size_t n_runs;
	_Atomic uint64_t *loaded; /* how many bytes have been loaded; others read it meanwhile */
	const bool *settable_exes; /* memory_settable_exes(); NULL: /proc/PID/exe cannot be set, and stays as it is */
	bool one_thread; /* make no others: each would use up a PID */
	bool maps_vdso;  /* arch_can_map_vdso() */
	struct help *help; /* who may help with loading, and cannot know whether it is wanted (help.h); NULL: nobody */
	bool verifies;   /* nobody has compared the checksums of what is to be loaded before */
	struct region region;
	uint64_t *place; /* for each mapping: where it stands until the switch; 0: nowhere yet. May be NULL before memory_reserve() */
	bool *settled;   /* for each mapping: it was placed with its final protection; NULL before memory_place() */
	bool *early;     /* for the first mapping of each stretch: it is settled already; NULL before memory_place() */
	struct memory_stretch *stretches; /* for each mapping: what was placed together with it; NULL before memory_place() */
	const struct vm_area_list *born_with; /* what this process was born with, as read by who made it; NULL: not known */
	struct vm_area_list own; /* what this process had mapped, by memory_reserve() */
};

/*
 * Choose a region that neither the current nor the saved address space uses, and
 * map it, with room for so many steps of the leader's script, memory_switch_ops() included, and `data_size` bytes for all
 * else that is put into it. Nothing may map memory between this and memory_place().
 */
int memory_reserve(struct memory_load *m, size_t steps, uint64_t data_size, struct err *e);

/*
 * Map every saved mapping that has no place yet: at its final address where that is free now, else parked in the region.
 * Neighbours that only differ in protection are a stretch: they are placed together, as one mapping, until
 * they are settled.
 */
int memory_place(struct memory_load *m, struct err *e);

/* The stretch that this mapping belongs to: it alone, where it was placed alone. */
struct memory_stretch memory_stretch_of(const struct memory_load *m, uint32_t mapping);

/* Map one of them there. 0, -EEXIST where something is in the way, or negative; `e` may be set. */
int memory_map(struct memory_load *m, const Pb__Mapping *map, uint64_t at, struct err *e);

/* It could not be mapped, which `number` (-errno) says: `e` says which, and whose limit that may be. Returns negative. */
int memory_map_failed(const Pb__Mapping *map, int number, struct err *e);

/*
 * For each inode: can it become what /proc/PID/exe leads to, in this process and in all that it makes? Only for those that
 * are the executable of an address space; their fds are open. In the arena; NULL: no memory.
 */
bool *memory_settable_exes(const Pb__Image *image, const struct inode_restore *inodes, struct arena *arena);

/* What this process has mapped. */
int memory_own_areas(struct arena *arena, struct vm_area_list *ret, struct err *e);

/* A place for it where nothing is mapped now, nor in any of these address spaces. Aligned like its own. */
int memory_find_room(struct memory_load *m, const Pb__AddressSpace *const *spaces, size_t n, const Pb__Mapping *map,
		     uint64_t *ret, struct err *e);

/* Give the stretch that this mapping belongs to its advice, and each of its mappings its final protection and locks. */
int memory_settle_stretch(struct memory_load *m, uint32_t mapping, struct err *e);

/* Verify the stored pages, and fill the mappings with them (fill.c). Some stretches are settled before. */
int memory_fill(struct memory_load *m, struct err *e);

/* Settle all stretches that are not settled yet. */
int memory_settle(struct memory_load *m, struct err *e);

/* How many script steps memory_switch() may append. */
size_t memory_switch_ops(const struct memory_load *m);

/* Append the steps that take the old address space down and put the saved one in place. */
int memory_switch(struct memory_load *m, struct script_builder *b, struct err *e);
