/* SPDX-License-Identifier: Apache-2.0 */
#include "core/namespace.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proc/task.h"
#include "sys/process.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/privilege.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

enum { NS = 1000000000 };

/* What goes over the link. */
enum message_type { MESSAGE_MADE, MESSAGE_READY, MESSAGE_AGREED, MESSAGE_DONE };

struct message {
	int32_t type, pid;
};

void namespace_why_not(char detail[NAMESPACE_DETAIL_SIZE])
{
	static const struct {
		const char *name, *forbids;
	} settings[] = {
		{ "kernel/unprivileged_userns_clone", "0" },
		{ "user/max_user_namespaces", "0" },
		{ "user/max_pid_namespaces", "0" },
		{ "user/max_mnt_namespaces", "0" },
		{ "kernel/apparmor_restrict_unprivileged_userns", "1" },
	};

	detail[0] = '\0';
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		struct arena arena = ARENA_INIT;
		char path[96], *text;

		snprintf(path, sizeof(path), "../sys/%s", settings[i].name);
		if (fd_read_proc(getpid(), path, &arena, &text, NULL) == 0 && atoi(text) == atoi(settings[i].forbids))
			snprintf(detail, NAMESPACE_DETAIL_SIZE, "/proc/sys/%s is %s", settings[i].name, settings[i].forbids);
		arena_done(&arena);
	}
}

/* ---- inside: making it ---- */

/* By this name: at first /proc is that of the namespace outside, where we have another number. */
static int write_self(const char *name, const char *text)
{
	cleanup_close int fd = -1;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd_write_full(fd, text, strlen(text));
}

/* Everybody stays who he is. The kernel wants to know that supplementary groups stay as well. */
static int namespace_map_ids(uid_t uid, gid_t gid, struct err *e)
{
	char map[64];
	int r = write_self("setgroups", "deny");

	snprintf(map, sizeof(map), "%u %u 1\n", uid, uid);
	if (r == 0)
		r = write_self("uid_map", map);
	snprintf(map, sizeof(map), "%u %u 1\n", gid, gid);
	if (r == 0)
		r = write_self("gid_map", map);
	return r < 0 ? err_sys(e, r, "naming the user in a new user namespace") : 0;
}

static int namespace_mount_proc(struct err *e)
{
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0)
		return 0;
	err_sys(e, errno, "mounting /proc in a new PID namespace");
	err_id(e, "E-USERNS-PROC");
	return err_help(e, "a /proc of which no part is covered by other mounts, as in some containers");
}

/* How far a clock of this namespace is ahead of the machine's, as /proc/self/timens_offsets tells. */
static int64_t clock_ahead(const char *offsets, const char *name)
{
	const char *line = strstr(offsets, name);
	long long s, ns;

	return line && sscanf(line + strlen(name), "%lld %lld", &s, &ns) == 2 ? s * NS + ns : 0;
}

/* Let `clock` show `then` now. */
static int clock_set(const char *offsets, const char *name, clockid_t clock, int64_t then)
{
	int64_t ahead = clock_ahead(offsets, name) + then - (int64_t)clock_now_ns(clock), rest = ahead % NS;
	char text[80];

	rest += rest < 0 ? NS : 0;
	snprintf(text, sizeof(text), "%s %lld %lld\n", name, (long long)((ahead - rest) / NS), (long long)rest);
	return write_self("timens_offsets", text);
}

/* The image may say anything; 0: nothing. */
static bool clock_is_possible(int64_t then)
{
	return then > 0 && then < INT64_MAX / 4;
}

/*
 * Its clocks are for what is made in the namespace, not for the init. Without them,
 * the program sees that time has passed.
 */
static void namespace_set_clocks(const Pb__Machine *clocks)
{
	struct arena arena = ARENA_INIT;
	char *offsets;

	if (clocks && clock_is_possible(clocks->monotonic_ns) && clock_is_possible(clocks->boottime_ns) &&
	    unshare(CLONE_NEWTIME) == 0 && fd_read_proc(getpid(), "timens_offsets", &arena, &offsets, NULL) == 0) {
		clock_set(offsets, "monotonic", CLOCK_MONOTONIC, clocks->monotonic_ns);
		clock_set(offsets, "boottime", CLOCK_BOOTTIME, clocks->boottime_ns);
	}
	arena_done(&arena);
}

