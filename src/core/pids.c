/* SPDX-License-Identifier: Apache-2.0 */
#include "core/pids.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runner/steer.h"
#include "sys/process.h"
#include "util/arena.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/privilege.h"

enum {
	ROUNDS_AT_ONCE = 500,   /* forks between two looks at the progress */
	LAST_PID_TRIES = 100,   /* others may snatch a PID that often */
	PID_RESERVED = 300,     /* when the kernel's counter starts again, it starts here */
	SPEED_ROUNDS = 100,
	NS = 1000000000,
};

int pids_find_way(enum pid_way *ret)
{
	cleanup_privilege struct privilege p = privilege_raise(PRIVILEGE_CHECKPOINT);
	pid_t taken = 1; /* for sure */
	/* The kernel looks at the PID last: what is shared need not be copied before. */
	struct clone_args args = { .flags = CLONE_VM | CLONE_VFORK | CLONE_FS | CLONE_FILES, .set_tid = (uint64_t)&taken, .set_tid_size = 1 };
	int r = sys_clone3(&args);

	if (r == 0)
		_exit(0); /* cannot be */
	*ret = PID_SET_TID;
	if (r == -EEXIST)
		return 0;
	*ret = r == -EPERM ? PID_FORK : PID_LAST_PID;
	return r == -EPERM || privilege_can(PRIVILEGE_CHECKPOINT) ? 0 : -EPERM;
}

struct pids *pids_new(enum pid_way way, uint64_t fork_limit, struct err *e)
{
	struct pids *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		err_nomem(e);
		return NULL;
	}
	p->steer = (struct steer){ .way = way, .limit = fork_limit, .last_pid = "/proc/sys/kernel/ns_last_pid" };
	return p;
}

void pids_free(struct pids *p)
{
	if (p)
		munmap(p, sizeof(*p));
}

static pid_t pids_clone3(struct clone_args *args)
{
	return sys_clone3(args);
}

static pid_t pids_clone3_hand_over(struct clone_args *args)
{
	return (pid_t)arch_clone3_hand_over((uint64_t)args, sizeof(*args));
}

static pid_t pids_set_tid(pid_t (*clone3)(struct clone_args *), pid_t pid, uint64_t flags, int exit_signal)
{
	struct clone_args args = {
		.flags = flags,
		.exit_signal = flags & CLONE_PARENT ? 0 : (uint64_t)exit_signal,
		.set_tid = (uint64_t)&pid,
		.set_tid_size = 1,
	};
	pid_t got;

	/* The kernel gives a PID back a moment after its process was reaped, see runner_clone_thread(). */
	for (int i = 0; i < PID_RETURN_TRIES; i++) {
		got = clone3(&args);
		if (got != -EEXIST)
			break;
		usleep(PID_RETURN_PAUSE_NS / 1000);
	}
	return got;
}

/* In pieces, so that progress can be shown. */
static int pids_steer(struct pids *p, const struct progress *progress, pid_t pid)
{
	int64_t r;

	while ((r = steer_to(&p->steer, pid, ROUNDS_AT_ONCE)) == 1)
		progress_count(progress, "forking until its PID comes up", p->steer.made, p->steer.limit);
	return (int)r;
}

/* One that has the wrong PID ends by itself. Its parent must not find it later. */
static int pids_dismiss(struct pids *p, pid_t pid, uint64_t flags)
{
	struct pollfd fd = { .events = POLLIN };

	if (!(flags & CLONE_PARENT)) {
		while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
			;
		return 0;
	}
	if (p->n_strays == PIDS_STRAYS_MAX)
		return -EAGAIN;
	p->strays[p->n_strays++] = (struct pids_stray){ getppid(), pid };
	fd.fd = sys_pidfd_open(pid, 0);
	while (fd.fd >= 0 && poll(&fd, 1, -1) < 0 && errno == EINTR)
		;
	fd_closep(&fd.fd);
	return 0;
}

