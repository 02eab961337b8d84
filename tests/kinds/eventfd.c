/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

static int counter, huge, semaphore, same, full;

static uint64_t take(int fd)
{
	uint64_t n = 0;

	check(read(fd, &n, sizeof(n)) == sizeof(n));
	return n;
}

static void add(int fd, uint64_t n)
{
	check(write(fd, &n, sizeof(n)) == sizeof(n));
}

void setup(const char *argument)
{
	(void)argument;
	counter = (int)check_call(eventfd(5, EFD_NONBLOCK));
	huge = (int)check_call(eventfd(0, EFD_CLOEXEC));
	add(huge, 1ull << 40);
	semaphore = (int)check_call(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC));
	same = (int)check_call(dup(counter));
	full = (int)check_call(eventfd(0, EFD_NONBLOCK));
	add(full, UINT64_MAX - 1);
	second_task_start();
}

static void verify_in_second(void)
{
	check(take(counter) == 9);
	add(counter, 2);
}

void verify(void)
{
	uint64_t n = 1;

	check_flags(counter, O_NONBLOCK, O_NONBLOCK);
	check_flags(huge, O_NONBLOCK, 0);
	check_cloexec(counter, false);
	check_cloexec(huge, true);
	check_cloexec(semaphore, true);
	check_same_description(counter, same, true);
	check_same_description(counter, huge, false);

	check(take(same) == 5);
	check_empty(counter);
	add(counter, 9);
	second_task_run(verify_in_second);
	check(take(counter) == 2);
	add(counter, 5);

	check(take(huge) == 1ull << 40);
	add(huge, 1ull << 40);

	for (int i = 0; i < 3; i++)
		check(take(semaphore) == 1);
	check(read(semaphore, &n, sizeof(n)) == -1 && errno == EAGAIN);
	add(semaphore, 3);

	n = 1;
	check(write(full, &n, sizeof(n)) == -1 && errno == EAGAIN);
	check(take(full) == UINT64_MAX - 1);
	add(full, UINT64_MAX - 1);
}
