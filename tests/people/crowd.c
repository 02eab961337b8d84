/* SPDX-License-Identifier: Apache-2.0 */

/* 1,000 processes, each with 50 mappings that cannot be joined, and a pipe that all of them have. Says `ready`. */

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PROCESSES = 1000, MAPPINGS = 50, PAGE = 4096 };

static void map(void)
{
	char *p = mmap(NULL, (MAPPINGS + 1) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		exit(1);
	for (int i = 0; i < MAPPINGS; i++) {
		p[i * PAGE] = (char)(i + 1);
		if (i % 2 && mprotect(p + i * PAGE, PAGE, PROT_READ) < 0)
			exit(1);
	}
}

int main(void)
{
	int ends[2];

	map();
	if (pipe(ends) < 0)
		return 1;
	for (int i = 1; i < PROCESSES; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return 1;
		if (pid == 0)
			for (;;)
				pause();
	}
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}
