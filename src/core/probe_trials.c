/* SPDX-License-Identifier: Apache-2.0 */
#include "core/probe_trials.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/prctl.h>
#include <linux/sock_diag.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "core/namespace.h"
#include "kinds/unix/view.h"
#include "proc/maps.h"
#include "proc/task.h"
#include "sys/memory.h"
#include "sys/process.h"
#include "sys/ptrace.h"
#include "util/arena.h"
#include "util/clock.h"
#include "util/fd.h"

enum { TRIES = 5, PAGE = 4096 };

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1 /* Linux 5.11 */
#endif

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

/* 0 when the process ended well; else what it said, or -ECANCELED. */
static int probe_reap(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, __WALL) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -ECANCELED;
}

/* At the same address in the subject: both are forks of the keeper. */
#define PROBE_MARK 0x746f72706f72ul
static const unsigned long probe_mark = PROBE_MARK;

/* ---- choosing PIDs ---- */

/* Make a process with this PID; it ends at once. */
static int probe_clone(pid_t pid)
{
	struct clone_args args = { .exit_signal = SIGCHLD, .set_tid = (uint64_t)&pid, .set_tid_size = 1 };
	int got = sys_clone3(&args);

	if (got == 0)
		_exit(0);
	if (got < 0)
		return got;
	probe_reap(got);
	return got == pid ? 0 : -EPROTO;
}

int probe_set_tid(const struct probe_run *r)
{
	int ret = -EEXIST;

	(void)r;
	for (int i = 0; ret == -EEXIST && i < TRIES; i++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		if (pid < 0)
			return -errno;
		probe_reap(pid);
		ret = probe_clone(pid); /* it has just become free */
	}
	return ret;
}

int probe_ns_last_pid(const struct probe_run *r)
{
	cleanup_close int fd = open("/proc/sys/kernel/ns_last_pid", O_RDWR | O_CLOEXEC);
	char text[32];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));

	(void)r;
	/* What it says already: nobody notices. */
	return n < 0 || pwrite(fd, text, (size_t)n, 0) < 0 ? -errno : 0;
}

static int probe_vfork_one(void)
{
	pid_t pid = vfork();
	int status;

	if (pid == 0)
		_exit(0);
	return pid < 0 || waitpid(pid, &status, 0) < 0 ? -errno : 0;
}

/* How fast PIDs go by, and how long it takes until they have all gone by. */
int probe_vfork(const struct probe_run *r)
{
	enum { ROUNDS = 200, SLOW_SECONDS = 60, NS = 1000000000 };
	uint64_t begun = clock_now_ns(CLOCK_MONOTONIC), took;
	struct arena arena = ARENA_INIT;
	int pid_max = 0, ret = 0;
	double turn;
	char *text;

	for (int i = 0; ret == 0 && i < ROUNDS; i++)
		ret = probe_vfork_one();
	if (ret < 0)
		return ret;
	took = clock_now_ns(CLOCK_MONOTONIC) - begun;
	if (fd_read_proc(getpid(), "../sys/kernel/pid_max", &arena, &text, NULL) == 0)
		pid_max = atoi(text);
	turn = (double)took / ROUNDS * pid_max / NS;
	snprintf(r->detail, PROBE_DETAIL_SIZE, "%d PIDs go by in about %.0f s at most", pid_max, turn);
	arena_done(&arena);
	return turn > SLOW_SECONDS ? -ETIME : 0;
}

/* ---- other processes ---- */

/* What Yama says of tracing, when that is less than everything. */
static void probe_explain_yama(char *detail)
{
	static const char *const scopes[] = {
		[1] = "only a program's ancestors may trace it, or whom it named (PR_SET_PTRACER)",
		[2] = "only with CAP_SYS_PTRACE",
		[3] = "nobody, until the machine is started again",
	};
	struct arena arena = ARENA_INIT;
	char *text;
	int scope = fd_read_proc(getpid(), "../sys/kernel/yama/ptrace_scope", &arena, &text, NULL) == 0 ? atoi(text) : 0;

	if (scope > 0 && scope < (int)(sizeof(scopes) / sizeof(scopes[0])))
		snprintf(detail, PROBE_DETAIL_SIZE, "Yama's ptrace_scope is %d: %s", scope, scopes[scope]);
	arena_done(&arena);
}

