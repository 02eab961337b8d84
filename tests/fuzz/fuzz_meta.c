/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Fuzz what is made of the metadata: the plan, the scripts, the words for each
 * object. The input is the message; the mutator changes fields of it, so that
 * it stays one. What is accepted once must give the same plan and the same
 * scripts again, these must touch only what the image names (within.h), and
 * little input must not take much memory.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "core/explain.h"
#include "core/objects.h"
#include "core/plan.h"
#include "mutate.h"
#include "util/xxh3.h"
#include "within.h"

enum { MEMORY_MAX = 64 << 20, SMALL = 64 << 10, OBJECT_TEXT = 256 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

static Pb__Image *fuzz_unpack(struct arena *arena, const uint8_t *data, size_t size)
{
	arena->limit = 64 * (size + 4096);
	return (Pb__Image *)pb_unpack(arena, &pb__image__descriptor, data, size);
}

/* Who is made by whom: within the image, parents first. */
static uint64_t fuzz_plan(const struct plan *plan)
{
	uint64_t hash = plan->n_threads + (uint64_t)plan->fd_base;

	for (size_t i = 0; i < plan->n_tasks; i++) {
		const struct plan_task *t = &plan->tasks[i];

		if ((t->parent != UINT32_MAX && t->parent >= i) || (t->birth == BIRTH_BY_LEADER && t->leader >= plan->n_tasks))
			abort();
		hash = hash * 31 + t->parent * 7u + t->birth + t->makes_group;
	}
	return hash;
}

static void fuzz_expect_within(bool holds, const struct within *w)
{
	if (holds)
		return;
	fprintf(stderr, "fuzz_meta: %s: %s (%#lx)\n", w->note, w->what, w->value);
	abort();
}

static uint64_t fuzz_scripts(const struct plan *plan, size_t size)
{
	struct within w = { 0 };
	uint64_t hash = 0;

	fuzz_expect_within(within_plan(&w, plan), &w);
	for (size_t i = 0; i < plan->n_tasks && plan->n_threads < 1000; i++) {
		struct arena arena = ARENA_INIT;
		struct err e = ERR_INIT;
		struct explain x = { 0 };

		if (plan->tasks[i].pb->state == PB__TASK_STATE__ZOMBIE)
			continue;
		if (explain_begin(&x, plan, i, &arena, &e) == 0)
			fuzz_expect_within(within_script(&w, plan, i, &x, false), &w);
		else if (e.reason == ERR_NONE)
			abort();
		if (size < SMALL && (x.region.size > MEMORY_MAX || arena.used > MEMORY_MAX))
			abort();
		if (x.region.size)
			hash = hash * 31 + xxh3_sum((void *)x.region.start, x.region.size, 0);
		explain_end(&x);
		arena_done(&arena);
	}
	return hash;
}

static void fuzz_objects(const Pb__Image *meta)
{
	for (size_t i = 0; i < meta->n_objects; i++) {
		const struct kind *kind = kind_by_tag(meta->objects[i]->kind);
		struct arena arena = { .limit = MEMORY_MAX };
		struct err e = ERR_INIT;
		ProtobufCMessage *m = object_unpack(&arena, meta->objects[i], &e);
		char text[OBJECT_TEXT] = "";

		if (m && kind->describe) {
			kind->describe(m, text, sizeof(text));
			if (!memchr(text, '\0', sizeof(text)))
				abort();
		}
		arena_done(&arena);
	}
}

/* 0: refused. */
static uint64_t fuzz_once(const uint8_t *data, size_t size)
{
	struct arena arena = ARENA_INIT;
	Pb__Image *meta = fuzz_unpack(&arena, data, size);
	struct image img = { .fd = -1, .path = "fuzz" };
	struct plan plan;
	struct err e = ERR_INIT;
	uint64_t hash = 0;

	arena.limit = 0;
	if (meta && plan_make(&plan, meta, &img, &arena, &e) == 0) {
		fuzz_objects(meta);
		hash = 1 | (fuzz_plan(&plan) * 31 + fuzz_scripts(&plan, size)) << 1;
	} else if (meta && e.reason == ERR_NONE) {
		abort();
	}
	arena_done(&arena);
	return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (fuzz_once(data, size) != fuzz_once(data, size))
		abort();
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	struct arena arena = ARENA_INIT;
	Pb__Image *meta = fuzz_unpack(&arena, data, size);
	uint8_t *packed = NULL;
	size_t n = 0;

	arena.limit = 0;
	if (meta) {
		mutate_image(meta, &arena, 1 + seed % 3, seed);
		packed = pb_pack(&arena, &meta->base, &n);
	}
	if (packed && n <= max_size) {
		memcpy(data, packed, n);
		size = n;
	}
	arena_done(&arena);
	return size;
}
