/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int file, folder, link_, null;

void setup(const char *argument)
{
	int fd = (int)check_call(open("target", O_WRONLY | O_CREAT, 0644));

	(void)argument;
	check_write(fd, "through a handle");
	check_call(close(fd));
	check_call(symlink("target", "link"));
	file = (int)check_call(open("target", O_PATH));
	folder = (int)check_call(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));
	link_ = (int)check_call(open("link", O_PATH | O_NOFOLLOW));
	null = (int)check_call(open("/dev/null", O_PATH));
}

void verify(void)
{
	char text[64] = "", path[64];
	struct stat st;
	int fd;

	check(read(file, text, 1) == -1 && errno == EBADF);
	check_flags(file, O_PATH, O_PATH);
	check_flags(folder, O_PATH | O_DIRECTORY, O_PATH | O_DIRECTORY);
	check_flags(link_, O_PATH | O_NOFOLLOW, O_PATH | O_NOFOLLOW);
	check_cloexec(folder, true);
	check_cloexec(file, false);

	check_call(fstatat(folder, "target", &st, 0));
	check(st.st_size == 16);
	check(check_call(readlinkat(link_, "", text, sizeof(text))) == 6);
	check(strcmp(text, "target") == 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	fd = (int)check_call(open(path, O_RDONLY));
	check_read(fd, "through a handle");
	check_call(close(fd));
	check_call(fstat(null, &st));
	check(S_ISCHR(st.st_mode));
}