static pid_t pids_try(struct pids *p, const struct progress *progress, pid_t pid, uint64_t flags, int exit_signal)
{
	uint64_t all = flags | (flags & CLONE_PARENT ? 0 : (uint64_t)exit_signal);
	int r = pids_steer(p, progress, pid);
	pid_t got = r < 0 ? r : (pid_t)SYS_RESULT(syscall(SYS_clone, all, NULL, NULL, NULL, 0));

	if (got == 0 && getpid() != pid)
		_exit(PID_STRAY);
	if (got <= 0 || got == pid)
		return got;
	r = pids_dismiss(p, got, flags);
	return r < 0 ? r : got;
}

pid_t pids_clone(struct pids *p, const struct progress *progress, pid_t pid, uint64_t flags, int exit_signal)
{
	cleanup_privilege struct privilege privilege = privilege_raise(PRIVILEGE_CHECKPOINT);
	int tries = p->steer.way == PID_LAST_PID ? LAST_PID_TRIES : INT32_MAX;
	pid_t got;

	if (p->steer.way == PID_SET_TID)
		return pids_set_tid(pids_clone3, pid, flags, exit_signal);
	steer_lock(&p->steer, pid);
	do
		got = pids_try(p, progress, pid, flags, exit_signal);
	while (got > 0 && got != pid && --tries);
	if (got != 0)
		steer_unlock(&p->steer, pid);
	return got > 0 && got != pid ? -EAGAIN : got;
}

pid_t pids_hand_over(pid_t pid)
{
	cleanup_privilege struct privilege privilege = privilege_raise(PRIVILEGE_CHECKPOINT);

	return pids_set_tid(pids_clone3_hand_over, pid, CLONE_VM | CLONE_PARENT, 0);
}

void pids_reap_strays(struct pids *p)
{
	for (uint32_t i = 0; i < p->n_strays; i++)
		if (p->strays[i].parent == getpid())
			while (waitpid(p->strays[i].pid, NULL, __WALL) < 0 && errno == EINTR)
				;
}

/* ---- beforehand ---- */

static int64_t pids_max(void)
{
	struct arena arena = ARENA_INIT;
	int64_t max = 0;
	char *text;

	if (fd_read_proc(getpid(), "../sys/kernel/pid_max", &arena, &text, NULL) == 0)
		max = strtoll(text, NULL, 10);
	arena_done(&arena);
	return max;
}

/* Nanoseconds that one fork takes. */
static uint64_t pids_speed(void)
{
	uint64_t begun = clock_now_ns(CLOCK_MONOTONIC);

	for (int i = 0; i < SPEED_ROUNDS; i++) {
		int64_t pid = arch_vfork_exit();

		while (pid > 0 && waitpid((pid_t)pid, NULL, __WALL) < 0 && errno == EINTR)
			;
	}
	return (clock_now_ns(CLOCK_MONOTONIC) - begun) / SPEED_ROUNDS;
}

int pids_foresee(const struct pids *p, pid_t pid, struct err *e)
{
	int64_t max, last, away;

	if (p->steer.way != PID_FORK)
		return 0;
	max = pids_max();
	last = steer_last(&p->steer);
	if (!max || last < 0)
		return 0;
	if (pid >= max)
		return err_state(e, "E-PID-MAX", 0, "the PID %d is beyond kernel.pid_max (%ld): it does not come up", pid, (long)max);
	away = pid > last ? pid - last : max - last + pid;
	if (pid <= last && pid < PID_RESERVED) {
		err_state(e, "E-PID-MAX", 0, "the PID %d does not come up: once they have gone round, the kernel gives none below %d",
			  pid, PID_RESERVED);
		return err_help(e, "give torpor the capability, or restore in a user namespace (--tier userns)");
	}
	if ((uint64_t)away <= p->steer.limit)
		return 0;
	err_state(e, "E-PID-LIMIT", 0, "the PID %d is about %ld forks away, some %.0f s; the limit is %lu forks", pid, (long)away,
		  (double)pids_speed() * (double)away / NS, p->steer.limit);
	return err_help(e, "a higher --fork-limit; or give torpor the capability: setcap cap_checkpoint_restore=ep torpor");
}
