/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Writing JSON: valid UTF-8 whatever the strings hold, and harmless on a terminal. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct json {
	FILE *out;
	unsigned depth;
	bool flat; /* inside an array that is written on one line */
	bool markup; /* inside a page: what could be markup is escaped as well */
	bool comma, after_key;
};

#define JSON_INIT(file) ((struct json){ .out = (file) })

void json_open(struct json *j, char bracket);  /* '{' or '[' */
void json_close(struct json *j, char bracket); /* '}' or ']' */
void json_key(struct json *j, const char *key);
void json_u64(struct json *j, uint64_t value);
void json_i64(struct json *j, int64_t value);
void json_bool(struct json *j, bool value);
void json_string(struct json *j, const char *s); /* NULL: null. Bytes that are not UTF-8 become U+FFFD. */

/* A key with its value. */
void json_put_u64(struct json *j, const char *key, uint64_t value);
void json_put_bool(struct json *j, const char *key, bool value);
void json_put_string(struct json *j, const char *key, const char *s);

/* Bytes in hexadecimal. */
void json_data(struct json *j, const void *data, size_t size);
