/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Text from images and from other processes, made harmless: a file name or a
 * command line may hold anything, also what a terminal takes for a command.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cmd/pool.h"

/*
 * The next character of *s, which moves behind it. Returns false at the end. A
 * byte that is not UTF-8 is returned as it is, with *ret_valid false.
 */
bool text_next(const char **s, uint32_t *ret_char, bool *ret_valid);

/* Control characters, and those that change the direction of text or cannot be seen. */
bool text_is_harmful(uint32_t c);

/* Does standard output understand UTF-8, as far as the environment says? */
bool text_utf8(void);

/* "1.2 GiB"; into buf, which is returned. */
const char *cmd_format_bytes(char buf[32], unsigned long long bytes);

/*
 * `s` for people, on one line: what is harmful or not printable becomes \xNN or
 * \u{N}, a backslash is doubled. At most `max` characters of it, then "...".
 * Lives in the pool; "" for NULL and when out of memory.
 */
const char *text_safe(struct pool *pool, const char *s, size_t max);
