/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Pages that several address spaces hold at the same address with the same content,
 * as parents and children do since fork(2): each is stored once, and all of them
 * refer to that place.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct page_source;
struct once;

enum once_state {
	ONCE_ALONE,   /* store it: nobody else holds a page there */
	ONCE_FIRST,   /* store it, and tell where: once_tell() */
	ONCE_KNOWN,   /* it is stored already: `extent` and `page` say where */
	ONCE_AWAITED, /* another thread is storing it: once_await() */
};

struct once_page {
	const char *data;
	uint64_t addr;
	enum once_state state;
	uint32_t entry;        /* of the table; not with ONCE_ALONE */
	uint32_t extent, page; /* where it is stored */
};

/*
 * *ret is NULL where no two sources overlap: then nothing can be shared. Freed by
 * once_free(). All that follows may be called by several threads at once, and
 * accepts NULL.
 */
int once_new(const struct page_source *sources, size_t n, struct once **ret, struct err *e);
struct once *once_free(struct once *o);

/*
 * What is to be done with these pages of one address space, in ascending order? Fills the `state` of those that are not
 * ONCE_KNOWN already.
 */
void once_look(struct once *o, struct once_page *pages, size_t n);

/* Those with ONCE_FIRST are stored: others may refer to them. */
void once_tell(struct once *o, const struct once_page *pages, size_t n);

/* Wait until those with ONCE_AWAITED are stored. False when that will not be: once_give_up(). */
bool once_await(struct once *o, struct once_page *pages, size_t n);

/* What was promised will not be stored: nobody shall wait for it. */
void once_give_up(struct once *o);
