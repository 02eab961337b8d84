/* SPDX-License-Identifier: Apache-2.0 */

/* Thousands of small mappings. */

#include "common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "maps.h"

enum { PAGE = 4096, MAPPINGS = 5000 };

static char *many;

/* Every second page may not be read; some were written, some hold nothing. */
void setup(const char *argument)
{
	(void)argument;
	many = mmap(NULL, (size_t)MAPPINGS * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(many != MAP_FAILED);
	for (int i = 0; i < MAPPINGS; i++) {
		if (i % 3)
			memcpy(many + (size_t)i * PAGE, &i, sizeof(i));
		if (i % 2)
			check_call(mprotect(many + (size_t)i * PAGE, PAGE, i % 4 == 1 ? PROT_NONE : PROT_READ));
	}
	maps_make_heap();
	maps_remember();
}

void verify(void)
{
	maps_verify();
	for (int i = 0; i < MAPPINGS; i++) {
		char *p = many + (size_t)i * PAGE;
		int value = 0;

		if (i % 2)
			check_call(mprotect(p, PAGE, PROT_READ));
		memcpy(&value, p, sizeof(value));
		check(value == (i % 3 ? i : 0));
		if (i % 4 == 1)
			check_call(mprotect(p, PAGE, PROT_NONE));
	}
	maps_remember();
}
