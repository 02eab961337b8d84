/* SPDX-License-Identifier: Apache-2.0 */
#include "proc/maps.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "proc/scan.h"
#include "util/arena.h"

/*
 * smaps of a big process is tens of megabytes, read while the process stands
 * still, so every line but the few that matter is only searched for its end.
 */

#define MAPS_FLAG(a, b) ((unsigned)(a) << 8 | (unsigned)(b))

static unsigned maps_flag(unsigned char a, unsigned char b)
{
	switch (MAPS_FLAG(a, b)) {
	case MAPS_FLAG('g', 'd'): return VM_FLAG_GROWSDOWN;
	case MAPS_FLAG('l', 'o'): return VM_FLAG_LOCKED;
	case MAPS_FLAG('l', 'f'): return VM_FLAG_LOCKONFAULT;
	case MAPS_FLAG('d', 'c'): return VM_FLAG_DONTFORK;
	case MAPS_FLAG('d', 'd'): return VM_FLAG_DONTDUMP;
	case MAPS_FLAG('w', 'f'): return VM_FLAG_WIPEONFORK;
	case MAPS_FLAG('h', 'g'): return VM_FLAG_HUGEPAGE;
	case MAPS_FLAG('n', 'h'): return VM_FLAG_NOHUGEPAGE;
	case MAPS_FLAG('m', 'g'): return VM_FLAG_MERGEABLE;
	case MAPS_FLAG('n', 'r'): return VM_FLAG_NORESERVE;
	case MAPS_FLAG('h', 't'): return VM_FLAG_HUGETLB;
	case MAPS_FLAG('s', 'r'): return VM_FLAG_SEQ_READ;
	case MAPS_FLAG('r', 'r'): return VM_FLAG_RAND_READ;
	case MAPS_FLAG('s', 'l'): return VM_FLAG_SEALED;
	case MAPS_FLAG('u', 'm'):
	case MAPS_FLAG('u', 'w'):
	case MAPS_FLAG('u', 'i'): return VM_FLAG_UFFD;
	case MAPS_FLAG('s', 's'): return VM_FLAG_SHADOW_STACK;
	case MAPS_FLAG('i', 'o'):
	case MAPS_FLAG('p', 'f'): return VM_FLAG_IO;
	case MAPS_FLAG('d', 'p'): return VM_FLAG_DROPPABLE;
	case MAPS_FLAG('m', 's'): return VM_FLAG_MAYSHARE;
	case MAPS_FLAG('m', 'w'): return VM_FLAG_MAYWRITE;
	case MAPS_FLAG('a', 'c'): return VM_FLAG_ACCOUNT;
	case MAPS_FLAG('?', '?'): return VM_FLAG_UNNAMED;
	default: return 0;
	}
}

/* "rd wr mr mw me ac ": the kernel ends each pair of letters with a space. */
static bool maps_scan_flags(const char *s, struct vm_area *area)
{
	for (scan_blanks(&s); !scan_end(s); scan_blanks(&s)) {
		if (scan_end(s + 1))
			return false;
		area->flags |= maps_flag((unsigned char)s[0], (unsigned char)s[1]);
		s += 2;
		if (*s != ' ' && !scan_end(s))
			return false;
	}
	/* Linux 6.1 has no letters for it, and no other flag without letters goes with locked memory. */
	if ((area->flags & VM_FLAG_LOCKED) && (area->flags & VM_FLAG_UNNAMED))
		area->flags |= VM_FLAG_LOCKONFAULT;
	area->flags &= ~(unsigned)VM_FLAG_UNNAMED;
	return true;
}

static bool maps_scan_letter(const char **s, char letter, bool *ret)
{
	*ret = **s == letter;
	return scan_char(s, *ret ? letter : '-');
}

/* "rwxp" */
static bool maps_scan_perms(const char **s, struct vm_area *area)
{
	bool r, w, x;

	if (!maps_scan_letter(s, 'r', &r) || !maps_scan_letter(s, 'w', &w) || !maps_scan_letter(s, 'x', &x))
		return false;
	area->prot = (r ? PROT_READ : 0u) | (w ? PROT_WRITE : 0u) | (x ? PROT_EXEC : 0u);
	if (scan_char(s, 's'))
		area->flags |= VM_FLAG_SHARED;
	else if (!scan_char(s, 'p'))
		return false;
	return true;
}

static bool maps_scan_dev(const char **s, struct vm_area *area)
{
	uint32_t major, minor;

	if (!scan_u32(s, 16, &major) || !scan_char(s, ':') || !scan_u32(s, 16, &minor))
		return false;
	area->dev = makedev(major, minor);
	return true;
}

/* The kernel writes a newline in a name as \012 and escapes nothing else, not even the backslash. */
static void maps_unescape(char *name)
{
	char *from = strstr(name, "\\012"), *to = from;

	if (!from)
		return;
	while (*from) {
		if (strncmp(from, "\\012", 4) == 0) {
			*to++ = '\n';
			from += 4;
		} else {
			*to++ = *from++;
		}
	}
	*to = '\0';
}

