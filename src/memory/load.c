/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An address space made again, in two steps.
 *
 * In ordinary C, inside the task that is being made, every saved mapping is
 * placed: at its final address where nothing of ours is in the way (the usual
 * case), else parked in the region; then it is filled, protected and advised. All
 * that can fail for want of memory or by I/O happens here, while the process can
 * still report it.
 *
 * The script then only moves: it takes down everything that is not part of the
 * saved address space, and moves what was parked, and the vdso, into place.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "arch/x86_64/syscall.h"
#include "memory/memory.h"
#include "proc/maps.h"
#include "sys/memory.h"
#include "util/fd.h"

#define ADDRESS_MIN 0x10000ull

enum {
	HUGE_PAGE = 2 * 1024 * 1024,
	PARKING_SLACK = 64 * 1024 * 1024,
	STRETCH_MAX = 8 * 1024 * 1024, /* it ends with the mapping that reaches this size */
	MOVES_PER_VDSO_PART = 2,
};

struct span {
	uint64_t start, end;
};

struct spans {
	struct span *v;
	size_t n;
};

static int span_compare(const void *a, const void *b)
{
	const struct span *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

static bool is_special(const Pb__Mapping *m)
{
	return m->kind == PB__MAPPING_KIND__VDSO || m->kind == PB__MAPPING_KIND__VVAR;
}

/* ---- the region ---- */

int memory_own_areas(struct arena *arena, struct vm_area_list *ret, struct err *e)
{
	char *text;
	int r = fd_read_proc(getpid(), "maps", arena, &text, NULL);

	*ret = (struct vm_area_list){ 0 };
	if (r == 0)
		r = proc_parse_maps(text, arena, ret);
	return r < 0 ? err_sys(e, r, "reading /proc/self/maps") : 0;
}

/* Everything that the region must avoid: our own mappings and the saved ones, sorted. */
static int load_taken(struct memory_load *m, const struct vm_area_list *own, const Pb__AddressSpace *const *spaces, size_t n,
		      struct spans *ret, struct err *e)
{
	size_t most = own->n;

	for (size_t i = 0; i < n; i++)
		most += spaces[i]->n_mappings;
	ret->v = arena_alloc(m->arena, (most + 1) * sizeof(*ret->v));
	if (!ret->v)
		return err_nomem(e);
	for (size_t i = 0; i < own->n; i++)
		ret->v[ret->n++] = (struct span){ own->areas[i].start, own->areas[i].end };
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < spaces[i]->n_mappings; k++)
			ret->v[ret->n++] = (struct span){ spaces[i]->mappings[k]->start, spaces[i]->mappings[k]->end };
	qsort(ret->v, ret->n, sizeof(*ret->v), span_compare);
	return 0;
}

/* What is parked must stand as it will stand: for hugetlb pages, and for huge pages that are found. */
static uint64_t load_alignment(const Pb__Mapping *map)
{
	if (map->page_size)
		return map->page_size;
	return map->end - map->start >= HUGE_PAGE ? HUGE_PAGE : MEMORY_PAGE;
}

/* Bytes of parking room: what collides with our own mappings now, the vdso, and some slack. */
static uint64_t load_parking_size(const struct memory_load *m, const struct vm_area_list *own)
{
	uint64_t size = PARKING_SLACK;
	size_t k = 0;

	for (size_t i = 0; i < m->space->n_mappings; i++) {
		const Pb__Mapping *map = m->space->mappings[i];

		while (k < own->n && own->areas[k].end <= map->start)
			k++;
		if (is_special(map) || (!m->place[i] && k < own->n && own->areas[k].start < map->end))
			size += map->end - map->start + load_alignment(map);
	}
	return size;
}

