/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor_image_walk(): the messages of the schema as a row of items, with what is known beside them. Names are the
 * schema's, enums are told by name in small letters, and absent optional fields are left out.
 */

#include <ctype.h>
#include <string.h>

#include "api/image.h"

enum { FORMAT = 1 /* of doc/inspect.schema.json */, NAME_SIZE = 64 };

struct walk {
	struct torpor_image *v;
	void (*visit)(void *data, const struct torpor_item *item);
	void *data;
	const char *key; /* of the next item */
	size_t space_at, mapping_at, inode_at, object_at; /* where we are */
};

/* ---- items ---- */

static void walk_item(struct walk *w, struct torpor_item item)
{
	item.key = item.type == TORPOR_END ? NULL : w->key;
	w->key = NULL;
	w->visit(w->data, &item);
}

static void walk_begin(struct walk *w, const char *key, enum torpor_item_type type)
{
	w->key = key;
	walk_item(w, (struct torpor_item){ .type = type });
}

static void walk_end(struct walk *w)
{
	walk_item(w, (struct torpor_item){ .type = TORPOR_END });
}

static void walk_u64(struct walk *w, const char *key, uint64_t number)
{
	w->key = key;
	walk_item(w, (struct torpor_item){ .type = TORPOR_UNSIGNED, .number = number });
}

static void walk_string(struct walk *w, const char *key, const char *s)
{
	w->key = key;
	walk_item(w, (struct torpor_item){ .type = TORPOR_STRING, .string = s });
}

/* ---- messages ---- */

static void walk_message(struct walk *w, const ProtobufCMessage *m, bool plain);

/* A value that this torpor has no name for is told as the number. */
static void walk_enum(struct walk *w, const ProtobufCEnumDescriptor *d, int value)
{
	const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(d, value);
	char name[NAME_SIZE];
	size_t n;

	if (!v) {
		walk_item(w, (struct torpor_item){ .type = TORPOR_SIGNED, .signed_number = value });
		return;
	}
	for (n = 0; v->name[n] && n + 1 < sizeof(name); n++)
		name[n] = (char)tolower((unsigned char)v->name[n]);
	name[n] = '\0';
	walk_item(w, (struct torpor_item){ .type = TORPOR_STRING, .string = name });
}

static void walk_value(struct walk *w, const ProtobufCFieldDescriptor *f, const void *at, bool plain)
{
	struct torpor_item item = { .type = TORPOR_UNSIGNED };

	switch (f->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		item.type = TORPOR_SIGNED;
		item.signed_number = *(const int32_t *)at;
		break;
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		item.number = *(const uint32_t *)at;
		break;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		item.type = TORPOR_SIGNED;
		item.signed_number = *(const int64_t *)at;
		break;
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		item.number = *(const uint64_t *)at;
		break;
	case PROTOBUF_C_TYPE_BOOL:
		item.type = TORPOR_BOOLEAN;
		item.number = *(const protobuf_c_boolean *)at;
		break;
	case PROTOBUF_C_TYPE_ENUM:
		walk_enum(w, f->descriptor, *(const int *)at);
		return;
	case PROTOBUF_C_TYPE_STRING:
		item.type = TORPOR_STRING;
		item.string = *(const char *const *)at;
		break;
	case PROTOBUF_C_TYPE_BYTES:
		item.type = TORPOR_DATA;
		item.data = ((const ProtobufCBinaryData *)at)->data;
		item.size = ((const ProtobufCBinaryData *)at)->len;
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		walk_message(w, *(const ProtobufCMessage *const *)at, plain);
		return;
	default: /* the schema uses no floating point */
		item.type = TORPOR_STRING;
	}
	walk_item(w, item);
}

static size_t walk_value_size(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		return sizeof(uint64_t);
	case PROTOBUF_C_TYPE_BOOL:
		return sizeof(protobuf_c_boolean);
	case PROTOBUF_C_TYPE_ENUM:
		return sizeof(int);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	default:
		return sizeof(uint32_t);
	}
}

static void walk_repeated(struct walk *w, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, bool plain)
{
	size_t n = *(const size_t *)((const char *)m + f->quantifier_offset);
	const char *values = *(const char *const *)((const char *)m + f->offset);

	walk_item(w, (struct torpor_item){ .type = TORPOR_ARRAY, .simple = f->type != PROTOBUF_C_TYPE_MESSAGE });
	for (size_t i = 0; i < n; i++)
		walk_value(w, f, values + i * walk_value_size(f->type), plain);
	walk_end(w);
}

