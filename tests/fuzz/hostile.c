/* SPDX-License-Identifier: Apache-2.0 */

/*
 * hostile SEED TIMES IMAGE OUT: write IMAGE again with TIMES fields of its metadata
 * changed and every checksum right, as one would who means ill. With @N for TIMES, its
 * N-th field; exit status 2: there are not so many.
 * hostile xstate AT:BITS[,AT:BITS...] IMAGE OUT: with these bits of bytes inverted, in every thread's extended state.
 * hostile metadata IMAGE OUT: the metadata alone.
 */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/x86_64/regs.h"
#include "image/image.h"
#include "mutate.h"
#include "util/err.h"
#include "util/fd.h"

static _Noreturn void die(const struct err *e)
{
	fprintf(stderr, "hostile: %s\n", e->text[0] ? e->text : "usage, or a failed write");
	exit(1);
}

static void copy_pages(const struct image *img, struct image_writer *w, struct err *e)
{
	static uint8_t page_room[IMAGE_EXTENT_MAX];
	uint32_t index;

	for (size_t i = 0; i < img->n_extents; i++)
		if (image_read_extent(img, i, page_room, e) < 0 ||
		    image_writer_extent(w, page_room, img->extents[i].size, &index, e) < 0)
			die(e);
	for (size_t i = 0; i < img->n_runs; i++)
		if (image_writer_run(w, &img->runs[i], e) < 0)
			die(e);
}

static void change_thread(Pb__Thread *th, struct arena *arena, const char *what, const struct err *e)
{
	uint8_t *xstate = arena_alloc(arena, ARCH_XSTATE_MAX);
	char *end;

	if (!xstate)
		die(e);
	th->xstate.len = pb_xstate(th, xstate, ARCH_XSTATE_MAX);
	th->xstate.data = xstate;
	for (; *what; what = *end ? end + 1 : end) {
		size_t at = strtoul(what, &end, 0);
		uint8_t bits = *end == ':' ? (uint8_t)strtoul(end + 1, &end, 0) : 0;

		if (!bits || (*end && *end != ',') || at >= th->xstate.len)
			die(e);
		xstate[at] ^= bits;
	}
}

static void change_xstate(const Pb__Image *meta, struct arena *arena, const char *what, const struct err *e)
{
	for (size_t i = 0; i < meta->n_tasks; i++)
		for (size_t k = 0; k < meta->tasks[i]->n_threads; k++)
			change_thread(meta->tasks[i]->threads[k], arena, what, e);
}

static void write_changed(const struct image *img, char **argv, struct err *e)
{
	struct arena arena = ARENA_INIT;
	Pb__Image *meta = (Pb__Image *)pb_unpack(&arena, &pb__image__descriptor, img->meta, img->meta_size);
	struct image_writer *w;
	uint8_t *packed;
	size_t size;

	if (!meta || image_writer_new(&w, argv[4], false, e) < 0)
		die(e);
	if (strcmp(argv[1], "xstate") == 0)
		change_xstate(meta, &arena, argv[2], e);
	else if (argv[2][0] != '@')
		mutate_image(meta, &arena, (unsigned)atoi(argv[2]), strtoull(argv[1], NULL, 10));
	else if (!mutate_field(meta, &arena, strtoull(argv[2] + 1, NULL, 10), strtoull(argv[1], NULL, 10)))
		exit(2);
	packed = pb_pack(&arena, &meta->base, &size);
	copy_pages(img, w, e);
	if (!packed || image_writer_commit(w, packed, size, e) < 0)
		die(e);
	image_writer_free(w);
	arena_done(&arena);
}

static void write_metadata(const struct image *img, const char *path, struct err *e)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0 || fd_write_full(fd, img->meta, img->meta_size) < 0)
		die(e);
	close(fd);
}

int main(int argc, char **argv)
{
	bool metadata = argc == 4 && strcmp(argv[1], "metadata") == 0;
	struct err e = ERR_INIT;
	struct image *img;

	if (argc != 5 && !metadata)
		die(&e);
	if (image_open(&img, argv[metadata ? 2 : 3], &e) < 0)
		die(&e);
	if (metadata)
		write_metadata(img, argv[3], &e);
	else
		write_changed(img, argv, &e);
	image_close(img);
	return 0;
}