/* The lowest gap above 4 GiB (low addresses are precious to some programs) that is large enough; 0: none. */
static uint64_t load_find_gap(const struct spans *taken, uint64_t size)
{
	uint64_t at = 1ull << 32;

	for (size_t i = 0; i < taken->n; i++) {
		if (taken->v[i].start > at && taken->v[i].start - at >= size + 2 * HUGE_PAGE)
			return (at + HUGE_PAGE) & ~(uint64_t)(MEMORY_PAGE - 1);
		if (taken->v[i].end > at)
			at = taken->v[i].end;
	}
	return at < MEMORY_ADDRESSES && MEMORY_ADDRESSES - at >= size + 2 * HUGE_PAGE ? at + HUGE_PAGE : 0;
}

static bool load_is_limited(int resource)
{
	struct rlimit limit;

	return getrlimit((__rlimit_resource_t)resource, &limit) == 0 && limit.rlim_max != RLIM_INFINITY;
}

/* There was no room, which `number` (-errno) says: for a limit of ours? Returns `number`. */
static int load_blame_limit(int number, struct err *e)
{
	if (number != -ENOMEM || (!load_is_limited(RLIMIT_AS) && !load_is_limited(RLIMIT_DATA)))
		return number;
	err_id(e, "E-LIMIT-MEMORY");
	err_help(e, "raise the limit of virtual memory, or of data: ulimit -Hv unlimited, ulimit -Hd unlimited");
	return number;
}

static int load_reserve(struct memory_load *m, size_t steps, uint64_t data_size, struct err *e)
{
	struct spans taken = { 0 };
	uint64_t size = region_size(steps, data_size), parking, start;
	int r;

	if (load_taken(m, &m->own, &m->space, 1, &taken, e) < 0)
		return -1;
	parking = load_parking_size(m, &m->own);
	start = load_find_gap(&taken, size + parking + HUGE_PAGE);
	if (!start)
		return err_set(e, ERR_SYSTEM, 0, "no gap of %lu bytes in both address spaces", size + parking);
	r = region_map(&m->region, start, steps, data_size, parking, e);
	return r < 0 ? load_blame_limit(r, e) : 0;
}

/* Who was born with areas that are known reads its own only if something has come between. */
int memory_reserve(struct memory_load *m, size_t steps, uint64_t data_size, struct err *e)
{
	int r;

	m->place = m->place ?: arena_alloc(m->arena, (m->space->n_mappings + 1) * sizeof(*m->place));
	if (!m->place)
		return err_nomem(e);
	if (m->born_with) {
		m->own = *m->born_with;
		r = load_reserve(m, steps, data_size, e);
		if (r != -EEXIST)
			return r;
		*e = ERR_INIT;
	}
	return memory_own_areas(m->arena, &m->own, e) < 0 ? -1 : load_reserve(m, steps, data_size, e);
}

int memory_find_room(struct memory_load *m, const Pb__AddressSpace *const *spaces, size_t n, const Pb__Mapping *map,
		     uint64_t *ret, struct err *e)
{
	uint64_t size = map->end - map->start, align = load_alignment(map), gap;
	struct vm_area_list own;
	struct spans taken = { 0 };

	if (memory_own_areas(m->arena, &own, e) < 0 || load_taken(m, &own, spaces, n, &taken, e) < 0)
		return -1;
	gap = load_find_gap(&taken, size + align);
	if (!gap)
		return err_set(e, ERR_SYSTEM, 0, "no gap of %lu bytes in all address spaces", size + align);
	*ret = gap + ((map->start - gap) & (align - 1));
	return 0;
}

/* ---- placing ---- */

static int load_map_flags(const Pb__Mapping *map)
{
	int flags = 0;

	if (map->kind == PB__MAPPING_KIND__ANON)
		flags |= MAP_ANONYMOUS;
	if (map->flags & VM_FLAG_DROPPABLE)
		flags |= MAP_DROPPABLE;
	else
		flags |= map->flags & VM_FLAG_SHARED ? MAP_SHARED : MAP_PRIVATE;
	if (map->flags & VM_FLAG_GROWSDOWN)
		flags |= MAP_GROWSDOWN;
	if (map->flags & VM_FLAG_NORESERVE)
		flags |= MAP_NORESERVE;
	if (map->flags & VM_FLAG_HUGETLB) {
		flags |= MAP_HUGETLB;
		if (map->kind == PB__MAPPING_KIND__ANON && map->page_size)
			flags |= __builtin_ctzll(map->page_size) << MAP_HUGE_SHIFT;
	}
	return flags;
}

