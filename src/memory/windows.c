/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The content of an inode that cannot be opened: shared memory, memfds and
 * unlinked files that are mapped but not open, where torpor may not open
 * /proc/PID/map_files. It is read through the tasks' mappings of it, the windows.
 *
 * What no window shows can be reached all the same by the program (mremap(2)
 * makes a mapping longer), and where a window shows nothing, looking would make a
 * page. So a second mapping, the view, is made in the task that has a window:
 * mremap(2) with an old size of 0, over the room behind the stage's scratch page,
 * so that it goes with that page however this ends. remap_file_pages(2) moves the
 * view along the file, and mincore(2) tells which pages there are.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "memory/memory.h"
#include "util/fd.h"
#include "util/interrupt.h"

enum {
	VIEW_PAGES = REMOTE_SCRATCH_SIZE, /* mincore(2) fills one byte per page into the scratch page */
	VIEW_SIZE = VIEW_PAGES * MEMORY_PAGE,
	ASIDE_MAX = 1 << 30,
	TMPFS = 0x01021994,
};

#define OFFSET_END (1ull << 62)

struct view {
	struct arena *arena;
	struct inode_entry *inode;
	struct page_source *source;
	struct remote remote;
	bool counts; /* mincore(2) tells which pages there are */
	uint64_t aside;
};

static uint64_t view_addr(const struct view *v)
{
	return v->remote.scratch + REMOTE_SCRATCH_SIZE;
}

static int add_range(struct arena *arena, struct page_source *s, const struct page_range *r, struct err *e)
{
	struct page_range *last = s->n ? &s->ranges[s->n - 1] : NULL;

	if (last && last->task == r->task && last->addr + last->pages * MEMORY_PAGE == r->addr &&
	    last->from + last->pages * MEMORY_PAGE == r->from) {
		last->pages += r->pages;
		return 0;
	}
	return page_source_add(arena, s, r, e);
}

/* The first window, by what it shows, that ends beyond `done`; NULL when there is none. */
static const struct inode_window *next_window(const struct inode_entry *inode, bool shared, uint64_t done)
{
	const struct inode_window *best = NULL;

	for (size_t i = 0; i < inode->n_windows; i++) {
		const struct inode_window *w = &inode->windows[i];

		if (w->shared == shared && w->offset + w->size > done && (!best || w->offset < best->offset))
			best = w;
	}
	return best;
}

/* A window that a view can be made of: remap_file_pages(2) moves no other. NULL when there is none. */
static const struct inode_window *view_window(const struct inode_entry *inode)
{
	for (size_t i = 0; i < inode->n_windows; i++)
		if (inode->windows[i].writable)
			return &inode->windows[i];
	return NULL;
}

static bool can_be_read(const struct target *task, uint64_t addr)
{
	char byte;

	return fd_pread_full(task->mem_fd, &byte, 1, (off_t)addr) == 0;
}

/* ---- the view ---- */

/* A page of shared memory that was swapped out counts as absent, so no page may be. */
static bool nothing_is_swapped(void)
{
	struct sysinfo info;

	return sysinfo(&info) == 0 && info.freeswap == info.totalswap;
}

/* On disk, what is not in memory is not nothing. */
static bool lives_in_memory(const Pb__Inode *pb)
{
	char folder[4096];
	struct statfs fs;
	struct stat st;
	char *slash;

	if (pb->kind != PB__INODE_KIND__UNLINKED)
		return true;
	strncpy(folder, pb->path, sizeof(folder) - 1);
	folder[sizeof(folder) - 1] = '\0';
	slash = strrchr(folder, '/');
	if (!slash)
		return false;
	slash[slash == folder] = '\0';
	return stat(folder, &st) == 0 && st.st_dev == pb->dev && statfs(folder, &fs) == 0 && fs.f_type == TMPFS;
}

static int view_open(struct view *v, struct err *e)
{
	const struct inode_window *w = view_window(v->inode);
	struct target *task = (struct target *)w->task;
	int64_t result;
	int r = remote_open_with_room(&v->remote, task, VIEW_SIZE, e);

	if (r < 0)
		return r;
	r = remote_call(&v->remote, &result, e, SYS_mremap, w->addr, 0, VIEW_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, view_addr(v));
	if (r < 0)
		return r;
	v->counts = lives_in_memory(v->inode->pb) && nothing_is_swapped();
	return result < 0 ? err_sys(e, (int)result, "mapping %s a second time in task %d", v->inode->pb->path, task->pid) : 0;
}

