/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The schema's messages as torpor's own model: dump fills them, restore reads
 * them, and they live in an arena.
 */

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#include "image/torpor.pb-c.h"
#include "util/arena.h"

/* A new message of `type` in the arena, initialised by its init function; NULL when out of memory. */
#define pb_new(arena, type, init)                                                                             \
	({                                                                                                    \
		type *pb_m = arena_new((arena), type);                                                        \
		if (pb_m)                                                                                     \
			init(pb_m);                                                                           \
		pb_m;                                                                                         \
	})

/* Append to the repeated field `field` of *msg. Returns false when out of memory. */
#define pb_add(arena, msg, field, item)                                                                       \
	({                                                                                                    \
		void *pb_v = arena_grow((arena), (msg)->field, (msg)->n_##field, sizeof(*(msg)->field));      \
		if (pb_v) {                                                                                   \
			(msg)->field = pb_v;                                                                  \
			(msg)->field[(msg)->n_##field++] = (item);                                            \
		}                                                                                             \
		pb_v != NULL;                                                                                 \
	})

/* Set an optional scalar field together with its presence. */
#define pb_set(msg, field, value)                                                                             \
	do {                                                                                                  \
		(msg)->has_##field = 1;                                                                       \
		(msg)->field = (value);                                                                       \
	} while (0)

/* Set an optional bytes field to a copy in the arena. Returns false when out of memory. */
#define pb_set_bytes(arena, msg, field, bytes, size)                                                          \
	({                                                                                                    \
		(msg)->has_##field = 1;                                                                       \
		(msg)->field.len = (size);                                                                    \
		(msg)->field.data = arena_memdup((arena), (bytes), (size));                                   \
		(msg)->field.data != NULL;                                                                    \
	})

/* Are these the same bytes? Those of an empty field are at no address, with which memcmp(3) is not defined. */
bool pb_same_bytes(const ProtobufCBinaryData *a, const void *bytes, size_t size);

/* How many bytes the extended state of a thread has, with the zeros that were left out at its end; 0: there is none. */
size_t pb_xstate_size(const Pb__Thread *th);

/* All of it, into `buf`. Returns its size; 0: there is none, or it has no room. */
size_t pb_xstate(const Pb__Thread *th, void *buf, size_t room);

/* Serialise into the arena; NULL when out of memory. */
uint8_t *pb_pack(struct arena *arena, const ProtobufCMessage *m, size_t *ret_size);

/* Parse hostile bytes into the arena (its limit bounds the allocation); NULL when they are not such a message. */
ProtobufCMessage *pb_unpack(struct arena *arena, const ProtobufCMessageDescriptor *d, const void *data, size_t size);
