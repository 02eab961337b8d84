/* SPDX-License-Identifier: Apache-2.0 */

/* The /proc parsers: samples of what kernels print, this process's own files, and hostile text. */

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "proc/fdinfo.h"
#include "proc/maps.h"
#include "proc/task.h"
#include "unit.h"
#include "util/arena.h"
#include "util/fd.h"

#define cleanup_arena __attribute__((cleanup(arena_done)))
#define cleanup_free __attribute__((cleanup(unit_freep)))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static void unit_freep(char **p)
{
	free(*p);
}

/* The parsers write into their text; malloc() lets a sanitizer see a look past its end. */
static char *text_copy(const char *text, size_t size)
{
	char *copy = malloc(size + 1);

	memcpy(copy, text, size);
	copy[size] = '\0';
	return copy;
}

static int text_read(const char *path, struct arena *arena, char **ret, size_t *ret_size)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd_read_all(fd, arena, ret, ret_size);
}

/* ---- samples ---- */

static const char sample_maps[] =
	"55d0c1a00000-55d0c1a02000 r--p 00000000 fe:00 18624                      /usr/bin/cat\n"
	"55d0c2c5e000-55d0c2c7f000 rw-p 00000000 00:00 0                          [heap]\n"
	"7fb7e07ed000-7fb7e0920000 -wxp 00000000 00:00 0 \n"
	"7fb7e15ba000-7fb7e15bc000 rw-s 00001000 103:fffff 10952831               "
	"/tmp/a b/x\\012y (deleted)\\012z\\01 (deleted)\n"
	"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

static const char sample_smaps[] =
	"7fb7e1676000-7fb7e1678000 rw-p 00033000 fe:00 332383                     /usr/lib/ld.so\n"
	"Size:                  8 kB\n"
	"FilePmdMapped:         0 kB\n"
	"AnonHugePages:         0 kB\n"
	"VmFlags: rd wr mr mw me ac \n"
	"7fb7e2000000-7fb7e2200000 rw-s 00000000 00:01 3                          /dev/zero (deleted)\n"
	"Size:               2048 kB\n"
	"ProtectionKey:         0\n"
	"VmFlags: rd wr sh mr mw me ms lo lf dc dd wf nh mg nr sr rr sl um io dp \n"
	"7ffe93d05000-7ffe93d26000 rw-p 00000000 00:00 0                          [stack]\n"
	"VmFlags: gd hg ht uw ss\n";

#define STAT_FIELDS_TO_25                                                                  \
	" 4081 4082 2916 34816 -1 4194304 2944 6535 17 0 3 5 4 4 20 -5 3 0 140208 17346560 " \
	"3521 18446744073709551615"
#define STAT_FIELDS                                                                        \
	STAT_FIELDS_TO_25 " 94047850516480 94047850516821 140731378454544 0 0 0 0 16781312 2 0 0 0 " \
	"17 1 0 0 0 0 0 94047850528176 94047850528792 94048795357184 140731378456735 "      \
	"140731378456787 140731378456788 140731378458575 2304\n"

static const char sample_stat[] = "4084 (python3) R" STAT_FIELDS;

#define STATUS_HEAD                         \
	"Name:\tsleep\n"                    \
	"Umask:\t0027\n"                    \
	"State:\tS (sleeping)\n"            \
	"Pid:\t4084\n"                      \
	"TracerPid:\t12\n"                  \
	"Uid:\t1000\t1001\t1002\t1003\n"    \
	"Gid:\t2000\t2001\t2002\t4294967295\n"
#define STATUS_TAIL                         \
	"NSpid:\t4084\t17\t1\n"             \
	"VmRSS:\t   14160 kB\n"             \
	"THP_enabled:\t1\n"                 \
	"SigQ:\t4/96365\n"                  \
	"SigPnd:\t0000000000000001\n"       \
	"ShdPnd:\t0000000000000002\n"       \
	"SigBlk:\t0000000000010000\n"       \
	"SigIgn:\t0000000001001000\n"       \
	"SigCgt:\t8000000000000002\n"       \
	"CapInh:\t0000000000000003\n"       \
	"CapPrm:\t000001fffeffffff\n"       \
	"CapEff:\t000001fffeffff00\n"       \
	"CapBnd:\t000001ffffffffff\n"       \
	"CapAmb:\t0000000000000400\n"       \
	"NoNewPrivs:\t1\n"                  \
	"Seccomp:\t2\n"                     \
	"Seccomp_filters:\t1\n"             \
	"voluntary_ctxt_switches:\t97\n"

static const char sample_status[] = STATUS_HEAD "Groups:\t4 24 27 1000 \n" STATUS_TAIL;

static const char sample_timers[] =
	"ID: 3\nsignal: 12/0000000000000007\nnotify: signal/pid.4084\nClockID: -2\n"
	"ID: 2\nsignal: 40/00007fff86e452a8\nnotify: signal/tid.4085\nClockID: 0\n"
	"ID: 1\nsignal: 0/0000000000000001\nnotify: none/pid.4084\nClockID: 1\n"
	"ID: 0\nsignal: 10/000000deadbeef00\nnotify: thread/pid.4084\nClockID: 9\nFuture: 1\n";

static const char sample_epoll[] =
	"pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t1039\n"
	"tfd:        5 events: 80000019 data:                5  pos:0 ino:1dff sdev:f\n"
	"tfd:     1006 events: 4000001c data: ffffffffffffffff  pos:-1 ino:817 sdev:10300002\n";

static const char sample_eventfd[] =
	"pos:\t0\nflags:\t04002\nmnt_id:\t17\nino:\t1039\n"
	"eventfd-count:               2a\neventfd-id: 1\neventfd-semaphore: 1\n";

static const char sample_lock[] =
	"pos:\t12\nflags:\t02100001\nmnt_id:\t27\nino:\t10952829\n"
	"lock:\t1: FLOCK  ADVISORY  WRITE 4084 fe:00:10952829 0 EOF\n"
	"lock:\t2: POSIX  ADVISORY  WRITE 4084 fe:00:10952829 3 7\n";

static const char sample_locks[] =
	"pos:\t0\nflags:\t0100002\n"
	"lock:\t1: FLOCK  ADVISORY  READ 9167 fe:00:10952825 0 EOF\n"
	"lock:\t2: OFDLCK ADVISORY  WRITE -1 fe:00:10952825 100 EOF\n"
	"lock:\t3: LEASE  ACTIVE    WRITE 9167 fe:00:10952826 0 EOF\n"
	"lock:\t4: LEASE  BREAKING  READ 9167 fe:00:10952826 0 EOF\n"
	"lock:\t5: POSIX  ADVISORY  WRITE 9167 fe:00:10952826 9 3\n"
	"lock:\t6: POSIX\n";

static const char sample_fanotify[] =
	"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t10\nfanotify flags:e00 event-flags:8000\n"
	"fanotify ino:54a sdev:fe00000 mflags:240 mask:4000010b ignored_mask:20 fhandle-bytes:8 fhandle-type:1 "
	"f_handle:4a0500000000ff00\n"
	"fanotify sdev:fe00000 mflags:0 mask:1 ignored_mask:0\n";
