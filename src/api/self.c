/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor_dump_self(): a process cannot stop itself to be looked at, and whoever does it must not be in the tree, nor
 * hold anything of it. So it is done by a process that has lost its parent, and nothing connects the two while it
 * works: no descriptor and no shared memory, which would be saved with the program. The result is written into the
 * memory of the caller, which meanwhile looks whether it is there, or whether it is another process by now.
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/api.h"
#include "api/helper.h"
#include "proc/task.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/privilege.h"

enum { LOOK_EVERY_US = 2000, LOOKS_PER_CHECK = 10, TICK_US = 10000, NS_PER_US = 1000, BOOT_ID_SIZE = 40 };

/*
 * What tells a process from the one that is restored of it: that has begun later, by the clock of its namespace as
 * well, or after the machine was started again.
 */
struct identity {
	uint64_t start_time;
	char boot_id[BOOT_ID_SIZE];
};

struct self {
	volatile int over; /* what follows is valid; written by the saver */
	int r;
	struct err e;
};

static bool self_read_stat(pid_t pid, struct proc_stat *ret)
{
	struct arena arena = ARENA_INIT;
	char *text;
	bool is_there = fd_read_proc(pid, "stat", &arena, &text, NULL) == 0 && proc_parse_stat(text, ret) == 0;

	arena_done(&arena);
	return is_there;
}

static bool self_identify(struct identity *ret)
{
	struct arena arena = ARENA_INIT;
	struct proc_stat stat;
	char *boot_id;

	*ret = (struct identity){ 0 };
	if (!self_read_stat(getpid(), &stat))
		return false;
	ret->start_time = stat.starttime;
	if (fd_read_proc(getpid(), "../sys/kernel/random/boot_id", &arena, &boot_id, NULL) == 0)
		strncpy(ret->boot_id, boot_id, BOOT_ID_SIZE - 1);
	arena_done(&arena);
	return true;
}

static bool self_is_another(const struct identity *before)
{
	struct identity now;

	return self_identify(&now) && memcmp(&now, before, sizeof(now)) != 0;
}

/* The kernel counts in ticks: the one that is restored must not begin in the same. */
static void self_grow_older(const struct identity *id)
{
	uint64_t age_us = clock_now_ns(CLOCK_BOOTTIME) / NS_PER_US - id->start_time * TICK_US;

	if (age_us < 2 * TICK_US)
		usleep(2 * TICK_US);
}

/* ---- the saver ---- */

