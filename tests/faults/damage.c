/* SPDX-License-Identifier: Apache-2.0 */

/*
 * damage SEED TIMES IMAGE OTHER: damage a copy of IMAGE in every way a disk or a
 * hand can, open it (core_open, every checksum), and undo the damage. Each one
 * must be refused as a bad image. OTHER is a second image, to splice with.
 *
 * TIMES flips of one bit (0: one in each byte of the file), a tenth as many cuts,
 * swaps of pages, swaps of extents, and splices.
 */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/core.h"
#include "image/layout.h"
#include "util/fd.h"

struct copy {
	int fd;
	char path[64];
	size_t size;
	uint8_t *sound; /* what the file holds when nothing is damaged */
	size_t extents_end;
};

static unsigned long state, refused;

static unsigned long random_below(unsigned long n)
{
	state = state * 6364136223846793005ul + 1442695040888963407ul;
	return (state >> 33) % n;
}

static _Noreturn void die(const char *what)
{
	printf("damage: %s\n", what);
	exit(1);
}

/* ---- opening ---- */

static enum err_reason try_open(const char *path, struct err *e)
{
	struct arena arena = ARENA_INIT;
	struct image *img;
	Pb__Image *meta;

	*e = ERR_INIT;
	if (core_open(path, VERIFY_PAGES, &arena, &img, &meta, e) == 0)
		image_close(img);
	arena_done(&arena);
	return e->reason;
}

/* The file has been damaged at `at`: it must be refused. */
static void must_be_refused(const struct copy *c, const char *how, size_t at)
{
	struct err e;

	if (try_open(c->path, &e) == ERR_IMAGE) {
		refused++;
		return;
	}
	printf("damage: %s at %zu of %zu was not noticed as damage: %s\n", how, at, c->size,
	       e.reason ? e.text : "the image was accepted");
	exit(1);
}

static void copy_open(struct copy *c, const char *path)
{
	cleanup_close int from = open(path, O_RDONLY | O_CLOEXEC);
	struct arena arena = ARENA_INIT;
	char *data;
	struct err e;

	if (from < 0 || fd_read_all(from, &arena, &data, &c->size) < 0)
		die("an image cannot be read");
	c->sound = malloc(c->size);
	c->fd = memfd_create("damage", MFD_CLOEXEC);
	if (!c->sound || c->fd < 0 || fd_pwrite_full(c->fd, data, c->size, 0) < 0)
		die("no memory for a copy");
	memcpy(c->sound, data, c->size);
	arena_done(&arena);
	snprintf(c->path, sizeof(c->path), "/proc/self/fd/%d", c->fd);
	if (try_open(c->path, &e) != ERR_NONE)
		die(e.text);
	c->extents_end = ((struct image_trailer *)(c->sound + c->size - IMAGE_PAGE))->meta.offset;
}

static void put(const struct copy *c, const void *data, size_t size, size_t at)
{
	if (fd_pwrite_full(c->fd, data, size, (off_t)at) < 0)
		die("the copy cannot be written");
}

static void mend(const struct copy *c, size_t at, size_t size)
{
	put(c, c->sound + at, size, at);
}

/* ---- ways to damage ---- */

static void flip(const struct copy *c, size_t at)
{
	uint8_t byte = c->sound[at] ^ (uint8_t)(1u << random_below(8));

	put(c, &byte, 1, at);
	must_be_refused(c, "a flipped bit", at);
	mend(c, at, 1);
}

/* By turns anywhere, and in what is not memory: a small part of the file that says what the rest means. */
static void flips(const struct copy *c, unsigned long times)
{
	for (size_t at = 0; !times && at < c->size; at++)
		flip(c, at);
	for (unsigned long i = 0; i < times; i++)
		flip(c, i % 2 ? random_below(c->size) : c->extents_end + random_below(c->size - c->extents_end));
}

static void cut(const struct copy *c, size_t at)
{
	if (ftruncate(c->fd, (off_t)at) < 0)
		die("the copy cannot be cut off");
	must_be_refused(c, "a cut", at);
	mend(c, at, c->size - at);
}

/* The pieces differ, so their swap is damage. */
static void swap(const struct copy *c, size_t a, size_t b, size_t size)
{
	if (memcmp(c->sound + a, c->sound + b, size) == 0)
		return;
	put(c, c->sound + a, size, b);
	put(c, c->sound + b, size, a);
	must_be_refused(c, "a swap", a);
	mend(c, a, size);
	mend(c, b, size);
}

static void swap_pages(const struct copy *c)
{
	size_t pages = c->size / IMAGE_PAGE;

	swap(c, random_below(pages) * IMAGE_PAGE, random_below(pages) * IMAGE_PAGE, IMAGE_PAGE);
}

/* Two extents of one size, with or without what the table says of them. */
static void swap_extents(const struct copy *c)
{
	const struct image_trailer *t = (void *)(c->sound + c->size - IMAGE_PAGE);
	const struct image_extent *table = (void *)(c->sound + t->extents.offset);
	size_t a = random_below(t->extents.count), b = random_below(t->extents.count);

	if (a == b)
		return;
	if (table[a].size == table[b].size)
		swap(c, table[a].offset, table[b].offset, table[a].size);
	swap(c, t->extents.offset + a * sizeof(*table), t->extents.offset + b * sizeof(*table), sizeof(*table));
}

/* The beginning of one image and the end of the other; `gap` pages of the other are left out, or come twice. */
static void graft(const struct copy *c, const struct copy *other)
{
	size_t at = (1 + random_below(c->size / IMAGE_PAGE - 1)) * IMAGE_PAGE;
	size_t from = (1 + random_below(other->size / IMAGE_PAGE - 1)) * IMAGE_PAGE;
	size_t size = other->size - from;

	if (at + size == c->size && memcmp(c->sound + at, other->sound + from, size) == 0)
		return; /* the two are the same from there on */
	if (at == from && memcmp(c->sound, other->sound, at) == 0)
		return;
	if (ftruncate(c->fd, (off_t)at) < 0)
		die("the copy cannot be cut off");
	put(c, other->sound + from, size, at);
	must_be_refused(c, "a graft", at);
	if (ftruncate(c->fd, (off_t)c->size) < 0)
		die("the copy cannot be made whole");
	mend(c, at, c->size - at);
}

/* At the same place in both, as when a file is overwritten and not finished. */
static void overwrite(const struct copy *c, const struct copy *other)
{
	size_t most = c->size < other->size ? c->size : other->size;
	size_t at = (1 + random_below(most / IMAGE_PAGE - 1)) * IMAGE_PAGE;

	if (memcmp(c->sound, other->sound, at) == 0)
		return;
	put(c, other->sound, at, 0);
	if (c->size != other->size || memcmp(c->sound + at, other->sound + at, c->size - at))
		must_be_refused(c, "an overwritten beginning", at);
	mend(c, 0, at);
}

int main(int argc, char **argv)
{
	struct copy c, other;
	unsigned long times;
	struct err e;

	if (argc != 5)
		die("usage: damage SEED TIMES IMAGE OTHER");
	state = strtoul(argv[1], NULL, 10);
	times = strtoul(argv[2], NULL, 10);
	copy_open(&c, argv[3]);
	copy_open(&other, argv[4]);
	flips(&c, times);
	for (unsigned long i = 0; i < times / 10; i++) {
		cut(&c, random_below(c.size));
		swap_pages(&c);
		swap_extents(&c);
		graft(&c, &other);
		overwrite(&c, &other);
	}
	if (try_open(c.path, &e) != ERR_NONE)
		die("the copy is not sound at the end");
	printf("%lu refused\n", refused);
	return 0;
}