static const char sample_inotify[] =
	"pos:\t0\nflags:\t00\n"
	"inotify wd:1f ino:54a sdev:fe00000 mask:fff ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:4a0500000000ff00\n"
	"inotify wd:2 ino:1 sdev:1a mask:80000100 ignored_mask:0 \n";

static const char sample_timerfd[] =
	"pos:\t0\nflags:\t02\nclockid: 7\nticks: 12\nsettime flags: 01\nit_value: (0, 0)\nit_interval: (0, 100000000)\n";

static const char sample_pidfd[] = "pos:\t0\nflags:\t02004002\nPid:\t-1\nNSpid:\t-1\nsigmask:\t8000000000000800\n";

static const char sample_socket[] = "pos:\t0\nflags:\t02\nmnt_id:\t10\nino:\t4711\nscm_fds: 254\n";

static const char sample_pids[] = "4084 4090 5001 \n";

/* ---- maps ---- */

static int maps_parse(const char *text, struct arena *arena, struct vm_area_list *ret)
{
	return proc_parse_maps(arena_strdup(arena, text), arena, ret);
}

static void maps_sample(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct vm_area_list list;

	UNIT_CHECK_EQ(maps_parse(sample_maps, &arena, &list), 0);
	UNIT_CHECK_EQ(list.n, 5);
	UNIT_CHECK_EQ(list.areas[0].start, 0x55d0c1a00000);
	UNIT_CHECK_EQ(list.areas[0].end, 0x55d0c1a02000);
	UNIT_CHECK_EQ(list.areas[0].dev, makedev(0xfe, 0));
	UNIT_CHECK_EQ(list.areas[0].ino, 18624);
	UNIT_CHECK_EQ(list.areas[0].prot, PROT_READ);
	UNIT_CHECK_EQ(list.areas[0].flags, 0);
	UNIT_CHECK_STR(list.areas[0].name, "/usr/bin/cat");
	UNIT_CHECK_STR(list.areas[1].name, "[heap]");
	UNIT_CHECK_EQ(list.areas[1].prot, PROT_READ | PROT_WRITE);
	UNIT_CHECK_STR(list.areas[2].name, "");
	UNIT_CHECK_EQ(list.areas[2].prot, PROT_WRITE | PROT_EXEC);
	UNIT_CHECK(!list.areas[2].deleted);
	UNIT_CHECK_EQ(list.areas[4].start, 0xffffffffff600000);
}

static void maps_names(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct vm_area_list list;

	UNIT_CHECK_EQ(maps_parse(sample_maps, &arena, &list), 0);
	UNIT_CHECK_STR(list.areas[3].name, "/tmp/a b/x\ny (deleted)\nz\\01");
	UNIT_CHECK(list.areas[3].deleted);
	UNIT_CHECK_EQ(list.areas[3].flags, VM_FLAG_SHARED);
	UNIT_CHECK_EQ(list.areas[3].offset, 0x1000);
	UNIT_CHECK_EQ(list.areas[3].dev, makedev(0x103, 0xfffff));
}

static void maps_flags(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct vm_area_list list;

	UNIT_CHECK_EQ(maps_parse(sample_smaps, &arena, &list), 0);
	UNIT_CHECK_EQ(list.n, 3);
	UNIT_CHECK_EQ(list.areas[0].flags, VM_FLAG_MAYWRITE | VM_FLAG_ACCOUNT);
	UNIT_CHECK_STR(list.areas[0].name, "/usr/lib/ld.so");
	UNIT_CHECK_EQ(list.areas[1].flags,
		      VM_FLAG_SHARED | VM_FLAG_MAYSHARE | VM_FLAG_MAYWRITE | VM_FLAG_LOCKED | VM_FLAG_LOCKONFAULT |
			      VM_FLAG_DONTFORK | VM_FLAG_DONTDUMP | VM_FLAG_WIPEONFORK | VM_FLAG_NOHUGEPAGE |
			      VM_FLAG_MERGEABLE | VM_FLAG_NORESERVE | VM_FLAG_SEQ_READ | VM_FLAG_RAND_READ |
			      VM_FLAG_SEALED | VM_FLAG_UFFD | VM_FLAG_IO | VM_FLAG_DROPPABLE);
	UNIT_CHECK(list.areas[1].deleted);
	UNIT_CHECK_STR(list.areas[1].name, "/dev/zero");
	UNIT_CHECK_EQ(list.areas[2].flags, VM_FLAG_GROWSDOWN | VM_FLAG_HUGEPAGE | VM_FLAG_HUGETLB |
						   VM_FLAG_UFFD | VM_FLAG_SHADOW_STACK);
}

/* Linux 6.1 has no letters for what mlock2(MLOCK_ONFAULT) sets; elsewhere such a flag means nothing here. */
static void maps_unnamed_flags(void)
{
	static const char lines[] = "1000-2000 rw-p 0 00:00 0 \nVmFlags: rd wr lo ?? ac \n"
				    "3000-4000 rw-p 0 00:00 0 \nVmFlags: rd ?? \n"
				    "5000-6000 rw-p 0 00:00 0 \nVmFlags: rd lo \n";
	cleanup_arena struct arena arena = { 0 };
	cleanup_free char *text = text_copy(lines, sizeof(lines) - 1);
	struct vm_area_list list;

	UNIT_CHECK_EQ(proc_parse_maps(text, &arena, &list), 0);
	UNIT_CHECK_EQ(list.n, 3);
	UNIT_CHECK_EQ(list.areas[0].flags, VM_FLAG_LOCKED | VM_FLAG_LOCKONFAULT | VM_FLAG_ACCOUNT);
	UNIT_CHECK_EQ(list.areas[1].flags, 0);
	UNIT_CHECK_EQ(list.areas[2].flags, VM_FLAG_LOCKED);
}

/* Whose pages nobody else maps: smaps has all its lines then, and nothing in those that begin with Shared_ or Swap. */
static void maps_alone(void)
{
	static const char lines[] = "1000-2000 rw-p 0 00:00 0 \nRss: 4 kB\nShared_Clean: 0 kB\nShared_Dirty: 0 kB\nSwap: 0 kB\n"
				    "3000-4000 rw-p 0 00:00 0 \nRss: 4 kB\nShared_Clean: 0 kB\nShared_Dirty: 4 kB\nSwap: 0 kB\n"
				    "5000-6000 rw-p 0 00:00 0 \nRss: 0 kB\nShared_Hugetlb: 2048 kB\n"
				    "7000-8000 rw-p 0 00:00 0 \nRss: 0 kB\nShared_Clean: 0 kB\nSwap: 4 kB\n"
				    "9000-a000 rw-p 0 00:00 0 \n";
	cleanup_arena struct arena arena = { 0 };
	cleanup_free char *text = text_copy(lines, sizeof(lines) - 1);
	struct vm_area_list list;

	UNIT_CHECK_EQ(proc_parse_maps(text, &arena, &list), 0);
	UNIT_CHECK_EQ(list.n, 5);
	UNIT_CHECK(list.areas[0].alone);
	for (size_t i = 1; i < list.n; i++)
		UNIT_CHECK(!list.areas[i].alone);
}

