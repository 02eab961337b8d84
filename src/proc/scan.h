/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The steps of the parsers in this folder. Each looks at **s; it moves *s
 * behind what it took and returns true, or returns false. None looks past a NUL
 * or a newline, and a number that does not fit its type is not a number.
 */

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static inline bool scan_char(const char **s, char c)
{
	if (**s != c)
		return false;
	(*s)++;
	return true;
}

static inline bool scan_word(const char **s, const char *word)
{
	size_t size = strlen(word);

	if (strncmp(*s, word, size) != 0)
		return false;
	*s += size;
	return true;
}

static inline void scan_blanks(const char **s)
{
	while (**s == ' ' || **s == '\t')
		(*s)++;
}

/* Nothing but blanks is left of the line. */
static inline bool scan_end(const char *s)
{
	scan_blanks(&s);
	return *s == '\0' || *s == '\n';
}

static inline unsigned scan_digit(char c)
{
	if (c >= '0' && c <= '9')
		return (unsigned)(c - '0');
	if (c >= 'a' && c <= 'f')
		return (unsigned)(c - 'a') + 10;
	return UINT_MAX;
}

static inline bool scan_u64(const char **s, unsigned base, uint64_t *ret)
{
	const char *p = *s;
	uint64_t value = 0;
	unsigned digit;

	for (; (digit = scan_digit(*p)) < base; p++)
		if (__builtin_mul_overflow(value, base, &value) || __builtin_add_overflow(value, digit, &value))
			return false;
	if (p == *s)
		return false;
	*s = p;
	*ret = value;
	return true;
}

static inline bool scan_u32(const char **s, unsigned base, uint32_t *ret)
{
	uint64_t value;

	if (!scan_u64(s, base, &value) || value > UINT32_MAX)
		return false;
	*ret = (uint32_t)value;
	return true;
}

static inline bool scan_s64(const char **s, int64_t *ret)
{
	bool negative = scan_char(s, '-');
	uint64_t value;

	if (!scan_u64(s, 10, &value) || value > (uint64_t)INT64_MAX + negative)
		return false;
	*ret = (int64_t)(negative ? -value : value);
	return true;
}

static inline bool scan_int(const char **s, int *ret)
{
	int64_t value;

	if (!scan_s64(s, &value) || value < INT_MIN || value > INT_MAX)
		return false;
	*ret = (int)value;
	return true;
}

/* A process number as seen from here; 0 stands for one outside this PID namespace. */
static inline bool scan_pid(const char **s, int *ret)
{
	return scan_int(s, ret) && *ret >= 0;
}

/* The next line of *text, NUL-terminated in place; NULL after the last. */
static inline char *scan_line(char **text)
{
	char *line = *text, *eol;

	if (!*line)
		return NULL;
	eol = strchrnul(line, '\n');
	*text = *eol ? eol + 1 : eol;
	*eol = '\0';
	return line;
}
