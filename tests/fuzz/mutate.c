/* SPDX-License-Identifier: Apache-2.0 */
#include "mutate.h"

#include <string.h>

#include "core/objects.h"
#include "kinds/kind.h"

enum { MANY = 1000000 };

struct mutation {
	struct arena *arena;
	uint64_t state;
	uint64_t seen; /* fields passed so far, of which one is chosen */
	uint64_t wanted; /* which, counted from 1; 0: any */
	ProtobufCMessage *message;
	const ProtobufCFieldDescriptor *field;
	uint64_t numbers[64]; /* values that stand elsewhere in the image */
	size_t n_numbers;
};

static uint64_t chance(struct mutation *m, uint64_t below)
{
	m->state = m->state * 6364136223846793005u + 1442695040888963407u;
	return below ? (m->state >> 33) % below : 0;
}

static void *field_at(ProtobufCMessage *message, const ProtobufCFieldDescriptor *f)
{
	return (char *)message + f->offset;
}

static size_t *count_at(ProtobufCMessage *message, const ProtobufCFieldDescriptor *f)
{
	return (size_t *)((char *)message + f->quantifier_offset);
}

static size_t width(const ProtobufCFieldDescriptor *f)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	default:
		return 4;
	}
}

/* ---- choosing ---- */

static void choose_in(struct mutation *m, ProtobufCMessage *message);

static void choose_below(struct mutation *m, ProtobufCMessage *message, const ProtobufCFieldDescriptor *f)
{
	if (f->type != PROTOBUF_C_TYPE_MESSAGE)
		return;
	if (f->label != PROTOBUF_C_LABEL_REPEATED) {
		ProtobufCMessage *one = *(ProtobufCMessage **)field_at(message, f);

		if (one)
			choose_in(m, one);
		return;
	}
	for (size_t i = 0; i < *count_at(message, f); i++)
		choose_in(m, (*(ProtobufCMessage ***)field_at(message, f))[i]);
}

/* Each field has the same chance; those of a message with few of them in a large image as well. */
static void choose_in(struct mutation *m, ProtobufCMessage *message)
{
	const ProtobufCMessageDescriptor *d = message->descriptor;

	for (unsigned i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];

		m->seen++;
		if (m->wanted ? m->seen == m->wanted : chance(m, m->seen) == 0) {
			m->message = message;
			m->field = f;
		}
		if (f->label != PROTOBUF_C_LABEL_REPEATED && width(f) == 8 && f->type != PROTOBUF_C_TYPE_MESSAGE &&
		    f->type != PROTOBUF_C_TYPE_STRING)
			m->numbers[m->n_numbers++ % 64] = *(uint64_t *)field_at(message, f);
		choose_below(m, message, f);
	}
}

/* ---- changing ---- */

static uint64_t odd_number(struct mutation *m, uint64_t now)
{
	static const uint64_t odd[] = { 0, 1, 2, 63, 64, 255, 4095, 4096, 65536, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX,
					1ull << 31, 1ull << 47, 0x7ffffffff000, 0x200000000000, MANY };

	switch (chance(m, 5)) {
	case 0: return now + 1;
	case 1: return now - 1;
	case 2: return now ^ 1ull << chance(m, 64);
	case 3: return m->n_numbers ? m->numbers[chance(m, m->n_numbers < 64 ? m->n_numbers : 64)] : 0;
	default: return odd[chance(m, sizeof(odd) / sizeof(odd[0]))];
	}
}

static char *odd_string(struct mutation *m, const char *now)
{
	static const char *const odd[] = { "", "/", "..", "/proc/self/mem", "/dev/full", "%s%n", "\xff\xfe\x1b[2J", "/dev/zero",
					   "pipe:[1]", "/proc/1/environ" };
	char *changed;

	if (!now || !now[0] || chance(m, 2))
		return arena_strdup(m->arena, odd[chance(m, sizeof(odd) / sizeof(odd[0]))]);
	changed = arena_strdup(m->arena, now);
	if (chance(m, 2))
		changed[chance(m, strlen(now))] = (char)(1 + chance(m, 255));
	else
		changed[chance(m, strlen(now))] = '\0';
	return changed;
}

