/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static int null, zero, full, urandom, random_, same;

void setup(const char *argument)
{
	(void)argument;
	null = (int)check_call(open("/dev/null", O_RDWR | O_APPEND));
	zero = (int)check_call(open("/dev/zero", O_RDONLY | O_CLOEXEC));
	full = (int)check_call(open("/dev/full", O_WRONLY));
	urandom = (int)check_call(open("/dev/urandom", O_RDONLY | O_NONBLOCK));
	random_ = (int)check_call(open("/dev/random", O_RDONLY));
	same = (int)check_call(fcntl(zero, F_DUPFD, 100));
}

void verify(void)
{
	char bytes[64], more[64];

	check_flags(null, O_ACCMODE | O_APPEND, O_RDWR | O_APPEND);
	check_flags(zero, O_ACCMODE, O_RDONLY);
	check_flags(urandom, O_ACCMODE | O_NONBLOCK, O_RDONLY | O_NONBLOCK);
	check_cloexec(zero, true);
	check_cloexec(same, false);
	check_same_description(zero, same, true);
	check(same == 100);

	check_write(null, "anything");
	check(read(null, bytes, sizeof(bytes)) == 0);
	memset(bytes, 1, sizeof(bytes));
	check(read(zero, bytes, sizeof(bytes)) == sizeof(bytes));
	for (size_t i = 0; i < sizeof(bytes); i++)
		check(bytes[i] == 0);
	check(write(full, "x", 1) == -1 && errno == ENOSPC);
	check(read(urandom, bytes, sizeof(bytes)) == sizeof(bytes));
	check(read(random_, more, sizeof(more)) == sizeof(more));
	check(memcmp(bytes, more, sizeof(more)) != 0);
}