/* Will pages be stored into it? Then it must be writable for a while. */
static bool load_has_pages(const struct memory_load *m, const Pb__Mapping *map)
{
	const struct image_run *runs = m->runs;
	size_t low = 0, high = m->n_runs;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (runs[mid].addr + (uint64_t)runs[mid].pages * MEMORY_PAGE <= map->start)
			low = mid + 1;
		else
			high = mid;
	}
	return low < m->n_runs && runs[low].addr < map->end;
}

static int load_mapping_fd(const struct memory_load *m, const Pb__Mapping *map)
{
	return map->kind == PB__MAPPING_KIND__ANON || map->inode >= m->inodes->n ? -1 : m->inodes->v[map->inode].fd;
}

/*
 * A shared mapping that may never be made writable comes from a file that was
 * opened for reading only; a write seal can be set beside no other. Returns a new
 * fd, or -1 where the inode's own will do, or cannot be opened again.
 */
static int load_open_readonly(const Pb__Mapping *map, int fd)
{
	char proc[32];

	if (fd < 0 || map->kind != PB__MAPPING_KIND__FILE_SHARED || map->flags & VM_FLAG_MAYWRITE || map->prot & PROT_WRITE)
		return -1;
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	return open(proc, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
}

/*
 * A piece of shared memory that is no file: the coordinator's mapping is inherited;
 * mremap(2) with an old size of 0 makes a second mapping of the same pages.
 */
static int load_place_shared_memory(struct memory_load *m, const Pb__Mapping *map, uint64_t at, struct err *e)
{
	const struct inode_live *n = &m->inodes->v[map->inode];
	uint64_t size = map->end - map->start, whole = (n->pb->size + MEMORY_PAGE - 1) & ~(uint64_t)(MEMORY_PAGE - 1);
	char *from = map->flags & VM_FLAG_MAYWRITE || !n->addr_readonly ? n->addr : n->addr_readonly;
	void *p;

	if (!from || map->offset > whole || size > whole - map->offset)
		return err_set(e, ERR_IMAGE, 0, "the mapping %lx-%lx exceeds its shared memory", map->start, map->end);
	p = mremap(from + map->offset, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)at);
	return p == MAP_FAILED ? err_sys(e, errno, "mapping shared memory at %lx", map->start) : 0;
}

static bool load_is_shared_memory(const struct memory_load *m, const Pb__Mapping *map)
{
	return map->kind == PB__MAPPING_KIND__FILE_SHARED && inode_is_memory(&m->inodes->v[map->inode]);
}

/* As it is placed: to be filled, it must be writable for a while; accounted, it can be merged with what it was part of. */
static int load_first_prot(const struct memory_load *m, const Pb__Mapping *map)
{
	bool writable = map->kind != PB__MAPPING_KIND__FILE_SHARED && (map->flags & VM_FLAG_ACCOUNT || load_has_pages(m, map));

	return (int)map->prot | (writable ? PROT_READ | PROT_WRITE : 0);
}

/* `size` bytes from the beginning of a mapping on, those of its stretch. 0, -EEXIST where something is in the way, or negative. */
static int load_place_at(struct memory_load *m, const Pb__Mapping *map, uint64_t size, uint64_t at, int fixed, struct err *e)
{
	bool shared_memory = load_is_shared_memory(m, map);
	int prot = load_first_prot(m, map), flags = load_map_flags(map), fd = load_mapping_fd(m, map);
	cleanup_close int readonly = load_open_readonly(map, fd);
	void *p;

	if (shared_memory) {
		flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE; /* holds the place */
		prot = PROT_NONE;
		fd = -1;
	}
	p = mmap((void *)at, size, prot, flags | fixed, readonly >= 0 ? readonly : fd, (off_t)map->offset);
	if (p == MAP_FAILED)
		return -errno;
	if ((uint64_t)p != at) { /* a kernel that does not know MAP_FIXED_NOREPLACE */
		munmap(p, size);
		return -EEXIST;
	}
	return shared_memory ? load_place_shared_memory(m, map, at, e) : 0;
}

