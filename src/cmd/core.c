/* SPDX-License-Identifier: Apache-2.0 */

/* torpor core: one of the saved processes as a core file for a debugger. */

#include <getopt.h>
#include <stdio.h>

#include "cmd/cmd.h"
#include "cmd/text.h"

struct core_options {
	const char *image, *output;
	int pid; /* 0: the first process */
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
		if (c == 'o' && cmd_parse_output(&cmd_core, optarg, &o->output))
			return TORPOR_USAGE;
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

/* The PID of the task that this is, or that has a thread of this number. */
static int core_task_of(const struct torpor_image *image, int pid)
{
	const struct torpor_task *t;
	const struct torpor_thread *thread;

	for (size_t i = 0; (t = torpor_image_task(image, i)); i++)
		for (size_t k = 0; (thread = torpor_image_thread(image, i, k)); k++)
			if (thread->tid == pid)
				return t->pid;
	return pid;
}

/* The name of a task. */
static const char *core_comm(const struct torpor_image *image, int pid)
{
	const struct torpor_task *t;

	for (size_t i = 0; (t = torpor_image_task(image, i)); i++)
		if (t->pid == pid)
			return t->comm;
	return NULL;
}

static void core_print(const char *path, const struct torpor_image *image, const struct torpor_core_info *info)
{
	struct pool pool = POOL_INIT;
	char stored[32], size[32];

	printf("%s: %d (%s), %zu thread%s, %s of %s of memory\n", text_safe(&pool, path, FILENAME_MAX), info->pid,
	       text_safe(&pool, core_comm(image, info->pid), FILENAME_MAX), info->threads, info->threads == 1 ? "" : "s",
	       cmd_format_bytes(stored, info->stored_bytes), cmd_format_bytes(size, info->memory_bytes));
	pool_done(&pool);
}

static int core_write(const struct core_options *o, const struct torpor_image *image)
{
	const struct torpor_task *root = torpor_image_task(image, 0);
	struct torpor_core_info *info;
	struct torpor_error *error = NULL;
	char name[32];

	snprintf(name, sizeof(name), "core.%d", o->pid || !root ? core_task_of(image, o->pid) : root->pid);
	if (torpor_core(image, o->pid, o->output ?: name, &info, &error) < 0)
		return cmd_fail(error);
	core_print(o->output ?: name, image, info);
	torpor_core_info_free(info);
	return 0;
}

static int core_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct core_options o = { 0 };
	struct torpor_error *error = NULL;
	struct torpor_image *image;
	int status = core_parse(&o, argc, argv);

	(void)g;
	if (status)
		return status;
	if (torpor_image_open(o.image, 0, &image, &error) < 0)
		return cmd_fail(error);
	status = core_write(&o, image);
	torpor_image_close(image);
	return status;
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
