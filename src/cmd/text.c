/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { ESCAPE_MAX = 12 };

/* How many bytes the UTF-8 sequence at `s` has; 0: it is none (overlong, surrogate, cut off ...). */
static size_t text_decode(const unsigned char *s, uint32_t *ret)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t n = s[0] < 0x80 ? 1 : s[0] >> 5 == 6 ? 2 : s[0] >> 4 == 14 ? 3 : s[0] >> 3 == 30 ? 4 : 0;
	uint32_t c = n == 1 ? s[0] : n ? s[0] & (0x7fu >> n) : 0;

	for (size_t i = 1; i < n; i++) {
		if (s[i] >> 6 != 2)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return 0;
	*ret = c;
	return n;
}

bool text_next(const char **s, uint32_t *ret_char, bool *ret_valid)
{
	const unsigned char *p = (const unsigned char *)*s;
	size_t n;

	if (!*p)
		return false;
	n = text_decode(p, ret_char);
	*ret_valid = n > 0;
	if (!n)
		*ret_char = *p;
	*s += n ? n : 1;
	return true;
}

bool text_is_harmful(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0xad || c == 0x061c || (c >= 0x200b && c <= 0x200f) ||
	       (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff ||
	       (c >= 0xfff0 && c <= 0xfffb) || (c >= 0xe0000 && c <= 0xe0fff);
}

bool text_utf8(void)
{
	static const char *const names[] = { "LC_ALL", "LC_CTYPE", "LANG" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const char *value = getenv(names[i]);

		if (value && value[0])
			return strcasestr(value, "utf-8") || strcasestr(value, "utf8");
	}
	return false;
}

const char *text_safe(struct pool *pool, const char *s, size_t max)
{
	size_t room = s ? strlen(s) * ESCAPE_MAX + 4 : 0, used = 0, n = 0;
	bool utf8 = text_utf8(), valid;
	const char *at = s;
	uint32_t c;
	char *out;

	if (s && room > max * ESCAPE_MAX + 4)
		room = max * ESCAPE_MAX + 4;
	out = s ? pool_alloc(pool, room) : NULL;
	if (!out)
		return "";
	while (text_next(&at, &c, &valid)) {
		if (n++ == max) {
			strcpy(out + used, "...");
			break;
		}
		if (!valid || text_is_harmful(c) || (c >= 0x80 && !utf8))
			used += (size_t)snprintf(out + used, room - used, c < 0x100 ? "\\x%02x" : "\\u{%x}", c);
		else if (c == '\\')
			used += (size_t)snprintf(out + used, room - used, "\\\\");
		else
			while (s < at)
				out[used++] = *s++;
		s = at;
	}
	return out;
}

const char *cmd_format_bytes(char buf[32], unsigned long long bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	double n = (double)bytes;
	size_t unit = 0;

	while (n >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0]))
		n /= 1024, unit++;
	snprintf(buf, 32, unit ? "%.1f %s" : "%.0f %s", n, units[unit]);
	return buf;
}
