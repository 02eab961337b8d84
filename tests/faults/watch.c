/* SPDX-License-Identifier: Apache-2.0 */

/*
 * watch REPORT UID GID COMMAND...: run COMMAND as that user, and write down what it, its threads and its children hand to the
 * kernel: "made" for each process (not thread) that is made, with the PID that it is to have, if any; "pid N" for each PID ("own N" where it descends from COMMAND),
 * "path P" for each name of a file, made absolute; always with the name of the call and who made it. An argument that cannot
 * be read is "unreadable".
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "supervised.h"

enum role {
	NONE,
	MADE,    /* a process: clone flags here */
	MADE3,   /* ... in the struct here */
	ALWAYS,  /* a process, whatever the arguments */
	PATH,    /* a path, relative to the working folder */
	PATH_AT, /* ... to the folder that the argument before it refers to */
	PID,
	SOCKET,  /* struct sockaddr; its size is the next argument */
};

#define CALL(name, ...) { SYS_##name, #name, { __VA_ARGS__ } }

/* Where a call names a thread and its process, the kernel compares them: the process is enough. */
static const struct watched {
	int nr;
	const char *name;
	enum role roles[5];
} watched[] = {
	CALL(clone, MADE), CALL(clone3, MADE3), CALL(fork, ALWAYS), CALL(vfork, ALWAYS),
	CALL(open, PATH), CALL(openat, NONE, PATH_AT), CALL(openat2, NONE, PATH_AT), CALL(creat, PATH), CALL(stat, PATH),
	CALL(lstat, PATH), CALL(newfstatat, NONE, PATH_AT), CALL(statx, NONE, PATH_AT), CALL(access, PATH),
	CALL(faccessat, NONE, PATH_AT), CALL(faccessat2, NONE, PATH_AT), CALL(readlink, PATH), CALL(readlinkat, NONE, PATH_AT),
	CALL(unlink, PATH), CALL(unlinkat, NONE, PATH_AT), CALL(rmdir, PATH), CALL(mkdir, PATH), CALL(mkdirat, NONE, PATH_AT),
	CALL(mknod, PATH), CALL(mknodat, NONE, PATH_AT), CALL(symlink, NONE, PATH), CALL(symlinkat, NONE, NONE, PATH_AT),
	CALL(link, PATH, PATH), CALL(linkat, NONE, PATH_AT, NONE, PATH_AT), CALL(rename, PATH, PATH),
	CALL(renameat, NONE, PATH_AT, NONE, PATH_AT), CALL(renameat2, NONE, PATH_AT, NONE, PATH_AT), CALL(chdir, PATH),
	CALL(chroot, PATH), CALL(truncate, PATH), CALL(statfs, PATH), CALL(chmod, PATH), CALL(fchmodat, NONE, PATH_AT),
	CALL(chown, PATH), CALL(lchown, PATH), CALL(fchownat, NONE, PATH_AT), CALL(utimensat, NONE, PATH_AT), CALL(mount, PATH, PATH),
	CALL(umount2, PATH), CALL(name_to_handle_at, NONE, PATH_AT), CALL(inotify_add_watch, NONE, PATH),
	CALL(getxattr, PATH), CALL(setxattr, PATH), CALL(mq_open, NONE), CALL(bind, NONE, SOCKET), CALL(connect, NONE, SOCKET),
	CALL(kill, PID), CALL(tgkill, PID), CALL(tkill, PID), CALL(rt_sigqueueinfo, PID), CALL(rt_tgsigqueueinfo, PID),
	CALL(ptrace, NONE, PID), CALL(pidfd_open, PID), CALL(process_vm_readv, PID), CALL(process_vm_writev, PID),
	CALL(prlimit64, PID), CALL(sched_setaffinity, PID), CALL(sched_setattr, PID), CALL(setpriority, NONE, PID),
	CALL(setpgid, PID, PID), CALL(kcmp, PID, PID), CALL(ioprio_set, NONE, PID), CALL(get_robust_list, PID),
};

static pid_t command;

enum { WATCHED = sizeof(watched) / sizeof(watched[0]), REPORT = 3 };

static bool fetch(const struct seccomp_notif *call, uint64_t at, void *to, size_t size)
{
	struct iovec here = { to, size }, there = { (void *)at, size };

	return process_vm_readv((pid_t)call->pid, &here, 1, &there, 1, 0) == (ssize_t)size;
}

/* A string, page by page: what follows it may not be there. */
static bool fetch_path(const struct seccomp_notif *call, uint64_t at, char path[4096])
{
	size_t n = 0;

	while (n < 4095) {
		size_t part = 256 - (at + n) % 256;

		if (part > 4095 - n)
			part = 4095 - n;
		if (!fetch(call, at + n, path + n, part))
			return false;
		if (memchr(path + n, '\0', part))
			return true;
		n += part;
	}
	return false;
}