/* A program that runs: the second mapping has grown together with the first while it was looked for. */
static void maps_overlap(void)
{
	static const char lines[] = "1000-3000 rw-p 0 00:00 0 \nVmFlags: rd wr uw \n2000-5000 rw-p 0 00:00 0 \nVmFlags: rd wr uw \n"
				    "6000-8000 r--p 1000 fe:00 5 /f\n7000-9000 r--p 2000 fe:00 5 /f\n";
	cleanup_arena struct arena arena = ARENA_INIT;
	cleanup_free char *text = text_copy(lines, sizeof(lines) - 1);
	struct vm_area_list list;

	UNIT_CHECK_EQ(proc_parse_maps(text, &arena, &list), 0);
	UNIT_CHECK_EQ(list.n, 4);
	UNIT_CHECK_EQ(list.areas[1].start, 0x3000);
	UNIT_CHECK_EQ(list.areas[1].end, 0x5000);
	UNIT_CHECK_EQ(list.areas[1].flags, VM_FLAG_UFFD);
	UNIT_CHECK_EQ(list.areas[3].start, 0x8000);
	UNIT_CHECK_EQ(list.areas[3].offset, 0x3000);
}

static void maps_refused(void)
{
	static const char *const texts[] = {
		"Size: 8 kB\n",
		"\n",
		"1000-2000\n",
		"1000-2000 rw-p\n",
		"1000-2000 rw-p 0 00:00\n",
		"1000-2000 rw-p 0 00:00 0",
		"1000-2000 rw-p 0 00:00 0x\n",
		"1000-2000 rw-p 0 00:00 0/bin/true\n",
		"1000-2000 rw-q 0 00:00 0\n",
		"1000-2000 wr-p 0 00:00 0\n",
		"1000-2000 rwp 0 00:00 0\n",
		"2000-1000 rw-p 0 00:00 0\n",
		"1000-1000 rw-p 0 00:00 0\n",
		"1000-10000000000002000 rw-p 0 00:00 0\n",
		"1000-2000 rw-p 10000000000000000 00:00 0\n",
		"1000-2000 rw-p 0 100000000:00 0\n",
		"1000-2000 rw-p 0 00:00 18446744073709551616\n",
		"1000-2000 rw-p 0 00:00 0 \nVmFlags: rd w\n",
		"1000-2000 rw-p 0 00:00 0 \nVmFlags: rdwr \n",
		"1000-2000 rw-p 0 00:00 0 \nShared_Clean: kB\n",
		"1000-2000 rw-p 0 00:00 0 \nShared_Clean\n",
		"1000-2000 rw-p 0 00:00 0 \nsize: 8 kB\n",
		"1000-2000 rw-p 0 00:00 0 \n\n",
		"-2000 rw-p 0 00:00 0\n",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		cleanup_arena struct arena arena = ARENA_INIT;
		struct vm_area_list list = { .n = 77 };

		if (maps_parse(texts[i], &arena, &list) != -EINVAL || list.n != 77)
			UNIT_CHECK_STR(texts[i], "refused");
	}
}

static void maps_empty(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct vm_area_list list = { .n = 77 };

	UNIT_CHECK_EQ(maps_parse("", &arena, &list), 0);
	UNIT_CHECK_EQ(list.n, 0);
}

static void maps_nomem(void)
{
	cleanup_arena struct arena arena = { .limit = 64 };
	cleanup_free char *text = text_copy(sample_maps, sizeof(sample_maps) - 1);
	struct vm_area_list list;

	UNIT_CHECK_EQ(proc_parse_maps(text, &arena, &list), -ENOMEM);
}

static const struct vm_area *maps_find(const struct vm_area_list *list, const void *p)
{
	for (size_t i = 0; i < list->n; i++)
		if (list->areas[i].start <= (uintptr_t)p && (uintptr_t)p < list->areas[i].end)
			return &list->areas[i];
	return NULL;
}

static void maps_check_self(const char *path, const struct stat *st, const void *p, unsigned flags)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	cleanup_arena struct arena arena = ARENA_INIT;
	const struct vm_area *area;
	struct vm_area_list list;
	char *text;

	UNIT_CHECK_EQ(text_read(path, &arena, &text, NULL), 0);
	UNIT_CHECK_EQ(proc_parse_maps(text, &arena, &list), 0);
	area = maps_find(&list, p);
	UNIT_CHECK(area);
	UNIT_CHECK_EQ(area->start, (uintptr_t)p);
	UNIT_CHECK_EQ(area->end, (uintptr_t)p + 2 * page);
	UNIT_CHECK_EQ(area->offset, page);
	UNIT_CHECK_EQ(area->prot, PROT_READ);
	UNIT_CHECK_EQ(area->dev, st->st_dev);
	UNIT_CHECK_EQ(area->ino, st->st_ino);
	UNIT_CHECK_STR(area->name, "/memfd:a b\nc (deleted)");
	UNIT_CHECK(area->deleted);
	UNIT_CHECK_EQ(area->flags & flags, flags);
	UNIT_CHECK_EQ(area->flags & (VM_FLAG_LOCKED | VM_FLAG_GROWSDOWN | VM_FLAG_IO), 0);
	UNIT_CHECK_EQ(maps_find(&list, &list)->prot, PROT_READ | PROT_WRITE);
}

static void maps_self(void)
{
	cleanup_close int fd = memfd_create("a b\nc (deleted)", MFD_CLOEXEC);
	const long page = sysconf(_SC_PAGESIZE);
	const size_t size = 2 * (size_t)page;
	struct stat st;
	void *p;

	UNIT_CHECK(fd >= 0 && ftruncate(fd, 3 * page) == 0 && fstat(fd, &st) == 0);
	p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, page);
	UNIT_CHECK(p != MAP_FAILED && madvise(p, size, MADV_DONTFORK) == 0);
	maps_check_self("/proc/self/maps", &st, p, VM_FLAG_SHARED);
	maps_check_self("/proc/self/smaps", &st, p, VM_FLAG_SHARED | VM_FLAG_DONTFORK | VM_FLAG_MAYSHARE | VM_FLAG_MAYWRITE);
	munmap(p, size);
}

static void maps_many(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	enum { MANY = 20000, LINE = 64 };
	struct vm_area_list list;
	char *text = arena_alloc(&arena, MANY * LINE), *to = text;

	UNIT_CHECK(text);
	for (unsigned i = 0; i < MANY; i++)
		to += snprintf(to, LINE, "%x000-%x000 rw-p 00000000 00:00 0 \nVmFlags: rd dc \n", 2 * i, 2 * i + 1);
	UNIT_CHECK_EQ(proc_parse_maps(text, &arena, &list), 0);
	UNIT_CHECK_EQ(list.n, MANY);
	for (unsigned i = 0; i < MANY; i++) {
		UNIT_CHECK_EQ(list.areas[i].start, (uint64_t)i * 8192);
		UNIT_CHECK_EQ(list.areas[i].flags, VM_FLAG_DONTFORK);
	}
}

/* ---- stat ---- */

