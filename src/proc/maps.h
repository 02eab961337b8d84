/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* /proc/PID/smaps (proc_pid_smaps(5)): mappings with their flags. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct arena;

/* VmFlags of smaps that torpor knows; the two letters are the kernel's. */
enum vm_flag {
	VM_FLAG_GROWSDOWN = 1 << 0,     /* gd */
	VM_FLAG_LOCKED = 1 << 1,        /* lo */
	VM_FLAG_LOCKONFAULT = 1 << 2,   /* lf; ?? of locked memory where the kernel has no letters for it */
	VM_FLAG_DONTFORK = 1 << 3,      /* dc */
	VM_FLAG_DONTDUMP = 1 << 4,      /* dd */
	VM_FLAG_WIPEONFORK = 1 << 5,    /* wf */
	VM_FLAG_HUGEPAGE = 1 << 6,      /* hg */
	VM_FLAG_NOHUGEPAGE = 1 << 7,    /* nh */
	VM_FLAG_MERGEABLE = 1 << 8,     /* mg */
	VM_FLAG_NORESERVE = 1 << 9,     /* nr */
	VM_FLAG_HUGETLB = 1 << 10,      /* ht */
	VM_FLAG_SEQ_READ = 1 << 11,     /* sr */
	VM_FLAG_RAND_READ = 1 << 12,    /* rr */
	VM_FLAG_SHARED = 1 << 13,       /* the s of rwxs in the mapping's own line */
	VM_FLAG_SEALED = 1 << 14,       /* sl */
	VM_FLAG_UFFD = 1 << 15,         /* um, uw or ui */
	VM_FLAG_SHADOW_STACK = 1 << 16, /* ss */
	VM_FLAG_IO = 1 << 17,           /* io or pf */
	VM_FLAG_DROPPABLE = 1 << 18,    /* dp */
	VM_FLAG_MAYSHARE = 1 << 19,     /* ms */
	VM_FLAG_MAYWRITE = 1 << 20,     /* mw */
	VM_FLAG_ACCOUNT = 1 << 21,      /* ac: it is or was writable, and counts as committed memory */
	VM_FLAG_UNNAMED = 1 << 22,      /* ??: one that the kernel has no letters for; only while a line is read */
};

struct vm_area {
	uint64_t start, end, offset, dev, ino; /* dev as makedev(3) */
	unsigned prot;                         /* PROT_* */
	unsigned flags;                        /* enum vm_flag */
	uint64_t page_size;                    /* of the kernel, in bytes; 0 in maps */
	const char *name;                      /* as shown, "" when there is none; \012 unescaped */
	bool deleted;                          /* name ended in " (deleted)"; it is cut off */
	bool alone;                            /* nobody else maps any of its pages; false in maps */
};

/* What the kernel has mapped by itself: vdso(7), and its data, which may be several mappings. */
static inline bool vm_area_is_vdso(const struct vm_area *a)
{
	return strcmp(a->name, "[vdso]") == 0;
}

static inline bool vm_area_is_vvar(const struct vm_area *a)
{
	return strncmp(a->name, "[vvar", strlen("[vvar")) == 0;
}

struct vm_area_list {
	struct vm_area *areas;
	size_t n;
};

/*
 * Parse the text of /proc/PID/maps or /proc/PID/smaps (both have the same
 * header lines; maps has no flags). `text` is changed. The mappings ascend and
 * do not overlap, also of a program that runs. Returns 0, -ENOMEM or -EINVAL
 * for a line that is not understood.
 */
int proc_parse_maps(char *text, struct arena *arena, struct vm_area_list *ret);

/* As above, of a part of it that ends with a line: the mappings are added to the list, and what is told of its last one goes on. */
int proc_parse_more_maps(char *text, struct arena *arena, struct vm_area_list *list);