int memory_map(struct memory_load *m, const Pb__Mapping *map, uint64_t at, struct err *e)
{
	return load_place_at(m, map, map->end - map->start, at, MAP_FIXED_NOREPLACE, e);
}

int memory_map_failed(const Pb__Mapping *map, int number, struct err *e)
{
	err_sys(e, number, "mapping %lx-%lx (%s)", map->start, map->end, map->name && map->name[0] ? map->name : "anonymous");
	return load_blame_limit(number, e);
}

static bool load_needs_place(const struct memory_load *m, size_t i)
{
	return !is_special(m->space->mappings[i]) && !m->place[i];
}

/*
 * Are they one mapping as long as their protection is the same? Not what is locked: locking fetches what may be read, so
 * each must have its own protection before.
 */
static bool load_joins(const struct memory_load *m, const Pb__Mapping *a, const Pb__Mapping *b)
{
	const uint64_t alone = VM_FLAG_LOCKED | VM_FLAG_SHARED | VM_FLAG_GROWSDOWN | VM_FLAG_HUGETLB | VM_FLAG_DROPPABLE;

	return a->kind == PB__MAPPING_KIND__ANON && b->kind == PB__MAPPING_KIND__ANON && a->end == b->start &&
	       a->flags == b->flags && !(a->flags & alone) && load_first_prot(m, a) == load_first_prot(m, b);
}

/* The index behind the last mapping that can be placed together with this one. */
static size_t load_joined_end(const struct memory_load *m, size_t i)
{
	const uint64_t start = m->space->mappings[i]->start;
	size_t end = i + 1;

	while (end < m->space->n_mappings && m->space->mappings[end - 1]->end - start < STRETCH_MAX && load_needs_place(m, end) &&
	       load_joins(m, m->space->mappings[end - 1], m->space->mappings[end]))
		end++;
	return end;
}

static int load_place_one(struct memory_load *m, size_t i, struct err *e)
{
	const Pb__Mapping *map = m->space->mappings[i];
	uint64_t size = map->end - map->start;
	int r;

	m->place[i] = map->start;
	r = load_place_at(m, map, size, map->start, MAP_FIXED_NOREPLACE, e);
	if (r == -EEXIST) {
		m->place[i] = region_park(&m->region, size, map->start, load_alignment(map));
		if (!m->place[i])
			return err_set(e, ERR_SYSTEM, 0, "no room to park the mapping %lx-%lx", map->start, map->end);
		r = load_place_at(m, map, size, m->place[i], MAP_FIXED, e);
	}
	if (r < 0 && !e->reason)
		return memory_map_failed(map, r, e);
	return r;
}

/* Mappings `i` to `end` in one call; false where that cannot be, as something is in the way of one. */
static bool load_place_together(struct memory_load *m, size_t i, size_t end, struct err *e)
{
	const Pb__Mapping *first = m->space->mappings[i], *last = m->space->mappings[end - 1];

	if (end - i < 2 || load_place_at(m, first, last->end - first->start, first->start, MAP_FIXED_NOREPLACE, e) < 0)
		return false;
	for (size_t k = i; k < end; k++) {
		m->place[k] = m->space->mappings[k]->start;
		m->stretches[k] = (struct memory_stretch){ (uint32_t)i, (uint32_t)end };
	}
	return true;
}

static int load_place_stretch(struct memory_load *m, size_t i, size_t end, struct err *e)
{
	bool together = load_place_together(m, i, end, e);
	int r = 0;

	for (size_t k = i; r == 0 && k < end; k++) {
		const Pb__Mapping *map = m->space->mappings[k];

		m->settled[k] = load_first_prot(m, map) == (int)map->prot && !load_is_shared_memory(m, map);
		r = together ? 0 : load_place_one(m, k, e);
	}
	return r;
}

