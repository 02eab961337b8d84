/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Files and folders below /proc and /sys: of the machine, or of a task of the
 * tree. The latter exist only once the tasks do, so /dev/null holds their place
 * until the tasks that had them open open them themselves.
 *
 * Not kept: that tasks share one open file description, and with it the offset; the rest of a text that was read halfway. The kernel holds it as it
 * was when reading began; here it is as it is when the file is opened.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "kinds/place.h"
#include "util/fd.h"
#include "util/privilege.h"

static bool proc_file_match(const struct fd_view *v)
{
	return place_is_pseudo(v->link) && (S_ISREG(v->st.st_mode) || S_ISDIR(v->st.st_mode));
}

/* The number behind a prefix, if a component of the path ends there; 0: there is none. */
static pid_t proc_file_number(const char *path, const char *prefix)
{
	size_t size = strlen(prefix);
	char *end;
	long n;

	if (strncmp(path, prefix, size) != 0 || path[size] < '1' || path[size] > '9')
		return 0;
	n = strtol(path + size, &end, 10);
	return (*end == '/' || *end == '\0') && n > 0 && n <= INT32_MAX ? (pid_t)n : 0;
}

/* The process whose file this is; 0: the machine's. */
static pid_t proc_file_owner(const char *path)
{
	return proc_file_number(path, "/proc/");
}

/* /proc/PID/task/TID/... of a thread that is not the leader: such threads are made last. */
static bool proc_file_is_of_thread(const char *path, pid_t pid)
{
	char prefix[64];
	pid_t tid;

	snprintf(prefix, sizeof(prefix), "/proc/%d/task/", pid);
	tid = proc_file_number(path, prefix);
	return tid && tid != pid;
}

static int proc_file_check(struct collect *c, const struct fd_view *v)
{
	const char *help = "let the program close it";
	pid_t pid = proc_file_owner(v->link);
	struct stat st;

	/* Only its name counts: such inodes come and go. */
	if (lstat(v->link, &st) < 0)
		return kind_refuse(c, v, "E-FD-PROC-GONE", help, "is no longer found by this path");
	if (!pid)
		return 0;
	if (!target_find(c->tree, pid))
		return kind_refuse(c, v, "E-FD-PROC", "include that process in the tree",
				   "belongs to process %d, which is not in the tree", pid);
	if (proc_file_is_of_thread(v->link, pid))
		return kind_refuse(c, v, "E-FD-PROC", help, "belongs to one thread of process %d", pid);
	return 0;
}

static int proc_file_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__ProcFile *pb = (Pb__ProcFile *)m;
	size_t obstacles = c->obstacles->n;

	if (proc_file_check(c, v) < 0)
		return err_nomem(e);
	if (c->obstacles->n != obstacles)
		return 0;
	pb->path = arena_strdup(c->arena, v->link);
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->offset = v->info.pos;
	return pb->path ? 0 : err_nomem(e);
}

static int proc_file_open(const Pb__ProcFile *pb, struct err *e)
{
	cleanup_close int fd = open(pb->path, (int)pb->flags | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(e, errno, "opening %s", pb->path);
	if (pb->offset && lseek(fd, (off_t)pb->offset, SEEK_SET) < 0)
		return err_sys(e, errno, "%s: going to offset %lu", pb->path, pb->offset);
	return fd_take(&fd);
}

static int proc_file_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__ProcFile *pb = (const Pb__ProcFile *)m;
	int fd;

	if (!place_is_pseudo(pb->path) || strstr(pb->path, "/.."))
		return err_set(e, ERR_IMAGE, 0, "%s is not below /proc or /sys", pb->path);
	if (!proc_file_owner(pb->path))
		fd = proc_file_open(pb, e);
	else if ((fd = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0)
		fd = err_sys(e, errno, "/dev/null");
	return fd < 0 ? fd : kind_raise_fd(fd, r->fd_base, e);
}

static bool proc_file_is_open_in(const Pb__Task *task, uint32_t object)
{
	for (size_t i = 0; i < task->n_slots; i++)
		if (task->slots[i]->object == object)
			return true;
	return false;
}

static bool proc_file_is_of_tree(const Pb__Image *image, pid_t pid)
{
	for (size_t i = 0; i < image->n_tasks; i++)
		if (image->tasks[i]->pid == pid)
			return true;
	return false;
}

/* The tasks all hold the same capability now, so none may look into another one without it. */
static int proc_file_remake(struct restore_task *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__ProcFile *pb = (const Pb__ProcFile *)m;
	cleanup_privilege struct privilege p = { 0 };

	if (!proc_file_owner(pb->path) || !proc_file_is_open_in(r->task, r->object))
		return KIND_AS_IT_IS;
	if (proc_file_is_of_tree(r->image, proc_file_owner(pb->path)))
		p = privilege_raise(PRIVILEGE_CHECKPOINT);
	return proc_file_open(pb, e);
}

static void proc_file_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	snprintf(buf, size, "%s", ((const Pb__ProcFile *)m)->path);
}

const struct kind kind_proc_file = {
	.name = "proc_file",
	.tag = 4,
	.message = &pb__proc_file__descriptor,
	.match = proc_file_match,
	.collect = proc_file_collect,
	.restore = proc_file_restore,
	.remake = proc_file_remake,
	.describe = proc_file_describe,
};
