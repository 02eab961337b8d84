/* SPDX-License-Identifier: Apache-2.0 */

/*
 * reserve MIB: hold so much memory, every page of it touched, until this is killed. Says so with a line.
 *
 * The host of a virtual machine may take back what is free, and gives it again slowly, a page at a time: that can take ten
 * times as long as everything that is to be measured. What is held it leaves alone, and what is freed it does not take at
 * once. So a reserve is held between two commands, and freed when one begins.
 */

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	size_t size = argc == 2 ? (size_t)atoi(argv[1]) << 20 : 0;
	char *memory;

	if (!size)
		errx(2, "usage: reserve MIB");
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		err(2, "%zu MiB", size >> 20);
	madvise(memory, size, MADV_HUGEPAGE);
	for (size_t at = 0; at < size; at += 4096)
		memory[at] = 1;
	puts("held");
	fflush(stdout);
	for (;;)
		pause();
}
