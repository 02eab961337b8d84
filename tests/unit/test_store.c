/* SPDX-License-Identifier: Apache-2.0 */

/* What one thread stores, and another helps it to finish; and what is learned from it. */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "image/image.h"
#include "image/kit.h"
#include "memory/memory.h"
#include "unit.h"
#include "util/err.h"

enum { PAGES = 2048, BASE = 0x100000 };

static char folder[] = "/tmp/torpor-store-XXXXXX";
static char path[sizeof(folder) + 8];

/* A file of which each page begins with its number, and is stored by a thread. */
struct storing {
	struct memory_shared shared;
	struct page_copies copies;
	struct page_range range;
	struct page_source source;
	struct image_packing packing;
	struct image_writer *writer;
	struct memory_stats stats;
	struct err err;
	int result;
	atomic_bool done;
};

static bool begin(struct storing *s)
{
	*s = (struct storing){
		.shared = MEMORY_SHARED_INIT,
		.range = { .addr = BASE, .pages = PAGES },
		.source = { .fd = memfd_create("pages", MFD_CLOEXEC), .ranges = &s->range, .n = 1, .copies = &s->copies },
		.err = ERR_INIT,
	};
	copies_init(&s->copies);
	if (s->source.fd < 0 || ftruncate(s->source.fd, (off_t)PAGES * MEMORY_PAGE) < 0 || !mkdtemp(folder))
		return false;
	for (uint64_t i = 1; i <= PAGES; i++)
		if (pwrite(s->source.fd, &i, sizeof(i), (off_t)((i - 1) * MEMORY_PAGE)) != sizeof(i))
			return false;
	snprintf(path, sizeof(path), "%s/image", folder);
	return image_writer_new(&s->writer, path, false, &s->err) == 0;
}

static void end(struct storing *s)
{
	image_writer_free(s->writer);
	copies_done(&s->copies);
	close(s->source.fd);
	unlink(path);
	rmdir(folder);
	memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
}

static void *store(void *arg)
{
	struct storing *s = arg;

	s->result = memory_store_shared(&s->shared, &s->source, s->writer, &s->packing, &s->stats, &s->err);
	atomic_store(&s->done, true);
	return NULL;
}

/* Until there is something to help with, or it is done without. */
static void await_job(struct storing *s)
{
	for (bool there = false; !there && !atomic_load(&s->done); sched_yield()) {
		pthread_mutex_lock(&s->shared.lock);
		there = s->shared.job;
		pthread_mutex_unlock(&s->shared.lock);
	}
}

/* Does each page stand in the image once, where its copy says? */
static bool all_are_stored(struct storing *s)
{
	static uint64_t extent[IMAGE_EXTENT_MAX / sizeof(uint64_t)];
	struct image *img = NULL;
	uint64_t pages = 0;
	bool right = copies_settle(&s->copies, &s->err) == 0 && image_writer_commit(s->writer, "", 0, &s->err) == 0 &&
		     image_open(&img, path, &s->err) == 0;

	for (size_t i = 0; right && i < s->copies.n; i++) {
		const struct image_run *run = &s->copies.v[i];

		right = image_read_extent(img, run->extent, extent, &s->err) == 0;
		for (uint32_t k = 0; right && k < run->pages; k++, pages++)
			right = extent[(run->page + k) * MEMORY_PAGE / sizeof(uint64_t)] == (run->addr - BASE) / MEMORY_PAGE + k + 1;
	}
	image_close(img);
	return right && pages == PAGES;
}

static void helped(void)
{
	for (int i = 0; i < 20; i++) {
		struct storing s;
		pthread_t thread;

		UNIT_CHECK(begin(&s));
		UNIT_CHECK_EQ(pthread_create(&thread, NULL, store, &s), 0);
		await_job(&s);
		memory_help(&s.shared);
		pthread_join(thread, NULL);
		UNIT_CHECK_EQ(s.result, 0);
		UNIT_CHECK_EQ(s.stats.pages_stored, PAGES);
		UNIT_CHECK(all_are_stored(&s));
		end(&s);
	}
}

static void alone(void)
{
	struct storing s;

	UNIT_CHECK(begin(&s));
	store(&s);
	UNIT_CHECK_EQ(s.result, 0);
	UNIT_CHECK(all_are_stored(&s));
	end(&s);
}

static void stores_nothing_after(void (*say)(struct memory_shared *shared))
{
	struct storing s;

	UNIT_CHECK(begin(&s));
	say(&s.shared);
	store(&s);
	UNIT_CHECK_EQ(s.result, 0);
	UNIT_CHECK_EQ(s.stats.pages_stored, 0);
	UNIT_CHECK_EQ(s.copies.n_fresh, 0);
	end(&s);
}

static void enough(void)
{
	stores_nothing_after(memory_help);
}

static void abandoned(void)
{
	stores_nothing_after(memory_abandon);
}

/* The first megabytes show what packs them; what is stored later in the same file need not show it again. */
static void learned(void)
{
	struct storing s;
	uint64_t first;

	UNIT_CHECK(begin(&s));
	s.packing.automatic = true;
	store(&s);
	UNIT_CHECK_EQ(s.result, 0);
	first = image_writer_stored(s.writer);
	UNIT_CHECK(first >= 4 * IMAGE_EXTENT_MAX);
	store(&s);
	UNIT_CHECK_EQ(s.result, 0);
	UNIT_CHECK(image_writer_stored(s.writer) - first < IMAGE_EXTENT_MAX);
	end(&s);
}

/* What was given back is lent again, to one at a time, and only where it has the size that is asked for. */
static void kits(void)
{
	struct kits kits;
	struct kit *first, *second, *larger;

	kits_init(&kits);
	first = kits_take(&kits, 2 * MEMORY_PAGE);
	second = kits_take(&kits, 2 * MEMORY_PAGE);
	UNIT_CHECK(first && second && first != second && first->room != second->room);
	memset(first->room, 1, 2 * MEMORY_PAGE);
	kits_give(&kits, first);
	larger = kits_take(&kits, 3 * MEMORY_PAGE);
	UNIT_CHECK(larger && larger != first && larger->size == 3 * MEMORY_PAGE);
	UNIT_CHECK(kits_take(&kits, 2 * MEMORY_PAGE) == first);
	kits_give(&kits, larger);
	kits_give(&kits, second);
	kits_give(&kits, first);
	kits_done(&kits);
}

/* Storing makes no second kit for the same thread. */
static void one_kit(void)
{
	struct storing s;
	struct kit *kit;

	UNIT_CHECK(begin(&s));
	store(&s);
	store(&s);
	UNIT_CHECK_EQ(s.result, 0);
	kit = image_writer_kits(s.writer)->first;
	UNIT_CHECK(kit && !kit->next);
	end(&s);
}

UNIT_MAIN(UNIT_CASE(alone), UNIT_CASE(helped), UNIT_CASE(enough), UNIT_CASE(abandoned), UNIT_CASE(learned), UNIT_CASE(kits), UNIT_CASE(one_kit))