static void stat_sample(void)
{
	struct proc_stat stat;

	UNIT_CHECK_EQ(proc_parse_stat(sample_stat, &stat), 0);
	UNIT_CHECK_EQ(stat.pid, 4084);
	UNIT_CHECK_STR(stat.comm, "python3");
	UNIT_CHECK_EQ(stat.state, 'R');
	UNIT_CHECK_EQ(stat.ppid, 4081);
	UNIT_CHECK_EQ(stat.pgrp, 4082);
	UNIT_CHECK_EQ(stat.sid, 2916);
	UNIT_CHECK_EQ(stat.tty_nr, 34816);
	UNIT_CHECK_EQ(stat.tpgid, -1);
	UNIT_CHECK_EQ(stat.flags, 4194304);
	UNIT_CHECK_EQ(stat.n_threads, 3);
	UNIT_CHECK_EQ(stat.starttime, 140208);
	UNIT_CHECK_EQ(stat.start_code, 94047850516480);
	UNIT_CHECK_EQ(stat.end_code, 94047850516821);
	UNIT_CHECK_EQ(stat.start_stack, 140731378454544);
	UNIT_CHECK_EQ(stat.exit_signal, SIGCHLD);
	UNIT_CHECK_EQ(stat.start_data, 94047850528176);
	UNIT_CHECK_EQ(stat.end_data, 94047850528792);
	UNIT_CHECK_EQ(stat.start_brk, 94048795357184);
	UNIT_CHECK_EQ(stat.arg_start, 140731378456735);
	UNIT_CHECK_EQ(stat.arg_end, 140731378456787);
	UNIT_CHECK_EQ(stat.env_start, 140731378456788);
	UNIT_CHECK_EQ(stat.env_end, 140731378458575);
	UNIT_CHECK_EQ(WEXITSTATUS(stat.exit_code), 9);
}

static void stat_comm(void)
{
	static const char *const comms[] = {
		"", "a b", ")", "(", "a) R 1 (b", ") Z 1 2 3", "line\nline", "kworker/u8:2-events_unbound",
		"123456789012345678901234567890123456789012345678901234567890123",
	};
	char text[1024];
	struct proc_stat stat;

	for (size_t i = 0; i < ARRAY_SIZE(comms); i++) {
		snprintf(text, sizeof(text), "4084 (%s) S%s", comms[i], STAT_FIELDS);
		UNIT_CHECK_EQ(proc_parse_stat(text, &stat), 0);
		UNIT_CHECK_STR(stat.comm, comms[i]);
		UNIT_CHECK_EQ(stat.state, 'S');
		UNIT_CHECK_EQ(stat.ppid, 4081);
	}
	snprintf(text, sizeof(text), "4084 (%064d) S%s", 0, STAT_FIELDS);
	UNIT_CHECK_EQ(proc_parse_stat(text, &stat), -EINVAL);
}

/* Without permission the kernel shows 1 for the ends of the code, and 0 for the rest. */
static void stat_denied(void)
{
	struct proc_stat stat;

	UNIT_CHECK_EQ(proc_parse_stat("1 (a) S" STAT_FIELDS_TO_25 " 1 1 0 0 0 0 0 0 0 0 0 0 "
				      "-1 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n", &stat), 0);
	UNIT_CHECK_EQ(stat.start_code, 0);
	UNIT_CHECK_EQ(stat.end_code, 0);
	UNIT_CHECK_EQ(stat.exit_signal, (unsigned)-1);
}

static void stat_refused(void)
{
	static const char *const texts[] = {
		"", "1", "1 ", "1 (", "1 (a", "1 )a(", "1 (a)", "1 (a) ", "1 (a) R", "1 (a) R 1 2 3\n",
		"1 (a) ?" STAT_FIELDS,
		"1 (a) \xff" STAT_FIELDS,
		"(a) R" STAT_FIELDS,
		"-1 (a) R" STAT_FIELDS,
		"2147483648 (a) R" STAT_FIELDS,
		"1 (a) R 2147483648" STAT_FIELDS,
		"1 (a) R -2147483649" STAT_FIELDS,
		"1 (a) R x" STAT_FIELDS,
		"1 (a) R " STAT_FIELDS,
		"1 (a) R 1 1 1 0 0 -1 0 0 0 0 0 0 0 0 20 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 "
		"0 0 0 0 0\n",
		"1 (a) R 1 1 1 0 0 0 0 0 0 0 0 0 0 0 20 0 1 0 18446744073709551616 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 "
		"0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct proc_stat stat = { .pid = 77 };

		if (proc_parse_stat(texts[i], &stat) != -EINVAL || stat.pid != 77)
			UNIT_CHECK_STR(texts[i], "refused");
	}
}

static void stat_self(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct proc_stat stat;
	char before[16], *text;

	UNIT_CHECK_EQ(prctl(PR_GET_NAME, before), 0);
	UNIT_CHECK_EQ(prctl(PR_SET_NAME, "a) R 1 (b"), 0);
	UNIT_CHECK_EQ(text_read("/proc/self/stat", &arena, &text, NULL), 0);
	prctl(PR_SET_NAME, before);
	UNIT_CHECK_EQ(proc_parse_stat(text, &stat), 0);
	UNIT_CHECK_EQ(stat.pid, getpid());
	UNIT_CHECK_EQ(stat.ppid, getppid());
	UNIT_CHECK_EQ(stat.pgrp, getpgrp());
	UNIT_CHECK_EQ(stat.sid, getsid(0));
	UNIT_CHECK_STR(stat.comm, "a) R 1 (b");
	UNIT_CHECK_EQ(stat.state, 'R');
	UNIT_CHECK(stat.n_threads >= 1);
	UNIT_CHECK(stat.start_code < (uintptr_t)stat_self && (uintptr_t)stat_self < stat.end_code);
	UNIT_CHECK(stat.start_stack > (uintptr_t)&stat);
	UNIT_CHECK(stat.arg_start && stat.arg_start < stat.arg_end && stat.arg_end <= stat.env_start);
}

/* ---- status ---- */

static int status_parse(const char *text, struct arena *arena, struct proc_status *ret)
{
	return proc_parse_status(arena_strdup(arena, text), arena, ret);
}

static void status_sample(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct proc_status status;

	UNIT_CHECK_EQ(status_parse(sample_status, &arena, &status), 0);
	UNIT_CHECK_EQ(status.umask, 027);
	UNIT_CHECK_EQ(status.tracer, 12);
	for (unsigned i = 0; i < 4; i++)
		UNIT_CHECK_EQ(status.uid[i], 1000 + i);
	UNIT_CHECK_EQ(status.gid[2], 2002);
	UNIT_CHECK_EQ(status.gid[3], UINT32_MAX);
	UNIT_CHECK_EQ(status.n_groups, 4);
	UNIT_CHECK_EQ(status.groups[0], 4);
	UNIT_CHECK_EQ(status.groups[3], 1000);
	UNIT_CHECK_EQ(status.ns_pids, 3);
	UNIT_CHECK_EQ(status.ns_pid[0], 4084);
	UNIT_CHECK_EQ(status.ns_pid[2], 1);
	UNIT_CHECK_EQ(status.vm_rss, 14160 * 1024);
	UNIT_CHECK(status.thp_enabled && status.no_new_privs);
	UNIT_CHECK_EQ(status.seccomp, 2);
}

