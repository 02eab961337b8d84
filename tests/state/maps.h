/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * /proc/self/smaps, as a program sees it before and after: address, protection,
 * offset, file and VmFlags of every mapping, neighbours that are alike merged.
 * What grows by itself may have grown, and the flags that mean nothing to a
 * program may differ.
 */

/* Whoever remembers before anything was allocated, would find a new heap afterwards. */
void maps_make_heap(void);

/* Remember the mappings of this moment. */
void maps_remember(void);

/* They are now as they were when they were remembered; a check fails otherwise. */
void maps_verify(void);
