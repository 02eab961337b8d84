/* SPDX-License-Identifier: Apache-2.0 */
#include "api/supervise.h"

#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "util/arena.h"
#include "util/fd.h"
#include "util/privilege.h"

enum { CALLED_OFF_MS = 2000 };

/* File systems that answer by themselves, or by a disk (filesystems(5), and those of the kernel's own). */
static const char *const local[] = {
	"autofs", "bcachefs", "binder", "binfmt_misc", "bpf", "btrfs", "cgroup", "cgroup2", "configfs", "cramfs", "debugfs", "devpts",
	"devtmpfs", "efivarfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fusectl", "hugetlbfs", "iso9660", "jfs", "mqueue",
	"nsfs", "ntfs3", "overlay", "proc", "pstore", "ramfs", "rootfs", "rpc_pipefs", "securityfs", "selinuxfs", "smackfs",
	"squashfs", "sysfs", "tmpfs", "tracefs", "udf", "vfat", "xfs", "zfs",
};

static bool supervise_is_local(const char *type, size_t size)
{
	for (size_t i = 0; i < sizeof(local) / sizeof(local[0]); i++)
		if (strlen(local[i]) == size && strncmp(local[i], type, size) == 0)
			return true;
	return false;
}

/* mountinfo, proc_pid_mountinfo(5): behind the separator stands the type of each. */
static bool supervise_all_local(const char *text)
{
	static const char separator[] = " - ";

	for (const char *at = text; (at = strstr(at, separator));) {
		at += strlen(separator);
		if (!supervise_is_local(at, strcspn(at, " \n")))
			return false;
	}
	return true;
}

bool supervise_is_needed(pid_t pid)
{
	struct arena arena = ARENA_INIT;
	char *text;
	bool needed = fd_read_proc(pid, "mountinfo", &arena, &text, NULL) == 0 && !supervise_all_local(text);

	arena_done(&arena);
	return needed;
}

/* ---- which call ---- */

/*
 * Those that can wait for a server, and which of their arguments are the folder, or the open file (-1: none), and the path (-1:
 * none). To write may take long on a slow disk, too.
 */
static const struct call {
	int nr, folder, path;
	bool writes;
} calls[] = {
	{ SYS_newfstatat, 0, 1 }, { SYS_statx, 0, 1 }, { SYS_openat, 0, 1 }, { SYS_readlinkat, 0, 1 }, { SYS_faccessat, 0, 1 },
	{ SYS_name_to_handle_at, 0, 1 }, { SYS_stat, -1, 0 }, { SYS_lstat, -1, 0 }, { SYS_open, -1, 0 }, { SYS_readlink, -1, 0 },
	{ SYS_access, -1, 0 }, { SYS_statfs, -1, 0 }, { SYS_chdir, -1, 0 }, { SYS_fstat, 0, -1 }, { SYS_fstatfs, 0, -1 },
	{ SYS_getdents64, 0, -1 }, { SYS_fgetxattr, 0, -1 },
	{ SYS_write, 0, -1, true }, { SYS_pwrite64, 0, -1, true }, { SYS_pwritev, 0, -1, true }, { SYS_fsync, 0, -1, true },
	{ SYS_fdatasync, 0, -1, true }, { SYS_ftruncate, 0, -1, true }, { SYS_fallocate, 0, -1, true }, { SYS_close, 0, -1, true },
	{ SYS_renameat, 0, 1, true }, { SYS_linkat, 0, 1, true }, { SYS_unlinkat, 0, 1, true },
};

static const struct call *supervise_find(const char *syscall_text)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (syscall_text[0] >= '0' && syscall_text[0] <= '9' && atoi(syscall_text) == calls[i].nr)
			return &calls[i];
	return NULL;
}

/* For /proc, whose files of a process take the capabilities that it is permitted. */
static void supervise_read_call(pid_t pid, char text[SUPERVISE_TEXT])
{
	cleanup_privilege struct privilege p = privilege_raise(~0ull);
	struct arena arena = ARENA_INIT;
	char *all;

	text[0] = '\0';
	if (fd_read_proc(pid, "syscall", &arena, &all, NULL) == 0)
		snprintf(text, SUPERVISE_TEXT, "%s", all);
	arena_done(&arena);
}

bool supervise_look(struct supervision *s, unsigned passed_ms, bool called_off)
{
	const struct call *call;
	char now[SUPERVISE_TEXT];

	supervise_read_call(s->pid, now);
	call = supervise_find(now);
	s->idle_ms = call && strcmp(now, s->last) == 0 ? s->idle_ms + passed_ms : 0;
	memcpy(s->last, now, sizeof(now));
	return call && ((s->idle_ms > s->timeout_ms && !call->writes) || (s->idle_ms > CALLED_OFF_MS && called_off));
}

/* ---- which file ---- */

static void supervise_follow(const char *link, char *ret, size_t size)
{
	ssize_t n = readlink(link, ret, size - 1);

	if (n > 0)
		ret[n] = '\0';
}

/* A string in the process. It may stand near the end of what is mapped: so the page that it begins on is a part of its own. */
static void supervise_peek(pid_t pid, uint64_t at, char *ret, size_t size)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE), first = page - at % page < size ? page - at % page : size;
	const struct iovec here = { ret, size - 1 }, there[2] = { { (void *)at, first }, { (void *)(at + first), size - first } };

	process_vm_readv(pid, &here, 1, there, 2, 0);
}

/* The path of the call, as far as it can be told; what stands for a file in /proc is followed. */
static void supervise_name(const struct supervision *s, const struct call *call, char ret[PATH_MAX])
{
	uint64_t args[2] = { 0 };
	char given[PATH_MAX / 2] = "", folder[PATH_MAX / 2] = "", link[64];

	sscanf(s->last, "%*d %lx %lx", &args[0], &args[1]);
	if (call->path >= 0)
		supervise_peek(s->pid, args[call->path], given, sizeof(given));
	if (call->folder >= 0 && given[0] != '/' && (int)args[call->folder] >= 0) {
		snprintf(link, sizeof(link), "/proc/%d/fd/%d", s->pid, (int)args[call->folder]);
		supervise_follow(link, folder, sizeof(folder));
	}
	snprintf(ret, PATH_MAX, "%s%s%s", folder, folder[0] && given[0] ? "/" : "", given);
	if (strncmp(ret, "/proc/", strlen("/proc/")) == 0)
		supervise_follow(ret, ret, PATH_MAX);
}

int supervise_blame(const struct supervision *s, struct err *e)
{
	cleanup_privilege struct privilege p = privilege_raise(~0ull); /* as above */
	const struct call *call = supervise_find(s->last);
	char path[PATH_MAX] = "";
	struct arena arena = ARENA_INIT;

	if (call)
		supervise_name(s, call, path);
	err_set(e, ERR_SYSTEM, ETIMEDOUT, "the file system of %s does not answer within %u ms: torpor waits in %s",
		path[0] ? path : "a file", s->idle_ms, fd_read_wchan(s->pid, &arena));
	arena_done(&arena);
	err_id(e, "E-DUMP-SERVER");
	return err_help(e, "try again when the file server answers (the program runs on), or raise --timeout");
}
