/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Each probe runs in a grandchild. Its parent, the keeper, is a subreaper: it
 * makes the subject that some probes need (a sibling of the one that tries,
 * since Yama lets a process trace its own descendants), and reaps whatever the
 * probe leaves. A probe that does not come back is killed by its alarm.
 */

#include "core/probe.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/probe_trials.h"
#include "util/privilege.h"

enum { PROBE_SECONDS = 5 };

/* ---- the table ---- */

static const char cap_cr[] = "the capability CAP_CHECKPOINT_RESTORE: setcap cap_checkpoint_restore=ep torpor";
static const char same_user[] = "run as the user of the program; a security module (Yama's /proc/sys/kernel/yama/ptrace_scope) "
				"or a seccomp filter around torpor may forbid it";
static const char mount_setting[] = "permit user namespaces (user.max_user_namespaces and others, see there); and a /proc of "
				    "which no part is covered by other mounts, as in some containers";
static const char child_trace[] = "a seccomp filter or security module that permits it (Yama's ptrace_scope below 2)";
static const char getfd_help[] = "run as the user of the program; a seccomp filter that permits it (Docker's does with --cap-add "
				 "SYS_PTRACE)";
static const char netlink_help[] = "a seccomp filter or security module that permits netlink sockets";
static const char config_cr[] = "a kernel with CONFIG_CHECKPOINT_RESTORE";
static const char userns_setting[] = "permit user namespaces: user.max_user_namespaces, kernel.unprivileged_userns_clone, "
				     "kernel.apparmor_restrict_unprivileged_userns";