static void status_masks(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct proc_status status;

	UNIT_CHECK_EQ(status_parse(sample_status, &arena, &status), 0);
	UNIT_CHECK_EQ(status.sig_pending, 1);
	UNIT_CHECK_EQ(status.shd_pending, 2);
	UNIT_CHECK_EQ(status.sig_blocked, 0x10000);
	UNIT_CHECK_EQ(status.sig_ignored, 0x1001000);
	UNIT_CHECK_EQ(status.sig_caught, 0x8000000000000002);
	UNIT_CHECK_EQ(status.cap_inh, 3);
	UNIT_CHECK_EQ(status.cap_prm, 0x1fffeffffff);
	UNIT_CHECK_EQ(status.cap_eff, 0x1fffeffff00);
	UNIT_CHECK_EQ(status.cap_bnd, 0x1ffffffffff);
	UNIT_CHECK_EQ(status.cap_amb, 0x400);
}

static void status_lists(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct proc_status status;

	UNIT_CHECK_EQ(status_parse(STATUS_HEAD "Groups:\t \n" STATUS_TAIL
				   "NSpid:\t1\t2\t3\t4\t5\t6\t7\t8\t9\t10\n", &arena, &status), 0);
	UNIT_CHECK_EQ(status.n_groups, 0);
	UNIT_CHECK_EQ(status.ns_pids, 10);
	UNIT_CHECK_EQ(status.ns_pid[7], 8);
}

static void status_refused(void)
{
	static const char *const lines[] = {
		"Groups:\t4 x\n",
		"Groups:\t4,5\n",
		"Groups:\t4294967296\n",
		"Groups:\t0\nUid:\t1\t2\t3\n",
		"Groups:\t0\nUid:\t1\t2\t3\t4\t5\n",
		"Groups:\t0\nUid:\t-1\t2\t3\t4\n",
		"Groups:\t0\nUmask:\t0028\n",
		"Groups:\t0\nTracerPid:\t-1\n",
		"Groups:\t0\nVmRSS:\t12 MB\n",
		"Groups:\t0\nVmRSS:\t18014398509481984 kB\n",
		"Groups:\t0\nSigPnd:\t10000000000000000\n",
		"Groups:\t0\nNoNewPrivs:\t2\n",
		"Groups:\t0\nSeccomp:\t\n",
		"Groups:\t0\nNSpid:\t1 2\n",
		"",
	};

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		cleanup_arena struct arena arena = ARENA_INIT;
		struct proc_status status = { .umask = 077 };
		char *text = arena_printf(&arena, "%s%s%s", STATUS_HEAD, lines[i], STATUS_TAIL);

		if (proc_parse_status(text, &arena, &status) != -EINVAL || status.umask != 077)
			UNIT_CHECK_STR(lines[i], "refused");
	}
}