static int probe_trace(pid_t pid, char *detail)
{
	int status, ret = sys_ptrace(PTRACE_SEIZE, pid, 0, 0);

	if (ret == 0)
		ret = sys_ptrace(PTRACE_INTERRUPT, pid, 0, 0);
	if (ret == 0 && (waitpid(pid, &status, __WALL) < 0 || !WIFSTOPPED(status)))
		ret = -ESRCH;
	if (ret == 0)
		ret = sys_ptrace(SYS_PTRACE_DETACH, pid, 0, 0);
	if (ret < 0)
		probe_explain_yama(detail);
	return ret;
}

int probe_ptrace(const struct probe_run *r)
{
	return probe_trace(r->subject, r->detail);
}

int probe_ptrace_child(const struct probe_run *r)
{
	pid_t pid = fork();
	int ret;

	while (pid == 0)
		pause();
	if (pid < 0)
		return -errno;
	ret = probe_trace(pid, r->detail);
	kill(pid, SIGKILL);
	probe_reap(pid);
	return ret;
}

int probe_proc_mem(const struct probe_run *r)
{
	int fd = fd_open_proc(r->subject, "mem", O_RDWR), ret;
	unsigned long value;

	if (fd < 0)
		return fd;
	/* Into a page that may not be written: the vdso, where the stage will stand, is such a one. */
	ret = fd_pread_full(fd, &value, sizeof(value), (off_t)(uintptr_t)&probe_mark);
	if (ret == 0 && value != probe_mark)
		ret = -EPROTO;
	if (ret == 0)
		ret = fd_pwrite_full(fd, &value, sizeof(value), (off_t)(uintptr_t)&probe_mark);
	close(fd);
	return ret;
}

int probe_vm_readv(const struct probe_run *r)
{
	unsigned long value = 0;
	struct iovec to = { &value, sizeof(value) }, from = { (void *)&probe_mark, sizeof(value) };

	if (process_vm_readv(r->subject, &to, 1, &from, 1, 0) < 0)
		return -errno;
	return value == probe_mark ? 0 : -EPROTO;
}

int probe_pidfd_getfd(const struct probe_run *r)
{
	cleanup_close int pidfd = sys_pidfd_open(r->subject, 0), fd = -1;

	if (pidfd < 0)
		return pidfd;
	fd = sys_pidfd_getfd(pidfd, STDERR_FILENO);
	return fd < 0 ? fd : 0;
}

int probe_kcmp(const struct probe_run *r)
{
	int ret = sys_kcmp(getpid(), r->subject, SYS_KCMP_FILE, STDERR_FILENO, STDERR_FILENO);

	return ret > 0 ? -EPROTO : ret;
}

int probe_children(const struct probe_run *r)
{
	struct arena arena = ARENA_INIT;
	char name[64], *text;
	pid_t *pids;
	size_t n;
	int ret;

	snprintf(name, sizeof(name), "task/%d/children", getppid());
	ret = fd_read_proc(getppid(), name, &arena, &text, NULL);
	if (ret == 0)
		ret = proc_parse_pids(text, &arena, &pids, &n);
	if (ret < 0)
		return ret;
	for (size_t i = 0; i < n; i++)
		if (pids[i] == r->subject)
			return 0;
	return -EPROTO;
}

int probe_suspend_seccomp(const struct probe_run *r)
{
	return sys_ptrace(PTRACE_SEIZE, r->subject, 0, PTRACE_O_SUSPEND_SECCOMP);
}

/* ---- memory ---- */

int probe_map_files(const struct probe_run *r)
{
	char name[80];
	void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd;

	(void)r;
	if (p == MAP_FAILED)
		return -errno;
	snprintf(name, sizeof(name), "map_files/%lx-%lx", (unsigned long)p, (unsigned long)p + PAGE);
	fd = fd_open_proc(getpid(), name, O_RDWR);
	return fd < 0 ? fd : 0;
}

