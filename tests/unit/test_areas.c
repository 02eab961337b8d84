/* SPDX-License-Identifier: Apache-2.0 */

/* Mappings of a process, read piece by piece by one thread, and used by another as they come. */

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/areas.h"
#include "memory/memory.h"
#include "unit.h"

enum { MAPPINGS = 3000 };

/* What the other thread does. */
struct reading {
	struct arena arena;
	struct areas_told told;
	struct vm_area_list all;
	int result;
};

/* Many mappings, so that they take many pieces: every second page may not be written to. */
static char *have_mappings(void)
{
	char *memory = mmap(NULL, MAPPINGS * MEMORY_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (size_t i = 0; memory != MAP_FAILED && i < MAPPINGS; i += 2)
		if (mprotect(memory + i * MEMORY_PAGE, MEMORY_PAGE, PROT_READ) < 0)
			return MAP_FAILED;
	return memory;
}

static void piece_by_piece(void)
{
	char *memory = have_mappings();
	struct arena arena = ARENA_INIT;
	struct vm_area_list all;
	struct areas_reader reader;
	struct err e = ERR_INIT;
	int pieces = 0, r;

	UNIT_CHECK(memory != MAP_FAILED);
	UNIT_CHECK_EQ(areas_read_all(getpid(), "maps", &arena, NULL, &all, &e), 0);
	UNIT_CHECK(all.n >= MAPPINGS);
	UNIT_CHECK_EQ(areas_open(&reader, &arena, getpid(), "maps"), 0);
	while ((r = areas_read(&reader)) > 0) {
		pieces++;
		UNIT_CHECK(reader.list.n > 0);
	}
	areas_close(&reader);
	UNIT_CHECK_EQ(r, 0);
	UNIT_CHECK(pieces > 10);
	UNIT_CHECK_EQ(areas_from(&all, all.n).n, 0);
	UNIT_CHECK_EQ(areas_from(&all, 1).areas->start, all.areas[1].start);
	UNIT_CHECK_STR(reader.list.areas[reader.list.n - 1].name, all.areas[all.n - 1].name);
	arena_done(&arena);
	munmap(memory, MAPPINGS * MEMORY_PAGE);
}

static void nobody_there(void)
{
	struct arena arena = ARENA_INIT;
	struct areas_reader reader;

	UNIT_CHECK_EQ(areas_open(&reader, &arena, 0x7ffffff0, "maps"), -ENOENT);
	areas_close(&reader);
}

static void last_one_is_held_back(void)
{
	struct vm_area v[3] = { { .start = 1 }, { .start = 2 }, { .start = 3 } };
	struct areas_told t = { 0 };
	struct vm_area_list heard;

	UNIT_CHECK(!areas_hear(&t, 0, &heard));
	UNIT_CHECK_EQ(heard.n, 0);
	areas_tell(&t, &(struct vm_area_list){ v, 2 }, false);
	UNIT_CHECK(!areas_hear(&t, 0, &heard));
	UNIT_CHECK_EQ(heard.n, 1);
	areas_tell(&t, &(struct vm_area_list){ v, 3 }, true);
	UNIT_CHECK(areas_hear(&t, 1, &heard));
	UNIT_CHECK_EQ(heard.n, 2);
	UNIT_CHECK_EQ(heard.areas->start, 2);
	UNIT_CHECK(areas_hear(&t, 3, &heard));
	UNIT_CHECK_EQ(heard.n, 0);
}

static void *read_smaps(void *arg)
{
	struct reading *r = arg;
	struct err e = ERR_INIT;

	r->result = areas_read_all(getpid(), "smaps", &r->arena, &r->told, &r->all, &e);
	return NULL;
}

/* What is heard is what is read in the end, with what only smaps tells. */
static void heard_as_they_come(void)
{
	static struct vm_area heard[2 * MAPPINGS];
	char *memory = have_mappings();
	struct reading reading = { .arena = ARENA_INIT };
	size_t n = 0, differ = 0;
	bool whole = false;
	pthread_t reader;

	UNIT_CHECK(memory != MAP_FAILED);
	UNIT_CHECK_EQ(pthread_create(&reader, NULL, read_smaps, &reading), 0);
	while (!whole) {
		struct vm_area_list next;

		whole = areas_hear(&reading.told, n, &next);
		for (size_t i = 0; i < next.n && n < 2 * MAPPINGS; i++)
			heard[n++] = next.areas[i];
	}
	pthread_join(reader, NULL);
	UNIT_CHECK_EQ(reading.result, 0);
	UNIT_CHECK_EQ(n, reading.all.n);
	UNIT_CHECK(n >= MAPPINGS);
	for (size_t i = 0; i < n; i++)
		differ += heard[i].start != reading.all.areas[i].start || heard[i].flags != reading.all.areas[i].flags ||
			  heard[i].alone != reading.all.areas[i].alone;
	UNIT_CHECK_EQ(differ, 0);
	arena_done(&reading.arena);
	munmap(memory, MAPPINGS * MEMORY_PAGE);
}

UNIT_MAIN(UNIT_CASE(piece_by_piece), UNIT_CASE(nobody_there), UNIT_CASE(last_one_is_held_back), UNIT_CASE(heard_as_they_come))