void namespace_continue_pids(pid_t last)
{
	cleanup_close int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
	cleanup_privilege struct privilege p = privilege_raise(PRIVILEGE_CHECKPOINT);
	char text[16];

	snprintf(text, sizeof(text), "%d", last);
	if (fd >= 0)
		fd_write_full(fd, text, strlen(text)); /* beyond this namespace's pid_max: they begin at its start */
}

static int namespace_say(struct namespace *ns, enum message_type type, pid_t pid)
{
	const struct message m = { (int32_t)type, pid };

	return send(ns->link, &m, sizeof(m), MSG_NOSIGNAL) == sizeof(m) ? 0 : -errno;
}

/* The next message, of this type only. Else the other side has ended: negative. */
static int namespace_hear(struct namespace *ns, enum message_type type, pid_t *ret_pid)
{
	struct message m;
	ssize_t n;

	do
		n = recv(ns->link, &m, sizeof(m), 0);
	while (n < 0 && errno == EINTR);
	if (n != sizeof(m) || m.type != (int32_t)type)
		return -ECONNRESET;
	if (ret_pid)
		*ret_pid = m.pid;
	return 0;
}

/* Our PID outside, as long as /proc is that of the outside. */
static pid_t namespace_own_pid(void)
{
	char text[16] = "";

	return readlink("/proc/self", text, sizeof(text) - 1) < 0 ? 0 : atoi(text);
}

static int namespace_begin(struct namespace *ns, uid_t uid, gid_t gid, const Pb__Machine *clocks, struct err *e)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, NAMESPACE_INIT);
	ns->init = namespace_own_pid();
	if (namespace_map_ids(uid, gid, e) < 0 || namespace_mount_proc(e) < 0)
		return -1;
	namespace_set_clocks(clocks);
	privilege_enter_namespace();
	return namespace_say(ns, MESSAGE_MADE, 0) < 0 ? err_set(e, ERR_SYSTEM, 0, "torpor has ended") : 0;
}

int namespace_announce(struct namespace *ns, pid_t root, struct err *e)
{
	if (namespace_say(ns, MESSAGE_READY, root) < 0 || namespace_hear(ns, MESSAGE_AGREED, NULL) < 0)
		return err_set(e, ERR_SYSTEM, 0, "torpor has called it off");
	prctl(PR_SET_PDEATHSIG, 0);
	return 0;
}

void namespace_say_done(struct namespace *ns)
{
	namespace_say(ns, MESSAGE_DONE, 0);
	fd_closep(&ns->link);
	ns->link = -1;
	munmap(ns->shared, sizeof(*ns->shared));
}

_Noreturn void namespace_give_up(struct namespace *ns, const struct err *e)
{
	*ns->shared = *e;
	_exit(1);
}

/* ---- outside ---- */

static void namespace_close(struct namespace *ns)
{
	fd_closep(&ns->link);
	fd_closep(&ns->reports);
	if (ns->shared)
		munmap(ns->shared, sizeof(*ns->shared));
	*ns = (struct namespace){ .link = -1, .reports = -1 };
}

/* Its init has ended, or is told to by the end of the link. */
static int namespace_lost(struct namespace *ns, struct err *e)
{
	int status = 0;

	kill(ns->init, SIGKILL);
	while (waitpid(ns->init, &status, 0) < 0 && errno == EINTR)
		;
	if (!e->reason && ns->shared->reason)
		*e = *ns->shared;
	if (!e->reason)
		err_set(e, ERR_SYSTEM, 0, "the init of the new namespaces ended with status %#x", status);
	namespace_close(ns);
	return -1;
}

