/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * /proc/self/smaps, as a program sees it before and after: address, protection,
 * offset, file and VmFlags of every mapping, neighbours that are alike merged.
 * The stack and the heap may have grown, and the flags that the kernel derives
 * from other things (soft-dirty, accounting) may differ.
 */

#include <stddef.h>

/* Whoever remembers before anything was allocated, would find a new heap afterwards. */
void maps_make_heap(void);

/* Remember the mappings of this moment. */
void maps_remember(void);

/* They are now as they were when they were remembered; a check fails otherwise. */
void maps_verify(void);

/* The number of bytes that smaps gives for the mapping that contains `at` in this field. */
size_t maps_field(const void *at, const char *field);
