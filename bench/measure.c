/* SPDX-License-Identifier: Apache-2.0 */

/*
 * measure FILE RESERVE time|all COMMAND...: run the command, and write into FILE what it took:
 *
 *     status, wall time (ns), CPU time of the whole machine (ns), largest resident set (KiB), given back (KiB)
 *
 * Being small is the point: a command begins with the resident set of who started it. The resident set is the command's
 * own, without those of processes that it waited for: one of torpor's becomes the program. It is only seen at its very end, so
 * we are its tracer. That takes some tenths of a millisecond, for it stops at its end and for each signal: with `time`, it is not
 * traced, and the resident set is 0.
 *
 * RESERVE is the PID of a process that holds memory for the command (reserve.c), and is ended before it; 0: there is none.
 * How much free memory the kernel gave back to the host of a virtual machine while the command ran, is told.
 */

#include <err.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE = 300 };

static pid_t child;

static void on_alarm(int signo)
{
	(void)signo;
	kill(child, SIGKILL);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* How much free memory the kernel has given back to the host since it started, in KiB; 0 where it does not tell. */
static uint64_t given_back(void)
{
	FILE *f = fopen("/sys/module/page_reporting/parameters/reported_kib", "r");
	uint64_t kib = 0;

	if (f && fscanf(f, "%lu", &kib) != 1)
		kib = 0;
	if (f)
		fclose(f);
	return kib;
}

/* Until its memory is free. */
static void free_reserve(pid_t pid)
{
	struct pollfd ended = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};

	if (ended.fd < 0 || kill(pid, SIGKILL) || poll(&ended, 1, -1) != 1)
		err(2, "the reserve, process %d", pid);
	close(ended.fd);
}

/* The kernel's own work is in it: what it writes to the disk, and frees. */
static uint64_t busy_ns(void)
{
	uint64_t user, nice, system, idle, wait, irq, softirq;
	FILE *f = fopen("/proc/stat", "r");

	if (!f || fscanf(f, "cpu %lu %lu %lu %lu %lu %lu %lu", &user, &nice, &system, &idle, &wait, &irq, &softirq) != 7)
		err(2, "/proc/stat");
	fclose(f);
	return (user + nice + system + irq + softirq) * (1000000000 / (uint64_t)sysconf(_SC_CLK_TCK));
}

/* KiB; 0: it has no memory any more. */
static long resident_peak(pid_t pid)
{
	char path[32], line[256];
	long peak = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "r");
	while (f && !peak && fgets(line, sizeof(line), f))
		sscanf(line, "VmHWM: %ld", &peak);
	if (f)
		fclose(f);
	return peak;
}

/* Until it has ended. Returns its largest resident set. */
static long await_child(int *ret_status)
{
	long peak = 0;

	for (;;) {
		if (waitpid(child, ret_status, __WALL) != child)
			err(2, "waitpid");
		if (!WIFSTOPPED(*ret_status))
			return peak;
		if (*ret_status >> 16 == PTRACE_EVENT_EXIT)
			peak = resident_peak(child);
		ptrace(PTRACE_CONT, child, NULL, *ret_status >> 16 ? 0 : WSTOPSIG(*ret_status));
	}
}

/* Not by posix_spawn(3), which asks for the handler of each signal: that would be a part of what is measured. */
static pid_t start(char **argv)
{
	pid_t pid = vfork();

	if (pid == 0) {
		execvp(argv[0], argv);
		_exit(127);
	}
	if (pid < 0)
		err(2, "cannot start %s", argv[0]);
	return pid;
}

int main(int argc, char **argv)
{
	uint64_t began, busy, back;
	int status;
	long peak;
	FILE *f;

	if (argc < 5)
		errx(2, "usage: measure FILE RESERVE time|all COMMAND...");
	signal(SIGCHLD, SIG_DFL);
	signal(SIGALRM, on_alarm);
	if (atoi(argv[2]))
		free_reserve(atoi(argv[2]));
	busy = busy_ns();
	back = given_back();
	began = now_ns();
	child = start(argv + 4);
	if (strcmp(argv[3], "all") == 0)
		ptrace(PTRACE_SEIZE, child, NULL, PTRACE_O_TRACEEXIT);
	alarm(PATIENCE);
	peak = await_child(&status);
	began = now_ns() - began;
	busy = busy_ns() - busy;
	back = given_back() - back;
	f = fopen(argv[1], "w");
	if (!f)
		err(2, "%s", argv[1]);
	fprintf(f, "%d %lu %lu %ld %lu\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), began,
		busy, peak, back);
	return fclose(f) ? 2 : 0;
}
