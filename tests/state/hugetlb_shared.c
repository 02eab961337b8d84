/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Shared memory in huge pages that the machine has set aside: anonymous, and of memfds with seals. With the argument
 * "giant": private memory in a page of 1 GiB. 77: there are none.
 */

#include "common.h"

#include <errno.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "maps.h"

enum { HUGE = 2 << 20, GIANT = 1 << 30, SKIP = 77 };

static char *shared, *file, *readonly, *tail, *giant;
static int memfd, sealed;
static char written; /* so far, in the first task */

static char *map(int fd, size_t size, int prot, int flags, off_t offset)
{
	char *p = mmap(NULL, size, prot, flags, fd, offset);

	if (p == MAP_FAILED && errno == ENOMEM)
		exit(SKIP);
	check(p != MAP_FAILED);
	return p;
}

static void fill(char *p)
{
	for (int i = 0; i < HUGE; i += 64)
		p[i] = (char)(i / 64 * 7 + 1);
}

static void verify_filled(const char *p)
{
	for (int i = 0; i < HUGE; i += 64)
		check(p[i] == (char)(i / 64 * 7 + 1) && p[i + 63] == 0);
}

static int make_memfd(const char *name, size_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_HUGE_2MB);

	if (fd < 0)
		exit(SKIP);
	check_call(ftruncate(fd, (off_t)size));
	return fd;
}

static void make_files(void)
{
	memfd = make_memfd("huge", 3 * HUGE);
	file = map(memfd, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	readonly = map(memfd, HUGE, PROT_READ, MAP_SHARED, 2 * HUGE);
	fill(file + HUGE);
	sealed = make_memfd("huge and sealed", HUGE);
	tail = map(sealed, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	tail[HUGE - 1] = 't';
	check_call(fcntl(sealed, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK));
}

void setup(const char *argument)
{
	if (argument && strcmp(argument, "giant") == 0) {
		giant = map(-1, GIANT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_1GB, 0);
		fill(giant + 5 * HUGE);
	} else {
		shared = map(-1, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, 0);
		fill(shared);
		make_files();
	}
	maps_make_heap();
	if (!giant)
		second_task_start();
	maps_remember();
}

static void write_in_second(void)
{
	shared[1] = file[1] = ++shared[2];
}

static void verify_shared(void)
{
	struct stat st;

	check(shared[2] == ++written && shared[1] == written && file[1] == written);
	shared[1] = 0;
	verify_filled(shared);
	verify_filled(file + HUGE);
	check(readonly[100] == 0);
	check_call(fstat(memfd, &st));
	check(st.st_size == 3 * HUGE && st.st_blksize == HUGE);
	check(tail[HUGE - 1] == 't' && fcntl(sealed, F_GET_SEALS) == (F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK));
	tail[0] = written;
	check(mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, sealed, 0) == MAP_FAILED && errno == EPERM);
	check(fcntl(memfd, F_GET_SEALS) == 0);
}

void verify(void)
{
	maps_verify();
	if (giant) {
		verify_filled(giant + 5 * HUGE);
		check(giant[0] == 0 && giant[GIANT - 1] == 0);
	} else {
		second_task_run(write_in_second);
		verify_shared();
	}
}