const struct probe probes[] = {
	{ "ptrace", "stopping other processes of the same user (ptrace)", PROBE_DUMP, "", "freezes the tree", same_user,
	  "a kernel with ptrace", true, probe_ptrace },
	{ "proc_mem", "/proc/PID/mem", PROBE_DUMP, "", "puts the stage into a stopped process, and copies memory", same_user,
	  "a kernel that does not restrict /proc/PID/mem (proc_mem.force_override)", true, probe_proc_mem },
	{ "pidfd_getfd", "pidfd_getfd", PROBE_DUMP, "", "looks into pipes and sockets", getfd_help, "Linux 5.6", true,
	  probe_pidfd_getfd },
	{ "tid_address", "PR_GET_TID_ADDRESS", PROBE_DUMP, "", "saves what a thread clears when it ends", config_cr, config_cr,
	  false, probe_tid_address },

	{ "ptrace_child", "tracing one's own children", PROBE_RESTORE, "", "holds what is being made, and sets its registers",
	  child_trace, "a kernel with ptrace", false, probe_ptrace_child },
	{ "process_vm_readv", "process_vm_readv", PROBE_RESTORE, "", "looks into what is being made, and fills it", same_user,
	  "a kernel with CONFIG_CROSS_MEMORY_ATTACH", true, probe_vm_readv },
	{ "mm_map", "PR_SET_MM_MAP without an executable", PROBE_RESTORE, "", "gives back the memory layout", config_cr,
	  config_cr, false, probe_mm_map },

	{ "set_tid", "choosing PIDs (clone3 with set_tid)", PROBE_TIER, "cap root", "gives every process its PID back", cap_cr,
	  "Linux 5.5 (5.9 for the capability), and no seccomp filter that answers for an older one", false, probe_set_tid },
	{ "ns_last_pid", "/proc/sys/kernel/ns_last_pid", PROBE_TIER, "cap root", "choosing PIDs where clone3 is not there",
	  cap_cr, config_cr, false, probe_ns_last_pid },
	{ "user_ns", "user namespaces", PROBE_TIER, "userns", "holds the others", userns_setting,
	  "a kernel with CONFIG_USER_NS", false, probe_user_ns },
	{ "pid_ns", "choosing PIDs in a PID namespace of one's own", PROBE_TIER, "userns", "gives every process its PID back, inside",
	  userns_setting, "a kernel with CONFIG_PID_NS", false, probe_pid_ns },
	{ "mount_ns", "mounting /proc in it", PROBE_TIER, "userns", "shows those PIDs to the programs",
	  mount_setting,
	  "a kernel with CONFIG_PID_NS", false, probe_mount_ns },
	{ "time_ns", "time namespaces", PROBE_HELPS, "userns", "lets clocks go on in tier userns", userns_setting, "Linux 5.6",
	  false, probe_time_ns },
	{ "fork", "making processes until a PID comes up", PROBE_TIER, "fork", "gives every process its PID back, slowly",
	  "a smaller kernel.pid_max, or a PID namespace of one's own", "a kernel with vfork", false, probe_vfork },

	{ "mm_map_exe", "PR_SET_MM_MAP with an executable", PROBE_HELPS, "cap root userns",
	  "gives /proc/PID/exe back (else it leads to torpor)", cap_cr, config_cr, false, probe_mm_exe },
	{ "map_files", "/proc/PID/map_files", PROBE_HELPS, "",
	  "reads mapped files that have no name any more (else: through the mappings)", cap_cr, config_cr, false,
	  probe_map_files },
	{ "children", "/proc/PID/task/TID/children", PROBE_HELPS, "", "finds the tree quickly (else: by all of /proc)",
	  "a /proc that shows all processes of the user", "a kernel with CONFIG_PROC_CHILDREN", true, probe_children },
	{ "kcmp", "kcmp", PROBE_HELPS, "", "tells which fds share one open file", same_user, "a kernel with CONFIG_KCMP", true,
	  probe_kcmp },
	{ "sock_diag", "sock_diag for unix sockets", PROBE_HELPS, "", "finds the other end of a socket", netlink_help,
	  "a kernel with CONFIG_UNIX_DIAG", false, probe_sock_diag },
	{ "inet_diag", "sock_diag for TCP sockets", PROBE_HELPS, "", "tells what a socket is connected to", netlink_help,
	  "a kernel with CONFIG_INET_TCP_DIAG", false, probe_inet_diag },
	{ "pagemap_scan", "PAGEMAP_SCAN", PROBE_HELPS, "", "finds the written pages quickly (else: /proc/PID/pagemap)", same_user,
	  "Linux 6.7", false, probe_pagemap_scan },
	{ "timer_ids", "PR_TIMER_CREATE_RESTORE_IDS", PROBE_HELPS, "", "gives POSIX timers their ids (else: by counting)",
	  config_cr, "Linux 6.15", false, probe_timer_ids },
	{ "userfaultfd", "userfaultfd (USER_MODE_ONLY)", PROBE_HELPS, "", "loads memory in huge pages",
	  "a seccomp filter or security module that permits it", "Linux 5.11", false, probe_userfaultfd },
	{ "tcp_repair", "TCP_REPAIR", PROBE_HELPS, "", "TCP connections", "the capability CAP_NET_ADMIN", config_cr, false,
	  probe_tcp_repair },

	{ "procmap_query", "PROCMAP_QUERY", PROBE_PLANNED, "", "reads mappings more quickly", same_user, "Linux 6.11", false,
	  probe_procmap_query },
	{ "seccomp", "suspending seccomp (PTRACE_O_SUSPEND_SECCOMP)", PROBE_PLANNED, "", "programs that are confined by seccomp",
	  "the capability CAP_SYS_ADMIN", config_cr, true, probe_suspend_seccomp },
	{ "cgroup_freezer", "cgroup freezer", PROBE_PLANNED, "", "stops large trees at once",
	  "a cgroup that is delegated to the user", "cgroup version 2, mounted at /sys/fs/cgroup (or unified below it)", true,
	  probe_cgroup_freezer },
};

const size_t n_probes = sizeof(probes) / sizeof(probes[0]);

_Static_assert(sizeof(probes) / sizeof(probes[0]) <= PROBES_MAX, "callers keep that many outcomes");

const char *probe_help(const struct probe *p, const struct probe_outcome *o)
{
	if (!o->number)
		return "";
	if (p->privilege == cap_cr && o->number == EPERM && privilege_why_not())
		return privilege_why_not();
	if (o->number == ENOSYS || o->number == EINVAL || o->number == ENOTTY || o->number == ENOENT ||
	    o->number == ENOPROTOOPT || o->number == EPROTONOSUPPORT)
		return p->kernel;
	return p->privilege;
}

/* ---- what follows from it ---- */

static const struct probe_outcome *outcome_of(const struct probe_outcome *outcomes, const char *id)
{
	for (size_t i = 0; i < n_probes; i++)
		if (strcmp(probes[i].id, id) == 0)
			return &outcomes[i];
	return NULL;
}

static bool probe_works(const struct probe_outcome *outcomes, const char *id)
{
	return !outcome_of(outcomes, id)->number;
}