static void status_self(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct proc_status status;
	uid_t ruid, euid, suid;
	gid_t groups[1024];
	mode_t before;
	sigset_t set;
	char *text;

	before = umask(051);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	raise(SIGUSR2);
	UNIT_CHECK_EQ(text_read("/proc/self/status", &arena, &text, NULL), 0);
	signal(SIGUSR2, SIG_IGN); /* drops the pending one */
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	umask(before);

	UNIT_CHECK_EQ(proc_parse_status(text, &arena, &status), 0);
	UNIT_CHECK_EQ(status.umask, 051);
	UNIT_CHECK(status.sig_blocked & 1u << (SIGUSR2 - 1));
	UNIT_CHECK(status.sig_pending & 1u << (SIGUSR2 - 1));
	UNIT_CHECK_EQ(getresuid(&ruid, &euid, &suid), 0);
	UNIT_CHECK_EQ(status.uid[0], ruid);
	UNIT_CHECK_EQ(status.uid[1], euid);
	UNIT_CHECK_EQ(status.uid[2], suid);
	UNIT_CHECK_EQ(status.gid[1], getegid());
	UNIT_CHECK_EQ(status.n_groups, getgroups((int)ARRAY_SIZE(groups), groups));
	UNIT_CHECK_EQ(status.no_new_privs, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	UNIT_CHECK(status.vm_rss > 0 && status.vm_rss % 4096 == 0);
	UNIT_CHECK(status.ns_pids >= 1);
	UNIT_CHECK_EQ(status.ns_pid[0], getpid());
}

/* ---- timers ---- */

static int timers_parse(const char *text, struct arena *arena, struct proc_timer **ret, size_t *ret_n)
{
	return proc_parse_timers(arena_strdup(arena, text), arena, ret, ret_n);
}

static void timers_sample(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct proc_timer *timers;
	size_t n;

	UNIT_CHECK_EQ(timers_parse(sample_timers, &arena, &timers, &n), 0);
	UNIT_CHECK_EQ(n, 4);
	UNIT_CHECK_EQ(timers[0].id, 3);
	UNIT_CHECK_EQ(timers[0].signo, 12);
	UNIT_CHECK_EQ(timers[0].notify, SIGEV_SIGNAL);
	UNIT_CHECK_EQ(timers[0].tid, 4084);
	UNIT_CHECK_EQ(timers[0].clock, -2);
	UNIT_CHECK_EQ(timers[1].sigval, 0x7fff86e452a8);
	UNIT_CHECK_EQ(timers[1].notify, SIGEV_THREAD_ID);
	UNIT_CHECK_EQ(timers[1].tid, 4085);
	UNIT_CHECK_EQ(timers[2].notify, SIGEV_NONE);
	UNIT_CHECK_EQ(timers[3].notify, SIGEV_THREAD_ID);
	UNIT_CHECK_EQ(timers[3].clock, 9);
	UNIT_CHECK_EQ(timers_parse("", &arena, &timers, &n), 0);
	UNIT_CHECK_EQ(n, 0);
}

static void timers_refused(void)
{
	static const char *const texts[] = {
		"ID: 1\n",
		"ID: 1\nsignal: 1/0\nnotify: none/pid.1\n",
		"signal: 1/0\n",
		"ID: 1\nsignal: 1/0\nsignal: 1/0\nnotify: none/pid.1\nClockID: 0\n",
		"ID: 1\nID: 1\nsignal: 1/0\nnotify: none/pid.1\nClockID: 0\n",
		"ID: 1\nsignal: 1/0\nnotify: none/pid.1\nClockID: 0\nClockID: 0\n",
		"ID: -1\nsignal: 1/0\nnotify: none/pid.1\nClockID: 0\n",
		"ID: 1\nsignal: 1\nnotify: none/pid.1\nClockID: 0\n",
		"ID: 1\nsignal: 1/10000000000000000\nnotify: none/pid.1\nClockID: 0\n",
		"ID: 1\nsignal: 1/0\nnotify: call/pid.1\nClockID: 0\n",
		"ID: 1\nsignal: 1/0\nnotify: none/uid.1\nClockID: 0\n",
		"ID: 1\nsignal: 1/0\nnotify: none/pid.\nClockID: 0\n",
		"ID: 1\nsignal: 1/0\nnotify: none/pid.1\nClockID: 2147483648\n",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		cleanup_arena struct arena arena = ARENA_INIT;
		struct proc_timer *timers;
		size_t n = 77;

		if (timers_parse(texts[i], &arena, &timers, &n) != -EINVAL || n != 77)
			UNIT_CHECK_STR(texts[i], "refused");
	}
}

static void timers_self(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1 };
	struct proc_timer *timers;
	timer_t timer;
	char *text;
	size_t n;
	int r;

	event.sigev_value.sival_ptr = (void *)0x123456789abc;
	event._sigev_un._tid = getpid();
	UNIT_CHECK_EQ(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
	r = text_read("/proc/self/timers", &arena, &text, NULL);
	timer_delete(timer);
	if (r == -ENOENT)
		return; /* a kernel without CONFIG_CHECKPOINT_RESTORE */
	UNIT_CHECK_EQ(r, 0);
	UNIT_CHECK_EQ(proc_parse_timers(text, &arena, &timers, &n), 0);
	UNIT_CHECK_EQ(n, 1);
	UNIT_CHECK_EQ(timers[0].signo, SIGUSR1);
	UNIT_CHECK_EQ(timers[0].sigval, 0x123456789abc);
	UNIT_CHECK_EQ(timers[0].notify, SIGEV_THREAD_ID);
	UNIT_CHECK_EQ(timers[0].tid, getpid());
	UNIT_CHECK_EQ(timers[0].clock, CLOCK_MONOTONIC);
}

/* ---- fdinfo ---- */

static int fdinfo_parse(const char *text, struct arena *arena, struct fdinfo *ret)
{
	return proc_parse_fdinfo(arena_strdup(arena, text), arena, ret);
}

static void fdinfo_samples(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct fdinfo info;

	UNIT_CHECK_EQ(fdinfo_parse(sample_eventfd, &arena, &info), 0);
	UNIT_CHECK(info.has_eventfd && info.eventfd_semaphore);
	UNIT_CHECK_EQ(info.eventfd_count, 42);
	UNIT_CHECK_EQ(info.flags, O_RDWR | O_NONBLOCK);
	UNIT_CHECK_EQ(info.mnt_id, 17);
	UNIT_CHECK_EQ(info.ino, 1039);
	UNIT_CHECK_EQ(fdinfo_parse(sample_lock, &arena, &info), 0);
	UNIT_CHECK(!info.has_eventfd);
	UNIT_CHECK_EQ(info.pos, 12);
	UNIT_CHECK_EQ(info.n_locks, 2);
	UNIT_CHECK_STR(info.locks[1].text, "2: POSIX  ADVISORY  WRITE 4084 fe:00:10952829 3 7");
}

static void fdinfo_kinds(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct fdinfo info;

	UNIT_CHECK_EQ(fdinfo_parse(sample_inotify, &arena, &info), 0);
	UNIT_CHECK_EQ(info.n_inotify, 2);
	UNIT_CHECK_EQ(info.inotify[0].wd, 31);
	UNIT_CHECK_EQ(info.inotify[0].file.ino, 0x54a);
	UNIT_CHECK_EQ(info.inotify[0].file.dev, makedev(0xfe, 0));
	UNIT_CHECK_EQ(info.inotify[0].file.handle_size, 8);
	UNIT_CHECK_EQ(info.inotify[0].file.handle[6], 0xff);
	UNIT_CHECK_EQ(info.inotify[1].mask, 0x80000100);
	UNIT_CHECK_EQ(info.inotify[1].file.handle_size, 0);
	UNIT_CHECK_EQ(fdinfo_parse(sample_fanotify, &arena, &info), 0);
	UNIT_CHECK(info.fanotify_flags == 0xe00 && info.fanotify_event_flags == 0x8000 && info.n_fanotify == 2);
	UNIT_CHECK(info.fanotify[0].flags == 0x240 && info.fanotify[0].mask == 0x4000010b);
	UNIT_CHECK(info.fanotify[0].ignored_mask == 0x20 && info.fanotify[0].file.ino == 0x54a);
	UNIT_CHECK_EQ(info.fanotify[0].file.handle[6], 0xff);
	UNIT_CHECK(!info.fanotify[0].other && info.fanotify[1].other);
	UNIT_CHECK_EQ(fdinfo_parse(sample_timerfd, &arena, &info), 0);
	UNIT_CHECK(info.clock == CLOCK_BOOTTIME && info.ticks == 12 && info.settime_flags == 1);
	UNIT_CHECK_EQ(fdinfo_parse(sample_pidfd, &arena, &info), 0);
	UNIT_CHECK(info.pid == -1 && info.sigmask == 0x8000000000000800);
	UNIT_CHECK_EQ(fdinfo_parse(sample_socket, &arena, &info), 0);
	UNIT_CHECK_EQ(info.scm_fds, 254);
}

static void fdinfo_locks(void)
{
	static const struct fdinfo_lock expected[] = {
		{ .flavour = FDINFO_LOCK_FLOCK, .end = UINT64_MAX },
		{ .flavour = FDINFO_LOCK_OFD, .exclusive = true, .start = 100, .end = UINT64_MAX },
		{ .flavour = FDINFO_LOCK_LEASE, .exclusive = true, .end = UINT64_MAX },
		{ .flavour = FDINFO_LOCK_OTHER }, { .flavour = FDINFO_LOCK_OTHER }, { .flavour = FDINFO_LOCK_OTHER },
	};
	cleanup_arena struct arena arena = ARENA_INIT;
	struct fdinfo info;

	UNIT_CHECK_EQ(fdinfo_parse(sample_locks, &arena, &info), 0);
	UNIT_CHECK_EQ(info.n_locks, ARRAY_SIZE(expected));
	for (size_t i = 0; i < info.n_locks; i++) {
		UNIT_CHECK_EQ(info.locks[i].flavour, expected[i].flavour);
		UNIT_CHECK_EQ(info.locks[i].exclusive, expected[i].exclusive);
		UNIT_CHECK_EQ(info.locks[i].start, expected[i].start);
		UNIT_CHECK_EQ(info.locks[i].end, expected[i].end);
	}
	UNIT_CHECK_STR(info.locks[5].text, "6: POSIX");
}

static void fdinfo_epoll(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct fdinfo info;

	UNIT_CHECK_EQ(fdinfo_parse(sample_epoll, &arena, &info), 0);
	UNIT_CHECK_EQ(info.n_epoll, 2);
	UNIT_CHECK_EQ(info.epoll[0].tfd, 5);
	UNIT_CHECK_EQ(info.epoll[0].events, EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLET);
	UNIT_CHECK_EQ(info.epoll[0].data, 5);
	UNIT_CHECK_EQ(info.epoll[0].ino, 0x1dff);
	UNIT_CHECK_EQ(info.epoll[0].dev, makedev(0, 15));
	UNIT_CHECK_EQ(info.epoll[1].tfd, 1006);
	UNIT_CHECK_EQ(info.epoll[1].data, UINT64_MAX);
	UNIT_CHECK_EQ(info.epoll[1].pos, UINT64_MAX);
	UNIT_CHECK_EQ(info.epoll[1].dev, makedev(0x103, 2));
}

static void fdinfo_refused(void)
{
	static const char *const texts[] = {
		"",
		"pos:\t0\n",
		"flags:\t02\npos:\t0\n",
		"pos:\t9223372036854775808\nflags:\t02\n",
		"pos:\t0\nflags:\t08\n",
		"pos:\t0\nflags:\t02\nmnt_id:\tx\n",
		"pos:\t0\nflags:\t02\nino:\t-1\n",
		"pos:\t0\nflags:\t02\neventfd-count: 10000000000000000\n",
		"pos:\t0\nflags:\t02\neventfd-semaphore: 2\n",
		"pos:\t0\nflags:\t02\ntfd: 5\n",
		"pos:\t0\nflags:\t02\nticks: -1\n",
		"pos:\t0\nflags:\t02\nscm_fds: -1\n",
		"pos:\t0\nflags:\t02\nsigmask:\t10000000000000000\n",
		"pos:\t0\nflags:\t02\ninotify wd:1\n",
		"pos:\t0\nflags:\t02\ninotify wd:1 ino:1 sdev:1 mask:1 ignored_mask:0 fhandle-bytes:2 fhandle-type:1 f_handle:ff\n",
		"pos:\t0\nflags:\t02\ninotify wd:1 ino:1 sdev:1 mask:1 ignored_mask:0 fhandle-bytes:81 fhandle-type:1 f_handle:ff\n",
		"pos:\t0\nflags:\t02\ntfd: 5 events: 19 data: 5\n",
		"pos:\t0\nflags:\t02\ntfd: -5 events: 19 data: 5  pos:0 ino:1 sdev:f\n",
		"pos:\t0\nflags:\t02\ntfd: 5 events: 100000000 data: 5  pos:0 ino:1 sdev:f\n",
		"pos:\t0\nflags:\t02\ntfd: 5 events: 19 data: 5  pos:0 ino:1 sdev:f0000000f\n",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		cleanup_arena struct arena arena = ARENA_INIT;
		struct fdinfo info = { .pos = 77 };

		if (fdinfo_parse(texts[i], &arena, &info) != -EINVAL || info.pos != 77)
			UNIT_CHECK_STR(texts[i], "refused");
	}
}

static int fdinfo_read(int fd, struct arena *arena, struct fdinfo *ret)
{
	char path[64], *text;
	int r;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	r = text_read(path, arena, &text, NULL);
	return r ? r : proc_parse_fdinfo(text, arena, ret);
}

static void fdinfo_self_anon(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	cleanup_close int ep = epoll_create1(EPOLL_CLOEXEC), ev = eventfd(300, EFD_NONBLOCK);
	struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = 0xfedcba9876543210 };
	struct fdinfo info;
	struct stat st;

	UNIT_CHECK(ep >= 0 && ev >= 0 && fstat(ev, &st) == 0);
	UNIT_CHECK_EQ(epoll_ctl(ep, EPOLL_CTL_ADD, ev, &event), 0);
	UNIT_CHECK_EQ(fdinfo_read(ev, &arena, &info), 0);
	UNIT_CHECK(info.has_eventfd && !info.eventfd_semaphore);
	UNIT_CHECK_EQ(info.eventfd_count, 300);
	UNIT_CHECK_EQ(info.flags, O_RDWR | O_NONBLOCK);
	UNIT_CHECK_EQ(fdinfo_read(ep, &arena, &info), 0);
	UNIT_CHECK_EQ(info.flags & (unsigned)O_CLOEXEC, O_CLOEXEC);
	UNIT_CHECK_EQ(info.n_epoll, 1);
	UNIT_CHECK_EQ(info.epoll[0].tfd, ev);
	UNIT_CHECK_EQ(info.epoll[0].events, EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLONESHOT);
	UNIT_CHECK_EQ(info.epoll[0].data, 0xfedcba9876543210);
	UNIT_CHECK_EQ(info.epoll[0].dev, st.st_dev);
	UNIT_CHECK_EQ(info.epoll[0].ino, st.st_ino);
}

