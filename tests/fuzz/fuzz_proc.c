/* SPDX-License-Identifier: Apache-2.0 */

/* Fuzz the /proc parsers: the first byte picks one (fuzz_parse()), the rest is the text. */

#include <stdlib.h>
#include <string.h>

#include "proc/fdinfo.h"
#include "proc/maps.h"
#include "proc/task.h"
#include "util/arena.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a parser accepted must hold together. */
static void fuzz_expect(bool holds)
{
	if (!holds)
		abort();
}

/* Every byte of an output is there to be read. */
static void fuzz_touch(const void *data, size_t size)
{
	const volatile unsigned char *p = data;

	while (size--)
		(void)p[size];
}

static void fuzz_maps(char *text, struct arena *arena)
{
	size_t size = strlen(text);
	struct vm_area_list list;

	if (proc_parse_maps(text, arena, &list))
		return;
	for (size_t i = 0; i < list.n; i++) {
		const struct vm_area *area = &list.areas[i];

		fuzz_expect(area->start < area->end && area->name >= text);
		fuzz_expect((size_t)(area->name - text) + strlen(area->name) < size);
	}
}

static void fuzz_stat(const char *text)
{
	struct proc_stat stat;

	if (!proc_parse_stat(text, &stat))
		fuzz_expect(stat.pid >= 0 && stat.state && strlen(stat.comm) < sizeof(stat.comm));
}

static void fuzz_status(char *text, struct arena *arena)
{
	struct proc_status status;

	if (proc_parse_status(text, arena, &status))
		return;
	fuzz_touch(status.groups, status.n_groups * sizeof(*status.groups));
}

static void fuzz_timers(char *text, struct arena *arena)
{
	struct proc_timer *timers;
	size_t n;

	if (proc_parse_timers(text, arena, &timers, &n))
		return;
	for (size_t i = 0; i < n; i++)
		fuzz_expect(timers[i].id >= 0 && timers[i].tid >= 0);
}

static void fuzz_fdinfo(char *text, struct arena *arena)
{
	size_t size = strlen(text);
	struct fdinfo info;

	if (proc_parse_fdinfo(text, arena, &info))
		return;
	for (size_t i = 0; i < info.n_locks; i++)
		fuzz_expect((size_t)(info.locks[i].text - text) + strlen(info.locks[i].text) <= size);
	fuzz_touch(info.epoll, info.n_epoll * sizeof(*info.epoll));
}

static void fuzz_pids(const char *text, struct arena *arena)
{
	pid_t *pids;
	size_t n;

	if (proc_parse_pids(text, arena, &pids, &n))
		return;
	for (size_t i = 0; i < n; i++)
		fuzz_expect(pids[i] >= 0);
}

static void fuzz_parse(uint8_t parser, char *text, size_t size, struct arena *arena)
{
	switch (parser) {
	case 'm': return fuzz_maps(text, arena);
	case 's': return fuzz_stat(text);
	case 'u': return fuzz_status(text, arena);
	case 't': return fuzz_timers(text, arena);
	case 'f': return fuzz_fdinfo(text, arena);
	case 'p': return fuzz_pids(text, arena);
	case 'a': proc_auxv(text, size, 33); return;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena arena = { .limit = 64 * 1024 * 1024 };
	char *text;

	if (size < 1)
		return 0;
	/* Of the exact size, so that a look past the NUL is seen. */
	text = malloc(size);
	if (!text)
		return 0;
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	fuzz_parse(data[0], text, size - 1, &arena);
	arena_done(&arena);
	free(text);
	return 0;
}
