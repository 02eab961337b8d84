/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* An image, opened to be looked at: metadata and memory index, with what is known beside them. */

#include "api/api.h"
#include "image/image.h"
#include "image/pb.h"
#include "image/timing.h"

/* One end of something that has two. */
struct image_end {
	uint64_t id, other; /* of this end, and of the one it leads to; 0: to nothing that is in the image */
	uint32_t kind;      /* the same for both */
	uint32_t object;
};

struct torpor_image {
	struct torpor_image_info info;
	struct arena arena;
	struct image *image;
	Pb__Image *meta;
	struct torpor_error *damage;
	bool verified; /* every checksum was compared */
	struct torpor_task *tasks;
	struct torpor_thread **threads; /* of each task */
	struct torpor_slot **slots;
	struct torpor_space *spaces;
	struct torpor_mapping **mappings;
	struct torpor_inode *inodes;
	struct torpor_ipc *semaphores, *queues;
	struct torpor_phase phases[IMAGE_PHASES]; /* of the last restore, if info.restored_ns says that there was one */
	struct torpor_object *objects;
	struct torpor_holder *holders;  /* ascending by object */
	size_t *first_holder;           /* of each object; one more at the end */
	const char **descriptions;      /* of each object, once somebody has asked */
	struct image_end *ends;         /* ascending; NULL: nobody has asked yet */
	size_t n_ends;
	uint32_t *end_at;               /* for each object: 1 + where its end is; 0: it has none */
};

/* image_open.c: open `path`; on failure nothing is left. */
int api_image_open(const char *path, unsigned flags, struct torpor_image **ret, struct err *e);

/* The message of an object, in an arena of its own: many fds may refer to one, and it may hold megabytes. */
ProtobufCMessage *api_image_unpack(const Pb__Object *o, struct arena *scratch);

const char *api_image_kind(const Pb__Object *o);