/* Tell the kernel of this process what it knows already, but for the link of its executable. */
static int probe_set_mm(struct arena *arena, int exe_fd)
{
	struct proc_stat st;
	char *text;
	int ret = fd_read_proc(getpid(), "stat", arena, &text, NULL);
	struct prctl_mm_map map;

	if (ret == 0)
		ret = proc_parse_stat(text, &st);
	if (ret < 0)
		return ret;
	map = (struct prctl_mm_map){
		.start_code = st.start_code, .end_code = st.end_code, .start_data = st.start_data,
		.end_data = st.end_data, .start_brk = st.start_brk, .brk = (uint64_t)sbrk(0),
		.start_stack = st.start_stack, .arg_start = st.arg_start, .arg_end = st.arg_end,
		.env_start = st.env_start, .env_end = st.env_end, .exe_fd = (uint32_t)exe_fd,
	};
	return prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof(map), 0) < 0 ? -errno : 0;
}

int probe_mm_map(const struct probe_run *r)
{
	struct arena arena = ARENA_INIT;

	(void)r;
	return probe_set_mm(&arena, -1);
}

/*
 * Replace a mapping by anonymous memory with the same content, also the one that
 * this code runs in: between two instructions, the new takes the old one's place.
 */
static int probe_replace_mapping(const struct vm_area *a)
{
	size_t size = a->end - a->start;
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec to = { p, size }, from = { (void *)a->start, size };

	if (p == MAP_FAILED)
		return -errno;
	/* By the kernel: a sanitizer would not let us read between variables. */
	if ((a->prot & PROT_READ) && process_vm_readv(getpid(), &to, 1, &from, 1, 0) != (ssize_t)size)
		return -EFAULT;
	if (mprotect(p, size, (int)a->prot) < 0)
		return -errno;
	return mremap(p, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)a->start) == MAP_FAILED ? -errno : 0;
}

/* The kernel takes another executable only when none of the old one is mapped any more. */
int probe_mm_exe(const struct probe_run *r)
{
	cleanup_close int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct arena arena = ARENA_INIT;
	struct vm_area_list list;
	char *exe, *text;
	int ret = fd_readlink_proc(getpid(), "exe", &arena, &exe);

	if (ret == 0)
		ret = fd_read_proc(getpid(), "maps", &arena, &text, NULL);
	if (ret == 0)
		ret = proc_parse_maps(text, &arena, &list);
	for (size_t i = 0; ret == 0 && i < list.n; i++)
		if (strcmp(list.areas[i].name, exe) == 0)
			ret = probe_replace_mapping(&list.areas[i]);
	if (ret < 0 || fd < 0) {
		snprintf(r->detail, PROBE_DETAIL_SIZE, "could not be tried");
		return ret < 0 ? ret : -ENOENT;
	}
	return probe_set_mm(&arena, fd);
}

int probe_pagemap_scan(const struct probe_run *r)
{
	cleanup_close int fd = fd_open_proc(getpid(), "pagemap", O_RDONLY);
	struct sys_page_region region;
	struct sys_pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uint64_t)&probe_mark & ~(uint64_t)(PAGE - 1),
		.vec = (uint64_t)&region,
		.vec_len = 1,
		.category_mask = SYS_PAGE_IS_PRESENT,
		.return_mask = SYS_PAGE_IS_PRESENT,
	};
	long n;

	(void)r;
	if (fd < 0 || *(const volatile unsigned long *)&probe_mark != PROBE_MARK) /* a look, so that its page is there */
		return fd < 0 ? fd : -EPROTO;
	arg.end = arg.start + PAGE;
	n = sys_pagemap_scan(fd, &arg);
	return n < 0 ? (int)n : n == 1 ? 0 : -EPROTO;
}

/* struct procmap_query, Linux 6.11. */
struct probe_procmap_query {
	uint64_t size, flags, addr, start, end, vma_flags, page_size, offset, inode;
	uint32_t dev_major, dev_minor, name_size, build_id_size;
	uint64_t name, build_id;
};

int probe_procmap_query(const struct probe_run *r)
{
	cleanup_close int fd = fd_open_proc(getpid(), "maps", O_RDONLY);
	struct probe_procmap_query query = { .size = sizeof(query), .addr = (uint64_t)&probe_mark };

	(void)r;
	if (fd < 0)
		return fd;
	if (ioctl(fd, _IOWR('f', 17, struct probe_procmap_query), &query) < 0)
		return -errno;
	return query.start <= query.addr && query.addr < query.end ? 0 : -EPROTO;
}

