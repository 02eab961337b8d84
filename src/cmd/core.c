/* SPDX-License-Identifier: Apache-2.0 */

/* torpor core: one of the saved processes as a core file for a debugger. */

#include <getopt.h>
#include <stdio.h>

#include "cmd/cmd.h"
#include "cmd/text.h"
#include "core/core.h"
#include "elf/core.h"

struct core_options {
	const char *image, *output;
	pid_t pid; /* 0: the first process */
};

static int core_parse(struct core_options *o, int argc, char **argv)
{
	static const struct option options[] = {
		{ "task", required_argument, NULL, 't' },
		{ "output", required_argument, NULL, 'o' },
		{ 0 },
	};
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "-o:t:", options, NULL)) != -1) {
		if (c == 'o')
			o->output = optarg;
		else if (c == 't' && !(o->pid = cmd_parse_pid(optarg)))
			return cmd_usage(&cmd_core, "--task needs a PID, not '%s'", optarg);
		else if (c == 1 && o->image)
			return cmd_usage(&cmd_core, "one image, not also '%s'", optarg);
		else if (c == 1)
			o->image = optarg;
		else if (c == '?')
			return cmd_usage(&cmd_core, "unknown option or missing argument: %s", argv[optind - 1]);
	}
	return o->image ? 0 : cmd_usage(&cmd_core, "the image is missing");
}

/* The index of the task with this PID, or of the one that a thread with this TID belongs to; 0: the first. */
static int core_find_task(const Pb__Image *meta, pid_t pid, size_t *ret, struct err *e)
{
	for (size_t i = 0; i < meta->n_tasks; i++) {
		const Pb__Task *t = meta->tasks[i];
		bool found = !pid || t->pid == pid;

		for (size_t k = 0; !found && k < t->n_threads; k++)
			found = t->threads[k]->tid == pid;
		if (!found)
			continue;
		*ret = i;
		if (t->state != PB__TASK_STATE__ZOMBIE)
			return 0;
		return err_set(e, ERR_USAGE, 0, "task %d had ended already: it has no memory", pid);
	}
	err_set(e, ERR_USAGE, 0, "there is no task %d in the image", pid);
	return err_help(e, "torpor inspect shows those that there are");
}

static void core_print(const char *path, const Pb__Task *t, const struct elf_core *r)
{
	struct arena arena = ARENA_INIT;
	char stored[32], size[32];

	printf("%s: %d (%s), %zu thread%s, %s of %s of memory\n", text_safe(&arena, path, FILENAME_MAX), t->pid,
	       text_safe(&arena, t->comm, FILENAME_MAX), r->n_threads, r->n_threads == 1 ? "" : "s",
	       cmd_format_bytes(stored, r->stored), cmd_format_bytes(size, r->memory_size));
	arena_done(&arena);
}

static int core_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct core_options o = { 0 };
	struct arena arena = ARENA_INIT;
	struct image *img = NULL;
	struct err e = ERR_INIT;
	struct elf_core result;
	int r = core_parse(&o, argc, argv);
	size_t task = 0;
	Pb__Image *meta;

	(void)g;
	if (r)
		return r;
	r = core_open(o.image, VERIFY_ALL, &arena, &img, &meta, &e);
	if (r == 0)
		r = core_find_task(meta, o.pid, &task, &e);
	if (r == 0 && !o.output)
		o.output = arena_printf(&arena, "core.%d", meta->tasks[task]->pid);
	if (r == 0)
		r = o.output ? elf_core_write(img, meta, task, o.output, &result, &e) : err_nomem(&e);
	if (r == 0)
		core_print(o.output, meta->tasks[task], &result);
	image_close(img);
	arena_done(&arena);
	return r < 0 ? cmd_fail(&e) : 0;
}

const struct cmd cmd_core = {
	.name = "core",
	.usage = "core FILE [--task PID] [-o CORE]",
	.help = "Write a saved process as an ELF core file, for a debugger: gdb PROGRAM CORE. All threads,\n"
		"registers and stored memory are in it; no process is made.\n\n"
		"  -t, --task PID     which process of the image (default: the first)\n"
		"  -o, --output CORE  the core file (default: core.PID in the current folder); it must not exist\n",
	.run = core_run,
};