int memory_place(struct memory_load *m, struct err *e)
{
	size_t n = m->space->n_mappings, end;
	int r = 0;

	m->settled = arena_alloc(m->arena, n + 1);
	m->early = arena_alloc(m->arena, n + 1);
	m->stretches = arena_alloc(m->arena, (n + 1) * sizeof(*m->stretches));
	if (!m->settled || !m->early || !m->stretches)
		return err_nomem(e);
	for (size_t i = 0; i < n; i++)
		m->stretches[i] = (struct memory_stretch){ (uint32_t)i, (uint32_t)i + 1 };
	for (size_t i = 0; r == 0 && i < n; i = end) {
		end = load_needs_place(m, i) ? load_joined_end(m, i) : i + 1;
		if (load_needs_place(m, i))
			r = load_place_stretch(m, i, end, e);
	}
	return r;
}

struct memory_stretch memory_stretch_of(const struct memory_load *m, uint32_t mapping)
{
	return m->stretches ? m->stretches[mapping] : (struct memory_stretch){ mapping, mapping + 1 };
}

/* ---- settling ---- */

static int load_advise(uint64_t at, uint64_t size, int advice, const char *what, struct err *e)
{
	if (madvise((void *)at, size, advice) == 0)
		return 0;
	return err_sys(e, errno, "madvise(%s) at %lx", what, at);
}

/*
 * Lock without fetching anything first: that cannot fail for what a mapping holds.
 * Then fetch, as far as that goes: guard regions and what may not be read stay
 * empty, as they do after mlockall(2).
 */
static int load_lock(const Pb__Mapping *map, uint64_t at, uint64_t size, struct err *e)
{
	if (mlock2((void *)at, size, MLOCK_ONFAULT) < 0)
		return err_sys(e, errno, "locking %lu bytes of memory", size);
	if (!(map->flags & VM_FLAG_LOCKONFAULT))
		(void)!mlock2((void *)at, size, 0); /* mlock(2), which a sanitizer would swallow */
	return 0;
}

/* Flags that mmap(2) cannot set, for `size` bytes at `at`: a stretch, of which `map` is the first. */
static int load_apply_flags(const Pb__Mapping *map, uint64_t at, uint64_t size, struct err *e)
{
	static const struct {
		uint64_t flag;
		int advice;
		const char *name;
	} advices[] = {
		{ VM_FLAG_DONTFORK, MADV_DONTFORK, "MADV_DONTFORK" },
		{ VM_FLAG_WIPEONFORK, MADV_WIPEONFORK, "MADV_WIPEONFORK" },
		{ VM_FLAG_DONTDUMP, MADV_DONTDUMP, "MADV_DONTDUMP" },
		{ VM_FLAG_HUGEPAGE, MADV_HUGEPAGE, "MADV_HUGEPAGE" },
		{ VM_FLAG_NOHUGEPAGE, MADV_NOHUGEPAGE, "MADV_NOHUGEPAGE" },
		{ VM_FLAG_MERGEABLE, MADV_MERGEABLE, "MADV_MERGEABLE" },
		{ VM_FLAG_SEQ_READ, MADV_SEQUENTIAL, "MADV_SEQUENTIAL" },
		{ VM_FLAG_RAND_READ, MADV_RANDOM, "MADV_RANDOM" },
	};
	int r = 0;

	/* hugetlb and droppable mappings are born with the dump flag and refuse the advice */
	for (size_t i = 0; r == 0 && i < sizeof(advices) / sizeof(advices[0]); i++)
		if ((map->flags & advices[i].flag) && !(map->flags & (VM_FLAG_HUGETLB | VM_FLAG_DROPPABLE)))
			r = load_advise(at, size, advices[i].advice, advices[i].name, e);
	return r;
}

static int load_guard(const Pb__Mapping *map, uint64_t at, struct err *e)
{
	for (size_t k = 0; k + 1 < map->n_guards; k += 2) {
		uint64_t start = map->guards[k], end = map->guards[k + 1];

		if (start < map->start || end > map->end || start >= end)
			return err_set(e, ERR_IMAGE, 0, "a guard region lies outside its mapping %lx-%lx", map->start, map->end);
		if (load_advise(at + (start - map->start), end - start, MADV_GUARD_INSTALL, "MADV_GUARD_INSTALL", e) < 0)
			return -1;
	}
	return 0;
}

