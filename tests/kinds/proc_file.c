/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int machine, own, same, status, memory, folder, sys, parent, second;
static volatile char letter = 'a';

void setup(const char *argument)
{
	char path[64];

	(void)argument;
	machine = (int)check_call(open("/proc/version", O_RDONLY));
	check_call(lseek(machine, 6, SEEK_SET));
	own = (int)check_call(open("/proc/self/comm", O_RDONLY | O_CLOEXEC));
	same = (int)check_call(fcntl(own, F_DUPFD, 50));
	status = (int)check_call(open("/proc/self/status", O_RDONLY));
	memory = (int)check_call(open("/proc/self/mem", O_RDWR));
	folder = (int)check_call(open("/proc/self/task", O_RDONLY | O_DIRECTORY));
	sys = (int)check_call(open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY));
	parent = (int)check_call(open("/proc/self/comm", O_RDONLY)); /* the second task inherits it */
	second_task_start();
	snprintf(path, sizeof(path), "/proc/%d/comm", second_task_pid());
	second = (int)check_call(open(path, O_RDONLY));
}

static void verify_in_second(void)
{
	char text[16] = "";

	check(check_call(pread(parent, text, 9, 0)) == 9 && strcmp(text, "proc_file") == 0);
}

void verify(void)
{
	char text[4096] = "", name[32], pid[32];
	int fd;

	check_read(machine, "version");
	check_call(lseek(machine, 6, SEEK_SET));

	check_same_description(own, same, true);
	check_cloexec(own, true);
	check_cloexec(same, false);
	check_read(same, "proc_");
	check_read(own, "file");
	check_call(lseek(own, 0, SEEK_SET));

	check_call(pread(status, text, sizeof(text) - 1, 0));
	snprintf(pid, sizeof(pid), "\nPid:\t%d\n", getpid());
	check(strstr(text, pid));

	check(pwrite(memory, "b", 1, (off_t)(uintptr_t)&letter) == 1);
	check(letter == 'b');
	letter = 'a';

	snprintf(name, sizeof(name), "%d/comm", getpid());
	fd = (int)check_call(openat(folder, name, O_RDONLY));
	check_read(fd, "proc_file");
	check_call(close(fd));
	check_call(pread(sys, text, 10, 0));
	check_read(parent, "proc_file");
	check_call(lseek(parent, 0, SEEK_SET));
	second_task_run(verify_in_second);
	check_read(second, "second");
	check_call(lseek(second, 0, SEEK_SET));
}
