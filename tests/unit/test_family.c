/* SPDX-License-Identifier: Apache-2.0 */

/* Who shares what with whom, and how it is inherited. */

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "image/image.h"
#include "memory/family.h"
#include "memory/memory.h"
#include "proc/maps.h"
#include "unit.h"
#include "util/arena.h"
#include "util/err.h"

enum { PAGE = MEMORY_PAGE, MEMBERS_MAX = 8, PAGES = 16 };

#define NOBODY UINT32_MAX

static struct arena arena;
static struct err e;
static struct family_member members[MEMBERS_MAX];
static struct image_run *runs;
static size_t n_runs;
static struct image_extent extents[16];
static struct image image;
static struct family family;
static uint64_t base;

static Pb__Mapping *add_mapping(uint32_t member, uint64_t from, uint64_t to)
{
	Pb__Mapping *m = pb_new(&arena, Pb__Mapping, pb__mapping__init);

	m->start = base + from * PAGE;
	m->end = base + to * PAGE;
	m->prot = PROT_READ | PROT_WRITE;
	pb_set(m, flags, VM_FLAG_ACCOUNT);
	(void)!pb_add(&arena, (Pb__AddressSpace *)members[member].space, mappings, m);
	return m;
}

static void begin(const uint32_t *makers, size_t n)
{
	arena_done(&arena);
	e = ERR_INIT;
	runs = NULL;
	n_runs = 0;
	base = 0x10000000;
	for (uint32_t i = 0; i < n; i++) {
		members[i] = (struct family_member){ pb_new(&arena, Pb__AddressSpace, pb__address_space__init), i, makers[i] };
		add_mapping(i, 0, PAGES);
	}
}

/* In ascending order of owners and addresses. */
static void run(uint32_t owner, uint64_t at, uint32_t pages, uint32_t extent, uint32_t page)
{
	runs = arena_grow(&arena, runs, n_runs, sizeof(*runs));
	runs[n_runs++] = (struct image_run){ base + at * PAGE, owner, pages, extent, page };
}

static void end(size_t n)
{
	image = (struct image){ .extents = extents, .n_extents = 16, .runs = runs, .n_runs = n_runs };
	UNIT_CHECK_EQ(family_make(&family, &arena, &image, members, n, &e), 0);
}

static struct image_run *chosen;
static size_t n_chosen;

static void choose(uint32_t member, const struct stock *stock)
{
	static const struct stock empty;

	UNIT_CHECK_EQ(family_choose(&family, member, stock ?: &empty, &arena, &chosen, &n_chosen, &e), 0);
}

static bool is(size_t i, uint64_t at, uint32_t pages, uint32_t extent, uint32_t page)
{
	return i < n_chosen && chosen[i].addr == base + at * PAGE && chosen[i].pages == pages && chosen[i].extent == extent &&
	       chosen[i].page == page;
}

static void nothing_is_shared(void)
{
	begin((uint32_t[]){ NOBODY, 0 }, 2);
	run(0, 0, 4, 0, 0);
	run(1, 0, 4, 1, 0);
	end(2);
	UNIT_CHECK(!family_makes(&family, 0));
}

/* A parent and two children: what at least two of them have. */
static void what_two_have(void)
{
	begin((uint32_t[]){ NOBODY, 0, 0 }, 3);
	run(0, 0, 8, 0, 0);
	run(1, 0, 2, 0, 0);
	run(1, 3, 5, 0, 3);
	run(2, 3, 2, 0, 3);
	run(2, 8, 1, 1, 0);
	end(3);
	UNIT_CHECK(family_makes(&family, 0));
	UNIT_CHECK(!family_makes(&family, 1));
	choose(0, NULL);
	UNIT_CHECK_EQ(n_chosen, 2);
	UNIT_CHECK(is(0, 0, 2, 0, 0));
	UNIT_CHECK(is(1, 3, 5, 0, 3));
}

/* The same pages at another address are not shared. */
static void another_address(void)
{
	begin((uint32_t[]){ NOBODY, 0 }, 2);
	run(0, 0, 2, 0, 0);
	run(1, 1, 2, 0, 0);
	end(2);
	choose(0, NULL);
	UNIT_CHECK_EQ(n_chosen, 0);
}

/* The parent has changed two pages since: the children's version is what is inherited. */
static void majority(void)
{
	begin((uint32_t[]){ NOBODY, 0, 0 }, 3);
	run(0, 0, 2, 1, 0);
	run(0, 2, 2, 0, 2);
	run(1, 0, 4, 0, 0);
	run(2, 0, 4, 0, 0);
	end(3);
	choose(0, NULL);
	UNIT_CHECK_EQ(n_chosen, 1);
	UNIT_CHECK(is(0, 0, 4, 0, 0));
}