static int load_protect(const Pb__Mapping *map, uint64_t at, struct err *e)
{
	if (mprotect((void *)at, map->end - map->start, (int)map->prot) < 0)
		return err_sys(e, errno, "protecting the mapping %lx-%lx", map->start, map->end);
	return 0;
}

/* What is advised as a whole need not be cut and joined again. */
int memory_settle_stretch(struct memory_load *m, uint32_t mapping, struct err *e)
{
	const size_t i = m->stretches[mapping].first, end = m->stretches[mapping].end;
	const Pb__Mapping *first = m->space->mappings[i], *last = m->space->mappings[end - 1];
	int r = first->flags ? load_apply_flags(first, m->place[i], last->end - first->start, e) : 0;

	for (size_t k = i; r == 0 && k < end; k++) {
		const Pb__Mapping *map = m->space->mappings[k];

		r = m->settled[k] ? 0 : load_protect(map, m->place[k], e);
		if (r == 0)
			r = load_guard(map, m->place[k], e);
		if (r == 0 && (map->flags & VM_FLAG_LOCKED))
			r = load_lock(map, m->place[k], map->end - map->start, e);
	}
	m->early[i] = true;
	return r;
}

int memory_settle(struct memory_load *m, struct err *e)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < m->space->n_mappings; i = m->stretches[i].end)
		if (!is_special(m->space->mappings[i]) && !m->early[i])
			r = memory_settle_stretch(m, (uint32_t)i, e);
	return r;
}

/* ---- the switch ---- */

enum { VDSO_PARTS_MAX = 8 };

/* Our own [vvar] and [vdso] mappings, each with the place of its saved counterpart. */
struct vdso_part {
	uint64_t own, size, parked, final;
};

static int load_vdso_parts(struct memory_load *m, struct vdso_part *parts, size_t *ret_n, struct err *e)
{
	size_t n = 0;

	for (size_t i = 0; i < m->space->n_mappings; i++) {
		const Pb__Mapping *map = m->space->mappings[i];
		const struct vm_area *same = NULL;

		if (!is_special(map))
			continue;
		for (size_t k = 0; k < m->own.n; k++)
			if (strcmp(m->own.areas[k].name, map->name) == 0)
				same = &m->own.areas[k];
		if (!same || same->end - same->start != map->end - map->start || n == VDSO_PARTS_MAX) {
			err_state(e, "E-KERNEL-VDSO", 0, "this kernel's %s differs from the saved one", map->name);
			return err_help(e, "restore on the kernel that the image was taken on");
		}
		parts[n++] = (struct vdso_part){ same->start, map->end - map->start, 0, map->start };
	}
	*ret_n = n;
	return 0;
}

static void move_step(struct script_builder *b, const char *note, uint64_t from, uint64_t size, uint64_t to)
{
	script_call(b, SCRIPT_MUST, note, SYS_mremap, from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to);
}

/* Our own mappings of the vdso and its data. */
static size_t load_count_vdso(const struct vm_area_list *own)
{
	size_t n = 0;

	for (size_t i = 0; i < own->n; i++)
		n += vm_area_is_vdso(&own->areas[i]) || vm_area_is_vvar(&own->areas[i]);
	return n;
}

/*
 * May the kernel make the vdso anew at its place, once ours is gone? It makes all the parts side by side, in our order, and
 * stays away from a stack that is next above.
 */
static bool load_may_map_vdso(const struct memory_load *m, const struct vdso_part *parts, size_t n)
{
	const uint64_t end = n ? parts[n - 1].final + parts[n - 1].size : 0;

	if (!m->maps_vdso || !n || n != load_count_vdso(&m->own))
		return false;
	for (size_t i = 1; i < n; i++)
		if (parts[i - 1].own + parts[i - 1].size != parts[i].own || parts[i - 1].final + parts[i - 1].size != parts[i].final)
			return false;
	for (size_t i = 0; i < m->space->n_mappings; i++)
		if (m->space->mappings[i]->start >= end)
			return !(m->space->mappings[i]->flags & VM_FLAG_GROWSDOWN);
	return true;
}

