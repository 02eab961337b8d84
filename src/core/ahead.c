/* SPDX-License-Identifier: Apache-2.0 */
#include "core/ahead.h"

#include <stdlib.h>
#include <string.h>

#include "core/watches.h"
#include "util/cpu.h"
#include "util/crew.h"
#include "util/fd.h"

enum { AHEAD_LEAST = 1 << 20 }; /* bytes in memory: fewer are copied sooner than a thread is made */

/* "size resident ...", in pages. */
static uint64_t ahead_resident(pid_t pid)
{
	struct arena scratch = ARENA_INIT;
	uint64_t pages = 0;
	char *text;

	if (fd_read_proc(pid, "statm", &scratch, &text, NULL) == 0 && strchr(text, ' '))
		pages = strtoull(strchr(text, ' '), NULL, 10);
	arena_done(&scratch);
	return pages * MEMORY_PAGE;
}

/* A program that watches its folder would have an event to read: of such a one, no file is made before all is collected. */
static int ahead_copy(struct ahead *a)
{
	struct watches watches = { 0 };
	struct err unheard = ERR_INIT;

	watches_look(&watches, a->task->pid, a->o->path);
	if (watches.folder || atomic_load(&a->memory.shared.enough))
		return 0;
	/* If it cannot be made, that will be told when it would be time. */
	if (image_writer_new(&a->writer, a->o->path, !a->o->no_sync, &unheard) < 0)
		return 0;
	return memory_copy_ahead(&a->memory, a->task, a->writer, &a->o->packing, &a->err);
}

/* The disk begins on what is copied while what is left is found and copied by others. */
static void *ahead_run(void *arg)
{
	struct ahead *a = arg;
	struct image_writer *writer;

	a->result = ahead_copy(a);
	writer = a->writer; /* it is taken over now */
	sem_post(&a->copied);
	if (writer)
		image_writer_start(writer);
	return NULL;
}

/* What several tasks hold may be the same pages, to be stored once (once.h): their mappings must be known before. */
void ahead_begin(struct ahead *a, const struct target_tree *tree, const struct dump_options *o)
{
	const struct target *task = tree->tasks[0];

	if (tree->n > 1 || task->zombie || cpu_count() < 2 || ahead_resident(task->pid) < AHEAD_LEAST)
		return;
	*a = (struct ahead){ .o = o, .task = task, .err = ERR_INIT };
	memory_ahead_init(&a->memory);
	sem_init(&a->copied, 0, 0);
	a->runs = a->to_join = crew_thread(&a->thread, ahead_run, a) == 0;
	if (!a->runs)
		sem_destroy(&a->copied);
}

struct areas_told *ahead_listens(struct ahead *a)
{
	return a->runs ? &a->memory.told : NULL;
}

int ahead_end(struct ahead *a, struct err *e)
{
	if (!a->runs)
		return 0;
	memory_help(&a->memory.shared);
	while (sem_wait(&a->copied) < 0)
		;
	a->runs = false;
	if (a->result < 0)
		*e = a->err;
	return a->result;
}

struct image_writer *ahead_take_writer(struct ahead *a)
{
	struct image_writer *w = a->writer;

	a->writer = NULL;
	return w;
}

void ahead_join(struct ahead *a)
{
	if (!a->to_join)
		return;
	pthread_join(a->thread, NULL);
	sem_destroy(&a->copied);
	a->to_join = false;
}

void ahead_done(struct ahead *a)
{
	struct err unheard = ERR_INIT;

	if (a->runs)
		memory_abandon(&a->memory.shared);
	(void)ahead_end(a, &unheard);
	ahead_join(a);
	image_writer_free(ahead_take_writer(a));
	memory_ahead_done(&a->memory);
}
