/* SPDX-License-Identifier: Apache-2.0 */

/* XXH3: each set of instructions that this CPU has gives the same sums, at once and in pieces. */

#include <stdlib.h>

#include "unit.h"
#include "util/xxh3.h"

enum {
	SHORT = 2600, /* all lengths up to here: each of XXH3's ways with few bytes, and two blocks of a kibibyte of the one with many */
	LONG = 300001,
	ODD = 7, /* data need not be aligned */
};

static const size_t lengths[] = { 4095, 4096, 4097, 65535, 65536, 65537, 262144, LONG };
static const uint64_t seeds[] = { 0, 1, 0x9e3779b97f4a7c15 };

static unsigned char *some_bytes(void)
{
	unsigned char *data = malloc(LONG + ODD);
	uint64_t x = 88172645463325252; /* xorshift64 */

	for (size_t i = 0; data && i < LONG + ODD; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		data[i] = (unsigned char)x;
	}
	return data;
}

/* In pieces of which none is as long as the one before, up to `longest`. */
static uint64_t sum_of_pieces(const struct xxh3_code *code, const unsigned char *data, size_t size, size_t longest)
{
	struct xxh3_state state;
	size_t n;

	code->begin(&state);
	for (size_t done = 0, i = 1; done < size; done += n, i++) {
		n = i * 37 % longest + 1;
		if (n > size - done)
			n = size - done;
		code->add(&state, data + done, n);
	}
	return code->end(&state);
}

static bool same_sums(const struct xxh3_code *a, const struct xxh3_code *b, const unsigned char *data, size_t size)
{
	for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++) {
		struct xxh3_128 of_a = a->sum_128(data, size, seeds[i]), of_b = b->sum_128(data, size, seeds[i]);

		if (a->sum(data, size, seeds[i]) != b->sum(data, size, seeds[i]) || of_a.low != of_b.low || of_a.high != of_b.high)
			return false;
	}
	return a->sum(data, size, 0) == sum_of_pieces(b, data, size, 300) && a->sum(data, size, 0) == sum_of_pieces(b, data, size, 70000);
}

/* The last set is the one that every CPU has. */
static const struct xxh3_code *plain(void)
{
	const struct xxh3_code *const *code = xxh3_codes;

	while (code[1])
		code++;
	return *code;
}

static void all_sets_agree(void)
{
	unsigned char *data = some_bytes();

	UNIT_CHECK(data);
	for (const struct xxh3_code *const *code = xxh3_codes; *code; code++) {
		if (!(*code)->runs()) {
			printf("# this CPU lacks %s\n", (*code)->instructions);
			continue;
		}
		printf("# %s\n", (*code)->instructions);
		for (size_t size = 0; size < SHORT; size++)
			UNIT_CHECK(same_sums(plain(), *code, data + size % ODD, size));
		for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
			UNIT_CHECK(same_sums(plain(), *code, data + i % ODD, lengths[i]));
	}
	free(data);
}

/* From the specification's own test vectors (xxHash, tests/sanity_test_vectors.h): nothing, without a seed. */
static void known_sums(void)
{
	struct xxh3_128 sum = xxh3_sum_128("", 0, 0);

	UNIT_CHECK_EQ(xxh3_sum("", 0, 0), 0x2d06800538d394c2);
	UNIT_CHECK_EQ(sum.low, 0x6001c324468d497f);
	UNIT_CHECK_EQ(sum.high, 0x99aa06d3014798d8);
}

/* One byte more or less, or other: another sum. Equal sums of a broken sum would be equal as well. */
static void every_byte_counts(void)
{
	unsigned char *data = some_bytes();

	UNIT_CHECK(data);
	for (size_t size = 1; size < SHORT; size++) {
		uint64_t sum = xxh3_sum(data, size, 0);

		UNIT_CHECK(sum != xxh3_sum(data, size - 1, 0));
		data[size / 2] ^= 1;
		UNIT_CHECK(sum != xxh3_sum(data, size, 0));
		data[size / 2] ^= 1;
	}
	free(data);
}

static void the_fastest_is_taken(void)
{
	const struct xxh3_code *const *code = xxh3_codes;

	while (!(*code)->runs())
		code++;
	UNIT_CHECK_STR(xxh3_here()->instructions, (*code)->instructions);
	UNIT_CHECK(plain()->runs());
}

UNIT_MAIN(UNIT_CASE(all_sets_agree), UNIT_CASE(known_sums), UNIT_CASE(every_byte_counts), UNIT_CASE(the_fastest_is_taken))