/* MAP_NONBLOCK: do not fill it with pages. */
static int view_move(struct view *v, uint64_t offset, struct err *e)
{
	int64_t result;

	if (interrupt_check(e) < 0 || remote_call(&v->remote, &result, e, SYS_remap_file_pages, view_addr(v), VIEW_SIZE, 0,
						  offset / MEMORY_PAGE, MAP_NONBLOCK) < 0)
		return -1;
	return result < 0 ? err_sys(e, (int)result, "looking at offset %lu of %s", offset, v->inode->pb->path) : 0;
}

/* Has the file this page? 1, 0, or negative. If it is a hole in shared memory, it becomes a page of zeros. */
static int view_has_page(struct view *v, uint64_t page, struct err *e)
{
	int r = view_move(v, page * MEMORY_PAGE, e);

	return r < 0 ? r : can_be_read(v->remote.task, view_addr(v));
}

/* The first page from `low` on, at most `high`, that the file does not have. */
static int view_bisect(struct view *v, uint64_t low, uint64_t high, uint64_t *ret, struct err *e)
{
	while (low < high) {
		uint64_t mid = low + (high - low) / 2;
		int has = view_has_page(v, mid, e);

		if (has < 0)
			return has;
		if (has)
			low = mid + 1;
		else
			high = mid;
	}
	*ret = low;
	return 0;
}

/* In whole pages: with nobody who could open it, nobody can tell more. */
static int view_find_size(struct view *v, struct err *e)
{
	uint64_t end = v->inode->pb->size / MEMORY_PAGE, step = 1;
	int has, r;

	if (v->inode->pb->kind == PB__INODE_KIND__SYSV_SHM)
		return 0; /* the kernel has told it */
	has = view_has_page(v, end, e);
	if (has == 0) {
		/* The usual case first: it ends with the last window. */
		has = v->inode->pb->kind == PB__INODE_KIND__SHARED_ANON || !end ? 1 : view_has_page(v, end - 1, e);
		if (has)
			return has < 0 ? has : 0;
		r = view_bisect(v, 0, end - 1, &end, e);
	} else {
		for (; has > 0 && (end + step) * MEMORY_PAGE < OFFSET_END; step *= 2)
			has = view_has_page(v, end + step, e);
		r = has < 0 ? has : view_bisect(v, end + 1, end + step, &end, e);
	}
	v->inode->pb->size = end * MEMORY_PAGE;
	return r;
}

/* Which of `n` pages from `offset` on hold something? One byte each. */
static int view_count(struct view *v, uint64_t offset, size_t n, unsigned char *ret, struct err *e)
{
	int64_t result;

	memset(ret, 1, n);
	if (view_move(v, offset, e) < 0)
		return -1;
	if (!v->counts)
		return 0;
	if (remote_call(&v->remote, &result, e, SYS_mincore, view_addr(v), n * MEMORY_PAGE, v->remote.scratch) < 0)
		return -1;
	return result < 0 ? 0 : remote_read(&v->remote, ret, n, e);
}

/* A page that no window shows: copied now, as the view will be gone. */
static int view_put_aside(struct view *v, uint64_t offset, uint64_t addr, struct err *e)
{
	char page[MEMORY_PAGE];
	int r = fd_pread_full(v->remote.task->mem_fd, page, sizeof(page), (off_t)addr);

	if (r < 0)
		return err_sys(e, r, "reading offset %lu of %s", offset, v->inode->pb->path);
	if (v->inode->aside < 0)
		v->inode->aside = memfd_create("torpor aside", MFD_CLOEXEC);
	if (v->inode->aside < 0)
		return err_sys(e, errno, "memfd_create");
	v->source->fd = v->inode->aside;
	v->aside += sizeof(page);
	if (v->aside > ASIDE_MAX) {
		err_set(e, ERR_PERMISSION, 0, "more than %d MiB of %s are mapped by nobody, and torpor may not open it", ASIDE_MAX >> 20,
			v->inode->pb->path);
		return err_help(e, "give torpor the capability: setcap cap_checkpoint_restore=ep torpor");
	}
	r = fd_pwrite_full(v->inode->aside, page, sizeof(page), (off_t)offset);
	return r < 0 ? err_sys(e, r, "keeping a page of %s", v->inode->pb->path) : 0;
}

/* The pages of one stretch of the file, at most as long as the view, which one window shows, or none. */
static int view_take(struct view *v, uint64_t from, size_t n, const struct inode_window *w, struct err *e)
{
	unsigned char there[VIEW_PAGES];
	int r = view_count(v, from, n, there, e);

	for (size_t i = 0; r >= 0 && i < n; i++) {
		struct page_range range = { .addr = from + i * MEMORY_PAGE, .from = from + i * MEMORY_PAGE, .pages = 1 };

		if (!there[i])
			continue;
		if (w) {
			range.from = w->addr + (range.addr - w->offset);
			range.task = w->task;
		} else {
			r = view_put_aside(v, range.addr, view_addr(v) + i * MEMORY_PAGE, e);
		}
		if (r >= 0)
			r = add_range(v->arena, v->source, &range, e);
	}
	return r;
}