static void load_map_vdso(const struct vdso_part *parts, size_t n, struct script_builder *b)
{
	const uint64_t start = parts[0].final, size = parts[n - 1].final + parts[n - 1].size - start;

	script_call(b, SCRIPT_MUST, "mapping the vdso", ARCH_NR_PRCTL, ARCH_PRCTL_MAP_VDSO, start);
	script_call(b, SCRIPT_MUST, "mapping the vdso where it was", SYS_msync, start, size, MS_ASYNC); /* ENOMEM: it is not there */
}

/* Can the vdso stay where it is until all else is in place, and then go to its own? */
static bool load_vdso_may_stay(const struct memory_load *m, const struct vdso_part *parts, size_t n)
{
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < m->space->n_mappings; k++)
			if (parts[i].own < m->space->mappings[k]->end && m->space->mappings[k]->start < parts[i].own + parts[i].size)
				return false;
	return true;
}

static int load_park_vdso(struct memory_load *m, struct vdso_part *parts, size_t n, struct script_builder *b, struct err *e)
{
	bool stays = load_vdso_may_stay(m, parts, n);

	for (size_t i = 0; i < n; i++) {
		parts[i].parked = stays ? parts[i].own : region_park(&m->region, parts[i].size, 0, MEMORY_PAGE);
		if (!parts[i].parked)
			return err_set(e, ERR_SYSTEM, 0, "no room to park the vdso");
		if (!stays)
			move_step(b, "parking the vdso", parts[i].own, parts[i].size, parts[i].parked);
	}
	return 0;
}

/* Take down all that lies between the things to keep. */
static int load_unmap_gaps(struct memory_load *m, const struct vdso_part *parts, size_t n_parts, struct script_builder *b,
			   struct err *e)
{
	struct span *keep = arena_alloc(m->arena, (m->space->n_mappings + 1 + n_parts) * sizeof(*keep));
	uint64_t at = 0;
	size_t n = 0;

	if (!keep)
		return err_nomem(e);
	keep[n++] = (struct span){ m->region.start, m->region.start + m->region.size };
	for (size_t i = 0; i < m->space->n_mappings; i++) {
		const Pb__Mapping *map = m->space->mappings[i];

		if (!is_special(map))
			keep[n++] = (struct span){ m->place[i], m->place[i] + (map->end - map->start) };
	}
	for (size_t i = 0; i < n_parts; i++)
		keep[n++] = (struct span){ parts[i].parked, parts[i].parked + parts[i].size };
	qsort(keep, n, sizeof(*keep), span_compare);
	for (size_t i = 0; i < n; i++) {
		if (keep[i].start > at)
			script_call(b, SCRIPT_MUST, "unmapping the old address space", SYS_munmap, at, keep[i].start - at);
		at = keep[i].end > at ? keep[i].end : at;
	}
	if (at < MEMORY_ADDRESSES)
		script_call(b, SCRIPT_MUST, "unmapping the old address space", SYS_munmap, at, MEMORY_ADDRESSES - at);
	return 0;
}

/* Is this file, by this name and in this mount, what /proc/self/exe leads to? */
static bool load_is_our_exe(struct arena *arena, int fd)
{
	const unsigned wanted = STATX_INO | STATX_MNT_ID;
	struct statx ours, theirs;
	char name[32], *our_path, *their_path;

	snprintf(name, sizeof(name), "fd/%d", fd);
	if (statx(AT_FDCWD, "/proc/self/exe", 0, wanted, &ours) < 0 || statx(fd, "", AT_EMPTY_PATH, wanted, &theirs) < 0 ||
	    (ours.stx_mask & theirs.stx_mask & wanted) != wanted || ours.stx_ino != theirs.stx_ino ||
	    ours.stx_mnt_id != theirs.stx_mnt_id || ours.stx_dev_major != theirs.stx_dev_major ||
	    ours.stx_dev_minor != theirs.stx_dev_minor)
		return false;
	return fd_readlink_proc(getpid(), "exe", arena, &our_path) == 0 && fd_readlink_proc(getpid(), name, arena, &their_path) == 0 &&
	       strcmp(our_path, their_path) == 0;
}