int probe_userfaultfd(const struct probe_run *r)
{
	cleanup_close int fd = (int)SYS_RESULT(syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));
	struct uffdio_api api = { .api = UFFD_API };

	(void)r;
	if (fd < 0)
		return fd;
	return ioctl(fd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

/* ---- threads and timers ---- */

int probe_tid_address(const struct probe_run *r)
{
	void *address;

	(void)r;
	return prctl(PR_GET_TID_ADDRESS, &address, 0, 0, 0) < 0 ? -errno : 0;
}

int probe_timer_ids(const struct probe_run *r)
{
	enum { WANTED = 1234 };
	struct sigevent none = { .sigev_notify = SIGEV_NONE };
	int id = WANTED;

	(void)r;
	if (prctl(PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0) < 0)
		return -errno;
	if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &none, &id) < 0)
		return -errno;
	return id == WANTED ? 0 : -EPROTO;
}

/* ---- sockets ---- */

int probe_sock_diag(const struct probe_run *r)
{
	struct arena arena = ARENA_INIT;
	struct unix_view_table table;
	struct err e = ERR_INIT;
	struct stat st;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 || fstat(pair[0], &st) < 0)
		return -errno;
	if (unix_view_dump(&arena, &table, &e) < 0) {
		snprintf(r->detail, PROBE_DETAIL_SIZE, "%.*s", PROBE_DETAIL_SIZE - 1, e.text);
		return e.number ? -abs(e.number) : -EPROTO;
	}
	return unix_view_find(&table, st.st_ino) ? 0 : -EPROTO;
}

/* Ask for all listening TCP sockets, and look for ours among them. */
int probe_inet_diag(const struct probe_run *r)
{
	struct {
		struct nlmsghdr header;
		struct inet_diag_req_v2 body;
	} request = {
		.header = { sizeof(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP },
		.body = { .sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = 1 << TCP_LISTEN },
	};
	cleanup_close int diag = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	_Alignas(struct nlmsghdr) char answer[16384];
	struct stat st;
	ssize_t n;

	(void)r;
	if (diag < 0 || fd < 0 || listen(fd, 1) < 0 || fstat(fd, &st) < 0 || send(diag, &request, sizeof(request), 0) < 0)
		return -errno;
	while ((n = recv(diag, answer, sizeof(answer), 0)) > 0) {
		for (struct nlmsghdr *h = (struct nlmsghdr *)answer; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
			const struct inet_diag_msg *msg = NLMSG_DATA(h);

			if (h->nlmsg_type == NLMSG_ERROR)
				return ((const struct nlmsgerr *)NLMSG_DATA(h))->error ?: -EPROTO;
			if (h->nlmsg_type == NLMSG_DONE)
				return -EPROTO;
			if (msg->idiag_inode == st.st_ino)
				return 0;
		}
	}
	return n < 0 ? -errno : -EPROTO;
}

int probe_tcp_repair(const struct probe_run *r)
{
	cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int on = 1;

	(void)r;
	return fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) < 0 ? -errno : 0;
}

/* ---- namespaces ---- */

static int probe_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret = fd < 0 ? -errno : fd_write_full(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return ret;
}

/* Into a new user namespace, and the others in `flags`, as the same user. */
static int probe_unshare(const struct probe_run *r, int flags)
{
	char map[64];
	int ret;

	snprintf(map, sizeof(map), "%u %u 1\n", geteuid(), geteuid());
	ret = unshare(CLONE_NEWUSER | flags) < 0 ? -errno : probe_write("/proc/self/uid_map", map);
	if (ret < 0)
		namespace_why_not(r->detail);
	return ret;
}

int probe_user_ns(const struct probe_run *r)
{
	return probe_unshare(r, 0);
}

