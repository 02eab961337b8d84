/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A memfd and a System V segment whose id is the inode number of the memfd, on the same device. The memfd's number is in
 * the file "number"; whoever may choose ids answers with the file "id".
 */

#include "common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SIZE = 8192, PATIENCE_MS = 10000 };

static char *file, *segment;
static int id, fd;

static int read_id(void)
{
	int number = -1;

	for (int ms = 0; number < 0 && ms < PATIENCE_MS; ms++) {
		FILE *f = fopen("id", "r");

		if (f && fscanf(f, "%d", &number) != 1)
			number = -1; /* it is being written */
		if (f)
			fclose(f);
		usleep(1000);
	}
	check(number >= 0);
	return number;
}

void setup(const char *argument)
{
	struct stat st;
	FILE *f;

	(void)argument;
	fd = (int)check_call(memfd_create("same", MFD_CLOEXEC));
	check_call(ftruncate(fd, SIZE));
	file = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(file != MAP_FAILED);
	strcpy(file, "in the memfd");
	check_call(fstat(fd, &st));
	f = fopen("number.new", "w");
	check(f && fprintf(f, "%lu\n", st.st_ino) > 0);
	fclose(f);
	check_call(rename("number.new", "number"));
	id = read_id();
	check((unsigned long)id == st.st_ino);
	segment = shmat(id, NULL, 0);
	check(segment != (void *)-1);
	strcpy(segment, "in the segment");
}

void verify(void)
{
	char text[16] = "";

	check(strcmp(file, "in the memfd") == 0 && strcmp(segment, "in the segment") == 0);
	check(pread(fd, text, 12, 0) == 12 && strcmp(text, "in the memfd") == 0);
}