/*
 * The kernel does not set the link of /proc/PID/exe while what it leads to is mapped, which is so when a program restores
 * what is executed from its own file; but then it is right.
 */
bool *memory_settable_exes(const Pb__Image *image, const struct inode_restore *inodes, struct arena *arena)
{
	bool *settable = arena_alloc(arena, inodes->n + 1), *seen = arena_alloc(arena, inodes->n + 1);

	for (size_t i = 0; settable && seen && i < image->n_spaces; i++) {
		uint32_t exe = image->spaces[i]->exe;

		if (exe < inodes->n && !seen[exe])
			settable[exe] = inodes->v[exe].fd >= 0 && !load_is_our_exe(arena, inodes->v[exe].fd);
		if (exe < inodes->n)
			seen[exe] = true;
	}
	return seen ? settable : NULL;
}

/* The link of /proc/PID/exe; -1: it stays. */
static uint32_t load_exe_fd(const struct memory_load *m)
{
	uint32_t exe = m->space->exe;

	return (uint32_t)(m->settable_exes && exe < m->inodes->n && m->settable_exes[exe] ? m->inodes->v[exe].fd : -1);
}

static int load_set_mm(struct memory_load *m, struct script_builder *b, struct err *e)
{
	const Pb__AddressSpace *s = m->space;
	struct prctl_mm_map map = {
		.start_code = s->start_code, .end_code = s->end_code, .start_data = s->start_data,
		.end_data = s->end_data, .start_brk = s->start_brk, .brk = s->brk, .start_stack = s->start_stack,
		.arg_start = s->arg_start, .arg_end = s->arg_end, .env_start = s->env_start, .env_end = s->env_end,
		.auxv = region_put(&m->region, s->auxv.data, s->auxv.len), .auxv_size = (uint32_t)s->auxv.len,
		.exe_fd = load_exe_fd(m),
	};
	void *p = region_put(&m->region, &map, sizeof(map));

	if (!p || !map.auxv)
		return err_set(e, ERR_SYSTEM, 0, "the region for the switch is full");
	script_call(b, SCRIPT_MUST, "PR_SET_MM_MAP with the link of /proc/PID/exe", SYS_prctl, PR_SET_MM, PR_SET_MM_MAP,
		    (uint64_t)p, sizeof(map));
	return 0;
}

size_t memory_switch_ops(const struct memory_load *m)
{
	return m->space->n_mappings * 2 + VDSO_PARTS_MAX * MOVES_PER_VDSO_PART + 8;
}

int memory_switch(struct memory_load *m, struct script_builder *b, struct err *e)
{
	struct vdso_part parts[VDSO_PARTS_MAX];
	size_t n_parts = 0;
	bool anew;

	if (load_vdso_parts(m, parts, &n_parts, e) < 0)
		return -1;
	anew = load_may_map_vdso(m, parts, n_parts);
	if ((!anew && load_park_vdso(m, parts, n_parts, b, e) < 0) || load_unmap_gaps(m, parts, anew ? 0 : n_parts, b, e) < 0)
		return -1;
	for (size_t i = 0; i < m->space->n_mappings; i++) {
		const Pb__Mapping *map = m->space->mappings[i];

		if (!is_special(map) && m->place[i] != map->start)
			move_step(b, "moving a mapping into place", m->place[i], map->end - map->start, map->start);
	}
	if (anew)
		load_map_vdso(parts, n_parts, b);
	for (size_t i = 0; !anew && i < n_parts; i++)
		move_step(b, "moving the vdso into place", parts[i].parked, parts[i].size, parts[i].final);
	return load_set_mm(m, b, e);
}
