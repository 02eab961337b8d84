/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What CAP_CHECKPOINT_RESTORE opens, and what it does not: each operation is
 * tried in a process of its own.
 *
 *   capability SUBJECT PID FILE   try all as `nothing`, `capability`, `namespace` or `root`; PID is a process of root,
 *                                 FILE one that only root may read. A line for each: name, outcome, "ok" or what was expected
 *   capability --table            what is expected, as the table of doc/capability.md
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

enum { PAGE = 4096, TRIES = 20, OTHER_USER = 12345, SUBJECTS = 4 };

static pid_t root_process;
static const char *root_file;

/* The outcome of a call: 0 or an errno value. */
static int outcome(long r)
{
	return r < 0 ? errno : 0;
}

/* ---- what it is for ---- */

static int choose_pid(void)
{
	int r = EEXIST;

	for (int i = 0; r == EEXIST && i < TRIES; i++) {
		pid_t pid = fork(), got;
		struct clone_args args = { .exit_signal = SIGCHLD, .set_tid = (uintptr_t)&pid, .set_tid_size = 1 };

		if (pid == 0)
			_exit(0);
		waitpid(pid, NULL, 0);
		got = (pid_t)syscall(SYS_clone3, &args, sizeof(args)); /* it has just become free */
		if (got == 0)
			_exit(0);
		r = outcome(got);
		if (got > 0)
			waitpid(got, NULL, 0);
		if (got > 0 && got != pid)
			return EPROTO;
	}
	return r;
}

/* Of a TID that is taken: who may choose one is told so. */
static int choose_tid(void)
{
	static char stack[PAGE];
	pid_t taken = 1;
	struct clone_args args = {
		.flags = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD, .stack = (uintptr_t)stack, .stack_size = sizeof(stack),
		.set_tid = (uintptr_t)&taken, .set_tid_size = 1,
	};

	return outcome(syscall(SYS_clone3, &args, sizeof(args)));
}

/* Write what is read: nobody notices. An id of -1, which means none, is not taken back (EINVAL), but may be written. */
static int write_back(const char *path)
{
	int fd = open(path, O_RDWR), r;
	char text[32];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));

	r = outcome(n < 0 ? -1 : pwrite(fd, text, (size_t)n, 0));
	return r == EINVAL && text[0] == '-' ? 0 : r;
}

static int ns_last_pid(void)
{
	return write_back("/proc/sys/kernel/ns_last_pid");
}

static int shm_next_id(void)
{
	return write_back("/proc/sys/kernel/shm_next_id");
}

static int sem_next_id(void)
{
	return write_back("/proc/sys/kernel/sem_next_id");
}

static int msg_next_id(void)
{
	return write_back("/proc/sys/kernel/msg_next_id");
}

static int map_files(void)
{
	void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char path[80];

	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (long)p, (long)p + PAGE);
	return outcome(open(path, O_RDWR));
}

static int map_files_link(void)
{
	void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char path[80], link[80];

	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (long)p, (long)p + PAGE);
	return outcome(readlink(path, link, sizeof(link)));
}

/* The memory layout as it is. */
static int set_mm(int exe_fd)
{
	struct prctl_mm_map map = { .exe_fd = (uint32_t)exe_fd, .brk = (uintptr_t)sbrk(0) };
	unsigned long field[53] = { 0 };
	FILE *f = fopen("/proc/self/stat", "re");
	char word[64];

	for (int i = 1; f && i <= 52 && fscanf(f, "%63s", word) == 1; i++)
		field[i] = strtoul(word, NULL, 10);
	map.start_code = field[26], map.end_code = field[27], map.start_stack = field[28];
	map.start_data = field[45], map.end_data = field[46], map.start_brk = field[47];
	map.arg_start = field[48], map.arg_end = field[49], map.env_start = field[50], map.env_end = field[51];
	return outcome(prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof(map), 0));
}

static int mm_map(void)
{
	return set_mm(-1);
}

