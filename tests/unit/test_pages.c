/* SPDX-License-Identifier: Apache-2.0 */

/* Finding pages: whatever the number of regions, each is found once. */

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/memory.h"
#include "unit.h"

static char *touched; /* every other page is */

/* The kernel's buffer holds 512 regions, torpor's 1024: what is found where they are just full, or just not. */
static void find(size_t regions)
{
	struct arena arena = ARENA_INIT;
	struct target task = { .pid = getpid(), .alone = &(bool){ true } };
	Pb__Mapping mapping = PB__MAPPING__INIT, *mappings[] = { &mapping };
	Pb__AddressSpace space = PB__ADDRESS_SPACE__INIT;
	struct page_source source;
	struct err e = ERR_INIT;
	uint64_t start = (uint64_t)touched;

	mapping.start = start;
	mapping.end = start + regions * 2 * MEMORY_PAGE;
	mapping.prot = PROT_READ | PROT_WRITE;
	mapping.kind = PB__MAPPING_KIND__ANON;
	space.mappings = mappings;
	space.n_mappings = 1;
	UNIT_CHECK_EQ(memory_find_pages(&arena, &task, &space, 0, &source, NULL, &e), 0);
	UNIT_CHECK_EQ(source.n, regions);
	for (size_t i = 0; i < regions; i++) {
		UNIT_CHECK_EQ(source.ranges[i].addr, start + i * 2 * MEMORY_PAGE);
		UNIT_CHECK_EQ(source.ranges[i].pages, 1);
		UNIT_CHECK(source.ranges[i].alone);
	}
	arena_done(&arena);
}

static void each_once(void)
{
	static const size_t around[] = { 1, 512, 1024, 1536, 2048, 3072 };
	size_t size = (3072 + 2) * 2 * MEMORY_PAGE;

	touched = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	UNIT_CHECK(touched != MAP_FAILED);
	madvise(touched, size, MADV_NOHUGEPAGE);
	for (size_t at = 0; at < size; at += 2 * MEMORY_PAGE)
		touched[at] = 1;
	for (size_t i = 0; i < sizeof(around) / sizeof(around[0]); i++) {
		find(around[i]);
		find(around[i] + 1);
		find(around[i] - (around[i] > 1));
	}
	munmap(touched, size);
}

UNIT_MAIN(UNIT_CASE(each_once))
