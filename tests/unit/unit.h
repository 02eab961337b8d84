/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A unit test is one program with a table of cases:
 *
 *	static void adds(void)
 *	{
 *		UNIT_CHECK_EQ(add(1, 2), 3);
 *	}
 *
 *	UNIT_MAIN(UNIT_CASE(adds))
 *
 * It prints "ok NAME" or "not ok NAME: file:line: expression" for each case and
 * exits 0 or 1. With arguments it runs only the cases named. A failed check
 * returns from the (void) function it stands in; the first failure is the one
 * reported. Checks belong to the main thread.
 */

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct unit_case {
	const char *name;
	void (*run)(void);
};

static char unit_failure[1024];

__attribute__((format(printf, 3, 4), unused)) static void unit_fail(const char *file, int line,
								     const char *fmt, ...)
{
	va_list args;
	int at;

	if (unit_failure[0])
		return;
	at = snprintf(unit_failure, sizeof(unit_failure), "%s:%d: ", file, line);
	if (at < 0 || (size_t)at >= sizeof(unit_failure))
		return;
	va_start(args, fmt);
	vsnprintf(unit_failure + at, sizeof(unit_failure) - (size_t)at, fmt, args);
	va_end(args);
}

__attribute__((unused)) static bool unit_str_eq(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

/* The case goes on only where `expr` holds. */
#define UNIT_CHECK(expr)                                              \
	do {                                                          \
		if (!(expr)) {                                        \
			unit_fail(__FILE__, __LINE__, "%s", #expr);   \
			return;                                       \
		}                                                     \
	} while (0)

/* Integers of any type, shown signed and in hexadecimal. */
#define UNIT_CHECK_EQ(a, b)                                                                            \
	do {                                                                                           \
		__auto_type unit_a = (a);                                                              \
		__auto_type unit_b = (b);                                                              \
		if ((uintmax_t)unit_a != (uintmax_t)unit_b) {                                          \
			unit_fail(__FILE__, __LINE__,                                                  \
				  "%s == %s: %" PRIdMAX " (%#" PRIxMAX ") != %" PRIdMAX " (%#" PRIxMAX ")", \
				  #a, #b, (intmax_t)unit_a, (uintmax_t)unit_a, (intmax_t)unit_b,       \
				  (uintmax_t)unit_b);                                                  \
			return;                                                                        \
		}                                                                                      \
	} while (0)

/* Strings; NULL equals only NULL. */
#define UNIT_CHECK_STR(a, b)                                                                        \
	do {                                                                                        \
		const char *unit_a = (a);                                                           \
		const char *unit_b = (b);                                                           \
		if (!unit_str_eq(unit_a, unit_b)) {                                                 \
			unit_fail(__FILE__, __LINE__, "%s == %s: \"%s\" != \"%s\"", #a, #b,         \
				  unit_a ? unit_a : "(null)", unit_b ? unit_b : "(null)");          \
			return;                                                                     \
		}                                                                                   \
	} while (0)

#define UNIT_CASE(function) { #function, function }

__attribute__((unused)) static bool unit_wanted(const char *name, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], name))
			return true;
	}
	return argc < 2;
}

__attribute__((unused)) static int unit_run(const struct unit_case *cases, size_t n, int argc, char **argv)
{
	int failed = 0;

	for (size_t i = 0; i < n; i++) {
		if (!unit_wanted(cases[i].name, argc, argv))
			continue;
		unit_failure[0] = '\0';
		cases[i].run();
		if (unit_failure[0]) {
			printf("not ok %s: %s\n", cases[i].name, unit_failure);
			failed = 1;
		} else {
			printf("ok %s\n", cases[i].name);
		}
		fflush(stdout);
	}
	return failed;
}

#define UNIT_MAIN(...)                                                                       \
	int main(int argc, char **argv)                                                      \
	{                                                                                    \
		static const struct unit_case cases[] = { __VA_ARGS__ };                     \
                                                                                             \
		return unit_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);        \
	}
