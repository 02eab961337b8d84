/* SPDX-License-Identifier: Apache-2.0 */

/* Private memory in huge pages that the machine has set aside. 77: it has none. */

#include "common.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "maps.h"

enum { HUGE = 2 << 20, SKIP = 77 };

static char *huge;

void setup(const char *argument)
{
	(void)argument;
	huge = mmap(NULL, 3 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (huge == MAP_FAILED)
		exit(SKIP);
	for (int i = 0; i < HUGE; i++)
		huge[i] = (char)(i * 7 + i / 4096 + 1);
	huge[2 * HUGE] = 'h';
	check_call(mprotect(huge + 2 * HUGE, HUGE, PROT_READ));
	maps_make_heap();
	maps_remember();
}

void verify(void)
{
	maps_verify();
	for (int i = 0; i < HUGE; i++)
		check(huge[i] == (char)(i * 7 + i / 4096 + 1));
	check(huge[HUGE] == 0 && huge[2 * HUGE] == 'h' && huge[2 * HUGE + 1] == 0);
}