static void maps_set_name(char *name, char *eol, struct vm_area *area)
{
	static const char deleted[] = " (deleted)";
	size_t size = (size_t)(eol - name), cut = sizeof(deleted) - 1;

	area->deleted = size > cut && memcmp(eol - cut, deleted, cut) == 0;
	if (area->deleted)
		eol -= cut;
	*eol = '\0';
	maps_unescape(name);
	area->name = name;
}

/* "start-end perms offset major:minor inode   name" */
static bool maps_scan_header(char *line, char *eol, struct vm_area *area)
{
	const char *s = line;

	if (!scan_u64(&s, 16, &area->start) || !scan_char(&s, '-') || !scan_u64(&s, 16, &area->end) ||
	    !scan_char(&s, ' ') || !maps_scan_perms(&s, area) ||
	    !scan_char(&s, ' ') || !scan_u64(&s, 16, &area->offset) ||
	    !scan_char(&s, ' ') || !maps_scan_dev(&s, area) ||
	    !scan_char(&s, ' ') || !scan_u64(&s, 10, &area->ino))
		return false;
	if (area->start >= area->end || (s != eol && *s != ' '))
		return false;
	scan_blanks(&s);
	maps_set_name(line + (s - line), eol, area);
	return true;
}

/* Addresses are in lower-case hexadecimal, keys begin with a capital. */
static bool maps_is_header(const char *line)
{
	return scan_digit(*line) < 16;
}

static bool maps_is_key(const char *line)
{
	return *line >= 'A' && *line <= 'Z';
}

/*
 * The kernel looks for each next mapping behind the end of the one before. Of a program that runs, it may have grown together with that
 * meanwhile: what was told first stays, and the mapping begins behind it.
 */
static void maps_cut_told(struct vm_area *area, const struct vm_area_list *list)
{
	uint64_t told = list->n ? list->areas[list->n - 1].end : 0;

	if (area->start >= told || area->end <= told)
		return;
	if (area->ino)
		area->offset += told - area->start;
	area->start = told;
}

static int maps_add(char *line, char *eol, struct arena *arena, struct vm_area_list *list)
{
	struct vm_area area = { 0 };
	struct vm_area *areas;

	if (!maps_scan_header(line, eol, &area))
		return -EINVAL;
	maps_cut_told(&area, list);
	areas = arena_grow(arena, list->areas, list->n, sizeof(*areas));
	if (!areas)
		return -ENOMEM;
	areas[list->n++] = area;
	list->areas = areas;
	return 0;
}

static bool maps_scan_page_size(const char *s, struct vm_area *area)
{
	scan_blanks(&s);
	if (!scan_u64(&s, 10, &area->page_size) || __builtin_mul_overflow(area->page_size, 1024, &area->page_size))
		return false;
	scan_blanks(&s);
	return scan_word(&s, "kB") && scan_end(s);
}

/* "Shared_Clean:          0 kB", and the like. What is swapped out may be shared as well, which no line tells. */
static bool maps_scan_shared(const char *s, struct vm_area *area)
{
	uint64_t kib;

	while (!scan_end(s) && *s != ':')
		s++;
	if (!scan_char(&s, ':'))
		return false;
	scan_blanks(&s);
	if (!scan_u64(&s, 10, &kib))
		return false;
	area->alone &= !kib;
	return true;
}

/* A line of smaps below a mapping's header. */
static int maps_add_key(const char *line, struct vm_area_list *list)
{
	if (!maps_is_key(line) || !list->n)
		return -EINVAL;
	if (*line == 'R' && scan_word(&line, "Rss:"))
		list->areas[list->n - 1].alone = true; /* unless one of the next lines says something else */
	if (*line == 'S' && (scan_word(&line, "Shared_") || scan_word(&line, "Swap")) &&
	    !maps_scan_shared(line, &list->areas[list->n - 1]))
		return -EINVAL;
	if (*line == 'K' && scan_word(&line, "KernelPageSize:") && !maps_scan_page_size(line, &list->areas[list->n - 1]))
		return -EINVAL;
	if (*line == 'V' && scan_word(&line, "VmFlags:") && !maps_scan_flags(line, &list->areas[list->n - 1]))
		return -EINVAL;
	return 0;
}

int proc_parse_more_maps(char *text, struct arena *arena, struct vm_area_list *list)
{
	char *end = text + strlen(text), *eol;

	for (char *line = text; line < end; line = eol + 1) {
		int r;

		eol = memchr(line, '\n', (size_t)(end - line));
		if (!eol)
			return -EINVAL; /* cut short: a name would be a wrong name */
		r = maps_is_header(line) ? maps_add(line, eol, arena, list) : maps_add_key(line, list);
		if (r)
			return r;
	}
	return 0;
}

int proc_parse_maps(char *text, struct arena *arena, struct vm_area_list *ret)
{
	struct vm_area_list list = { 0 };
	int r = proc_parse_more_maps(text, arena, &list);

	if (r == 0)
		*ret = list;
	return r;
}
