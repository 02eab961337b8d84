/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What /proc tells of one task: stat, status, timers (proc_pid_stat(5), proc_pid_status(5)). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct arena;

/* /proc/PID/stat, the fields torpor uses. Address fields are 0 when not permitted. */
struct proc_stat {
	pid_t pid, ppid, pgrp, sid, tpgid;
	char comm[64];
	char state; /* R S D Z T t X I P ... */
	unsigned tty_nr;
	uint64_t starttime; /* clock ticks after boot; with the PID it names a task for ever */
	uint64_t start_code, end_code, start_stack;
	uint64_t start_data, end_data, start_brk;
	uint64_t arg_start, arg_end, env_start, env_end;
	unsigned exit_signal;
	int exit_code; /* as wait(2) reports it */
	uint64_t flags; /* PF_*: 0x00200000 is PF_KTHREAD */
	long n_threads;
};

/* In proc_stat.flags: PF_EXITING and PF_SIGNALED (include/linux/sched.h of the kernel). */
enum { PROC_FLAGS_ENDING = 0x404 };

/* `text` is NUL-terminated. comm may hold spaces and parentheses. Returns 0 or -EINVAL. */
int proc_parse_stat(const char *text, struct proc_stat *ret);

/* /proc/PID/status, the fields torpor uses. */
struct proc_status {
	unsigned umask;
	pid_t tracer;
	uint32_t uid[4], gid[4]; /* real, effective, saved, file system */
	uint32_t *groups;        /* in the arena */
	size_t n_groups;
	uint64_t sig_pending, shd_pending, sig_blocked, sig_ignored, sig_caught;
	uint64_t cap_inh, cap_prm, cap_eff, cap_bnd, cap_amb;
	bool no_new_privs, thp_enabled;
	unsigned seccomp; /* 0 none, 1 strict, 2 filter */
	uint64_t vm_rss;  /* bytes */
	size_t ns_pids;   /* how many numbers NSpid lists: >1 means a nested PID namespace */
	pid_t ns_pid[8];
};

/* `text` is changed. Unknown lines are skipped. Returns 0, -ENOMEM or -EINVAL. */
int proc_parse_status(char *text, struct arena *arena, struct proc_status *ret);

/* /proc/PID/timers: POSIX timers. */
struct proc_timer {
	int id;
	int signo;
	uint64_t sigval;
	int notify; /* SIGEV_SIGNAL, SIGEV_NONE or SIGEV_THREAD_ID (also for "thread/") */
	pid_t tid;  /* the number after "pid." or "tid." */
	int clock;
};

/* `text` is changed. Returns 0, -ENOMEM or -EINVAL. */
int proc_parse_timers(char *text, struct arena *arena, struct proc_timer **ret, size_t *ret_n);

/* /proc/PID/limits: unlike prlimit(2), it needs no privilege for another user's process. */
enum { PROC_LIMITS = 16 };

struct proc_limits {
	uint64_t soft[PROC_LIMITS], hard[PROC_LIMITS]; /* by RLIMIT_*; RLIM_INFINITY for "unlimited" */
};

/* `text` is changed. Returns 0 or -EINVAL. */
int proc_parse_limits(char *text, struct proc_limits *ret);

/* A list of numbers separated by white space, as in /proc/PID/task/TID/children. */
int proc_parse_pids(const char *text, struct arena *arena, pid_t **ret, size_t *ret_n);

/* auxv entry `type` (AT_*) of the raw bytes of /proc/PID/auxv; 0 when it is not there. */
uint64_t proc_auxv(const void *auxv, size_t size, uint64_t type);
