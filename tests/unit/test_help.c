/* SPDX-License-Identifier: Apache-2.0 */

/* Another process helps to load memory: what it puts, and what it leaves. */

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "image/image.h"
#include "memory/fresh.h"
#include "memory/help.h"
#include "memory/memory.h"
#include "unit.h"
#include "util/err.h"

enum { EXTENTS = 16, EXTENT_PAGES = 32, EXTENT_SIZE = EXTENT_PAGES * MEMORY_PAGE, WORDS = EXTENT_SIZE / sizeof(uint64_t) };

static char folder[] = "/tmp/torpor-help-XXXXXX";
static char path[sizeof(folder) + 8];
static struct err err;

static uint64_t word_of(uint64_t extent, uint64_t word)
{
	return (extent << 32 | word) * 0x9e3779b97f4a7c15;
}

/* An image of some raw extents. */
static bool write_image(void)
{
	struct image_writer *w = NULL;
	bool right;

	err = ERR_INIT;
	if (!mkdtemp(folder))
		return false;
	snprintf(path, sizeof(path), "%s/image", folder);
	right = image_writer_new(&w, path, false, &err) == 0;
	for (uint32_t i = 0; right && i < EXTENTS; i++) {
		static uint64_t data[WORDS];
		uint32_t extent;

		for (uint32_t k = 0; k < WORDS; k++)
			data[k] = word_of(i, k);
		right = image_writer_extent(w, data, sizeof(data), &extent, &err) == 0 && extent == i;
	}
	right = right && image_writer_commit(w, "", 0, &err) == 0;
	image_writer_free(w);
	return right;
}

static void remove_image(void)
{
	unlink(path);
	rmdir(folder);
	memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
}