int probe_pid_ns(const struct probe_run *r)
{
	enum { WANTED = 4711 };
	int ret = probe_unshare(r, CLONE_NEWPID);
	pid_t pid;

	if (ret < 0)
		return ret;
	pid = fork();
	if (pid == 0)
		_exit(getpid() == 1 ? -probe_clone(WANTED) : EPROTO);
	return pid < 0 ? -errno : probe_reap(pid);
}

int probe_mount_ns(const struct probe_run *r)
{
	int ret = probe_unshare(r, CLONE_NEWPID | CLONE_NEWNS);
	pid_t pid;

	if (ret < 0)
		return ret;
	pid = fork(); /* only inside the PID namespace can its /proc be mounted */
	if (pid == 0)
		_exit(mount("proc", "/proc", "proc", 0, NULL) < 0 ? errno : 0);
	return pid < 0 ? -errno : probe_reap(pid);
}

int probe_time_ns(const struct probe_run *r)
{
	enum { AHEAD = 86400 };
	struct timespec before, now;
	int ret = probe_unshare(r, CLONE_NEWTIME);
	pid_t pid;

	if (ret == 0)
		ret = probe_write("/proc/self/timens_offsets", "monotonic 86400 0\n");
	if (ret < 0)
		return ret;
	clock_gettime(CLOCK_MONOTONIC, &before);
	pid = fork();
	if (pid == 0)
		_exit(clock_gettime(CLOCK_MONOTONIC, &now) < 0 || now.tv_sec - before.tv_sec < AHEAD ? EPROTO : 0);
	return pid < 0 ? -errno : probe_reap(pid);
}

/* ---- cgroups ---- */

/* Where cgroup version 2 is mounted: alone, or beside version 1. */
static const char *probe_cgroup_mount(void)
{
	static const char *const places[] = { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" };
	char path[64];

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(path, sizeof(path), "%s/cgroup.controllers", places[i]);
		if (access(path, F_OK) == 0)
			return places[i];
	}
	return NULL;
}

/* The folder of our own cgroup. */
static int probe_own_cgroup(char *buf, size_t size)
{
	const char *mount = probe_cgroup_mount();
	struct arena arena = ARENA_INIT;
	char *text, *own;
	int ret = fd_read_proc(getpid(), "cgroup", &arena, &text, NULL);

	if (ret < 0)
		return ret;
	own = strncmp(text, "0::/", 4) == 0 ? text + 3 : strstr(text, "\n0::/");
	if (!mount || !own)
		return -ENOSYS;
	own = strchr(own, '/');
	own[strcspn(own, "\n")] = '\0';
	snprintf(buf, size, "%s%s", mount, strcmp(own, "/") == 0 ? "" : own);
	arena_done(&arena);
	return 0;
}

static int probe_wait_frozen(const char *folder)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/cgroup.events", folder);
	for (int ms = 0; ms < 500; ms++) {
		cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
		char text[256] = "";

		if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
			return -errno;
		if (strstr(text, "frozen 1"))
			return 0;
		usleep(1000);
	}
	return -ETIMEDOUT;
}

static int probe_freeze_in(const char *own, const char *folder, pid_t subject)
{
	char path[512], pid[16];
	int ret;

	snprintf(pid, sizeof(pid), "%d", subject);
	snprintf(path, sizeof(path), "%s/cgroup.procs", folder);
	ret = probe_write(path, pid);
	if (ret < 0)
		return ret;
	snprintf(path, sizeof(path), "%s/cgroup.freeze", folder);
	ret = probe_write(path, "1");
	if (ret == 0)
		ret = probe_wait_frozen(folder);
	probe_write(path, "0");
	snprintf(path, sizeof(path), "%s/cgroup.procs", own);
	probe_write(path, pid);
	return ret;
}

int probe_cgroup_freezer(const struct probe_run *r)
{
	char own[256], folder[320];
	int ret = probe_own_cgroup(own, sizeof(own));

	if (ret < 0)
		return ret;
	snprintf(folder, sizeof(folder), "%s/torpor-check-%d", own, getpid());
	if (mkdir(folder, 0700) < 0)
		return -errno;
	ret = probe_freeze_in(own, folder, r->subject);
	for (int ms = 0; rmdir(folder) < 0 && errno == EBUSY && ms < 100; ms++)
		usleep(1000);
	return ret;
}
