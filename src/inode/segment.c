/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Theory of operation: a System V segment lives in the kernel as a file does in
 * its file system. When the tree that has it attached has ended, it is still
 * there, unless it was marked for removal; and a dump ends the tree and does no
 * more. So a restore finds it under its id, with nobody attached, and fills it
 * once more with what it held. Where it is gone (a reboot, ipcrm(1), a mark for
 * removal), one is made with the same id, which takes a capability: programs
 * know segments by their ids.
 *
 * The coordinator attaches it, and the tasks make second mappings of that, as of
 * shared anonymous memory. One that was there keeps its content until all tasks
 * stand, so that a failed restore has changed nothing.
 */

#include "inode/segment.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#include "target/target.h"
#include "util/fd.h"
#include "util/next_id.h"

enum { PERMISSIONS = 0777 };

static const char name_start[] = "/SYSV"; /* and the key in hexadecimal digits */

/* ---- dump ---- */

/* The file system of the kernel that holds segments and memfds: no other file of it has such a name. */
static uint64_t segment_dev(void)
{
	cleanup_close int fd = memfd_create("", MFD_CLOEXEC);
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 ? st.st_dev : 0;
}

bool segment_is(const struct vm_area *a)
{
	return a->deleted && strncmp(a->name, name_start, strlen(name_start)) == 0 && a->dev == segment_dev();
}

int segment_collect(struct inode_table *t, struct inode_entry *n, const struct target *task, const struct vm_area *a,
		    struct err *e)
{
	Pb__Inode *pb = n->pb;
	struct shmid_ds ds;

	n->pb->path = arena_strdup(t->arena, a->name);
	if (!pb->path)
		return err_nomem(e);
	pb_set(pb, kind, PB__INODE_KIND__SYSV_SHM);
	pb_set(pb, has_content, 1);
	if (shmctl((int)a->ino, IPC_STAT, &ds) < 0)
		return obstacle_add(t->obstacles, "E-MAP-SYSV", task->pid, task->stat.comm, "give it read permission for you",
				    "the System V shared memory segment %lu (%s) cannot be examined: %s", a->ino, a->name,
				    strerror(errno));
	pb_set(pb, size, ds.shm_segsz);
	pb_set(pb, mode, ds.shm_perm.mode & PERMISSIONS);
	pb_set(pb, uid, ds.shm_perm.uid);
	pb_set(pb, gid, ds.shm_perm.gid);
	/* Marked for removal, a segment has no key any more; the name still tells which it had. */
	pb_set(pb, shm_key, (uint32_t)strtoul(a->name + strlen(name_start), NULL, 16));
	pb_set(pb, shm_removed, !!(ds.shm_perm.mode & SHM_DEST));
	pb_set(pb, shm_locked, !!(ds.shm_perm.mode & SHM_LOCKED));
	return 0;
}

static bool segment_is_mapped_by(pid_t pid, const Pb__Inode *pb)
{
	struct arena arena = ARENA_INIT;
	struct vm_area_list list;
	bool found = false;
	char *text;

	if (fd_read_proc(pid, "maps", &arena, &text, NULL) == 0 && proc_parse_maps(text, &arena, &list) == 0)
		for (size_t i = 0; !found && i < list.n; i++)
			found = list.areas[i].ino == pb->ino && list.areas[i].dev == pb->dev && segment_is(&list.areas[i]);
	arena_done(&arena);
	return found;
}

/* A process outside the tree, as far as we may look, that has it attached; 0: none. */
static pid_t segment_find_other(const struct target_tree *tree, const Pb__Inode *pb)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	pid_t found = 0;

	while (dir && !found && (entry = readdir(dir))) {
		pid_t pid = atoi(entry->d_name);

		if (pid > 0 && !target_find(tree, pid) && segment_is_mapped_by(pid, pb))
			found = pid;
	}
	if (dir)
		closedir(dir);
	return found;
}

