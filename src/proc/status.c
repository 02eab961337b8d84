/* SPDX-License-Identifier: Apache-2.0 */
#include "proc/task.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "proc/scan.h"
#include "util/arena.h"

/* Each reads the value of one line, blanks before it skipped, into the field at `to`. */

static int status_octal(const char *s, void *to, struct arena *arena)
{
	(void)arena;
	return scan_u32(&s, 8, to) && scan_end(s) ? 0 : -EINVAL;
}

static int status_unsigned(const char *s, void *to, struct arena *arena)
{
	(void)arena;
	return scan_u32(&s, 10, to) && scan_end(s) ? 0 : -EINVAL;
}

static int status_pid(const char *s, void *to, struct arena *arena)
{
	(void)arena;
	return scan_pid(&s, to) && scan_end(s) ? 0 : -EINVAL;
}

static int status_mask(const char *s, void *to, struct arena *arena)
{
	(void)arena;
	return scan_u64(&s, 16, to) && scan_end(s) ? 0 : -EINVAL;
}

static int status_bool(const char *s, void *to, struct arena *arena)
{
	bool *flag = to;

	(void)arena;
	*flag = *s == '1';
	return (scan_char(&s, '0') || scan_char(&s, '1')) && scan_end(s) ? 0 : -EINVAL;
}

/* "14160 kB" */
static int status_kib(const char *s, void *to, struct arena *arena)
{
	uint64_t *bytes = to;

	(void)arena;
	if (!scan_u64(&s, 10, bytes) || !scan_word(&s, " kB") || !scan_end(s))
		return -EINVAL;
	return __builtin_mul_overflow(*bytes, 1024, bytes) ? -EINVAL : 0;
}

/* real, effective, saved, file system */
static int status_ids(const char *s, void *to, struct arena *arena)
{
	uint32_t *ids = to;

	(void)arena;
	for (size_t i = 0; i < 4; i++) {
		scan_blanks(&s);
		if (!scan_u32(&s, 10, &ids[i]))
			return -EINVAL;
	}
	return scan_end(s) ? 0 : -EINVAL;
}

/* `to` is the whole of struct proc_status for the two lists, which have a count beside them. */
static int status_groups(const char *s, void *to, struct arena *arena)
{
	struct proc_status *status = to;

	status->n_groups = 0;
	status->groups = NULL;
	for (; !scan_end(s); scan_blanks(&s)) {
		uint32_t gid;

		if (!scan_u32(&s, 10, &gid) || (*s != ' ' && !scan_end(s)))
			return -EINVAL;
		status->groups = arena_grow(arena, status->groups, status->n_groups, sizeof(gid));
		if (!status->groups)
			return -ENOMEM;
		status->groups[status->n_groups++] = gid;
	}
	return 0;
}

static int status_ns_pids(const char *s, void *to, struct arena *arena)
{
	struct proc_status *status = to;
	pid_t pid;

	(void)arena;
	for (status->ns_pids = 0; !scan_end(s); scan_blanks(&s)) {
		if (!scan_pid(&s, &pid) || (*s != '\t' && !scan_end(s)))
			return -EINVAL;
		if (status->ns_pids < sizeof(status->ns_pid) / sizeof(status->ns_pid[0]))
			status->ns_pid[status->ns_pids] = pid;
		status->ns_pids++;
	}
	return 0;
}

/*
 * Were a required line taken as 0 when missing, a task would come back as root
 * or with an empty mask. The others are missing on some kernels or for tasks
 * that have exited.
 */
static const struct status_key {
	const char *name;
	int (*parse)(const char *s, void *to, struct arena *arena);
	size_t offset;
	bool required;
} status_keys[] = {
#define STATUS_KEY(name, parse, field, required)                              \
	{                                                                     \
		name, parse, offsetof(struct proc_status, field), required    \
	}
	STATUS_KEY("Umask:", status_octal, umask, false),
	STATUS_KEY("TracerPid:", status_pid, tracer, true),
	STATUS_KEY("Uid:", status_ids, uid, true),
	STATUS_KEY("Gid:", status_ids, gid, true),
	{ "Groups:", status_groups, 0, true },
	{ "NSpid:", status_ns_pids, 0, false },
	STATUS_KEY("VmRSS:", status_kib, vm_rss, false),
	STATUS_KEY("THP_enabled:", status_bool, thp_enabled, false),
	STATUS_KEY("SigPnd:", status_mask, sig_pending, true),
	STATUS_KEY("ShdPnd:", status_mask, shd_pending, true),
	STATUS_KEY("SigBlk:", status_mask, sig_blocked, true),
	STATUS_KEY("SigIgn:", status_mask, sig_ignored, true),
	STATUS_KEY("SigCgt:", status_mask, sig_caught, true),
	STATUS_KEY("CapInh:", status_mask, cap_inh, true),
	STATUS_KEY("CapPrm:", status_mask, cap_prm, true),
	STATUS_KEY("CapEff:", status_mask, cap_eff, true),
	STATUS_KEY("CapBnd:", status_mask, cap_bnd, true),
	STATUS_KEY("CapAmb:", status_mask, cap_amb, false),
	STATUS_KEY("NoNewPrivs:", status_bool, no_new_privs, false),
	STATUS_KEY("Seccomp:", status_unsigned, seccomp, false),
#undef STATUS_KEY
};

enum { STATUS_KEYS = sizeof(status_keys) / sizeof(status_keys[0]) };

/* The index of the line's key, and *line moved to its value; STATUS_KEYS when unknown. */
static size_t status_find(const char **line)
{
	size_t i = 0;

	while (i < STATUS_KEYS && !scan_word(line, status_keys[i].name))
		i++;
	scan_blanks(line);
	return i;
}

static bool status_complete(const bool *seen)
{
	for (size_t i = 0; i < STATUS_KEYS; i++)
		if (status_keys[i].required && !seen[i])
			return false;
	return true;
}

int proc_parse_status(char *text, struct arena *arena, struct proc_status *ret)
{
	struct proc_status status = { 0 };
	bool seen[STATUS_KEYS] = { false };
	const char *line;

	while ((line = scan_line(&text))) {
		size_t i = status_find(&line);
		int r;

		if (i == STATUS_KEYS)
			continue;
		r = status_keys[i].parse(line, (char *)&status + status_keys[i].offset, arena);
		if (r)
			return r;
		seen[i] = true;
	}
	if (!status_complete(seen))
		return -EINVAL;
	*ret = status;
	return 0;
}