/* Who may set it is told that the old executable is still mapped. */
static int mm_map_exe(void)
{
	return set_mm(open("/proc/self/exe", O_RDONLY));
}

static int lock_termios(void)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);
	struct termios modes = { 0 };

	return outcome(master < 0 ? -1 : ioctl(master, TIOCSLCKTRMIOS, &modes));
}

/* ---- what it is not for ---- */

static int tcp_repair(void)
{
	int on = 1;

	return outcome(setsockopt(socket(AF_INET, SOCK_STREAM, 0), IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)));
}

static int buffer_force(void)
{
	int size = 1 << 24;

	return outcome(setsockopt(socket(AF_INET, SOCK_DGRAM, 0), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)));
}

static int low_port(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(971), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	return outcome(bind(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof(a)));
}

static int raw_socket(void)
{
	return outcome(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
}

static int ptrace_foreign(void)
{
	return outcome(ptrace(PTRACE_SEIZE, root_process, 0, 0));
}

static int kill_foreign(void)
{
	return outcome(kill(root_process, 0));
}

static int read_foreign(void)
{
	return outcome(open(root_file, O_RDONLY));
}

static int become_other(void)
{
	return outcome(setresuid(OTHER_USER, OTHER_USER, OTHER_USER));
}

static int suspend_seccomp(void)
{
	pid_t pid = fork();
	int r;

	while (pid == 0)
		pause();
	r = outcome(ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_SUSPEND_SECCOMP));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, __WALL);
	return r;
}

static int mm_start_brk(void)
{
	return outcome(prctl(PR_SET_MM, PR_SET_MM_START_BRK, sbrk(0), 0, 0));
}

/* Physical addresses are shown as 0 to those who may not see them. */
static int page_frames(void)
{
	volatile char here = 1;
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (pread(fd, &entry, sizeof(entry), (off_t)((uintptr_t)&here / PAGE * sizeof(entry))) != sizeof(entry))
		return errno;
	return entry << 9 ? 0 : EPERM;
}

static int userfaultfd_kernel(void)
{
	return outcome(syscall(SYS_userfaultfd, O_CLOEXEC));
}

static int by_handle(void)
{
	struct {
		struct file_handle h;
		char more[MAX_HANDLE_SZ];
	} handle = { .h.handle_bytes = MAX_HANDLE_SZ };
	int mount, dir = open("/dev/shm", O_RDONLY);

	if (name_to_handle_at(AT_FDCWD, "/proc/self/exe", &handle.h, &mount, AT_SYMLINK_FOLLOW) < 0)
		return errno;
	return outcome(open_by_handle_at(dir, &handle.h, O_RDONLY)) == EPERM ? EPERM : 0;
}

static int alarm_timer(void)
{
	return outcome(timerfd_create(CLOCK_REALTIME_ALARM, 0));
}

static int drop_bounding(void)
{
	return outcome(prctl(PR_CAPBSET_DROP, CAP_CHOWN, 0, 0, 0));
}

static int change_root(void)
{
	return outcome(chroot("/"));
}

static int mount_namespace(void)
{
	return outcome(unshare(CLONE_NEWNS));
}

static int time_namespace(void)
{
	return outcome(unshare(CLONE_NEWTIME));
}

static int lower_nice(void)
{
	return outcome(setpriority(PRIO_PROCESS, 0, -5));
}

static int real_time(void)
{
	struct sched_param p = { .sched_priority = 1 };

	return outcome(sched_setscheduler(0, SCHED_FIFO, &p));
}

static int lock_memory(void)
{
	static char page[PAGE];
	struct rlimit none = { 0, 0 };

	setrlimit(RLIMIT_MEMLOCK, &none);
	return outcome(mlock(page, sizeof(page)));
}

static int raise_limit(void)
{
	struct rlimit low = { 100, 100 }, high = { 100, 200 };

	setrlimit(RLIMIT_SIGPENDING, &low);
	return outcome(setrlimit(RLIMIT_SIGPENDING, &high));
}

