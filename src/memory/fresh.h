/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Putting pages where there are none yet, without touching the place: by
 * userfaultfd(2) with USER_MODE_ONLY, which needs no privilege.
 *
 * Copied (UFFDIO_COPY), a page costs no fault, and is not zeroed before it is
 * overwritten. Moved (UFFDIO_MOVE, Linux 6.8), whole huge pages change their place.
 * That makes huge pages possible without a trace on the mapping: MADV_HUGEPAGE
 * leaves a flag that no advice takes back, but here only the mapping that they come
 * from has it. Each one that is moved interrupts the other CPUs that this process runs on.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/huge.h"

struct fresh {
	int fd;     /* -1: none of this is to be had */
	pid_t pid;  /* whose memory it is; 0: this process */
	bool moves; /* pages can be moved */
	bool asked; /* fresh_moves_huge(): what the system has answered is known */
	bool huge;
};

/* Never fails: see fresh_add(). */
void fresh_open(struct fresh *f);

/* Are huge pages permitted, and can they be moved? The first call asks the system: before threads share it. */
bool fresh_moves_huge(struct fresh *f);

/* The mappings are ordinary ones again. */
void fresh_close(struct fresh *f);

/*
 * Make a mapping one that fresh pages can be put into; false where that cannot be.
 * Until fresh_close() nobody may touch it where it has no page.
 */
bool fresh_add(const struct fresh *f, uint64_t start, uint64_t size);

/* Copy whole pages into an added mapping. Any number of threads at once. 0 or -errno. */
int fresh_copy(const struct fresh *f, uint64_t to, const void *from, uint64_t size);

/* As above, but the pages themselves, which are gone from `from`. Those that the kernel cannot move are copied. */
int fresh_move(const struct fresh *f, uint64_t to, void *from, uint64_t size);
