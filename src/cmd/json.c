/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/json.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#include "cmd/text.h"

enum { INDENT = 2, REPLACEMENT = 0xfffd };

/* What stands before a value or a key: comma, line break. */
static void json_separate(struct json *j)
{
	if (j->after_key) {
		j->after_key = false;
		return;
	}
	if (j->comma)
		fputc(',', j->out);
	if (j->flat)
		fputs(j->comma ? " " : "", j->out);
	else if (j->depth)
		fprintf(j->out, "\n%*s", (int)(j->depth * INDENT), "");
}

void json_open(struct json *j, char bracket)
{
	json_separate(j);
	fputc(bracket, j->out);
	j->depth++;
	j->comma = false;
}

void json_close(struct json *j, char bracket)
{
	j->depth--;
	if (j->comma && !j->flat)
		fprintf(j->out, "\n%*s", (int)(j->depth * INDENT), "");
	fputc(bracket, j->out);
	j->comma = true;
	if (!j->depth)
		fputc('\n', j->out);
}

static bool json_must_escape(const struct json *j, uint32_t c)
{
	return text_is_harmful(c) || (j->markup && (c == '<' || c == '>' || c == '&'));
}

static void json_quote(struct json *j, const char *s)
{
	const char *from = s;
	uint32_t c;
	bool valid;

	fputc('"', j->out);
	while (text_next(&s, &c, &valid)) {
		if (!valid)
			c = REPLACEMENT;
		if (c == '"' || c == '\\')
			fprintf(j->out, "\\%c", (int)c);
		else if (!valid || (json_must_escape(j, c) && c < 0x10000))
			fprintf(j->out, "\\u%04" PRIx32, c);
		else if (json_must_escape(j, c))
			fprintf(j->out, "\\u%04" PRIx32 "\\u%04" PRIx32, 0xd800 + ((c - 0x10000) >> 10), 0xdc00 + (c & 0x3ff));
		else
			fwrite(from, 1, (size_t)(s - from), j->out);
		from = s;
	}
	fputc('"', j->out);
}

void json_key(struct json *j, const char *key)
{
	json_separate(j);
	json_quote(j, key);
	fputs(": ", j->out);
	j->comma = j->after_key = true;
}

void json_u64(struct json *j, uint64_t value)
{
	json_separate(j);
	fprintf(j->out, "%" PRIu64, value);
	j->comma = true;
}

void json_i64(struct json *j, int64_t value)
{
	json_separate(j);
	fprintf(j->out, "%" PRId64, value);
	j->comma = true;
}

void json_bool(struct json *j, bool value)
{
	json_separate(j);
	fputs(value ? "true" : "false", j->out);
	j->comma = true;
}

void json_string(struct json *j, const char *s)
{
	json_separate(j);
	if (s)
		json_quote(j, s);
	else
		fputs("null", j->out);
	j->comma = true;
}

void json_put_u64(struct json *j, const char *key, uint64_t value)
{
	json_key(j, key);
	json_u64(j, value);
}

void json_put_bool(struct json *j, const char *key, bool value)
{
	json_key(j, key);
	json_bool(j, value);
}

void json_put_string(struct json *j, const char *key, const char *s)
{
	json_key(j, key);
	json_string(j, s);
}

/* ---- protobuf ---- */

static void json_hex(struct json *j, const ProtobufCBinaryData *bytes)
{
	json_separate(j);
	fputc('"', j->out);
	for (size_t i = 0; i < bytes->len; i++)
		fprintf(j->out, "%02x", bytes->data[i]);
	fputc('"', j->out);
	j->comma = true;
}

/* A value that this torpor has no name for is shown as the number. */
static void json_enum(struct json *j, const ProtobufCEnumDescriptor *d, int value)
{
	const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(d, value);
	char name[64];
	size_t n;

	if (!v) {
		json_i64(j, value);
		return;
	}
	for (n = 0; v->name[n] && n + 1 < sizeof(name); n++)
		name[n] = (char)tolower((unsigned char)v->name[n]);
	name[n] = '\0';
	json_string(j, name);
}

static void json_value(struct json *j, const ProtobufCFieldDescriptor *f, const void *at, const struct json_hooks *hooks)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		json_i64(j, *(const int32_t *)at);
		break;
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		json_u64(j, *(const uint32_t *)at);
		break;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		json_i64(j, *(const int64_t *)at);
		break;
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		json_u64(j, *(const uint64_t *)at);
		break;
	case PROTOBUF_C_TYPE_BOOL:
		json_bool(j, *(const protobuf_c_boolean *)at);
		break;
	case PROTOBUF_C_TYPE_ENUM:
		json_enum(j, f->descriptor, *(const int *)at);
		break;
	case PROTOBUF_C_TYPE_STRING:
		json_string(j, *(const char *const *)at);
		break;
	case PROTOBUF_C_TYPE_BYTES:
		json_hex(j, at);
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		json_message(j, *(const ProtobufCMessage *const *)at, hooks);
		break;
	default: /* the schema uses no floating point */
		json_string(j, NULL);
	}
}

static size_t json_value_size(ProtobufCType type)
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

static void json_repeated(struct json *j, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f,
			  const struct json_hooks *hooks)
{
	size_t n = *(const size_t *)((const char *)m + f->quantifier_offset);
	const char *values = *(const char *const *)((const char *)m + f->offset);
	bool one_line = f->type != PROTOBUF_C_TYPE_MESSAGE && !j->flat;

	json_open(j, '[');
	if (one_line)
		j->flat = true;
	for (size_t i = 0; i < n; i++)
		json_value(j, f, values + i * json_value_size(f->type), hooks);
	json_close(j, ']');
	if (one_line)
		j->flat = false;
}

static bool json_is_set(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	const char *base = (const char *)m;

	if (f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_MESSAGE)
		return *(void *const *)(base + f->offset) != NULL;
	return f->label != PROTOBUF_C_LABEL_OPTIONAL || *(const protobuf_c_boolean *)(base + f->quantifier_offset);
}

void json_message(struct json *j, const ProtobufCMessage *m, const struct json_hooks *hooks)
{
	json_open(j, '{');
	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		bool repeated = f->label == PROTOBUF_C_LABEL_REPEATED;

		if (!repeated && !json_is_set(m, f))
			continue;
		json_key(j, f->name);
		if (hooks && hooks->field && hooks->field(hooks->data, j, m, f))
			continue;
		if (repeated)
			json_repeated(j, m, f, hooks);
		else
			json_value(j, f, (const char *)m + f->offset, hooks);
	}
	if (hooks && hooks->extra)
		hooks->extra(hooks->data, j, m);
	json_close(j, '}');
}
