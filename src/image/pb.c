/* SPDX-License-Identifier: Apache-2.0 */
#include "image/pb.h"

#include <string.h>

static void *pb_arena_alloc(void *arena, size_t size)
{
	return arena_alloc(arena, size);
}

static void pb_arena_free(void *arena, void *p)
{
	(void)arena, (void)p; /* freed with the arena */
}

bool pb_same_bytes(const ProtobufCBinaryData *a, const void *bytes, size_t size)
{
	return a->len == size && (!size || memcmp(a->data, bytes, size) == 0);
}

size_t pb_xstate_size(const Pb__Thread *th)
{
	if (!th->xstate.len)
		return 0;
	return th->xstate_size > th->xstate.len ? th->xstate_size : th->xstate.len;
}

size_t pb_xstate(const Pb__Thread *th, void *buf, size_t room)
{
	size_t size = pb_xstate_size(th);

	if (!size || size > room)
		return 0;
	memset(buf, 0, size);
	memcpy(buf, th->xstate.data, th->xstate.len);
	return size;
}

uint8_t *pb_pack(struct arena *arena, const ProtobufCMessage *m, size_t *ret_size)
{
	size_t size = protobuf_c_message_get_packed_size(m);
	uint8_t *data = arena_alloc(arena, size ? size : 1);

	if (data)
		*ret_size = protobuf_c_message_pack(m, data);
	return data;
}

ProtobufCMessage *pb_unpack(struct arena *arena, const ProtobufCMessageDescriptor *d, const void *data, size_t size)
{
	ProtobufCAllocator allocator = { pb_arena_alloc, pb_arena_free, arena };

	return protobuf_c_message_unpack(d, &allocator, size, data);
}