/* Memory that takes fresh pages for all extents, each of which is wanted from its second page on, in two pieces. */
static bool ask(struct help *h, struct fresh *f, char **ret_memory)
{
	char *p = mmap(NULL, EXTENTS * EXTENT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	fresh_open(f);
	if (p == MAP_FAILED || !fresh_add(f, (uint64_t)p, EXTENTS * EXTENT_SIZE))
		return false;
	for (uint32_t i = 0; i < EXTENTS; i++) {
		const uint64_t to = (uint64_t)p + i * EXTENT_SIZE;
		const struct piece pieces[] = {
			{ .to = to + MEMORY_PAGE, .extent = i, .page = 1, .pages = 9 },
			{ .to = to + 10 * MEMORY_PAGE, .extent = i, .page = 10, .pages = EXTENT_PAGES - 10 },
		};

		if (!help_add(h, pieces, 2))
			return false;
	}
	help_ask(h, f->fd);
	*ret_memory = p;
	return true;
}

/* Is an extent there but for its first page, or nothing of it? mincore(2) touches nothing. */
static bool is_right(const char *memory, uint32_t extent, bool wanted)
{
	const uint64_t *words = (const uint64_t *)(memory + (size_t)extent * EXTENT_SIZE);
	unsigned char there[EXTENT_PAGES];

	if (mincore((void *)words, EXTENT_SIZE, there) < 0)
		return false;
	for (uint32_t i = 0; i < EXTENT_PAGES; i++)
		if ((there[i] & 1) != (wanted && i > 0))
			return false;
	for (uint32_t i = MEMORY_PAGE / sizeof(uint64_t); wanted && i < WORDS; i++)
		if (words[i] != word_of(extent, i))
			return false;
	return true;
}

/* The loader takes the first extents, and puts none. It ends with 0 if all is right, 2 if nobody has helped. */
static _Noreturn void load(struct help *h, uint32_t own)
{
	struct fresh f;
	char *memory = NULL;
	uint32_t helped = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (uint32_t i = 0; i < own; i++)
		atomic_store(&h->extents[i].taken, 1);
	if (!ask(h, &f, &memory))
		_exit(1);
	while (atomic_load(&h->state) == HELP_WANTED)
		sched_yield();
	help_await(h);
	for (uint32_t i = 0; i < EXTENTS; i++) {
		const bool theirs = i >= own && !help_take(h, i);

		helped += theirs;
		if (!is_right(memory, i, theirs))
			_exit(1);
	}
	fresh_close(&f);
	_exit(helped ? 0 : 2);
}

struct loader {
	struct help *help;
	struct image *image;
	pid_t pid;
};

static bool begin(struct loader *l, uint32_t own)
{
	*l = (struct loader){ .help = mmap(NULL, sizeof(*l->help), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) };
	if (l->help == MAP_FAILED || !write_image() || image_open(&l->image, path, &err) < 0)
		return false;
	l->pid = fork();
	if (l->pid == 0)
		load(l->help, own);
	return l->pid > 0;
}

static int end(struct loader *l, bool kills)
{
	int status = 0;

	if (kills)
		kill(l->pid, SIGKILL);
	waitpid(l->pid, &status, 0);
	image_close(l->image);
	munmap(l->help, sizeof(*l->help));
	remove_image();
	return status;
}

static void helps(void)
{
	for (uint32_t own = 0; own < EXTENTS; own += 5) {
		struct loader l;
		int given = -1, status;

		UNIT_CHECK(begin(&l, own));
		while (atomic_load(&l.help->state) == HELP_UNKNOWN)
			sched_yield();
		given = help_give(l.help, l.image, l.pid, &err);
		status = end(&l, false);
		UNIT_CHECK_EQ(given, 0);
		UNIT_CHECK_EQ(status, 0);
	}
}

/* Whoever reads an extent verifies it. */
static void damage_is_seen(void)
{
	struct loader l;
	int given, fd;
	char byte = 0;

	UNIT_CHECK(begin(&l, 0));
	fd = open(path, O_RDWR);
	UNIT_CHECK(pread(fd, &byte, 1, (off_t)l.image->extents[7].offset + 100) == 1);
	byte ^= 1;
	UNIT_CHECK(pwrite(fd, &byte, 1, (off_t)l.image->extents[7].offset + 100) == 1);
	close(fd);
	while (atomic_load(&l.help->state) == HELP_UNKNOWN)
		sched_yield();
	given = help_give(l.help, l.image, l.pid, &err);
	end(&l, true);
	UNIT_CHECK(given < 0);
	UNIT_CHECK_EQ(err.reason, ERR_IMAGE);
	UNIT_CHECK(strstr(err.text, "extent 7"));
}

/* Nobody has been helped, and nothing is wrong. */
static void none_is_wanted(void)
{
	struct help *h = calloc(1, sizeof(*h));
	struct err e = ERR_INIT;

	UNIT_CHECK(h);
	UNIT_CHECK_EQ(help_give(h, NULL, getpid(), &e), 0); /* nobody asks */
	help_ask(h, -1);
	UNIT_CHECK_EQ(help_give(h, NULL, getpid(), &e), 0); /* there is nothing to do */
	help_await(h);
	free(h);
}

/* The loader has ended meanwhile: it has said why. */
static void loader_is_gone(void)
{
	struct loader l;
	int given;

	UNIT_CHECK(begin(&l, 0));
	while (atomic_load(&l.help->state) == HELP_UNKNOWN)
		sched_yield();
	kill(l.pid, SIGKILL);
	given = help_give(l.help, l.image, l.pid, &err);
	end(&l, true);
	UNIT_CHECK_EQ(given, 0);
	UNIT_CHECK_EQ(err.reason, ERR_NONE);
}

/* What is not to be had is done without. */
static void room_is_bounded(void)
{
	const struct piece pieces[HELP_PIECES_MAX + 1] = { 0 };
	struct help *h = calloc(1, sizeof(*h));

	UNIT_CHECK(h);
	UNIT_CHECK(!help_add(h, pieces, HELP_PIECES_MAX + 1));
	UNIT_CHECK(help_add(h, pieces, HELP_PIECES_MAX - HELP_EXTENTS_MAX + 1));
	for (int i = 1; i < HELP_EXTENTS_MAX; i++)
		UNIT_CHECK(help_add(h, pieces, 1));
	UNIT_CHECK(!help_add(h, pieces, 0));
	free(h);
}

UNIT_MAIN(UNIT_CASE(helps), UNIT_CASE(damage_is_seen), UNIT_CASE(none_is_wanted), UNIT_CASE(loader_is_gone), UNIT_CASE(room_is_bounded))
