/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static jmp_buf failed;
static char failure[512];

_Noreturn void check_failed(const char *file, int line, const char *what, long result)
{
	const char *name = strrchr(file, '/');

	snprintf(failure, sizeof(failure), "%s:%d: %s (result %ld, errno %d: %s)", name ? name + 1 : file, line, what,
		 result, errno, strerror(errno));
	longjmp(failed, 1);
}

void check_here(char *ret, size_t size, void (*function)(unsigned), unsigned argument)
{
	failure[0] = '\0';
	if (setjmp(failed) == 0)
		function(argument);
	snprintf(ret, size, "%s", failure);
}

long slower(long time)
{
	const char *factor = getenv("TORPOR_TEST_SLOWER");

	return factor ? (long)((double)time * atof(factor)) : time;
}

void check_read(int fd, const char *expected)
{
	char text[256] = "";
	ssize_t n = read(fd, text, strlen(expected));

	check_call(n);
	if ((size_t)n != strlen(expected) || memcmp(text, expected, (size_t)n) != 0) {
		fprintf(stderr, "expected '%s', read '%s'\n", expected, text);
		check_failed("check_read", (int)n, expected, n);
	}
}

void check_write(int fd, const char *text)
{
	check(check_call(write(fd, text, strlen(text))) == (long)strlen(text));
}

void check_empty(int fd)
{
	char bytes[8]; /* an eventfd gives no less */

	check(read(fd, bytes, sizeof(bytes)) == -1 && errno == EAGAIN);
}

void check_flags(int fd, int mask, int expected)
{
	check((check_call(fcntl(fd, F_GETFL)) & mask) == expected);
}

void check_cloexec(int fd, bool expected)
{
	check(!!(check_call(fcntl(fd, F_GETFD)) & FD_CLOEXEC) == expected);
}

void check_same_description(int a, int b, bool expected)
{
	long r = check_call(syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b));

	check((r == 0) == expected);
}

void set_option(int fd, int level, int name, int value)
{
	check_call(setsockopt(fd, level, name, &value, sizeof(value)));
}

int get_option(int fd, int level, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	check_call(getsockopt(fd, level, name, &value, &size));
	return value;
}

/* ---- the second task ---- */

static struct second_task {
	_Atomic unsigned asked, done;
	void (*function)(void);
	char failure[sizeof(failure)];
} *second;
static pid_t second_pid;

static _Noreturn void second_task_main(void)
{
	prctl(PR_SET_NAME, "second");
	for (;;) {
		while (second->done == second->asked)
			usleep(500);
		failure[0] = '\0';
		if (setjmp(failed) == 0)
			second->function();
		memcpy(second->failure, failure, sizeof(failure));
		second->done++;
	}
}

void second_task_start(void)
{
	second = mmap(NULL, sizeof(*second), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(second != MAP_FAILED);
	second_pid = (pid_t)check_call(fork());
	if (second_pid == 0)
		second_task_main();
}

void second_task_run(void (*function)(void))
{
	second->function = function;
	second->asked++;
	while (second->done != second->asked) {
		check(waitpid(second_pid, NULL, WNOHANG) == 0);
		usleep(500);
	}
	if (second->failure[0]) {
		memcpy(failure, second->failure, sizeof(failure));
		longjmp(failed, 1);
	}
}

pid_t second_task_pid(void)
{
	return second_pid;
}

/* ---- main ---- */

static void report(const char *path, const char *text)
{
	char temporary[4096];
	FILE *file;

	snprintf(temporary, sizeof(temporary), "%s.new", path);
	file = fopen(temporary, "w");
	if (!file || fprintf(file, "%s\n", text) < 0 || fclose(file) || rename(temporary, path)) {
		perror(path);
		exit(1);
	}
}

static void report_verification(const char *path)
{
	char text[sizeof(failure) + 16] = "ok";

	failure[0] = '\0';
	if (setjmp(failed) == 0)
		verify();
	if (failure[0])
		snprintf(text, sizeof(text), "not ok: %s", failure);
	report(path, text);
}

int main(int argc, char **argv)
{
	char pid[16];
	sigset_t set;
	int signal;

	if (argc < 3) {
		fprintf(stderr, "usage: %s PIDFILE RESULT [ARGUMENT]\n", argv[0]);
		return 2;
	}
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (setjmp(failed)) {
		fprintf(stderr, "%s: set-up failed: %s\n", argv[0], failure);
		return 1;
	}
	setup(argc > 3 ? argv[3] : NULL);
	snprintf(pid, sizeof(pid), "%d", getpid());
	report(argv[1], pid);
	while (sigwait(&set, &signal) == 0 && signal != SIGTERM)
		report_verification(argv[2]);
	if (second_pid > 0) {
		kill(second_pid, SIGKILL);
		waitpid(second_pid, NULL, 0);
	}
	return 0;
}
