/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What tasks shared since fork(2) they share again after the restore: they can only
 * inherit it. So a task that makes others first loads what they have in common, the
 * stock; then they are born; and then each, the maker too, keeps of the stock what it
 * had, drops the rest, and loads by itself what else it has.
 *
 * The image alone tells who shares what: runs of different owners that name the same
 * stored pages at the same addresses.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image/pb.h"

struct arena;
struct err;
struct image;
struct image_run;
struct memory_load;

struct family_member {
	const Pb__AddressSpace *space; /* NULL: it has none (a zombie) */
	uint32_t owner;                /* of its runs */
	uint32_t maker;                /* index of the member that forks it; UINT32_MAX: nobody */
};

/* All the tasks of a tree, in an order of its own: each is followed by all that it makes, directly or not. */
struct family {
	const struct image *image;
	const struct family_member *members;
	size_t n;
	uint32_t *order;  /* of the members */
	uint32_t *place;  /* of each member in that order */
	uint32_t *behind; /* for each place: the first one behind it that is not of its descendants */
	bool *shared;     /* for each extent: several members name it; NULL: none is */
};

/*
 * What a task has in its memory for those that it makes. Inherited by fork(2), like the memory itself.
 */
struct stock {
	Pb__AddressSpace space; /* its mappings: writable, and placed */
	uint64_t *at;           /* where each of them is */
	struct image_run *runs; /* what is loaded; ascending, `owner` means nothing */
	size_t n_runs;
};

/* In the coordinator: `members` and all else must outlive the family. 0 or negative. */
int family_make(struct family *f, struct arena *arena, const struct image *image, const struct family_member *members,
		size_t n, struct err *e);

/* Whether a member makes others, and anything at all is shared: only then family_prepare() does something. */
bool family_makes(const struct family *f, uint32_t member);

/* Whether a mapping can be inherited: private, and of ordinary pages. */
bool family_inherits(const Pb__Mapping *m);

/*
 * What should be in memory when the member's children are born, ascending: what at
 * least two of them (or one and the member itself) have. What is in `stock` already
 * goes before what would have to be loaded.
 */
int family_choose(const struct family *f, uint32_t member, const struct stock *stock, struct arena *arena,
		  struct image_run **ret, size_t *ret_n, struct err *e);

/* Before a member makes others: bring the stock that it was born with to what they have in common. With one thread. */
int stock_prepare(struct stock *stock, const struct family *f, uint32_t member, const struct memory_load *m,
		  struct err *e);

/*
 * When the last of them is born: keep what the task itself has, in `m->place`, and
 * drop the rest of the stock. `m->runs` becomes what is still to be loaded.
 */
int stock_adopt(struct stock *stock, struct memory_load *m, struct err *e);
