/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Inodes: the files that mappings and open file descriptions of the tree refer
 * to. A file with a name is only checked at restore; one without (unlinked,
 * memfd, shared anonymous memory) has its content in the image and is made again.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "image/pb.h"
#include "proc/maps.h"
#include "util/err.h"
#include "util/obstacle.h"

struct image;
struct target;

/* ---- dump ---- */

/* What the tree may do to a file. One that all of it only appends to (a log) may grow between dump and restore. */
enum inode_use { INODE_READS, INODE_APPENDS, INODE_WRITES };

/* A window of a mapping through which an inode's content can be read. */
struct inode_window {
	const struct target *task;
	uint64_t addr, size, offset;
	bool shared; /* what is seen is the file itself; else pages that were written are the task's own */
	bool writable; /* ... and it is, or can be made, writable */
};

struct inode_entry {
	Pb__Inode *pb;
	int fd; /* for reading the content; -1: not needed or not to be had */
	int aside; /* what was read of the content already, at its offsets: a memfd of ours; -1: nothing */
	bool linked; /* its path does not lead to it any more, but another one does */
	struct inode_window *windows;
	size_t n_windows;
};

struct inode_table {
	struct arena *arena;
	struct obstacle_list *obstacles;
	struct inode_entry *v;
	size_t n;
};

/*
 * The inode behind an open file description of a regular file. `link` is the
 * text of /proc/PID/fd/N, `use` what that description may do to the file.
 * *ret_index is its place in the table. Same inode, same index.
 */
int inode_collect_fd(struct inode_table *t, const struct target *task, unsigned fd, const char *link,
		     const struct stat *st, enum inode_use use, uint32_t *ret_index, struct err *e);

/*
 * The inode behind a directory, FIFO or symbolic link without a name: it has no
 * content but the `target` of a symbolic link. `link` is the text of its entry in /proc.
 */
int inode_collect_gone(struct inode_table *t, const char *link, const struct stat *st, const char *target,
		       uint32_t *ret_index, struct err *e);

/* The inode behind a file mapping. */
int inode_collect_mapping(struct inode_table *t, const struct target *task, const struct vm_area *area,
			  uint32_t *ret_index, struct err *e);

/*
 * All mappings are known: which System V segments do others have attached as well?
 * Each is an obstacle, or with `external` left as it is. -ENOMEM or 0.
 */
struct target_tree;
int inode_check_segments(struct inode_table *t, const struct target_tree *tree, bool external);

/*
 * When all are known: files that are mapped and written to, and that others can
 * reach by names that nobody has found, are obstacles. -ENOMEM or 0.
 */
int inode_check_links(struct inode_table *t);

void inode_table_done(struct inode_table *t);

/* ---- restore ---- */

/* An inode made or found again in the coordinator; the tasks inherit it. */
struct inode_live {
	const Pb__Inode *pb;
	int fd;           /* readable, and writable where some task writes; -1 where it is memory only */
	void *addr;       /* SHARED_ANON, SYSV_SHM: the whole of it, mapped shared */
	void *addr_readonly; /* SYSV_SHM: ... attached for reading only */
	bool made_segment; /* SYSV_SHM: it was gone */
	bool lent_mode;    /* SYSV_SHM: we have permitted ourselves to write to it */
	char *made_path;  /* a file that we had to make: removed again when the restore fails */
};

struct inode_restore {
	struct arena *arena;
	const struct image *image;
	struct inode_live *v;
	size_t n;
	int fd_base;        /* fds are made at or above this number */
	bool allow_changed; /* accept files that are not as they were */
	bool one_thread;    /* make no others: each would use up a PID */
};

/* Find, check or make every inode of the image; on failure nothing is left behind. */
int inode_restore_all(struct inode_restore *r, const Pb__Image *img, struct err *e);

/* A new open file description of the inode with these open(2) flags; an fd at or above fd_base, or negative. */
int inode_open(const struct inode_restore *r, uint32_t index, int flags, struct err *e);

/* Make a removed directory the working folder. */
int inode_enter(const struct inode_restore *r, uint32_t index, struct err *e);

/* Is it memory that the coordinator has mapped, and the tasks inherit? */
static inline bool inode_is_memory(const struct inode_live *n)
{
	return n->addr || n->addr_readonly;
}

/* Write the stored content to `addr`. */
int inode_fill_memory(struct inode_restore *r, size_t index, struct err *e);

/*
 * Every task stands. Put memfd seals back: last, since a seal may forbid the mappings that the tasks had to
 * make; and what System V segments are besides memory.
 */
int inode_complete(struct inode_restore *r, struct err *e);

/* Close the inodes' fds: what the tasks have, they have. */
void inode_restore_close(struct inode_restore *r);

/* `failed`: take back what was made. */
void inode_restore_done(struct inode_restore *r, bool failed);