bool probe_dump_works(const struct probe_outcome *outcomes)
{
	for (size_t i = 0; i < n_probes; i++)
		if (probes[i].use == PROBE_DUMP && outcomes[i].number)
			return false;
	return true;
}

/* Is this probe, which failed, what a tier fails for? One way to choose PIDs is enough. */
static bool tier_misses(const struct probe *p, const char *tier, const struct probe_outcome *outcomes)
{
	if (p->use == PROBE_RESTORE)
		return true;
	if (p->use != PROBE_TIER || !strstr(p->tiers, tier))
		return false;
	if (strcmp(p->id, "set_tid") == 0)
		return !probe_works(outcomes, "ns_last_pid");
	return strcmp(p->id, "ns_last_pid") != 0;
}

void probe_tiers(const struct probe_outcome *outcomes, struct probe_tier ret[PROBE_TIERS])
{
	static const struct probe_tier tiers[PROBE_TIERS] = {
		{ "cap", "the user's own programs, same PIDs, with CAP_CHECKPOINT_RESTORE", .implemented = true },
		{ "root", "as cap, and programs of every user", .implemented = true },
		{ "userns", "no privilege; same PIDs in a user and PID namespace", .implemented = true },
		{ "fork", "no privilege; forks until the PID comes up", .implemented = true },
	};

	for (size_t i = 0; i < PROBE_TIERS; i++) {
		ret[i] = tiers[i];
		for (size_t k = n_probes; k > 0; k--)
			if (outcomes[k - 1].number && tier_misses(&probes[k - 1], ret[i].name, outcomes))
				ret[i].missing = &probes[k - 1];
		if (!ret[i].missing && strcmp(ret[i].name, "root") == 0 && geteuid() != 0)
			ret[i].why_not = "torpor does not run as root";
		if (!ret[i].missing && strcmp(ret[i].name, "userns") == 0 && geteuid() == 0)
			ret[i].why_not = "root does not need it";
		ret[i].works = ret[i].implemented && !ret[i].missing && !ret[i].why_not;
	}
}

/* ---- trying ---- */

static pid_t probe_fork(pid_t parent)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
	}
	return pid;
}

static pid_t probe_make_subject(void)
{
	pid_t pid = probe_fork(getpid());

	while (pid == 0)
		pause();
	return pid;
}

/* A probe that hangs ends by this, whatever the caller did to the signal. */
static void probe_set_alarm(void)
{
	sigset_t set;

	signal(SIGALRM, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	alarm(PROBE_SECONDS);
}

/*
 * The end of the process that tries.
 * If it was killed (by a seccomp filter, for one), it has not said how it went.
 */
static void probe_wait(pid_t pid, struct probe_outcome *ret)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFSIGNALED(status))
		return;
	ret->number = WTERMSIG(status) == SIGALRM ? ETIMEDOUT : ECANCELED;
	snprintf(ret->detail, PROBE_DETAIL_SIZE, "the process that tried it was killed: %s", strsignal(WTERMSIG(status)));
}

/* In the keeper: one process that tries, beside its subject; reap all of it. */
static _Noreturn void probe_keep(const struct probe *p, struct probe_outcome *ret)
{
	struct probe_run run = { .detail = ret->detail };
	pid_t pid;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (p->with_subject)
		run.subject = probe_make_subject();
	pid = run.subject < 0 ? -1 : probe_fork(getpid());
	if (pid == 0) {
		probe_set_alarm();
		privilege_raise(~0ull);
		ret->number = -p->run(&run);
		_exit(0);
	}
	if (pid < 0)
		ret->number = errno;
	else
		probe_wait(pid, ret);
	if (run.subject > 0)
		kill(run.subject, SIGKILL);
	while (waitpid(-1, NULL, __WALL) > 0 || errno == EINTR)
		;
	_exit(0);
}

int probe_try(const struct probe *p, struct probe_outcome *ret, struct err *e)
{
	struct probe_outcome *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	if (shared == MAP_FAILED)
		return err_nomem(e);
	shared->number = ECANCELED; /* should nobody come to say otherwise */
	pid = probe_fork(getpid());
	if (pid == 0)
		probe_keep(p, shared);
	if (pid > 0)
		probe_wait(pid, shared);
	*ret = *shared;
	ret->detail[PROBE_DETAIL_SIZE - 1] = '\0';
	munmap(shared, sizeof(*shared));
	return pid < 0 ? err_sys(e, errno, "making a process to try %s", p->id) : 0;
}
