/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A bump allocator: the objects of one checkpoint live and die together.
 * Memory is zeroed, aligned to 16 bytes, and freed all at once.
 */

#include <stdbool.h>
#include <stddef.h>

struct arena_block;
struct arena {
	struct arena_block *blocks;
	size_t limit; /* most bytes this arena may hold; 0 = no limit */
	size_t used;
	bool huge; /* much is to come, and processes are made that inherit it: in huge pages, where they can be had */
};

#define ARENA_INIT ((struct arena){ 0 })

/* Let the first that is allocated lie in these `size` bytes, which are zero, aligned to 16, and outlive the arena. */
void arena_begin_in(struct arena *a, void *room, size_t size);

/* NULL when out of memory or over the limit. */
void *arena_alloc(struct arena *a, size_t size);
void *arena_memdup(struct arena *a, const void *data, size_t size);
char *arena_strdup(struct arena *a, const char *s);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * Make room for one more element in a vector of `n` elements of `size` bytes
 * that lives in the arena; the capacity is the next power of two of n, so
 * nothing but the count needs to be remembered. Returns the (possibly moved)
 * vector or NULL.
 */
void *arena_grow(struct arena *a, void *vec, size_t n, size_t size);

void arena_done(struct arena *a);

#define arena_new(a, type) ((type *)arena_alloc((a), sizeof(type)))