/* `last`: the last process that attached or detached it. */
static int segment_refuse_shared(struct inode_table *t, const struct target_tree *tree, const struct inode_entry *n,
				 pid_t last)
{
	static const char help[] = "end that process, save a tree that includes it, or leave the segment as it is, to be "
				   "attached again (--external)";
	const struct target *task = n->windows[0].task;
	pid_t other = segment_find_other(tree, n->pb);
	char who[48] = "a process that torpor may not look at";

	if (!other && last != getpid() && !target_find(tree, last) && kill(last, 0) == 0)
		other = last;
	if (other)
		snprintf(who, sizeof(who), "process %d", other);
	return obstacle_add(t->obstacles, "E-SYSV-SHARED", task->pid, task->stat.comm, help,
			    "the System V shared memory segment %lu (key %#x) is also attached by %s, which is outside the tree",
			    n->pb->ino, n->pb->shm_key, who);
}

int inode_check_segments(struct inode_table *t, const struct target_tree *tree, bool external)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < t->n; i++) {
		const struct inode_entry *n = &t->v[i];
		struct shmid_ds ds;

		if (n->pb->kind != PB__INODE_KIND__SYSV_SHM || shmctl((int)n->pb->ino, IPC_STAT, &ds) < 0 ||
		    ds.shm_nattch <= n->n_windows)
			continue;
		if (!external)
			r = segment_refuse_shared(t, tree, n, ds.shm_lpid);
		pb_set(n->pb, shm_external, 1);
		pb_set(n->pb, has_content, 0);
	}
	return r;
}

/* ---- restore ---- */

static int segment_changed(const Pb__Inode *pb, const char *how, struct err *e)
{
	return err_state(e, "E-SYSV-CHANGED", 0, "the System V shared memory segment %lu (key %#x) %s", pb->ino, pb->shm_key,
			 how);
}

/* 1: it is there, as it was; 0: it is gone; or negative. */
static int segment_find(const Pb__Inode *pb, struct err *e)
{
	struct shmid_ds ds;

	if (shmctl((int)pb->ino, IPC_STAT, &ds) < 0) {
		if (errno == EINVAL || errno == EIDRM)
			return 0;
		return segment_changed(pb, "belongs to somebody else now", e);
	}
	if (pb->shm_removed || (uint32_t)ds.shm_perm.__key != pb->shm_key || ds.shm_segsz != pb->size ||
	    (ds.shm_perm.mode & SHM_DEST)) {
		segment_changed(pb, "cannot have its id again, which another one has now", e);
		return err_help(e, "remove that, if nobody needs it: ipcrm -m %lu", pb->ino);
	}
	if (!ds.shm_nattch || pb->shm_external)
		return 1;
	segment_changed(pb, "is attached by another program", e);
	return err_help(e, "end that program; process %d used it last", ds.shm_lpid);
}

static int segment_make(struct inode_live *n, struct err *e)
{
	const Pb__Inode *pb = n->pb;
	key_t key = (key_t)pb->shm_key;
	int other = key == IPC_PRIVATE ? -1 : shmget(key, 0, 0), r;

	if (pb->shm_external)
		return segment_changed(pb, "is gone, which other programs have used, too", e);
	if (key != IPC_PRIVATE && (other >= 0 || errno != ENOENT)) {
		if (!pb->shm_removed) {
			segment_changed(pb, "cannot have its key again, which another segment has now", e);
			return err_help(e, "remove that, if nobody needs it: ipcrm -M %#x", pb->shm_key);
		}
		key = IPC_PRIVATE; /* in use again by another, as it could be when this one was marked for removal */
	}
	r = next_id_make(NEXT_ID_SHM, (int)pb->ino, key, pb->size, e);
	if (r < 0)
		return err_wrap(e, "the System V shared memory segment %lu (key %#x) is gone", pb->ino, pb->shm_key);
	if (r > 0)
		return segment_changed(pb, "cannot have its id again: the kernel gives another one", e);
	n->made_segment = true;
	return 0;
}

static int segment_set_mode(const Pb__Inode *pb, unsigned mode)
{
	struct shmid_ds ds;

	if (shmctl((int)pb->ino, IPC_STAT, &ds) < 0)
		return -1;
	ds.shm_perm.mode = (unsigned short)mode;
	return shmctl((int)pb->ino, IPC_SET, &ds);
}

