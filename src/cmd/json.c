/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/json.h"

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

void json_data(struct json *j, const void *data, size_t size)
{
	const unsigned char *bytes = data;

	json_separate(j);
	fputc('"', j->out);
	for (size_t i = 0; i < size; i++)
		fprintf(j->out, "%02x", bytes[i]);
	fputc('"', j->out);
	j->comma = true;
}
