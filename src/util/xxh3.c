/* SPDX-License-Identifier: Apache-2.0 */
#include "util/xxh3.h"

extern const struct xxh3_code xxh3_avx512f, xxh3_avx2, xxh3_sse2; /* xxh3_code.c, three times */

const struct xxh3_code *const xxh3_codes[] = { &xxh3_avx512f, &xxh3_avx2, &xxh3_sse2, NULL };

const struct xxh3_code *xxh3_here(void)
{
	const struct xxh3_code *const *code = xxh3_codes;

	while (!(*code)->runs())
		code++;
	return *code;
}