static bool walk_is_set(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	const char *base = (const char *)m;

	if (f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_MESSAGE)
		return *(void *const *)(base + f->offset) != NULL;
	return f->label != PROTOBUF_C_LABEL_OPTIONAL || *(const protobuf_c_boolean *)(base + f->quantifier_offset);
}

/* ---- what is known beside them ---- */

/* An object's body is the message of its kind, not a row of bytes. */
static bool walk_body(struct walk *w, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	struct arena scratch;
	ProtobufCMessage *body;

	if (m->descriptor != &pb__object__descriptor || strcmp(f->name, "body") != 0)
		return false;
	body = api_image_unpack((const Pb__Object *)m, &scratch);
	if (body)
		walk_message(w, body, true);
	arena_done(&scratch);
	return body != NULL;
}

static void walk_object(struct walk *w, const Pb__Object *o)
{
	const struct torpor_holder *h;
	size_t at = w->object_at++;

	walk_string(w, "kind_name", api_image_kind(o));
	walk_string(w, "description", torpor_image_describe(w->v, at));
	walk_begin(w, "slots", TORPOR_ARRAY);
	for (size_t i = 0; (h = torpor_image_holder(w->v, at, i)); i++) {
		walk_begin(w, NULL, TORPOR_OBJECT);
		walk_u64(w, "task", h->task);
		walk_u64(w, "fd", (uint32_t)h->fd);
		walk_end(w);
	}
	walk_end(w);
}

/* We come by in the order of the message: spaces with their mappings, inodes, objects. */
static void walk_extra(struct walk *w, const ProtobufCMessage *m)
{
	const struct torpor_image *v = w->v;

	if (m->descriptor == &pb__mapping__descriptor) {
		walk_u64(w, "stored_bytes", v->mappings[w->space_at][w->mapping_at++].stored_bytes);
	} else if (m->descriptor == &pb__address_space__descriptor) {
		walk_u64(w, "stored_bytes", v->spaces[w->space_at++].stored_bytes);
		w->mapping_at = 0;
	} else if (m->descriptor == &pb__inode__descriptor) {
		walk_u64(w, "stored_bytes", v->inodes[w->inode_at++].stored_bytes);
	} else if (m->descriptor == &pb__object__descriptor) {
		walk_object(w, (const Pb__Object *)m);
	}
}

/* `plain`: inside of an object's state, where nothing is known beside it. */
static void walk_message(struct walk *w, const ProtobufCMessage *m, bool plain)
{
	walk_item(w, (struct torpor_item){ .type = TORPOR_OBJECT });
	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		bool repeated = f->label == PROTOBUF_C_LABEL_REPEATED;

		if (!repeated && !walk_is_set(m, f))
			continue;
		w->key = f->name;
		if (!plain && walk_body(w, m, f))
			continue;
		if (repeated)
			walk_repeated(w, m, f, plain);
		else
			walk_value(w, f, (const char *)m + f->offset, plain);
	}
	if (!plain)
		walk_extra(w, m);
	walk_end(w);
}

static void walk_last_restore(struct walk *w)
{
	const struct torpor_phase *phase;

	if (!w->v->info.restored_ns)
		return;
	walk_begin(w, "last_restore", TORPOR_OBJECT);
	walk_u64(w, "realtime_ns", (uint64_t)w->v->info.restored_ns);
	for (size_t i = 0; (phase = torpor_image_phase(w->v, i)); i++)
		walk_u64(w, phase->key, phase->ns);
	walk_end(w);
}

int torpor_image_walk(struct torpor_image *image, void (*visit)(void *data, const struct torpor_item *item), void *data,
		      struct torpor_error **error)
{
	struct walk w = { .v = image, .visit = visit, .data = data };

	(void)error;
	walk_begin(&w, NULL, TORPOR_OBJECT);
	walk_u64(&w, "format", FORMAT);
	if (image->damage)
		walk_string(&w, "damage", image->damage->err.text);
	walk_begin(&w, "file", TORPOR_OBJECT);
	walk_string(&w, "path", image->info.path);
	walk_u64(&w, "bytes", image->info.bytes);
	walk_u64(&w, "metadata_bytes", image->info.metadata_bytes);
	walk_u64(&w, "extents", image->info.extents);
	walk_u64(&w, "runs", image->info.runs);
	walk_end(&w);
	walk_last_restore(&w);
	w.key = "image";
	walk_message(&w, &image->meta->base, false);
	walk_end(&w);
	return 0;
}
