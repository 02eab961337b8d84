/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Building scripts for the runner, and the region they live in: the one stretch
 * of addresses that belongs neither to the old nor to the new address space.
 *
 *   region:  runner code | stack | data, threads' scripts and stacks | leader's script | parking room
 *
 * The leader's script grows upwards, all else downwards from where that begins, and the leader's stack from there: nobody
 * knows beforehand how much of either it will be, and this way they share as few pages as can be.
 */

#include <stddef.h>
#include <stdint.h>

#include "abi/script.h"

struct err;

struct region {
	uint64_t start, size; /* the whole of it, parking room included */
	uint64_t script;      /* where the leader's script begins */
	size_t steps;         /* that it has room for */
	uint64_t used, limit; /* bytes in front of it, without the stack */
	uint64_t parking, parking_used, parking_size;
};

/*
 * Map the region at `start`, which must be free, with room for so many steps of the leader's script, and `data_size` bytes
 * for all else. `parking_size` bytes are only reserved (PROT_NONE) for mappings that wait for their place. Sizes are rounded
 * up to pages.
 */
int region_map(struct region *r, uint64_t start, size_t steps, uint64_t data_size, uint64_t parking_size, struct err *e);

/* How large it is without the parking room. */
uint64_t region_size(size_t steps, uint64_t data_size);

/* Room for data, 16-byte aligned, zeroed; NULL when it is full. Addresses stay valid in the runner. */
void *region_alloc(struct region *r, size_t size);
void *region_put(struct region *r, const void *data, size_t size);

/* As region_alloc(), at a multiple of `align`, a power of two. */
void *region_alloc_aligned(struct region *r, size_t size, size_t align);

/* `size` bytes of parking room whose address is congruent to `like` modulo `align`; 0 when it is full. */
uint64_t region_park(struct region *r, uint64_t size, uint64_t like, uint64_t align);

/* A script under construction. Errors are sticky: check script_finish(). */
struct script_builder {
	struct region *region;
	struct script *script;
	size_t room;
	int failed; /* 1: the region was full */
};

/* The leader's; there is one for each region. */
void script_begin(struct script_builder *b, struct region *region);

/* A thread's, of at most so many steps, for which there is room from now on. */
int script_begin_thread(struct script_builder *b, struct region *region, size_t steps, struct err *e);

/* Append a system call. `note` says what the step is, for error messages: a string constant or NULL. */
void script_syscall(struct script_builder *b, unsigned flags, const char *note, long nr, const uint64_t args[6]);

#define script_call(b, flags, note, nr, ...)                                                                  \
	script_syscall((b), (flags), (note), (nr), (const uint64_t[6]){ __VA_ARGS__ })

/* Append the start of a thread that executes `thread`'s script. `clone_args` and `steer` (may be NULL) lie in the region. */
void script_thread(struct script_builder *b, const char *note, const void *clone_args, size_t size,
		   const struct script *thread, const void *steer);

int script_finish(struct script_builder *b, struct err *e);

/* Jump into the runner, with the leader's script. Nothing may be put into the region after that. */
_Noreturn void script_enter(const struct region *r);
