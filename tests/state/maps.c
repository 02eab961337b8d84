/* SPDX-License-Identifier: Apache-2.0 */
#include "maps.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"

enum { ROWS = 8192, TEXT_SIZE = 16 << 20, NAME_SIZE = 120, FLAGS = 40 };

struct row {
	unsigned long start, end, offset, ino;
	char perms[5], name[NAME_SIZE], flags[FLAGS * 3];
};

/* Static: what is allocated would change what is looked at. */
static struct row remembered[ROWS], current[ROWS];
static size_t n_remembered;
static char text[TEXT_SIZE];

/*
 * Those that mean nothing to a program: soft-dirty, and "shared" of a mapping that cannot be written to (it tells how
 * its file was opened).
 */
static const char *const derived[] = { "sd", "sh" };

static void read_smaps(void)
{
	int fd = (int)check_call(open("/proc/self/smaps", O_RDONLY));
	size_t size = 0;
	ssize_t n;

	while ((n = check_call(read(fd, text + size, TEXT_SIZE - 1 - size))) > 0)
		size += (size_t)n;
	check(size < TEXT_SIZE - 1);
	text[size] = '\0';
	close(fd);
}

static void keep_flags(struct row *r, char *list)
{
	r->flags[0] = '\0';
	for (char *flag = strtok(list, " "); flag; flag = strtok(NULL, " ")) {
		bool keep = true;

		for (size_t i = 0; i < sizeof(derived) / sizeof(derived[0]); i++)
			keep = keep && strcmp(flag, derived[i]) != 0;
		if (keep && strlen(r->flags) + 4 < sizeof(r->flags))
			strcat(strcat(r->flags, flag), " ");
	}
}

/* The file may be another inode where it has no name. */
static void scan_row(struct row *r, const char *line)
{
	char dev[32];

	r->name[0] = '\0';
	sscanf(line, "%lx-%lx %4s %lx %31s %lu %119[^\n]", &r->start, &r->end, r->perms, &r->offset, dev, &r->ino, r->name);
	if (strstr(r->name, " (deleted)") || strcmp(r->name, "[stack]") == 0 || strcmp(r->name, "[heap]") == 0)
		r->ino = 0;
	if (!r->name[0] || r->name[0] == '[' || strncmp(r->name, "/anon_hugepage", 14) == 0)
		r->offset = 0; /* of no file that anybody could have opened */
}

static bool can_merge(const struct row *a, const struct row *b)
{
	return a->end == b->start && strcmp(a->perms, b->perms) == 0 && a->ino == b->ino && strcmp(a->name, b->name) == 0 &&
	       strcmp(a->flags, b->flags) == 0 && (!a->name[0] || a->offset + (a->end - a->start) == b->offset);
}

static size_t parse(struct row *rows)
{
	size_t n = 0;

	read_smaps();
	for (char *line = text, *next; *line; line = next) {
		next = strchr(line, '\n');
		*next++ = '\0';
		if ((*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f')) {
			check(n < ROWS);
			scan_row(&rows[n++], line);
		} else if (strncmp(line, "VmFlags:", 8) == 0) {
			keep_flags(&rows[n - 1], line + 8);
			if (n > 1 && can_merge(&rows[n - 2], &rows[n - 1])) {
				rows[n - 2].end = rows[n - 1].end;
				n--;
			}
		}
	}
	return n;
}

/* Below what grows by itself. */
static bool grows(const struct row *r)
{
	return strstr(r->flags, "gd ") != NULL;
}

static bool same(const struct row *a, const struct row *b)
{
	return (a->start == b->start || grows(a)) && a->end == b->end && a->offset == b->offset && a->ino == b->ino &&
	       strcmp(a->perms, b->perms) == 0 && strcmp(a->name, b->name) == 0 && strcmp(a->flags, b->flags) == 0;
}

static void describe(char *to, size_t size, const struct row *r)
{
	snprintf(to, size, "%lx-%lx %s %lx %lu %s [%s]", r->start, r->end, r->perms, r->offset, r->ino, r->name, r->flags);
}

void maps_make_heap(void)
{
	void *volatile p = malloc(10000);

	free(p);
}

void maps_remember(void)
{
	n_remembered = parse(remembered);
}

void maps_verify(void)
{
	size_t n = parse(current);

	for (size_t i = 0; i < n && i < n_remembered; i++) {
		char was[400], is[400], what[900];

		if (same(&remembered[i], &current[i]))
			continue;
		describe(was, sizeof(was), &remembered[i]);
		describe(is, sizeof(is), &current[i]);
		snprintf(what, sizeof(what), "mapping %s was %s", is, was);
		fprintf(stderr, "%s\n", what);
		check_failed("maps.c", (int)i, what, -1);
	}
	check(n == n_remembered);
}
