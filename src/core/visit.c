/* SPDX-License-Identifier: Apache-2.0 */
#include "core/visit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "core/namespace.h"
#include "sys/process.h"
#include "util/fd.h"
#include "util/privilege.h"

enum { NESTED_ONCE = 2, ANCESTORS_MAX = 100000, INIT_PATIENCE_MS = 500 };

/* ---- whose namespaces are these? ---- */

static int read_status(pid_t pid, struct arena *arena, struct proc_status *ret)
{
	char *text;
	int r = fd_read_proc(pid, "status", arena, &text, NULL);

	return r < 0 ? r : proc_parse_status(text, arena, ret);
}

/* Its ancestor that has the PID 1 there. 0: it was not born there, or has gone meanwhile. */
static pid_t visit_find_init(pid_t pid, struct arena *arena)
{
	struct proc_status status;
	struct proc_stat stat;
	pid_t first = pid;
	char *text;

	for (int i = 0; i < ANCESTORS_MAX; i++) {
		if (read_status(pid, arena, &status) < 0 || status.ns_pids != NESTED_ONCE ||
		    !namespace_is_same(pid, first, "pid", arena))
			return 0;
		if (status.ns_pid[1] == 1)
			return pid;
		if (fd_read_proc(pid, "stat", arena, &text, NULL) < 0 || proc_parse_stat(text, &stat) < 0)
			return 0;
		pid = stat.ppid;
	}
	return 0;
}

static bool visit_is_torpors(pid_t pid, pid_t init, struct arena *arena)
{
	static const char *const ours[] = { "net", "ipc", "uts", "cgroup" }, *const inits[] = { "user", "mnt" };
	char *comm;

	if (!init || fd_read_proc(init, "comm", arena, &comm, NULL) < 0 || strcmp(comm, NAMESPACE_INIT "\n") != 0)
		return false;
	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		if (!namespace_is_same(pid, getpid(), ours[i], arena))
			return false;
	for (size_t i = 0; i < sizeof(inits) / sizeof(inits[0]); i++)
		if (!namespace_is_same(pid, init, inits[i], arena))
			return false;
	return true;
}

int visit_find(pid_t pid, struct arena *arena, struct visit *ret, struct err *e)
{
	pid_t init;

	if (namespace_is_same(pid, getpid(), "pid", arena) || read_status(pid, arena, &ret->outside) < 0)
		return 0;
	init = visit_find_init(pid, arena);
	if (!visit_is_torpors(pid, init, arena))
		return 0;
	if (init == pid) {
		err_set(e, ERR_USAGE, 0, "process %d is torpor's own, the init of a PID namespace", pid);
		return err_help(e, "dump the program that lives in it, its child");
	}
	if (ret->outside.uid[1] != geteuid()) {
		err_set(e, ERR_PERMISSION, 0, "process %d lives in a user namespace of user %u", pid, ret->outside.uid[1]);
		err_id(e, "E-USERNS-USER");
		return err_help(e, "run torpor as that user");
	}
	ret->pid = ret->outside.ns_pid[1];
	ret->init = init;
	return 1;
}

/* ---- going in ---- */

enum { VISIT_USER, VISIT_PID, VISIT_MOUNT, VISIT_TIME, VISIT_NAMESPACES };

/* Only those that are not ours already; their time namespace may be. */
static int visit_open(pid_t process, int fds[VISIT_NAMESPACES], struct err *e)
{
	static const char *const names[] = { "user", "pid", "mnt", "time" };
	struct arena arena = ARENA_INIT;
	int r = 0;

	for (int i = 0; r == 0 && i < VISIT_NAMESPACES; i++) {
		char name[32];

		if (namespace_is_same(process, getpid(), names[i], &arena))
			continue;
		snprintf(name, sizeof(name), "ns/%s", names[i]);
		fds[i] = fd_open_proc(process, name, O_RDONLY);
		if (fds[i] < 0 && (i != VISIT_TIME || fds[i] != -ENOENT)) /* Linux 5.6 */
			r = err_sys(e, fds[i], "opening /proc/%d/%s", process, name);
	}
	arena_done(&arena);
	return r;
}

/* The user namespace first: it gives the right to enter the others. */
static int visit_join(pid_t process, struct err *e)
{
	int fds[VISIT_NAMESPACES] = { -1, -1, -1, -1 }, r = visit_open(process, fds, e);

	for (int i = 0; i < VISIT_NAMESPACES; i++) {
		if (r == 0 && fds[i] >= 0 && setns(fds[i], 0) < 0)
			r = err_sys(e, errno, "entering the namespaces of process %d", process);
		fd_closep(&fds[i]);
	}
	return r;
}

pid_t visit_enter(struct visit *v, pid_t process, struct err *e)
{
	cleanup_close int folder = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	pid_t pid;

	v->program_fd = sys_pidfd_open(process, 0);
	v->init_fd = sys_pidfd_open(v->init, 0);
	if (visit_join(process, e) < 0)
		return -1;
	if (folder >= 0 && fchdir(folder) < 0)
		return err_sys(e, errno, "returning to the working folder");
	prctl(PR_SET_DUMPABLE, 1); /* new capabilities have changed that */
	privilege_enter_namespace();
	pid = fork();
	if (pid < 0)
		return err_sys(e, errno, "making a process in the namespaces of process %d", process);
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

static bool has_ended(int pidfd, int patience_ms)
{
	return pidfd >= 0 && poll(&(struct pollfd){ .fd = pidfd, .events = POLLIN }, 1, patience_ms) > 0;
}

void visit_done(struct visit *v)
{
	if (has_ended(v->program_fd, 0))
		has_ended(v->init_fd, INIT_PATIENCE_MS);
	fd_closep(&v->program_fd);
	fd_closep(&v->init_fd);
}
