/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int exclusive, exclusive_dup, shared, folder, posix, posix_again, ofd, read_lease, write_lease, gone, both;

static int open_new(const char *path, int flags)
{
	return (int)check_call(open(path, flags | O_CREAT, 0600));
}

static int set(int fd, int command, short type, off_t start, off_t length)
{
	struct flock range = { .l_type = type, .l_start = start, .l_len = length };

	return fcntl(fd, command, &range);
}

/* Two tasks hold locks by one open file description. */
static void lock_in_second(void)
{
	check_call(set(both, F_SETLK, F_WRLCK, 7, 2));
}

void setup(const char *argument)
{
	(void)argument;
	exclusive = open_new("exclusive", O_RDWR);
	check_call(flock(exclusive, LOCK_EX));
	exclusive_dup = (int)check_call(dup(exclusive));
	shared = open_new("shared", O_RDONLY);
	check_call(flock(shared, LOCK_SH));
	folder = (int)check_call(open(".", O_RDONLY | O_DIRECTORY));
	check_call(flock(folder, LOCK_EX));
	gone = open_new("gone", O_RDWR);
	check_call(flock(gone, LOCK_EX));
	check_call(unlink("gone"));

	posix = open_new("posix", O_RDWR);
	posix_again = open_new("posix", O_RDONLY);
	check_call(set(posix, F_SETLK, F_WRLCK, 10, 5));
	check_call(set(posix, F_SETLK, F_WRLCK, 100, 0));
	check_call(set(posix_again, F_SETLK, F_RDLCK, 20, 1));
	ofd = open_new("ofd", O_RDWR);
	check_call(set(ofd, F_OFD_SETLK, F_WRLCK, 0, 1));
	check_call(set(ofd, F_OFD_SETLK, F_RDLCK, 1000, 1000));

	both = open_new("both", O_RDWR);
	check_call(set(both, F_SETLK, F_WRLCK, 0, 1));

	signal(SIGIO, SIG_IGN);
	close(open_new("read lease", O_RDWR));
	read_lease = (int)check_call(open("read lease", O_RDONLY));
	check_call(fcntl(read_lease, F_SETLEASE, F_RDLCK));
	write_lease = open_new("write lease", O_RDWR | O_CLOEXEC);
	check_call(fcntl(write_lease, F_SETLEASE, F_WRLCK));
	second_task_start();
	second_task_run(lock_in_second);
}

/* Who stands in the way of this lock? 0: nobody; -1: an OFD lock. The range that is locked goes into *range. */
static pid_t holder(const char *path, off_t start, struct flock *range)
{
	int fd = (int)check_call(open(path, O_RDWR));

	*range = (struct flock){ .l_type = F_WRLCK, .l_start = start, .l_len = 1 };
	check_call(fcntl(fd, F_GETLK, range));
	check_call(close(fd));
	return range->l_type == F_UNLCK ? 0 : range->l_pid;
}

static bool is_locked(const char *path, int operation)
{
	int fd = (int)check_call(open(path, O_RDONLY));
	bool locked = flock(fd, operation | LOCK_NB) < 0;

	check(!locked || errno == EWOULDBLOCK);
	check_call(close(fd));
	return locked;
}

/* From another task: a task's own POSIX locks are never in its own way. */
static void verify_in_second(void)
{
	struct flock range = { .l_type = F_WRLCK, .l_start = 0, .l_len = 100 };

	check_call(fcntl(both, F_GETLK, &range)); /* opening and closing it would give the own lock up */
	check(range.l_type == F_WRLCK && range.l_pid == getppid() && range.l_start == 0 && range.l_len == 1);
	check(is_locked("exclusive", LOCK_SH));
	check(is_locked("shared", LOCK_EX) && !is_locked("shared", LOCK_SH));
	check(is_locked(".", LOCK_SH));
	check(holder("posix", 10, &range) == getppid() && range.l_start == 10 && range.l_len == 5);
	check(range.l_type == F_WRLCK);
	check(holder("posix", 20, &range) == getppid() && range.l_type == F_RDLCK && range.l_len == 1);
	check(holder("posix", 1 << 20, &range) == getppid() && range.l_start == 100 && range.l_len == 0);
	check(holder("posix", 9, &range) == 0 && holder("posix", 15, &range) == 0);
	check(holder("ofd", 0, &range) == -1 && range.l_type == F_WRLCK && range.l_len == 1);
	check(holder("ofd", 1500, &range) == -1 && range.l_type == F_RDLCK && range.l_len == 1000);
	check(holder("ofd", 1, &range) == 0);
}

void verify(void)
{
	struct flock range = { .l_type = F_WRLCK, .l_start = 0, .l_len = 100 };
	char path[64];

	second_task_run(verify_in_second);
	check_call(fcntl(both, F_GETLK, &range));
	check(range.l_type == F_WRLCK && range.l_pid == second_task_pid() && range.l_start == 7 && range.l_len == 2);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", gone);
	check(is_locked(path, LOCK_SH));
	check(check_call(fcntl(read_lease, F_GETLEASE)) == F_RDLCK);
	check(check_call(fcntl(write_lease, F_GETLEASE)) == F_WRLCK);
	check(check_call(fcntl(ofd, F_GETLEASE)) == F_UNLCK);

	/* flock belongs to the description: the other fd can give it up and take it. */
	check_call(flock(exclusive_dup, LOCK_UN));
	check(!is_locked("exclusive", LOCK_EX));
	check_call(flock(exclusive, LOCK_EX | LOCK_NB));

	/* A part of a POSIX lock can be given up; closing any fd of the file gives up all, so none is closed here. */
	check_call(set(posix, F_SETLK, F_UNLCK, 12, 1));
	check_call(set(posix, F_SETLK, F_WRLCK, 12, 1));
	check_call(set(ofd, F_OFD_SETLK, F_UNLCK, 0, 1));
	check_call(set(ofd, F_OFD_SETLK, F_WRLCK, 0, 1));
}
