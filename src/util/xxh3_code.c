/* SPDX-License-Identifier: Apache-2.0 */

/*
 * XXH3 for one set of instructions: compiled several times, with XXH3_INSTRUCTIONS as the name of the set, and with the
 * flag that lets the compiler use it. xxhash.h takes the widest vectors that it may. All that it has is static here, so
 * nothing of one set gets into another.
 */

#define XXH_INLINE_ALL
#include <xxhash.h>

#if __has_include(<sys/platform/x86.h>) /* glibc 2.33 */
#include <sys/platform/x86.h>
enum { FEATURE_sse2 = x86_cpu_SSE2, FEATURE_avx2 = x86_cpu_AVX2, FEATURE_avx512f = x86_cpu_AVX512F };
#endif

#include "util/xxh3.h"

#define STRING_OF(name) #name
#define STRING(name) STRING_OF(name)
#define FEATURE_OF(name) FEATURE_##name
#define FEATURE(name) FEATURE_OF(name)
#define CODE_OF(name) xxh3_##name
#define CODE(name) CODE_OF(name)

_Static_assert(sizeof(XXH3_state_t) <= sizeof(struct xxh3_state), "the state is larger than xxh3.h says");
_Static_assert(alignof(XXH3_state_t) <= alignof(struct xxh3_state), "the state is aligned otherwise than xxh3.h says");

/* What libc has asked the CPU already: in a virtual machine each CPUID takes microseconds, and the compiler's own way uses ten. */
static bool runs(void)
{
#ifdef CPU_FEATURE_ACTIVE
	return x86_cpu_active(FEATURE(XXH3_INSTRUCTIONS));
#else
	return __builtin_cpu_supports(STRING(XXH3_INSTRUCTIONS));
#endif
}

static uint64_t sum(const void *data, size_t size, uint64_t seed)
{
	return XXH3_64bits_withSeed(data, size, seed);
}

static struct xxh3_128 sum_128(const void *data, size_t size, uint64_t seed)
{
	XXH128_hash_t hash = XXH3_128bits_withSeed(data, size, seed);

	return (struct xxh3_128){ hash.low64, hash.high64 };
}

static void begin(struct xxh3_state *state)
{
	XXH3_64bits_reset((XXH3_state_t *)state);
}

static void add(struct xxh3_state *state, const void *data, size_t size)
{
	XXH3_64bits_update((XXH3_state_t *)state, data, size);
}

static uint64_t end(const struct xxh3_state *state)
{
	return XXH3_64bits_digest((const XXH3_state_t *)state);
}

extern const struct xxh3_code CODE(XXH3_INSTRUCTIONS);
const struct xxh3_code CODE(XXH3_INSTRUCTIONS) = { STRING(XXH3_INSTRUCTIONS), runs, sum, sum_128, begin, add, end };