/* Two versions that two share each; and a third where they do not overlap. */
static void versions(void)
{
	begin((uint32_t[]){ NOBODY, 0, 0, 0, 0, 0 }, 6);
	run(0, 0, 4, 0, 0);
	run(1, 0, 4, 0, 0);
	run(2, 2, 4, 1, 0);
	run(3, 2, 4, 1, 0);
	run(4, 2, 4, 1, 0);
	end(6);
	choose(0, NULL);
	UNIT_CHECK_EQ(n_chosen, 2);
	UNIT_CHECK(is(0, 0, 2, 0, 0));
	UNIT_CHECK(is(1, 2, 4, 1, 0));
}

/* What only a child shares with its own children is not the grandparent's business. */
static void branches(void)
{
	struct stock stock = { 0 };

	begin((uint32_t[]){ NOBODY, 0, 1, 1 }, 4);
	run(0, 0, 1, 0, 0);
	run(1, 0, 1, 0, 0);
	run(1, 4, 4, 1, 0);
	run(2, 4, 4, 1, 0);
	run(3, 4, 2, 1, 0);
	end(4);
	choose(0, NULL);
	UNIT_CHECK_EQ(n_chosen, 1);
	UNIT_CHECK(is(0, 0, 1, 0, 0));
	stock.runs = chosen;
	stock.n_runs = n_chosen;
	choose(1, &stock);
	UNIT_CHECK_EQ(n_chosen, 2);
	UNIT_CHECK(is(0, 0, 1, 0, 0)); /* it is there, and the child itself has it */
	UNIT_CHECK(is(1, 4, 4, 1, 0));
}

/* A grandchild still has what its parent has changed. */
static void handed_on(void)
{
	struct stock stock = { 0 };

	begin((uint32_t[]){ NOBODY, 0, 1 }, 3);
	run(0, 0, 4, 0, 0);
	run(1, 0, 1, 1, 0);
	run(2, 0, 4, 0, 0);
	end(3);
	choose(0, NULL);
	UNIT_CHECK_EQ(n_chosen, 1);
	stock.runs = chosen;
	stock.n_runs = n_chosen;
	choose(1, &stock);
	UNIT_CHECK_EQ(n_chosen, 1);
	UNIT_CHECK(is(0, 0, 4, 0, 0));
}

/* A maker may come later in the list than whom it makes, and have no space (a zombie makes nobody). */
static void any_order(void)
{
	begin((uint32_t[]){ NOBODY, 2, 0, 0 }, 4);
	run(1, 0, 1, 0, 0);
	run(2, 0, 1, 0, 0);
	members[3].space = NULL;
	end(4);
	UNIT_CHECK(family_makes(&family, 2));
	UNIT_CHECK(family_makes(&family, 0));
	choose(0, NULL);
	UNIT_CHECK_EQ(n_chosen, 0);
	choose(2, NULL);
	UNIT_CHECK_EQ(n_chosen, 1);
}

static void a_circle(void)
{
	begin((uint32_t[]){ NOBODY, 2, 1 }, 3);
	run(1, 0, 1, 0, 0);
	UNIT_CHECK(family_make(&family, &arena, &image, members, 3, &e) < 0);
}

/* ---- for real: with an image, memory, and a child ---- */

/* An image of one extent, whose pages begin with their numbers from 1 on, and with the runs. */
static struct image *stored(void)
{
	static char data[PAGES * PAGE];
	char path[] = "/tmp/torpor-family.XXXXXX", file[64];
	struct image_writer *w = NULL;
	struct image *img = NULL;
	uint32_t extent;
	bool good;

	if (!mkdtemp(path))
		return NULL;
	snprintf(file, sizeof(file), "%s/image", path);
	for (uint32_t i = 0; i < PAGES; i++)
		memcpy(data + i * PAGE, &(uint32_t){ i + 1 }, sizeof(i));
	good = image_writer_new(&w, file, false, &e) == 0 && image_writer_extent(w, data, sizeof(data), &extent, &e) == 0;
	for (size_t i = 0; good && i < n_runs; i++)
		good = image_writer_run(w, &runs[i], &e) == 0;
	good = good && image_writer_commit(w, "", 0, &e) == 0 && image_open(&img, file, &e) == 0;
	image_writer_free(w);
	unlink(file);
	rmdir(path);
	return img;
}

