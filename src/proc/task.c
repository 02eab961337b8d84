/* SPDX-License-Identifier: Apache-2.0 */
#include "proc/task.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>

#include "proc/scan.h"
#include "util/arena.h"

/* The numbers of proc_pid_stat(5). Ascending; fields not listed are only checked to be numbers. */
static const struct stat_field {
	unsigned number;
	size_t offset, size;
} stat_fields[] = {
#define STAT_FIELD(number, name)                                                                   \
	{                                                                                          \
		number, offsetof(struct proc_stat, name), sizeof((struct proc_stat){ 0 }.name)     \
	}
	STAT_FIELD(4, ppid),
	STAT_FIELD(5, pgrp),
	STAT_FIELD(6, sid),
	STAT_FIELD(7, tty_nr),
	STAT_FIELD(8, tpgid),
	STAT_FIELD(9, flags),
	STAT_FIELD(20, n_threads),
	STAT_FIELD(22, starttime),
	STAT_FIELD(26, start_code),
	STAT_FIELD(27, end_code),
	STAT_FIELD(28, start_stack),
	STAT_FIELD(38, exit_signal),
	STAT_FIELD(45, start_data),
	STAT_FIELD(46, end_data),
	STAT_FIELD(47, start_brk),
	STAT_FIELD(48, arg_start),
	STAT_FIELD(49, arg_end),
	STAT_FIELD(50, env_start),
	STAT_FIELD(51, env_end),
	STAT_FIELD(52, exit_code),
#undef STAT_FIELD
};

enum { STAT_FIRST = 4, STAT_LAST = 52 };

/*
 * The kernel prints all 32-bit fields as signed numbers, even those that are
 * not (tty_nr, exit_signal), and the 64-bit ones as unsigned.
 */
static bool stat_scan_field(const char **s, const struct stat_field *field, struct proc_stat *stat)
{
	char *to = (char *)stat + field->offset;
	uint64_t wide;
	int narrow;

	if (field->size == sizeof(wide)) {
		if (!scan_u64(s, 10, &wide))
			return false;
		memcpy(to, &wide, sizeof(wide));
	} else {
		if (!scan_int(s, &narrow))
			return false;
		memcpy(to, &narrow, sizeof(narrow));
	}
	return true;
}

static bool stat_skip_field(const char **s)
{
	uint64_t ignored;

	scan_char(s, '-');
	return scan_u64(s, 10, &ignored);
}

static bool stat_scan_fields(const char **s, struct proc_stat *stat)
{
	const struct stat_field *field = stat_fields;

	for (unsigned number = STAT_FIRST; number <= STAT_LAST; number++) {
		bool wanted = number == field->number;

		if (!scan_char(s, ' ') || !(wanted ? stat_scan_field(s, field, stat) : stat_skip_field(s)))
			return false;
		if (wanted && number != STAT_LAST)
			field++;
	}
	return **s == ' ' || scan_end(*s); /* newer kernels may have more */
}

/* " (comm)": ends at the last parenthesis of the text, for comm may hold any byte. */
static bool stat_scan_comm(const char **s, struct proc_stat *stat)
{
	const char *end = strrchr(*s, ')');
	size_t size;

	if (!scan_word(s, " (") || !end || end < *s)
		return false;
	size = (size_t)(end - *s);
	if (size >= sizeof(stat->comm))
		return false;
	memcpy(stat->comm, *s, size);
	*s = end + 1;
	return true;
}

static bool stat_scan_state(const char **s, struct proc_stat *stat)
{
	if (!scan_char(s, ' ') || !strchr("RSDZTtXxKWPI", **s) || !**s)
		return false;
	stat->state = *(*s)++;
	return true;
}

int proc_parse_stat(const char *text, struct proc_stat *ret)
{
	struct proc_stat stat = { 0 };

	if (!scan_pid(&text, &stat.pid) || !stat_scan_comm(&text, &stat) || !stat_scan_state(&text, &stat) ||
	    !stat_scan_fields(&text, &stat))
		return -EINVAL;
	/* Where the reader may not know, these two are shown as 1, all other addresses as 0. */
	if (stat.start_code == 1)
		stat.start_code = 0;
	if (stat.end_code == 1)
		stat.end_code = 0;
	*ret = stat;
	return 0;
}

static void pids_skip_space(const char **s)
{
	while (**s == ' ' || **s == '\t' || **s == '\n')
		(*s)++;
}

static bool limits_scan_value(const char **s, uint64_t *ret)
{
	scan_blanks(s);
	*ret = RLIM_INFINITY;
	return scan_word(s, "unlimited") || scan_u64(s, 10, ret);
}

/* One line per limit, in the order of their numbers; the values start in a fixed column. */
int proc_parse_limits(char *text, struct proc_limits *ret)
{
	enum { NAME_WIDTH = 26 };
	const char *line = scan_line(&text);

	if (!line || !scan_word(&line, "Limit "))
		return -EINVAL;
	for (int i = 0; i < PROC_LIMITS; i++) {
		line = scan_line(&text);
		if (!line || strlen(line) < NAME_WIDTH)
			return -EINVAL;
		line += NAME_WIDTH;
		if (!limits_scan_value(&line, &ret->soft[i]) || !limits_scan_value(&line, &ret->hard[i]))
			return -EINVAL;
	}
	return 0;
}

int proc_parse_pids(const char *text, struct arena *arena, pid_t **ret, size_t *ret_n)
{
	pid_t *pids = NULL;
	size_t n = 0;

	for (pids_skip_space(&text); *text; pids_skip_space(&text)) {
		pid_t pid;

		if (!scan_pid(&text, &pid) || !strchr(" \t\n", *text))
			return -EINVAL;
		pids = arena_grow(arena, pids, n, sizeof(*pids));
		if (!pids)
			return -ENOMEM;
		pids[n++] = pid;
	}
	*ret = pids;
	*ret_n = n;
	return 0;
}

uint64_t proc_auxv(const void *auxv, size_t size, uint64_t type)
{
	uint64_t entry[2];

	for (const char *p = auxv; size >= sizeof(entry); p += sizeof(entry), size -= sizeof(entry)) {
		memcpy(entry, p, sizeof(entry));
		if (entry[0] == type)
			return entry[1];
		if (entry[0] == 0) /* AT_NULL */
			break;
	}
	return 0;
}
