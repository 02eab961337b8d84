/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Texts and lists of one command, which are freed all at once. Memory is zeroed. */

#include <stddef.h>

struct pool_piece;
struct pool {
	struct pool_piece *pieces;
};

#define POOL_INIT ((struct pool){ NULL })

/* NULL when out of memory. */
void *pool_alloc(struct pool *p, size_t size);
char *pool_printf(struct pool *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void pool_done(struct pool *p);
