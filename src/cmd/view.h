/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * An image, opened to be shown. Texts are made harmless for a terminal where it says so; all of them live in the
 * view's pool.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cmd/pool.h"
#include "torpor/torpor.h"

enum { NAME_MAX_SHOWN = 64, PATH_MAX_SHOWN = 512, PAGE = 4096 };

struct view {
	const char *path;
	struct torpor_image *image;
	const struct torpor_image_info *info;
	struct pool pool;
};

/* Open `v->path`, which is set. The view is closed with view_close(), also after a failure. `flags`: TORPOR_OPEN_*. */
int view_open(struct view *v, unsigned flags, struct torpor_error **error);
void view_close(struct view *v);

/* Made harmless: a name, a path (these may be cut), what an object is, a number of bytes. */
const char *view_name(struct view *v, const char *s);
const char *view_path(struct view *v, const char *s);
const char *view_object(struct view *v, size_t object);
const char *view_bytes(struct view *v, uint64_t bytes);

const struct torpor_task *view_task(const struct view *v, size_t i);

/* The children of each task, as a list: first child and next sibling, by index; 0 is the root, so it ends a list. */
struct view_tree {
	uint32_t *child, *sibling;
};

bool view_find_children(struct view *v, struct view_tree *t);

/* "rw-p" */
const char *view_access(const struct torpor_mapping *m, char buf[5]);