static void odd_bytes(struct mutation *m, ProtobufCBinaryData *b)
{
	size_t size = chance(m, 3) ? b->len : chance(m, 2) ? chance(m, b->len + 1) : b->len + chance(m, 64);
	uint8_t *data = arena_alloc(m->arena, size + 1);

	if (b->len && size)
		memcpy(data, b->data, size < b->len ? size : b->len);
	if (size)
		data[chance(m, size)] ^= (uint8_t)(1u << chance(m, 8));
	*b = (ProtobufCBinaryData){ size, data };
}

static void change_value(struct mutation *m, void *at, const ProtobufCFieldDescriptor *f)
{
	uint64_t number = 0;

	if (f->type == PROTOBUF_C_TYPE_STRING) {
		*(char **)at = odd_string(m, *(char **)at);
	} else if (f->type == PROTOBUF_C_TYPE_BYTES) {
		odd_bytes(m, at);
	} else if (f->type != PROTOBUF_C_TYPE_MESSAGE) {
		memcpy(&number, at, width(f));
		number = odd_number(m, number);
		memcpy(at, &number, width(f));
	}
}

static void change_list(struct mutation *m, ProtobufCMessage *message, const ProtobufCFieldDescriptor *f)
{
	size_t n = *count_at(message, f), each = width(f), from, to;
	char *old = *(char **)field_at(message, f), *list;

	if (!n)
		return;
	from = chance(m, n), to = chance(m, n);
	list = arena_alloc(m->arena, (n + 1) * each);
	memcpy(list, old, n * each);
	switch (chance(m, 4)) {
	case 0: /* one more, as one that is there */
		memcpy(list + n * each, old + from * each, each);
		*count_at(message, f) = n + 1;
		break;
	case 1: /* one less */
		memmove(list + from * each, list + (from + 1) * each, (n - from - 1) * each);
		*count_at(message, f) = n - 1;
		break;
	case 2: /* in another order */
		memcpy(list + from * each, old + to * each, each);
		memcpy(list + to * each, old + from * each, each);
		break;
	default:
		change_value(m, list + from * each, f);
	}
	*(char **)field_at(message, f) = list;
}

static void change_field(struct mutation *m)
{
	const ProtobufCFieldDescriptor *f = m->field;
	void *at = field_at(m->message, f);

	if (f->label == PROTOBUF_C_LABEL_REPEATED) {
		change_list(m, m->message, f);
	} else if (f->label == PROTOBUF_C_LABEL_OPTIONAL && chance(m, 3) == 0) {
		if (f->type == PROTOBUF_C_TYPE_MESSAGE || f->type == PROTOBUF_C_TYPE_STRING)
			*(void **)at = NULL;
		else
			*(protobuf_c_boolean *)count_at(m->message, f) ^= 1;
	} else {
		change_value(m, at, f);
	}
}

/* A field of the message that `body` holds. */
static void change_object(struct mutation *m, Pb__Object *o)
{
	struct err e = ERR_INIT;
	ProtobufCMessage *body = object_unpack(m->arena, o, &e);

	if (!body)
		return;
	m->field = NULL;
	choose_in(m, body);
	if (!m->field)
		return;
	change_field(m);
	o->body.data = pb_pack(m->arena, body, &o->body.len);
}

void mutate_image(Pb__Image *image, struct arena *arena, unsigned times, uint64_t seed)
{
	struct mutation m = { .arena = arena, .state = seed };

	for (unsigned i = 0; i < times; i++) {
		m.seen = 0;
		if (image->n_objects && chance(&m, 3) == 0) {
			change_object(&m, image->objects[chance(&m, image->n_objects)]);
			continue;
		}
		choose_in(&m, &image->base);
		change_field(&m);
	}
}

bool mutate_field(Pb__Image *image, struct arena *arena, uint64_t field, uint64_t seed)
{
	struct mutation m = { .arena = arena, .state = seed, .wanted = field + 1 };

	choose_in(&m, &image->base);
	if (m.field)
		change_field(&m);
	for (size_t i = 0; !m.field && i < image->n_objects; i++)
		change_object(&m, image->objects[i]);
	return m.field;
}
