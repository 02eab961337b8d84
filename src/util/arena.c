/* SPDX-License-Identifier: Apache-2.0 */
#include "util/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "util/huge.h"

/* The first block is small: to clear it costs more than what most arenas are used for. */
enum { ARENA_ALIGN = 16, ARENA_FIRST = 4 * 1024, ARENA_BLOCK = 64 * 1024 };

struct arena_block {
	struct arena_block *next;
	size_t size, used;
	enum { BLOCK_ALLOCATED, BLOCK_MAPPED, BLOCK_LENT } from;
	_Alignas(ARENA_ALIGN) unsigned char data[];
};

/* One huge page, of which a child that is made inherits one entry of a page table, and not 512. */
static struct arena_block *arena_block_map(void)
{
	struct arena_block *b = huge_map(HUGE_PAGE_SIZE, 0);

	if (b)
		b->from = BLOCK_MAPPED;
	return b;
}

static struct arena_block *arena_block_new(struct arena *a, size_t size)
{
	size_t least = a->blocks ? a->blocks->size * 2 : ARENA_FIRST;
	struct arena_block *b;

	if (least > ARENA_BLOCK)
		least = ARENA_BLOCK;
	if (size < least)
		size = least;
	if (a->huge && size <= HUGE_PAGE_SIZE - sizeof(*b)) {
		b = arena_block_map();
		size = HUGE_PAGE_SIZE - sizeof(*b);
	} else {
		b = calloc(1, sizeof(*b) + size);
	}
	if (!b)
		return NULL;
	b->size = size;
	b->next = a->blocks;
	a->blocks = b;
	return b;
}

void arena_begin_in(struct arena *a, void *room, size_t size)
{
	struct arena_block *b = room;

	b->from = BLOCK_LENT;
	b->size = size - sizeof(*b);
	a->blocks = b;
}

void *arena_alloc(struct arena *a, size_t size)
{
	struct arena_block *b = a->blocks;
	void *p;

	if (size > SIZE_MAX / 2)
		return NULL;
	size = (size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
	if (a->limit && size > a->limit - a->used)
		return NULL;
	if (!b || b->size - b->used < size)
		b = arena_block_new(a, size);
	if (!b)
		return NULL;
	p = b->data + b->used;
	b->used += size;
	a->used += size;
	return p;
}

void *arena_memdup(struct arena *a, const void *data, size_t size)
{
	void *p = arena_alloc(a, size ? size : 1);

	if (p && size)
		memcpy(p, data, size);
	return p;
}

char *arena_strdup(struct arena *a, const char *s)
{
	return arena_memdup(a, s, strlen(s) + 1);
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
	va_list ap;
	char *p;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return NULL;
	p = arena_alloc(a, (size_t)n + 1);
	if (!p)
		return NULL;
	va_start(ap, fmt);
	vsnprintf(p, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return p;
}

void *arena_grow(struct arena *a, void *vec, size_t n, size_t size)
{
	void *bigger;

	if (vec && (n & (n - 1)))
		return vec; /* not a power of two: the last growth left room */
	bigger = arena_alloc(a, (n ? n * 2 : 1) * size);
	if (bigger && n)
		memcpy(bigger, vec, n * size);
	return bigger;
}

void arena_done(struct arena *a)
{
	while (a->blocks) {
		struct arena_block *next = a->blocks->next;

		if (a->blocks->from == BLOCK_MAPPED)
			munmap(a->blocks, HUGE_PAGE_SIZE);
		else if (a->blocks->from == BLOCK_ALLOCATED)
			free(a->blocks);
		a->blocks = next;
	}
	a->used = 0;
}
