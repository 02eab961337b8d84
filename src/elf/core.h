/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A saved task as an ELF core file (core(5)), as the kernel would have written it
 * with the default filter of core dumps, for debuggers. Needs no process.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image/image.h"
#include "image/pb.h"
#include "util/err.h"

struct elf_core {
	uint64_t memory_size; /* of all mappings */
	uint64_t stored;      /* bytes of pages that were written */
	uint64_t file_size;   /* most of it may be holes */
	size_t n_threads;
};

/*
 * Write the task with this index into a new file (mode 0600; it must not exist).
 * `img` has been verified, `meta` validated. On failure there is no file.
 */
int elf_core_write(const struct image *img, const Pb__Image *meta, size_t task, const char *path, struct elf_core *ret,
		   struct err *e);

/* ---- inside ---- */

struct elf_buffer {
	struct arena *arena;
	char *data;
	size_t size, room;
};

/* Append; returns false when out of memory. `data` NULL: zeros. */
bool elf_buffer_add(struct elf_buffer *b, const void *data, size_t size);

/* All the notes of a task (notes.c). */
int elf_core_notes(const Pb__Image *meta, const Pb__Task *t, struct elf_buffer *b, struct err *e);
