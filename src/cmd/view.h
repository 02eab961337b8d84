/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * An image, opened to be looked at: metadata and memory index, with what all the
 * commands that show images want to know beside them. Texts are made harmless
 * for a terminal where it says so; all of them live in the view's arena.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image/image.h"
#include "image/pb.h"
#include "util/arena.h"
#include "util/err.h"

enum { NAME_MAX_SHOWN = 64, PATH_MAX_SHOWN = 512 }; /* characters */

/* Who refers to an object: a slot of a task. */
struct holder {
	uint32_t task, fd;
};

struct view {
	const char *path;
	bool salvage;               /* a damaged image is shown as far as it can be read: */
	struct err damage;          /* ... and this is what is wrong with it */
	struct arena arena;
	struct image *image;
	Pb__Image *meta;
	uint64_t **mapping_bytes;   /* stored, of each mapping of each space */
	uint64_t *space_bytes, *inode_bytes;
	struct holder *holders;     /* ascending by object */
	size_t *first_holder;       /* of each object; one more at the end */
	const char **descriptions;  /* of each object, once somebody has asked */
	struct view_end *ends;      /* of pipes, connections and terminals, ascending; by view_find_ends() */
	size_t n_ends;
	uint32_t *end_at;           /* for each object: 1 + where its end is; 0: it has none */
};

/* One end of something that has two. */
struct view_end {
	uint64_t id, other; /* of this end, and of the one it leads to; 0: to nothing that is in the image */
	uint32_t kind;      /* the same for both */
	uint32_t object;
};

/* Open `v->path`, which is set. The view is closed with view_close(), also after a failure. */
int view_open(struct view *v, struct err *e);
void view_close(struct view *v);

/* Fill v->ends. */
int view_find_ends(struct view *v);

/* The end that belongs to an object, or NULL; and the ends that it leads to: *ret_n of them. */
const struct view_end *view_end_of(const struct view *v, uint32_t object);
const struct view_end *view_other_ends(const struct view *v, const struct view_end *end, size_t *ret_n);

size_t view_count_threads(const struct view *v);

/* Made harmless: a name, a path (these may be cut), a number of bytes. */
const char *view_name(struct view *v, const char *s);
const char *view_path(struct view *v, const char *s);
const char *view_bytes(struct view *v, uint64_t bytes);

/* The message of an object, in an arena of its own: many fds may refer to one, and it may hold megabytes. */
ProtobufCMessage *view_unpack(const Pb__Object *o, struct arena *scratch);

const char *view_kind_name(const Pb__Object *o);

/* What the object is, beside its kind; untrusted text. */
const char *view_describe(struct view *v, uint32_t object);

/* The children of each task, as a list: first child and next sibling, by index; 0 is the root, so it ends a list. */
struct view_tree {
	uint32_t *child, *sibling;
};

bool view_find_children(struct view *v, struct view_tree *t);

enum memory_class { CLASS_ANON, CLASS_FILE, CLASS_SHARED, CLASS_NONE, CLASSES };

/* CLASSES for the kernel's own mappings. */
enum memory_class view_class(const Pb__Mapping *m);