static int lower_oom_score(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY);

	return outcome(fd < 0 ? -1 : write(fd, "-100", 4));
}

/* ---- the table ---- */

static const char *const subjects[SUBJECTS] = { "nothing", "capability", "namespace", "root" };

/* Root in a container may lack this one; then it is as everybody else. */
enum { NONE = -1 };

static const struct operation {
	const char *name, *what;
	int (*run)(void);
	int expected[SUBJECTS]; /* errno values; of what is asked for only to see whether it may be asked, not EPERM */
	int needs;              /* capability that decides for root, or NONE */
} operations[] = {
	{ "choose_pid", "`clone3` with `set_tid`, a process", choose_pid, { EPERM, 0, 0, 0 }, NONE },
	{ "choose_tid", "`clone3` with `set_tid`, a thread", choose_tid, { EPERM, EEXIST, EEXIST, EEXIST }, NONE },
	{ "ns_last_pid", "writing `/proc/sys/kernel/ns_last_pid`", ns_last_pid, { EPERM, 0, 0, 0 }, NONE },
	{ "map_files", "opening `/proc/PID/map_files/…`", map_files, { EPERM, 0, EPERM, 0 }, NONE },
	{ "mm_map_exe", "`PR_SET_MM_MAP` with `exe_fd`", mm_map_exe, { EPERM, EBUSY, EBUSY, EBUSY }, NONE },
	{ "shm_next_id", "writing `shm_next_id`", shm_next_id, { EACCES, 0, 0, 0 }, NONE },
	{ "sem_next_id", "writing `sem_next_id`", sem_next_id, { EACCES, 0, 0, 0 }, NONE },
	{ "msg_next_id", "writing `msg_next_id`", msg_next_id, { EACCES, 0, 0, 0 }, NONE },
	{ "lock_termios", "`TIOCSLCKTRMIOS`", lock_termios, { EPERM, 0, EPERM, 0 }, NONE },

	{ "mm_map", "`PR_SET_MM_MAP` without `exe_fd`", mm_map, { 0, 0, 0, 0 }, NONE },
	{ "map_files_link", "reading the links in `map_files`", map_files_link, { 0, 0, 0, 0 }, NONE },

	{ "tcp_repair", "`TCP_REPAIR`", tcp_repair, { EPERM, EPERM, 0, 0 }, CAP_NET_ADMIN },
	{ "buffer_force", "`SO_RCVBUFFORCE`", buffer_force, { EPERM, EPERM, EPERM, 0 }, CAP_NET_ADMIN },
	{ "low_port", "ports below 1024", low_port, { EACCES, EACCES, 0, 0 }, CAP_NET_BIND_SERVICE },
	{ "raw_socket", "raw sockets", raw_socket, { EPERM, EPERM, 0, 0 }, CAP_NET_RAW },
	{ "ptrace_foreign", "tracing another user's process", ptrace_foreign, { EPERM, EPERM, ESRCH, 0 }, CAP_SYS_PTRACE },
	{ "kill_foreign", "signals to another user's process", kill_foreign, { EPERM, EPERM, ESRCH, 0 }, NONE },
	{ "read_foreign", "reading another user's file", read_foreign, { EACCES, EACCES, EACCES, 0 }, NONE },
	{ "become_other", "`setresuid` to another user", become_other, { EPERM, EPERM, EINVAL, 0 }, CAP_SETUID },
	{ "suspend_seccomp", "`PTRACE_O_SUSPEND_SECCOMP`", suspend_seccomp, { EPERM, EPERM, EPERM, 0 }, CAP_SYS_ADMIN },
	{ "mm_start_brk", "`PR_SET_MM_START_BRK` and its like", mm_start_brk, { EPERM, EPERM, EPERM, 0 }, CAP_SYS_RESOURCE },
	{ "page_frames", "page frame numbers in `/proc/PID/pagemap`", page_frames, { EPERM, EPERM, EPERM, 0 }, CAP_SYS_ADMIN },
	{ "userfaultfd", "`userfaultfd` for faults of the kernel", userfaultfd_kernel, { EPERM, EPERM, EPERM, 0 }, CAP_SYS_PTRACE },
	{ "by_handle", "`open_by_handle_at`", by_handle, { EPERM, EPERM, EPERM, 0 }, CAP_DAC_READ_SEARCH },
	{ "alarm_timer", "`CLOCK_REALTIME_ALARM`", alarm_timer, { EPERM, EPERM, EPERM, 0 }, CAP_WAKE_ALARM },
	{ "drop_bounding", "`PR_CAPBSET_DROP`", drop_bounding, { EPERM, EPERM, 0, 0 }, CAP_SETPCAP },
	{ "change_root", "`chroot`", change_root, { EPERM, EPERM, 0, 0 }, CAP_SYS_CHROOT },
	{ "mount_namespace", "`unshare(CLONE_NEWNS)`", mount_namespace, { EPERM, EPERM, 0, 0 }, CAP_SYS_ADMIN },
	{ "time_namespace", "`unshare(CLONE_NEWTIME)`", time_namespace, { EPERM, EPERM, 0, 0 }, CAP_SYS_ADMIN },
	{ "lower_nice", "a lower nice value", lower_nice, { EACCES, EACCES, EACCES, 0 }, CAP_SYS_NICE },
	{ "real_time", "`SCHED_FIFO`", real_time, { EPERM, EPERM, EPERM, 0 }, CAP_SYS_NICE },
	{ "lock_memory", "`mlock` beyond the limit", lock_memory, { EPERM, EPERM, EPERM, 0 }, CAP_IPC_LOCK },
	{ "raise_limit", "raising a hard limit", raise_limit, { EPERM, EPERM, EPERM, 0 }, CAP_SYS_RESOURCE },
	{ "lower_oom_score", "lowering `oom_score_adj`", lower_oom_score, { EACCES, EACCES, EACCES, 0 }, CAP_SYS_RESOURCE },
};