static int namespace_open(struct namespace *ns, int ends[4], struct err *e)
{
	*ns = (struct namespace){ .link = -1, .reports = -1, .bounding = privilege_bounding() };
	ns->shared = mmap(NULL, sizeof(*ns->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (ns->shared == MAP_FAILED) {
		ns->shared = NULL;
		return err_nomem(e);
	}
	*ns->shared = ERR_INIT;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(e, errno, "socketpair");
	if (pipe2(ends + 2, O_CLOEXEC) == 0)
		return 0;
	close(ends[0]);
	close(ends[1]);
	return err_sys(e, errno, "pipe");
}

static int namespace_refused(int number, struct err *e)
{
	char detail[NAMESPACE_DETAIL_SIZE];

	namespace_why_not(detail);
	err_set(e, ERR_PERMISSION, 0, "a user namespace cannot be had: %s%s%s", strerror(-number), detail[0] ? "; " : "",
		detail);
	err_id(e, "E-USERNS-FORBIDDEN");
	return err_help(e, "permit user namespaces: user.max_user_namespaces, kernel.unprivileged_userns_clone, "
			   "kernel.apparmor_restrict_unprivileged_userns, or the container's seccomp filter");
}

int namespace_make(struct namespace *ns, const Pb__Machine *clocks, struct err *e)
{
	struct clone_args args = { .flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS, .exit_signal = SIGCHLD };
	uid_t uid = geteuid();
	gid_t gid = getegid();
	int ends[4];

	if (namespace_open(ns, ends, e) < 0) {
		namespace_close(ns);
		return -1;
	}
	ns->init = sys_clone3(&args);
	ns->link = ends[ns->init == 0];
	ns->reports = ends[2 + (ns->init == 0)];
	close(ends[ns->init != 0]);
	close(ends[2 + (ns->init != 0)]);
	if (ns->init < 0) {
		namespace_refused(ns->init, e);
		namespace_close(ns);
		return -1;
	}
	if (ns->init == 0) {
		if (namespace_begin(ns, uid, gid, clocks, e) < 0)
			namespace_give_up(ns, e);
		return 1;
	}
	if (namespace_hear(ns, MESSAGE_MADE, NULL) == 0)
		return 0;
	namespace_lost(ns, e);
	if (e->reason == ERR_PERMISSION && !e->help[0])
		namespace_refused(-e->number, e);
	return -1;
}

int namespace_await(struct namespace *ns, int (*ready)(void *data, pid_t root, struct err *e), void *data,
		    struct program *ret, struct err *e)
{
	pid_t root;

	if (namespace_hear(ns, MESSAGE_READY, &root) < 0)
		return namespace_lost(ns, e);
	*ret = (struct program){ .root = namespace_outside_pid(ns->init, root), .init = ns->init, .reports = -1 };
	if (!ret->root)
		err_set(e, ERR_SYSTEM, 0, "the process %d of the new PID namespace is not found", root);
	if (!ret->root || (ready && ready(data, ret->root, e) < 0))
		return namespace_lost(ns, e);
	if (namespace_say(ns, MESSAGE_AGREED, 0) < 0 || namespace_hear(ns, MESSAGE_DONE, NULL) < 0)
		return namespace_lost(ns, e);
	ret->reports = fd_take(&ns->reports);
	namespace_close(ns);
	return 0;
}

/* ---- numbers ---- */

bool namespace_is_same(pid_t a, pid_t b, const char *name, struct arena *arena)
{
	char path[32], *first, *second;

	snprintf(path, sizeof(path), "ns/%s", name);
	return fd_readlink_proc(a, path, arena, &first) == 0 && fd_readlink_proc(b, path, arena, &second) == 0 &&
	       strcmp(first, second) == 0;
}

static bool is_inside(pid_t outside, pid_t init, pid_t pid)
{
	struct arena arena = ARENA_INIT;
	struct proc_status status;
	char *text;
	bool is = fd_read_proc(outside, "status", &arena, &text, NULL) == 0 && proc_parse_status(text, &arena, &status) == 0 &&
		  status.ns_pids > 1 && status.ns_pids <= sizeof(status.ns_pid) / sizeof(status.ns_pid[0]) &&
		  status.ns_pid[status.ns_pids - 1] == pid && namespace_is_same(outside, init, "pid", &arena);

	arena_done(&arena);
	return is;
}

pid_t namespace_outside_pid(pid_t init, pid_t pid)
{
	DIR *proc = opendir("/proc");
	struct dirent *d;
	pid_t found = 0;

	if (!proc)
		return 0;
	while (!found && (d = readdir(proc)))
		if (isdigit(d->d_name[0]) && is_inside(atoi(d->d_name), init, pid))
			found = atoi(d->d_name);
	closedir(proc);
	return found;
}