/* PM_MMAP_EXCLUSIVE of /proc/PID/pagemap: nobody else has this page. */
static bool is_own(uint64_t addr)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);
	bool got = pread(fd, &entry, sizeof(entry), (off_t)(addr / PAGE * sizeof(entry))) == sizeof(entry);

	close(fd);
	return got && entry >> 56 & 1;
}

/* Does this member get its pages from the stock and the image? Each is 0 or begins with this number; `shared` of them are not its own. */
static bool gets(struct stock *stock, struct memory_load *m, uint32_t member, const uint32_t *numbers, size_t n, size_t shared)
{
	m->space = members[member].space;
	m->runs = image_runs_of(m->image, member, &m->n_runs);
	if (stock_adopt(stock, m, &e) < 0 || memory_reserve(m, 0, PAGE, &e) < 0 || memory_place(m, &e) < 0 || memory_fill(m, &e) < 0)
		return false;
	for (size_t i = 0; i < n; i++) {
		uint64_t at = m->place[0] + i * PAGE;

		if (*(uint32_t *)at != numbers[i])
			return false;
		shared -= numbers[i] && !is_own(at);
	}
	return !shared;
}

static struct stock stock;
static struct memory_load load;
static _Atomic uint64_t loaded;

/* The parent has 16 pages; the child has half of them, one of them changed and one dropped. */
static void prepare(bool in_the_way)
{
	/* where nothing else comes meanwhile, and the thread sanitizer allows memory */
	void *there = mmap((void *)0x7e9000000000, PAGES * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	begin((uint32_t[]){ NOBODY, 0 }, 2);
	base = (uint64_t)there;
	for (uint32_t i = 0; i < 2; i++)
		((Pb__AddressSpace *)members[i].space)->n_mappings = 0;
	add_mapping(0, 0, PAGES);
	add_mapping(1, 0, PAGES / 2);
	if (!in_the_way)
		munmap(there, PAGES * PAGE);
	run(0, 0, PAGES, 0, 0);
	run(1, 0, 3, 0, 0);
	run(1, 4, 3, 0, 4);
	run(1, 7, 1, 0, 12);
	stock = (struct stock){ 0 };
	load = (struct memory_load){ .arena = &arena, .loaded = &loaded, .image = stored() };
	UNIT_CHECK(load.image);
	UNIT_CHECK_EQ(family_make(&family, &arena, load.image, members, 2, &e), 0);
	UNIT_CHECK_EQ(stock_prepare(&stock, &family, 0, &load, &e), 0);
	UNIT_CHECK_EQ(stock.space.n_mappings, 1);
	UNIT_CHECK_EQ(stock.at[0] == base, !in_the_way);
}

static void inherit(bool in_the_way)
{
	static const uint32_t of_parent[PAGES] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };
	static const uint32_t of_child[PAGES / 2] = { 1, 2, 3, 0, 5, 6, 7, 13 };
	uint64_t at;
	int status, ready[2], end[2];
	pid_t pid;

	prepare(in_the_way);
	at = stock.at[0];
	UNIT_CHECK_EQ(pipe(ready), 0);
	UNIT_CHECK_EQ(pipe(end), 0);
	pid = fork();
	if (pid == 0) {
		bool good = gets(&stock, &load, 1, of_child, PAGES / 2, 6) && load.place[0] == at && load.n_runs == 1;

		close(end[1]);
		_exit(write(ready[1], "", 1) == 1 && read(end[0], &status, 1) == 0 && good ? 0 : 1);
	}
	UNIT_CHECK_EQ(read(ready[0], &status, 1), 1);
	UNIT_CHECK(gets(&stock, &load, 0, of_parent, PAGES, 6));
	UNIT_CHECK_EQ(load.place[0], at);
	close(end[1]);
	UNIT_CHECK(waitpid(pid, &status, 0) == pid);
	UNIT_CHECK_EQ(status, 0);
	close(ready[0]);
	close(ready[1]);
	close(end[0]);
	munmap((void *)at, PAGES * PAGE);
	image_close((struct image *)load.image);
}

static void inherited(void)
{
	inherit(false);
}

static void inherited_where_something_is_in_the_way(void)
{
	inherit(true);
}

UNIT_MAIN(UNIT_CASE(nothing_is_shared), UNIT_CASE(what_two_have), UNIT_CASE(another_address), UNIT_CASE(majority),
	  UNIT_CASE(versions), UNIT_CASE(branches), UNIT_CASE(handed_on), UNIT_CASE(any_order), UNIT_CASE(a_circle),
	  UNIT_CASE(inherited), UNIT_CASE(inherited_where_something_is_in_the_way))
