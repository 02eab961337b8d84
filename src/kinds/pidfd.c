/* SPDX-License-Identifier: Apache-2.0 */

/*
 * pidfd_open(2). Processes of the tree can be referred to once there are any, so
 * each task makes its own pidfd of them. A process that is dead and reaped is
 * stood in for by another one in that state.
 *
 * Not kept: that tasks share one open file description (it has no state but
 * O_NONBLOCK), and the exit status that PIDFD_GET_INFO tells of reaped processes.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "sys/process.h"
#include "util/fd.h"

enum { PIDFD_OF_THREAD = O_EXCL, PIDFD_FLAGS = PIDFD_OF_THREAD | O_NONBLOCK, PIDFD_GONE = -1 };

static bool pidfd_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[pidfd]") == 0 || strncmp(v->link, "pidfd:[", 7) == 0;
}

static int pidfd_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__Pidfd *pb = (Pb__Pidfd *)m;

	(void)e;
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->pid = v->info.pid;
	if (pb->pid == PIDFD_GONE || target_find(c->tree, pb->pid))
		return 0;
	if (pb->flags & PIDFD_OF_THREAD)
		return kind_refuse(c, v, "E-FD-PIDFD", "let the program close it, then try again",
				   "refers to the single thread %d", pb->pid);
	return kind_refuse(c, v, "E-FD-PIDFD", "include that process in the tree",
			   "refers to process %d, which is not in the tree", pb->pid);
}

/* A process that ended at once and is gone. */
static int pidfd_make_gone(struct err *e)
{
	int fd = -1;
	struct clone_args args = { .flags = CLONE_PIDFD, .pidfd = (uint64_t)&fd };
	pid_t pid = sys_clone3(&args);

	if (pid == 0)
		_exit(0);
	if (pid < 0)
		return err_sys(e, pid, "making a process that is gone");
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	return fd;
}

static int pidfd_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Pidfd *pb = (const Pb__Pidfd *)m;
	cleanup_close int fd = -1;

	if (pb->pid == PIDFD_GONE) {
		fd = pidfd_make_gone(e);
		if (fd < 0 || kind_set_status_flags(fd, pb->flags, e) < 0)
			return -1;
	} else {
		fd = open("/dev/null", O_RDWR | O_CLOEXEC); /* until there are processes */
		if (fd < 0)
			return err_sys(e, errno, "/dev/null");
	}
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

static int pidfd_remake(struct restore_task *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Pidfd *pb = (const Pb__Pidfd *)m;
	int fd;

	(void)r;
	if (pb->pid == PIDFD_GONE)
		return KIND_AS_IT_IS;
	fd = sys_pidfd_open(pb->pid, pb->flags & PIDFD_FLAGS);
	return fd < 0 ? err_sys(e, fd, "a pidfd of process %d", pb->pid) : fd;
}

static void pidfd_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__Pidfd *pb = (const Pb__Pidfd *)m;

	if (pb->pid == PIDFD_GONE)
		snprintf(buf, size, "of a process that is gone");
	else
		snprintf(buf, size, "of process %d", pb->pid);
}

const struct kind kind_pidfd = {
	.name = "pidfd",
	.tag = 13,
	.message = &pb__pidfd__descriptor,
	.match = pidfd_match,
	.collect = pidfd_collect,
	.restore = pidfd_restore,
	.remake = pidfd_remake,
	.describe = pidfd_describe,
};
