/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FILES = 50 };

struct entry { /* struct linux_dirent64 */
	uint64_t ino;
	int64_t off;
	unsigned short reclen;
	unsigned char type;
	char name[];
};

static int whole, half, same;
static char rest[FILES + 2][32]; /* the names behind the place where `half` stands */
static int n_rest;
static off_t place;

/* The next name; false at the end. One entry at a time, so that the offset is exact. */
static bool next(int fd, char *name)
{
	char buffer[64];
	const struct entry *entry = (const void *)buffer;
	long n = check_call(syscall(SYS_getdents64, fd, buffer, 40));

	if (n == 0)
		return false;
	check(n == entry->reclen);
	snprintf(name, 32, "%.31s", entry->name);
	return true;
}

void setup(const char *argument)
{
	char name[32];

	(void)argument;
	check_call(mkdir("folder", 0755));
	whole = (int)check_call(open("folder", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	for (int i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "file %d", i);
		check_call(close((int)check_call(openat(whole, name, O_WRONLY | O_CREAT, 0644))));
	}
	half = (int)check_call(open("folder", O_RDONLY | O_DIRECTORY));
	for (int i = 0; i < FILES / 2; i++)
		check(next(half, name));
	place = check_call(lseek(half, 0, SEEK_CUR));
	while (next(half, rest[n_rest]))
		n_rest++;
	check_call(lseek(half, place, SEEK_SET));
	same = (int)check_call(dup(half));
}

void verify(void)
{
	char name[32];
	struct stat st;

	check_cloexec(whole, true);
	check_flags(whole, O_DIRECTORY, O_DIRECTORY);
	check_same_description(half, same, true);
	check_call(fstatat(whole, "file 7", &st, 0));
	check(fstatat(whole, "file 99", &st, 0) == -1 && errno == ENOENT);

	check(check_call(lseek(half, 0, SEEK_CUR)) == place);
	for (int i = 0; i < n_rest; i++)
		check(next(i % 2 ? half : same, name) && strcmp(name, rest[i]) == 0);
	check(!next(half, name));
	check_call(lseek(half, place, SEEK_SET));
}