static void note(const struct watched *w, const struct seccomp_notif *call, const char *what, const char *value)
{
	dprintf(REPORT, "%s %s(%u) %s\n", what, w->name, call->pid, value);
}

/* A line of /proc/PID/status, as a number; 0: it is not there. */
static pid_t status_number(pid_t pid, const char *key)
{
	char path[32], line[256];
	FILE *f;
	int number = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	while (!number && fgets(line, sizeof(line), f))
		if (strncmp(line, key, strlen(key)) == 0)
			number = atoi(line + strlen(key));
	fclose(f);
	return number;
}

/* A process or thread of COMMAND's own tree. */
static bool is_own(pid_t pid)
{
	for (pid_t p = status_number(pid, "Tgid:"); p > 1; p = status_number(p, "PPid:"))
		if (p == command)
			return true;
	return false;
}

static void note_pid(const struct watched *w, const struct seccomp_notif *call, pid_t pid)
{
	char number[16];

	snprintf(number, sizeof(number), "%d", pid);
	note(w, call, is_own(abs(pid)) ? "own" : "pid", number);
}

static void note_path(const struct watched *w, const struct seccomp_notif *call, uint64_t at, int folder)
{
	char path[4096], link[64], base[4096] = "", whole[8300];
	ssize_t n;

	if (!at) /* the folder itself, by its descriptor */
		return;
	if (!fetch_path(call, at, path)) {
		note(w, call, "unreadable", "");
		return;
	}
	if (!path[0])
		return;
	if (path[0] != '/') {
		if (folder == AT_FDCWD)
			snprintf(link, sizeof(link), "/proc/%u/cwd", call->pid);
		else
			snprintf(link, sizeof(link), "/proc/%u/fd/%d", call->pid, folder);
		n = readlink(link, base, sizeof(base) - 1);
		base[n > 0 ? n : 0] = '\0';
		snprintf(whole, sizeof(whole), "%s/%s", base, path);
	} else {
		snprintf(whole, sizeof(whole), "%s", path);
	}
	note(w, call, "path", whole);
}

static void note_socket(const struct watched *w, const struct seccomp_notif *call, uint64_t at, uint64_t size)
{
	struct sockaddr_un name = { 0 };

	if (size > sizeof(name) || !fetch(call, at, &name, size)) {
		note(w, call, "unreadable", "");
		return;
	}
	if (name.sun_family == AF_UNIX && name.sun_path[0])
		note_path(w, call, at + offsetof(struct sockaddr_un, sun_path), AT_FDCWD);
}

/* With the PID that was chosen for it, if one was. */
static void note_made(const struct watched *w, const struct seccomp_notif *call, const struct clone_args *args)
{
	char number[16] = "";
	pid_t pid;

	if (args->flags & CLONE_THREAD)
		return;
	if (args->set_tid_size && fetch(call, args->set_tid, &pid, sizeof(pid)))
		snprintf(number, sizeof(number), "%d", pid);
	note(w, call, "made", number);
}

static void note_argument(const struct watched *w, const struct seccomp_notif *call, unsigned i)
{
	uint64_t a = call->data.args[i];
	struct clone_args args = { 0 };

	switch (w->roles[i]) {
	case NONE:
		return;
	case ALWAYS:
		return note(w, call, "made", "");
	case MADE3:
		if (!fetch(call, a, &args, sizeof(args) < call->data.args[1] ? sizeof(args) : call->data.args[1]))
			note(w, call, "unreadable", "");
		return note_made(w, call, &args);
	case MADE:
		args.flags = a;
		return note_made(w, call, &args);
	case PATH:
		return note_path(w, call, a, AT_FDCWD);
	case PATH_AT:
		return note_path(w, call, a, (int)call->data.args[i - 1]);
	case PID:
		return note_pid(w, call, (pid_t)a);
	case SOCKET:
		return note_socket(w, call, a, call->data.args[i + 1]);
	}
}

static unsigned write_down(const struct seccomp_notif *call, struct seccomp_notif_resp *answer)
{
	(void)answer;
	if (!command)
		command = (pid_t)call->pid;
	for (size_t i = 0; i < WATCHED; i++)
		for (unsigned k = 0; watched[i].nr == call->data.nr && k < 5; k++)
			note_argument(&watched[i], call, k);
	return 0;
}

int main(int argc, char **argv)
{
	int numbers[WATCHED], report;

	if (argc < 5)
		return 125;
	report = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
	if (report < 0)
		supervised_die(argv[1]);
	for (size_t i = 0; i < WATCHED; i++)
		numbers[i] = watched[i].nr;
	supervised_run(numbers, WATCHED, write_down, report, argv[2], argv[3], argv + 4);
}