/* System V segments are attached in a child as well, and would count as used by others. */
static void self_leave_segments(void)
{
	struct arena arena = ARENA_INIT;
	char *maps, *line, *rest;

	if (fd_read_proc(getpid(), "maps", &arena, &maps, NULL) < 0)
		return;
	for (line = strtok_r(maps, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		unsigned long start, end;

		if (strstr(line, " /SYSV") && sscanf(line, "%lx-%lx", &start, &end) == 2)
			munmap((void *)start, end - start);
	}
	arena_done(&arena);
}

/* The flag comes last. */
static void self_tell(pid_t caller, const struct self *at, const struct self *result)
{
	cleanup_close int mem = fd_open_proc(caller, "mem", O_RDWR | O_CLOEXEC);
	const int over = 1;

	if (mem >= 0 && fd_pwrite_full(mem, result, sizeof(*result), (off_t)(uintptr_t)at) == 0)
		fd_pwrite_full(mem, &over, sizeof(over), (off_t)(uintptr_t)&at->over);
}

struct self_saver {
	pid_t caller, parent;
	const char *path;
	const struct torpor_options *o;
	const struct self *at;
	int link;
};

static void self_save(void *data)
{
	const struct self_saver *s = data;
	struct dump_options dump = s->o->dump;
	struct self result = { .e = ERR_INIT };
	struct dump_result found;
	pid_t pid = getpid();
	sigset_t all;
	char byte;

	prctl(PR_SET_NAME, "torpor-saver");
	setsid();
	helper_close_fds(&s->link, 1);
	self_leave_segments();
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	for (int signo = 1; signo < NSIG; signo++)
		signal(signo, signo == SIGPIPE || signo == SIGXFSZ ? SIG_IGN : SIG_DFL);
	privilege_begin();
	prctl(PR_SET_DUMPABLE, 1);
	while (getppid() == s->parent) /* a child of the caller, which ends now */
		usleep(LOOK_EVERY_US / 10);
	if (send(s->link, &pid, sizeof(pid), MSG_NOSIGNAL) != sizeof(pid))
		_exit(ERR_SYSTEM);
	while (recv(s->link, &byte, 1, 0) < 0 && errno == EINTR) /* until the caller has closed its end */
		;
	helper_close_fds(NULL, 0);
	close_range(STDIN_FILENO, STDERR_FILENO, 0);
	for (int i = 0; i <= STDERR_FILENO; i++)
		open("/dev/null", O_RDWR);
	dump.pid = s->caller;
	dump.path = s->path;
	dump.name = s->o->name;
	dump.keep_running = true;
	result.r = core_dump(&dump, &found, &result.e);
	if (result.r < 0 && found.obstacles.n) { /* the first stands for all */
		err_state(&result.e, found.obstacles.v[0].id, 0, "cannot save %s", found.obstacles.v[0].text);
		err_help(&result.e, "%s", found.obstacles.v[0].help);
	}
	self_tell(s->caller, s->at, &result);
	_exit(0);
}

/* Make one that is nobody's child. Returns its PID; nothing but that connects us. */
static pid_t self_make_saver(const char *path, const struct torpor_options *o, const struct self *at, struct err *e)
{
	struct self_saver begin = { .caller = getpid(), .path = path, .o = o, .at = at };
	pid_t saver = -1, child;
	sigset_t all, before;
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(e, errno, "socketpair");
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	child = fork();
	if (child == 0) {
		begin.parent = getpid();
		begin.link = ends[1];
		close(ends[0]);
		if (fork() == 0)
			helper_change_stack(self_save, &begin);
		_exit(0);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	close(ends[1]);
	if (child > 0)
		helper_reap(child);
	if (child > 0 && recv(ends[0], &saver, sizeof(saver), 0) == sizeof(saver))
		prctl(PR_SET_PTRACER, saver); /* where only ancestors may look, as Yama has it */
	else
		saver = err_sys(e, errno, "making a process");
	close(ends[0]);
	return saver;
}

/* ---- the caller ---- */

static bool self_saver_lives(pid_t saver)
{
	struct proc_stat stat;

	return self_read_stat(saver, &stat) && stat.state != 'Z' && stat.state != 'X';
}

/* Returns 0 when it has been saved, 1 when it has been restored, or negative. */
static int self_wait(struct self *s, pid_t saver, const struct identity *id, struct err *e)
{
	for (unsigned i = 1; !s->over; i++) {
		usleep(LOOK_EVERY_US);
		if (s->over || i % LOOKS_PER_CHECK)
			continue;
		if (self_is_another(id))
			return 1;
		if (!self_saver_lives(saver) && !s->over)
			return err_set(e, ERR_SYSTEM, 0, "the process that torpor had made to save this one was killed");
	}
	__sync_synchronize();
	*e = s->e;
	return s->r;
}

int torpor_dump_self(const char *path, const struct torpor_options *o, struct torpor_error **error)
{
	struct self *s = calloc(1, sizeof(*s));
	struct torpor_options defaults;
	struct err e = ERR_INIT;
	struct identity id;
	pid_t saver;
	int r;

	api_options_default(&defaults);
	if (!s || !self_identify(&id)) {
		free(s);
		return err_nomem(&e), api_fail(error, &e);
	}
	self_grow_older(&id);
	saver = self_make_saver(path, o ?: &defaults, s, &e);
	r = saver < 0 ? saver : self_wait(s, saver, &id, &e);
	prctl(PR_SET_PTRACER, 0);
	free(s);
	return r < 0 ? api_fail(error, &e) : r;
}
