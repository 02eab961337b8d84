/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * XXH3 (https://xxhash.com) as fast as this CPU can: the code of xxhash.h, compiled once for each set of instructions that
 * makes a difference. All sets give the same sums.
 */

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct xxh3_128 {
	uint64_t low, high;
};

/* A sum of what comes in pieces. */
struct xxh3_state {
	alignas(64) unsigned char opaque[576]; /* the XXH3_state_t of xxhash.h, of which nobody but xxh3_code.c knows more */
};

struct xxh3_code {
	const char *instructions;
	bool (*runs)(void); /* here? */
	uint64_t (*sum)(const void *data, size_t size, uint64_t seed);
	struct xxh3_128 (*sum_128)(const void *data, size_t size, uint64_t seed);
	void (*begin)(struct xxh3_state *state);
	void (*add)(struct xxh3_state *state, const void *data, size_t size);
	uint64_t (*end)(const struct xxh3_state *state);
};

/* For each set of instructions, the fastest first; NULL ends it. The last one runs everywhere. */
extern const struct xxh3_code *const xxh3_codes[];

/* The fastest that runs here. Asks nothing but a word in memory, so it need not be kept. */
const struct xxh3_code *xxh3_here(void);

/* XXH3-64; a seed of 0 is that of the variant without one. */
static inline uint64_t xxh3_sum(const void *data, size_t size, uint64_t seed)
{
	return xxh3_here()->sum(data, size, seed);
}

/* XXH3-128. */
static inline struct xxh3_128 xxh3_sum_128(const void *data, size_t size, uint64_t seed)
{
	return xxh3_here()->sum_128(data, size, seed);
}

/* XXH3-64 without a seed, of what is added from now on. */
static inline void xxh3_begin(struct xxh3_state *state)
{
	xxh3_here()->begin(state);
}

static inline void xxh3_add(struct xxh3_state *state, const void *data, size_t size)
{
	xxh3_here()->add(state, data, size);
}

/* The sum of all that was added; more may be. */
static inline uint64_t xxh3_end(const struct xxh3_state *state)
{
	return xxh3_here()->end(state);
}