static void fdinfo_self_file(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	cleanup_close int fd = memfd_create("locked", MFD_CLOEXEC);
	struct flock lock = { .l_type = F_WRLCK, .l_start = 3, .l_len = 5 };
	struct fdinfo info;
	struct stat st;

	UNIT_CHECK(fd >= 0 && fstat(fd, &st) == 0 && lseek(fd, 0x123456789, SEEK_SET) > 0);
	UNIT_CHECK(flock(fd, LOCK_EX) == 0 && fcntl(fd, F_SETLK, &lock) == 0);
	UNIT_CHECK_EQ(fdinfo_read(fd, &arena, &info), 0);
	UNIT_CHECK_EQ(info.pos, 0x123456789);
	UNIT_CHECK(info.ino == 0 || info.ino == st.st_ino); /* 0 before Linux 5.14 */
	UNIT_CHECK_EQ(info.n_locks, 2);
	UNIT_CHECK(info.locks[0].flavour == FDINFO_LOCK_FLOCK && info.locks[0].exclusive && info.locks[0].end == UINT64_MAX);
	UNIT_CHECK(info.locks[1].flavour == FDINFO_LOCK_POSIX && info.locks[1].start == 3 && info.locks[1].end == 7);
}

/* ---- pids, auxv ---- */

static void pids_samples(void)
{
	static const char *const refused[] = { "a", "1 a", "1,2", "-1", "2147483648", "1 99999999999999999999" };
	cleanup_arena struct arena arena = ARENA_INIT;
	pid_t *pids;
	size_t n;

	UNIT_CHECK_EQ(proc_parse_pids(sample_pids, &arena, &pids, &n), 0);
	UNIT_CHECK_EQ(n, 3);
	UNIT_CHECK_EQ(pids[0], 4084);
	UNIT_CHECK_EQ(pids[2], 5001);
	UNIT_CHECK_EQ(proc_parse_pids("", &arena, &pids, &n), 0);
	UNIT_CHECK_EQ(n, 0);
	UNIT_CHECK_EQ(proc_parse_pids("\n7", &arena, &pids, &n), 0);
	UNIT_CHECK_EQ(n, 1);
	UNIT_CHECK_EQ(pids[0], 7);
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		UNIT_CHECK_EQ(proc_parse_pids(refused[i], &arena, &pids, &n), -EINVAL);
}

static void pids_self(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	char *text, path[64];
	pid_t child, *pids;
	size_t n;
	int r;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
	child = fork();
	if (child == 0) {
		pause();
		_exit(0);
	}
	UNIT_CHECK(child > 0);
	r = text_read(path, &arena, &text, NULL);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	if (r == -ENOENT)
		return; /* a kernel without CONFIG_PROC_CHILDREN */
	UNIT_CHECK_EQ(r, 0);
	UNIT_CHECK_EQ(proc_parse_pids(text, &arena, &pids, &n), 0);
	UNIT_CHECK_EQ(n, 1);
	UNIT_CHECK_EQ(pids[0], child);
}

static void limits_self(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct proc_limits limits;
	struct rlimit rl = { 100, 200 };
	char *text;

	UNIT_CHECK_EQ(setrlimit(RLIMIT_SIGPENDING, &rl), 0);
	UNIT_CHECK_EQ(text_read("/proc/self/limits", &arena, &text, NULL), 0);
	UNIT_CHECK_EQ(proc_parse_limits(text, &limits), 0);
	for (int i = 0; i < PROC_LIMITS; i++) {
		UNIT_CHECK_EQ(getrlimit((__rlimit_resource_t)i, &rl), 0);
		UNIT_CHECK_EQ(limits.soft[i], rl.rlim_cur);
		UNIT_CHECK_EQ(limits.hard[i], rl.rlim_max);
	}
}

