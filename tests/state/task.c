/* SPDX-License-Identifier: Apache-2.0 */

/* What the kernel keeps of a task as a whole: limits, folders, numbers in /proc, the heap. */

#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

enum { HEAP_STEP = 1000000, TEXT_SIZE = 65536, ROOM = 16 * 1024 * 1024 };

static const char *const files[] = { "cmdline", "environ", "auxv", "comm", "limits", "personality", "oom_score_adj",
				     "coredump_filter" };
enum { FILES = sizeof(files) / sizeof(files[0]) };

static char before[FILES][TEXT_SIZE], now[TEXT_SIZE];
static size_t before_size[FILES];
static struct rlimit limits[RLIM_NLIMITS];
static char exe[4096], cwd[4096], link_now[4096];
static unsigned long numbers[13]; /* of /proc/self/stat: start_code ... env_end */
static char *heap;
static size_t heap_size;
static pthread_t thread;

static size_t read_proc(const char *name, char *text)
{
	char path[64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/%s", name);
	fd = (int)check_call(open(path, O_RDONLY));
	n = check_call(read(fd, text, TEXT_SIZE - 1));
	close(fd);
	text[n] = '\0';
	return (size_t)n;
}

static void write_proc(const char *name, const char *text)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/%s", name);
	fd = (int)check_call(open(path, O_WRONLY));
	check_write(fd, text);
	close(fd);
}

/* The addresses among the fields of /proc/self/stat. */
static void read_numbers(unsigned long *ret)
{
	static const int fields[] = { 26, 27, 28, 45, 46, 47, 48, 49, 50, 51 };
	char *s;
	int field = 2;

	read_proc("stat", now);
	s = strrchr(now, ')') + 1;
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		for (; field < fields[i]; field++)
			s = strchr(s, ' ') + 1;
		ret[i] = strtoul(s, NULL, 10);
	}
}

/* ---- limits ---- */

static void limit(int resource, rlim_t soft, rlim_t hard)
{
	struct rlimit rl;

	check_call(getrlimit((__rlimit_resource_t)resource, &rl));
	if (hard > rl.rlim_max)
		hard = rl.rlim_max;
	if (soft > hard)
		soft = hard;
	rl = (struct rlimit){ soft, hard };
	check_call(setrlimit((__rlimit_resource_t)resource, &rl));
}

static unsigned long vm_size(void)
{
	read_proc("statm", now);
	return strtoul(now, NULL, 10) * 4096;
}

/* Some are so low that nothing of torpor's own would fit in beside the program. */
static void set_limits(void)
{
	limit(RLIMIT_CORE, 0, 1 << 20);
	limit(RLIMIT_NOFILE, 200, 300);
	limit(RLIMIT_STACK, 4 << 20, 6 << 20);
	limit(RLIMIT_NPROC, 1, RLIM_INFINITY);
	limit(RLIMIT_FSIZE, 1 << 20, RLIM_INFINITY);
	limit(RLIMIT_SIGPENDING, 100, 200);
	limit(RLIMIT_CPU, 5000, 6000);
	limit(RLIMIT_MSGQUEUE, 1000, 2000);
	limit(RLIMIT_LOCKS, 10, 20);
	limit(RLIMIT_NICE, 0, 0);
	limit(RLIMIT_RTTIME, 1000000, 2000000);
	limit(RLIMIT_AS, vm_size() + ROOM, RLIM_INFINITY);
	limit(RLIMIT_DATA, ROOM + ROOM / 2, RLIM_INFINITY);
	for (int i = 0; i < RLIM_NLIMITS; i++)
		check_call(getrlimit((__rlimit_resource_t)i, &limits[i]));
}

static void verify_limits(void)
{
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit rl;

		check_call(getrlimit((__rlimit_resource_t)i, &rl));
		if (rl.rlim_cur != limits[i].rlim_cur || rl.rlim_max != limits[i].rlim_max)
			check_failed("task.c", __LINE__, "a resource limit is another", i);
	}
}

/* ---- the heap ---- */

static char heap_byte(size_t i)
{
	return (char)(i * 13 + i / 4096);
}

static void heap_grow(void)
{
	char *more = sbrk(HEAP_STEP);

	check(more == heap + heap_size);
	heap_size += HEAP_STEP;
	for (size_t i = heap_size - HEAP_STEP; i < heap_size; i++)
		heap[i] = heap_byte(i);
}

static void verify_heap(void)
{
	check(sbrk(0) == heap + heap_size);
	for (size_t i = 0; i < heap_size; i++)
		check(heap[i] == heap_byte(i));
	heap_grow();
	heap_size -= HEAP_STEP;
	check(brk(heap + heap_size) == 0);
}

/* ---- */

static void *thread_main(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static int ask(int option)
{
	int value = 0;

	check_call(prctl(option, &value));
	return value;
}

void setup(const char *argument)
{
	(void)argument;
	check_call(mkdir("folder with spaces\n", 0700));
	check_call(chdir("folder with spaces\n"));
	umask(0137);
	check_call(personality(ADDR_NO_RANDOMIZE | SHORT_INODE));
	write_proc("oom_score_adj", "300");
	write_proc("coredump_filter", "0x7f");
	check_call(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	check_call(prctl(PR_SET_CHILD_SUBREAPER, 1));
	check_call(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	check_call(prctl(PR_SET_NAME, "a name (of 15)"));
	check(pthread_create(&thread, NULL, thread_main, NULL) == 0);
	heap = sbrk(0);
	heap_grow();
	usleep(10000); /* the thread has all its memory */
	set_limits();
	for (int i = 0; i < FILES; i++)
		before_size[i] = read_proc(files[i], before[i]);
	check_call(readlink("/proc/self/exe", exe, sizeof(exe) - 1));
	check_call(readlink("/proc/self/cwd", cwd, sizeof(cwd) - 1));
	read_numbers(numbers);
}

void verify(void)
{
	unsigned long numbers_now[sizeof(numbers) / sizeof(numbers[0])] = { 0 };
	char name[16];
	mode_t mask = umask(0137);

	check(mask == 0137);
	for (int i = 0; i < FILES; i++) {
		size_t size = read_proc(files[i], now);

		if (size != before_size[i] || memcmp(now, before[i], size) != 0)
			check_failed(files[i], __LINE__, now, (long)size);
	}
	memset(link_now, 0, sizeof(link_now));
	check_call(readlink("/proc/self/exe", link_now, sizeof(link_now) - 1));
	check(strcmp(link_now, exe) == 0);
	memset(link_now, 0, sizeof(link_now));
	check_call(readlink("/proc/self/cwd", link_now, sizeof(link_now) - 1));
	check(strcmp(link_now, cwd) == 0);
	read_numbers(numbers_now);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		check(numbers[i] == numbers_now[i]);
	check(personality(0xffffffff) == (ADDR_NO_RANDOMIZE | SHORT_INODE));
	check(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1);
	check(ask(PR_GET_CHILD_SUBREAPER) == 1);
	check(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	check(prctl(PR_GET_DUMPABLE) == 1);
	check(prctl(PR_GET_NAME, name) == 0 && strcmp(name, "a name (of 15)") == 0);
	check(getppid() != 0);
	verify_limits();
	verify_heap();
}
