/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A chain of images as one, which needs no other. */

#include "image/codec.h"

struct err;
struct progress;

/*
 * Hand all pages that runs of `img` refer to, and those runs, to the writer. What
 * two of them share stays shared; what nobody refers to is left out. `packing`
 * NULL: as the image packs most of its own.
 */
int image_squash(const struct image *img, struct image_writer *w, const struct image_packing *packing,
		 const struct progress *progress, struct err *e);