static void *segment_attach_one(const Pb__Inode *pb, int flags)
{
	void *p = shmat((int)pb->ino, NULL, flags);

	return p == (void *)-1 ? NULL : p;
}

/*
 * For reading only as well: such an attachment can never be made writable, and must not become so.
 * Tasks may have attached it before its mode forbade that; its owner can change the mode.
 */
static int segment_attach(struct inode_live *n, struct err *e)
{
	n->addr = segment_attach_one(n->pb, 0);
	if (!n->addr && errno == EACCES && n->pb->written) {
		n->lent_mode = segment_set_mode(n->pb, n->pb->mode | 0600) == 0;
		n->addr = segment_attach_one(n->pb, 0);
	}
	n->addr_readonly = segment_attach_one(n->pb, SHM_RDONLY);
	if (!n->addr_readonly || (!n->addr && n->pb->written))
		return err_sys(e, errno, "attaching the System V shared memory segment %lu (key %#x)", n->pb->ino,
			       n->pb->shm_key);
	return 0;
}

int segment_restore(struct inode_restore *r, size_t index, struct err *e)
{
	struct inode_live *n = &r->v[index];
	int found;

	if (n->pb->ino > INT32_MAX || !n->pb->size)
		return err_set(e, ERR_IMAGE, 0, "a System V shared memory segment has the impossible id %lu", n->pb->ino);
	found = segment_find(n->pb, e);
	if (found < 0 || (!found && segment_make(n, e) < 0) || segment_attach(n, e) < 0)
		return -1;
	return n->made_segment ? inode_fill_memory(r, index, e) : 0;
}

/* It was there: make its content what it was. A program that may only read it leaves it as it is. */
static int segment_fill_again(struct inode_restore *r, size_t index, struct err *e)
{
	const struct inode_live *n = &r->v[index];

	if (n->made_segment || n->pb->shm_external || !n->addr)
		return 0;
	if (madvise(n->addr, n->pb->size, MADV_REMOVE) < 0)
		return err_sys(e, errno, "clearing the System V shared memory segment %lu", n->pb->ino);
	return inode_fill_memory(r, index, e);
}

static int segment_set_attributes(const Pb__Inode *pb, struct err *e)
{
	struct shmid_ds ds;

	if (shmctl((int)pb->ino, IPC_STAT, &ds) < 0)
		return err_sys(e, errno, "examining the System V shared memory segment %lu", pb->ino);
	if ((ds.shm_perm.mode & PERMISSIONS) != pb->mode || ds.shm_perm.uid != pb->uid || ds.shm_perm.gid != pb->gid) {
		ds.shm_perm.mode = (unsigned short)pb->mode;
		ds.shm_perm.uid = pb->uid;
		ds.shm_perm.gid = pb->gid;
		if (shmctl((int)pb->ino, IPC_SET, &ds) < 0)
			return err_sys(e, errno, "setting mode and owner of the System V shared memory segment %lu", pb->ino);
	}
	if (!(ds.shm_perm.mode & SHM_LOCKED) && pb->shm_locked && shmctl((int)pb->ino, SHM_LOCK, NULL) < 0)
		return err_sys(e, errno, "locking the System V shared memory segment %lu", pb->ino);
	if (pb->shm_removed && shmctl((int)pb->ino, IPC_RMID, NULL) < 0)
		return err_sys(e, errno, "marking the System V shared memory segment %lu for removal", pb->ino);
	return 0;
}

int segment_complete(struct inode_restore *r, size_t index, struct err *e)
{
	struct inode_live *n = &r->v[index];

	if (segment_fill_again(r, index, e) < 0)
		return -1;
	if (!n->pb->shm_external && segment_set_attributes(n->pb, e) < 0)
		return -1;
	segment_done(n, false);
	return 0;
}

void segment_done(struct inode_live *n, bool failed)
{
	if (n->addr)
		shmdt(n->addr);
	if (n->addr_readonly)
		shmdt(n->addr_readonly);
	n->addr = n->addr_readonly = NULL;
	if (failed && n->made_segment)
		shmctl((int)n->pb->ino, IPC_RMID, NULL);
	else if (failed && n->lent_mode)
		segment_set_mode(n->pb, n->pb->mode);
}
