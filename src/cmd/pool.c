/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/pool.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct pool_piece {
	struct pool_piece *next;
	_Alignas(16) char data[];
};

void *pool_alloc(struct pool *p, size_t size)
{
	struct pool_piece *piece = calloc(1, sizeof(*piece) + size);

	if (!piece)
		return NULL;
	piece->next = p->pieces;
	p->pieces = piece;
	return piece->data;
}

char *pool_printf(struct pool *p, const char *fmt, ...)
{
	va_list ap, again;
	char *text;
	int n;

	va_start(ap, fmt);
	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, ap);
	text = n < 0 ? NULL : pool_alloc(p, (size_t)n + 1);
	if (text)
		vsnprintf(text, (size_t)n + 1, fmt, again);
	va_end(again);
	va_end(ap);
	return text;
}

void pool_done(struct pool *p)
{
	while (p->pieces) {
		struct pool_piece *next = p->pieces->next;

		free(p->pieces);
		p->pieces = next;
	}
}
