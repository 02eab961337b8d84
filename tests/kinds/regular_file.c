/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { GONE_SIZE = 3 << 20 };

static int reader, same, again, appender, gone, gone_again, memory, temporary, both;

static void fill_gone(void)
{
	char *content = malloc(GONE_SIZE);

	for (size_t i = 0; i < GONE_SIZE; i++)
		content[i] = i % 4096 ? (char)(i * 7 + i / 4096) : 1;
	check(pwrite(gone, content, GONE_SIZE, 0) == GONE_SIZE);
	free(content);
}

void setup(const char *argument)
{
	int fd = (int)check_call(open("regular", O_RDWR | O_CREAT | O_TRUNC, 0644));
	char path[64];

	check_write(fd, "0123456789abcdef");
	check_call(close(fd));

	reader = (int)check_call(open("regular", O_RDONLY | O_CLOEXEC));
	same = (int)check_call(dup(reader));
	again = (int)check_call(open("regular", O_RDONLY | O_NOATIME | O_NOFOLLOW));
	check_call(lseek(reader, 4, SEEK_SET));
	check_call(lseek(again, 8, SEEK_SET));
	appender = (int)check_call(open("appended", O_WRONLY | O_APPEND | O_CREAT | O_TRUNC, 0600));

	gone = (int)check_call(open("gone", O_RDWR | O_CREAT | O_TRUNC, 0640));
	gone_again = (int)check_call(open("gone", O_RDONLY));
	fill_gone();
	check_call(lseek(gone_again, 4097, SEEK_SET));
	check_call(unlink("gone"));
	temporary = (int)check_call(open(".", O_TMPFILE | O_RDWR, 0600));
	check_write(temporary, "temporary");
	if (argument) { /* O_TMPFILE itself, which says how the file was made, is not kept; nobody asks for it but F_GETFL */
		fd = temporary;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		temporary = (int)check_call(open(path, O_RDWR));
		check_call(lseek(temporary, 9, SEEK_SET));
		check_call(close(fd));
	}

	memory = (int)check_call(memfd_create("torpor test", MFD_ALLOW_SEALING));
	check_write(memory, "in memory");
	check_call(lseek(memory, 3, SEEK_SET));
	check_call(fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));

	both = (int)check_call(open("regular", O_RDONLY));
	second_task_start();
}

static void verify_in_second(void)
{
	check_read(both, "56");
	check(lseek(reader, 0, SEEK_CUR) == 4);
}

static void verify_gone(void)
{
	char *content = malloc(GONE_SIZE);
	struct stat a, b;

	check(lseek(gone_again, 0, SEEK_CUR) == 4097);
	check(pread(gone_again, content, GONE_SIZE, 0) == GONE_SIZE);
	for (size_t i = 0; i < GONE_SIZE; i++)
		check(content[i] == (i % 4096 ? (char)(i * 7 + i / 4096) : 1));
	free(content);
	check_call(fstat(gone, &a));
	check_call(fstat(gone_again, &b));
	check(a.st_ino == b.st_ino && a.st_nlink == 0 && (a.st_mode & 07777) == 0640);
	/* One file, seen through both. */
	check(pwrite(gone, "!", 1, 77) == 1);
	check(pread(gone_again, &(char){ 0 }, 1, 77) == 1);
	fill_gone();
}

static void verify_memory(void)
{
	check(check_call(fcntl(memory, F_GET_SEALS)) == (F_SEAL_SHRINK | F_SEAL_GROW));
	check_read(memory, "memory");
	check(ftruncate(memory, 1) == -1 && errno == EPERM);
	check_call(lseek(memory, 3, SEEK_SET));
}

void verify(void)
{
	char text[64] = "";
	struct stat st;

	check_same_description(reader, same, true);
	check_same_description(reader, again, false);
	check_cloexec(reader, true);
	check_cloexec(same, false);
	check_flags(reader, O_ACCMODE, O_RDONLY);
	check_flags(again, O_NOATIME | O_NOFOLLOW, O_NOATIME | O_NOFOLLOW);

	check_read(reader, "4567");
	check_read(same, "89");
	check_read(again, "89ab");
	check_call(lseek(same, 4, SEEK_SET));
	check_call(lseek(again, 8, SEEK_SET));

	check_flags(appender, O_ACCMODE | O_APPEND, O_WRONLY | O_APPEND);
	check_call(fstat(appender, &st));
	check_write(appender, "more");
	check(lseek(appender, 0, SEEK_CUR) == st.st_size + 4);

	verify_gone();
	verify_memory();
	check(pread(temporary, text, sizeof(text), 0) == 9 && strcmp(text, "temporary") == 0);
	check(lseek(temporary, 0, SEEK_CUR) == 9);

	check_call(lseek(both, 5, SEEK_SET));
	second_task_run(verify_in_second);
	check_read(both, "789");
}