static void limits_refused(void)
{
	static const char *const refused[] = {
		"", "Limit", "Limit \n", "Limit \nMax cpu time              unlimited",
		"Limit \nMax cpu time              x unlimited",
	};

	for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
		cleanup_free char *text = text_copy(refused[i], strlen(refused[i]));
		struct proc_limits limits;

		UNIT_CHECK_EQ(proc_parse_limits(text, &limits), -EINVAL);
	}
}

static void auxv_self(void)
{
	static const unsigned long types[] = { AT_PHDR, AT_SYSINFO_EHDR, AT_PAGESZ, AT_RANDOM, AT_EXECFN, 12345 };
	cleanup_arena struct arena arena = ARENA_INIT;
	size_t size;
	char *auxv;

	UNIT_CHECK_EQ(text_read("/proc/self/auxv", &arena, &auxv, &size), 0);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		UNIT_CHECK_EQ(proc_auxv(auxv, size, types[i]), getauxval(types[i]));
}

static void auxv_bounds(void)
{
	const uint64_t auxv[] = { AT_PAGESZ, 4096, AT_NULL, 0, AT_PHDR, 7 };

	UNIT_CHECK_EQ(proc_auxv(auxv, sizeof(auxv), AT_PAGESZ), 4096);
	UNIT_CHECK_EQ(proc_auxv(auxv, 15, AT_PAGESZ), 0);
	UNIT_CHECK_EQ(proc_auxv(auxv, 0, AT_PAGESZ), 0);
	UNIT_CHECK_EQ(proc_auxv(auxv, sizeof(auxv), AT_PHDR), 0);
}

/* ---- hostile text, for all of them ---- */

static int any_maps(char *text, struct arena *arena)
{
	struct vm_area_list list;

	return proc_parse_maps(text, arena, &list);
}

static int any_stat(char *text, struct arena *arena)
{
	struct proc_stat stat;

	(void)arena;
	return proc_parse_stat(text, &stat);
}

static int any_status(char *text, struct arena *arena)
{
	struct proc_status status;

	return proc_parse_status(text, arena, &status);
}

static int any_timers(char *text, struct arena *arena)
{
	struct proc_timer *timers;
	size_t n;

	return proc_parse_timers(text, arena, &timers, &n);
}

static int any_fdinfo(char *text, struct arena *arena)
{
	struct fdinfo info;

	return proc_parse_fdinfo(text, arena, &info);
}

static int any_pids(char *text, struct arena *arena)
{
	pid_t *pids;
	size_t n;

	return proc_parse_pids(text, arena, &pids, &n);
}

static const struct any {
	int (*parse)(char *text, struct arena *arena);
	const char *sample;
} any[] = {
	{ any_maps, sample_maps },     { any_maps, sample_smaps },     { any_stat, sample_stat },
	{ any_status, sample_status }, { any_timers, sample_timers },  { any_fdinfo, sample_epoll },
	{ any_fdinfo, sample_eventfd }, { any_fdinfo, sample_lock },   { any_fdinfo, sample_locks },
	{ any_fdinfo, sample_inotify },  { any_fdinfo, sample_timerfd }, { any_fdinfo, sample_pidfd },
	{ any_pids, sample_pids },
};

static int any_run(const struct any *a, const char *text, size_t size)
{
	cleanup_arena struct arena arena = { .limit = 1024 * 1024 };
	cleanup_free char *copy = text_copy(text, size);

	return a->parse(copy, &arena);
}

static void hostile_truncated(void)
{
	for (const struct any *a = any; a < any + ARRAY_SIZE(any); a++) {
		UNIT_CHECK_EQ(any_run(a, a->sample, strlen(a->sample)), 0);
		for (size_t size = 0; size < strlen(a->sample); size++) {
			int r = any_run(a, a->sample, size);

			UNIT_CHECK(r == 0 || r == -EINVAL);
		}
	}
}

static uint32_t hostile_random(void)
{
	static uint64_t state = 0x9e3779b97f4a7c15; /* the same every time */

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32);
}

static void hostile_mutate(char *text, size_t size)
{
	static const char bytes[] = "\n\t -:/()0189af";

	for (uint32_t n = 1 + hostile_random() % 6; n; n--) {
		uint32_t r = hostile_random();
		size_t at = hostile_random() % size, from = hostile_random() % size, run = r % 32;

		if (r & 0x100)
			text[at] = (char)(r >> 16);
		else if (r & 0x200)
			text[at] = bytes[(r >> 16) % (sizeof(bytes) - 1)];
		else if (at + run < size && from + run < size)
			memmove(text + at, text + from, run);
	}
}

static void hostile_mutated(void)
{
	for (const struct any *a = any; a < any + ARRAY_SIZE(any); a++) {
		for (unsigned round = 0; round < 3000; round++) {
			cleanup_free char *text = text_copy(a->sample, strlen(a->sample));
			int r;

			hostile_mutate(text, strlen(a->sample));
			r = any_run(a, text, strlen(a->sample));
			UNIT_CHECK(r == 0 || r == -EINVAL);
		}
	}
}

static void hostile_random_bytes(void)
{
	for (const struct any *a = any; a < any + ARRAY_SIZE(any); a++) {
		for (unsigned round = 0; round < 300; round++) {
			char text[256];
			int r;

			for (size_t i = 0; i < sizeof(text); i++)
				text[i] = (char)hostile_random();
			r = any_run(a, text, hostile_random() % sizeof(text));
			UNIT_CHECK(r == 0 || r == -EINVAL);
		}
	}
}

UNIT_MAIN(UNIT_CASE(maps_sample), UNIT_CASE(maps_names), UNIT_CASE(maps_flags), UNIT_CASE(maps_unnamed_flags), UNIT_CASE(maps_alone),
	  UNIT_CASE(maps_overlap), UNIT_CASE(maps_refused), UNIT_CASE(maps_empty), UNIT_CASE(maps_nomem), UNIT_CASE(maps_self), UNIT_CASE(maps_many),
	  UNIT_CASE(stat_sample), UNIT_CASE(stat_comm), UNIT_CASE(stat_denied), UNIT_CASE(stat_refused),
	  UNIT_CASE(stat_self), UNIT_CASE(status_sample), UNIT_CASE(status_masks), UNIT_CASE(status_lists),
	  UNIT_CASE(status_refused), UNIT_CASE(status_self), UNIT_CASE(timers_sample), UNIT_CASE(timers_refused),
	  UNIT_CASE(timers_self), UNIT_CASE(fdinfo_samples), UNIT_CASE(fdinfo_kinds), UNIT_CASE(fdinfo_locks), UNIT_CASE(fdinfo_epoll), UNIT_CASE(fdinfo_refused),
	  UNIT_CASE(fdinfo_self_anon), UNIT_CASE(fdinfo_self_file), UNIT_CASE(pids_samples), UNIT_CASE(pids_self),
	  UNIT_CASE(limits_self), UNIT_CASE(limits_refused), UNIT_CASE(auxv_self), UNIT_CASE(auxv_bounds), UNIT_CASE(hostile_truncated), UNIT_CASE(hostile_mutated),
	  UNIT_CASE(hostile_random_bytes))