enum { OPERATIONS = sizeof(operations) / sizeof(operations[0]) };

static int try(const struct operation *o)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(o->run());
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

static const char *name_of(int number)
{
	return number < 0 ? "killed" : number ? strerrorname_np(number) : "yes";
}

static void try_all(int subject)
{
	for (int i = 0; i < OPERATIONS; i++) {
		const struct operation *o = &operations[i];
		int got = try(o), expected = o->expected[subject];

		if (subject == SUBJECTS - 1 && o->needs != NONE && prctl(PR_CAPBSET_READ, o->needs, 0, 0, 0) == 0)
			expected = o->expected[0]; /* root in a container that lacks it */
		printf("%-16s %-8s %s\n", o->name, name_of(got), got == expected ? "ok" : name_of(expected));
	}
}

/* EEXIST and EBUSY are the answers to those who may. */
static void print_table(void)
{
	puts("| operation | nothing | the capability | user namespace | root |\n| --- | --- | --- | --- | --- |");
	for (int i = 0; i < OPERATIONS; i++) {
		printf("| %s |", operations[i].what);
		for (int k = 0; k < SUBJECTS; k++) {
			int e = operations[i].expected[k];

			printf(" %s |", !e || e == EEXIST || e == EBUSY ? "yes" : name_of(e));
		}
		putchar('\n');
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--table") == 0) {
		print_table();
		return 0;
	}
	for (int i = 0; argc == 4 && i < SUBJECTS; i++) {
		if (strcmp(argv[1], subjects[i]) != 0)
			continue;
		root_process = atoi(argv[2]);
		root_file = argv[3];
		setvbuf(stdout, NULL, _IOLBF, 0);
		try_all(i);
		return 0;
	}
	fputs("usage: capability nothing|capability|namespace|root PID FILE, or --table\n", stderr);
	return 2;
}