static int view_take_all(struct view *v, struct err *e)
{
	uint64_t done = 0, size = (v->inode->pb->size + MEMORY_PAGE - 1) & ~(uint64_t)(MEMORY_PAGE - 1);
	int r = 0;

	while (r >= 0 && done < size) {
		const struct inode_window *w = next_window(v->inode, true, done);
		uint64_t end = size;

		if (w && w->offset > done) {
			end = w->offset < size ? w->offset : size;
			w = NULL;
		} else if (w && w->offset + w->size < size) {
			end = w->offset + w->size;
		}
		for (; r >= 0 && done < end; done += VIEW_SIZE)
			r = view_take(v, done, (end - done < VIEW_SIZE ? end - done : VIEW_SIZE) / MEMORY_PAGE, w, e);
		done = end;
	}
	return r;
}

/* Returns 1 when the view could not be made, with the source as it was. */
static int view_find_pages(struct arena *arena, struct inode_entry *inode, struct page_source *s, struct err *e)
{
	struct view v = { .arena = arena, .inode = inode, .source = s };
	struct err later = ERR_INIT;
	int closed, r = view_open(&v, e);
	bool opened = r >= 0;

	if (r >= 0)
		r = view_find_size(&v, e);
	if (r >= 0)
		r = view_take_all(&v, e);
	closed = remote_close(&v.remote, &later);
	if (closed < 0) {
		*e = r < 0 ? *e : later;
		return -1;
	}
	if (opened || e->reason != ERR_SYSTEM)
		return r;
	*e = ERR_INIT;
	return 1;
}

/* ---- without a view ---- */

/* Does the window show what is in the file, not what its task has written into a page of its own? */
static bool window_is_true(const struct inode_window *w, uint64_t offset)
{
	const uint64_t present = 3ull << 62, of_file = 1ull << 61;
	cleanup_close int fd = w->shared ? -1 : fd_open_proc(w->task->pid, "pagemap", O_RDONLY);
	uint64_t entry, at = (w->addr + (offset - w->offset)) / MEMORY_PAGE * sizeof(entry);

	return fd < 0 || fd_pread_full(fd, &entry, sizeof(entry), (off_t)at) < 0 || !(entry & present) || (entry & of_file);
}

/* The window to read this page through; NULL when nobody maps it. */
static const struct inode_window *window_of_page(const struct inode_entry *inode, uint64_t offset)
{
	const struct inode_window *any = NULL;

	for (size_t i = 0; i < inode->n_windows; i++) {
		const struct inode_window *w = &inode->windows[i];

		if (offset < w->offset || offset >= w->offset + w->size ||
		    !can_be_read(w->task, w->addr + (offset - w->offset)))
			continue;
		if (window_is_true(w, offset))
			return w;
		any = any ?: w;
	}
	return any;
}

/*
 * Mostly a file that is mapped privately and was removed, a replaced library for
 * one: page by page, since each may be true in another task. One that was written
 * to by all of them comes back as one of them has it: a program could only tell
 * after MADV_DONTNEED.
 */
static int windows_find_pages(struct arena *arena, struct inode_entry *inode, struct page_source *s, struct err *e)
{
	for (uint64_t at = 0; at < inode->pb->size; at += MEMORY_PAGE) {
		const struct inode_window *w = window_of_page(inode, at);
		struct page_range range = { .addr = at, .pages = 1 };

		if (!w) {
			w = next_window(inode, false, at + MEMORY_PAGE) ?: next_window(inode, true, at + MEMORY_PAGE);
			if (!w)
				return 0;
			at = w->offset > at + MEMORY_PAGE ? w->offset - MEMORY_PAGE : at;
			continue;
		}
		range.from = w->addr + (at - w->offset);
		range.task = w->task;
		if (add_range(arena, s, &range, e) < 0)
			return -1;
	}
	return 0;
}

int memory_find_window_pages(struct arena *arena, struct inode_entry *inode, struct page_source *s, struct err *e)
{
	bool named = inode->pb->kind == PB__INODE_KIND__PATH; /* its size is known, and what nobody maps stays where it is */
	int r = !named && view_window(inode) ? view_find_pages(arena, inode, s, e) : 1;

	return r > 0 ? windows_find_pages(arena, inode, s, e) : r;
}
