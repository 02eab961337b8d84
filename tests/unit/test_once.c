/* SPDX-License-Identifier: Apache-2.0 */

/* Which pages of several address spaces are stored, and which refer to one that is. */

#include <pthread.h>
#include <string.h>

#include "image/image.h"
#include "memory/memory.h"
#include "memory/once.h"
#include "unit.h"
#include "util/err.h"

enum { BASE = 0x10000 };

static char content[4][MEMORY_PAGE] = { "a", "b", "a", "c" };

static struct page_range ranges[] = { { .addr = BASE, .pages = 4 }, { .addr = BASE + 2 * MEMORY_PAGE, .pages = 4 },
				      { .addr = BASE, .pages = 8 } };

/* Spaces 0 and 1 overlap in two pages; the inode's addresses are none. */
static const struct page_source sources[] = {
	{ IMAGE_OWNER_SPACE(0), -1, &ranges[0], 1 },
	{ IMAGE_OWNER_SPACE(1), -1, &ranges[1], 1 },
	{ IMAGE_OWNER_INODE(0), -1, &ranges[2], 1 },
};

static struct once_page page(size_t index, size_t of)
{
	return (struct once_page){ .addr = BASE + index * MEMORY_PAGE, .data = content[of] };
}

static void alone(void)
{
	struct err e = ERR_INIT;
	struct once *o;

	UNIT_CHECK_EQ(once_new(sources, 1, &o, &e), 0);
	UNIT_CHECK(!o);
	UNIT_CHECK_EQ(once_new(&sources[1], 2, &o, &e), 0);
	UNIT_CHECK(!o);
}

static void same_address_and_content(void)
{
	struct once_page first[] = { page(1, 0), page(2, 0), page(3, 1) }, second[] = { page(2, 2), page(3, 3), page(4, 1) };
	struct err e = ERR_INIT;
	struct once *o;

	UNIT_CHECK_EQ(once_new(sources, 3, &o, &e), 0);
	UNIT_CHECK(o);
	once_look(o, first, 3);
	UNIT_CHECK_EQ(first[0].state, ONCE_ALONE);
	UNIT_CHECK_EQ(first[1].state, ONCE_FIRST);
	UNIT_CHECK_EQ(first[2].state, ONCE_FIRST);
	first[1].extent = 7, first[1].page = 3;
	first[2].extent = 7, first[2].page = 4;
	once_tell(o, first, 3);
	once_look(o, second, 3);
	UNIT_CHECK_EQ(second[0].state, ONCE_KNOWN);
	UNIT_CHECK_EQ(second[0].extent, 7);
	UNIT_CHECK_EQ(second[0].page, 3);
	UNIT_CHECK_EQ(second[1].state, ONCE_FIRST);
	UNIT_CHECK_EQ(second[2].state, ONCE_ALONE);
	once_free(o);
}

struct waiter {
	struct once *once;
	struct once_page pages[1];
	bool got;
};

static void *wait_for_it(void *arg)
{
	struct waiter *w = arg;

	w->got = once_await(w->once, w->pages, 1);
	return NULL;
}

/* Two threads meet the same page: the second gets the place from the first, or hears that there will be none. */
static void awaited(bool given_up)
{
	struct once_page first[] = { page(2, 0) };
	struct waiter w = { .pages = { page(2, 0) } };
	struct err e = ERR_INIT;
	pthread_t thread;

	UNIT_CHECK_EQ(once_new(sources, 2, &w.once, &e), 0);
	once_look(w.once, first, 1);
	once_look(w.once, w.pages, 1);
	UNIT_CHECK_EQ(w.pages[0].state, ONCE_AWAITED);
	UNIT_CHECK_EQ(pthread_create(&thread, NULL, wait_for_it, &w), 0);
	first[0].extent = 5;
	if (given_up)
		once_give_up(w.once);
	else
		once_tell(w.once, first, 1);
	pthread_join(thread, NULL);
	UNIT_CHECK_EQ(w.got, !given_up);
	UNIT_CHECK(given_up || w.pages[0].extent == 5);
	once_free(w.once);
}

static void awaited_and_told(void)
{
	awaited(false);
}

static void awaited_in_vain(void)
{
	awaited(true);
}

/* More pages than the table begins with room for. */
static void many(void)
{
	enum { PAGES = 20000 };
	static struct page_range many_ranges[] = { { .addr = BASE, .pages = PAGES } };
	const struct page_source both[] = { { 0, -1, many_ranges, 1 }, { 1, -1, many_ranges, 1 } };
	struct err e = ERR_INIT;
	struct once *o;

	UNIT_CHECK_EQ(once_new(both, 2, &o, &e), 0);
	for (uint32_t i = 0; i < 2 * PAGES; i++) {
		struct once_page p = page(i % PAGES, 3);

		once_look(o, &p, 1);
		UNIT_CHECK_EQ(p.state, i < PAGES ? ONCE_FIRST : ONCE_KNOWN);
		UNIT_CHECK(i < PAGES || p.extent == i - PAGES);
		p.extent = i;
		once_tell(o, &p, 1);
	}
	once_free(o);
}

UNIT_MAIN(UNIT_CASE(alone), UNIT_CASE(same_address_and_content), UNIT_CASE(awaited_and_told), UNIT_CASE(awaited_in_vain),
	  UNIT_CASE(many))
