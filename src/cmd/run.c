/* SPDX-License-Identifier: Apache-2.0 */

/* torpor run: start a program in a PID namespace of its own, and stand in for it. */

#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/foreground.h"

/* As for every shell: a program that is not found, and one that cannot be executed. */
enum { STATUS_NOT_EXECUTABLE = 126, STATUS_NOT_FOUND = 127 };

static int run_parse(const char **ret_name, int argc, char **argv)
{
	static const struct option options[] = { { "name", required_argument, NULL, 'n' }, { 0 } };
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "+n:", options, NULL)) != -1) {
		if (c != 'n')
			return cmd_usage(&cmd_run, "unknown option or missing argument: %s", argv[optind - 1]);
		*ret_name = optarg;
	}
	if (*ret_name && !torpor_name_is_valid(*ret_name))
		return cmd_usage(&cmd_run, "a name has letters, digits and '._-', and begins with a letter, not '%s'", *ret_name);
	return argv[optind] ? 0 : cmd_usage(&cmd_run, "the program is missing");
}

static void run_before(void *data)
{
	foreground_undo(data);
}

/* As a shell would say it. */
static int run_failed(struct torpor_error *error)
{
	bool tried = torpor_error_reason(error) == TORPOR_STATE && torpor_error_number(error);
	int number = torpor_error_number(error), status = cmd_fail(error);

	if (!tried)
		return status;
	return number == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE;
}

static int run_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct foreground f = FOREGROUND_INIT;
	struct torpor_error *error = NULL;
	struct torpor_program *program;
	struct cmd_progress progress;
	struct torpor_options *o;
	const char *name = NULL;
	int r, status = run_parse(&name, argc, argv);

	if (status)
		return status;
	o = cmd_options(g, &progress);
	if (!o)
		return TORPOR_SYSTEM;
	cmd_progress_init(&progress, CMD_PROGRESS_NONE);
	torpor_options_set_name(o, name);
	torpor_options_set_before(o, run_before, &f);
	foreground_begin(&f);
	r = torpor_run(argv + optind, o, &program, &error);
	torpor_options_free(o);
	if (r < 0)
		return run_failed(error);
	status = foreground_wait(&f, program);
	torpor_program_detach(program);
	return status;
}

const struct cmd cmd_run = {
	.name = "run",
	.usage = "run [--name NAME] [--] PROGRAM [ARGUMENT...]",
	.help = "Run a program in a PID namespace of its own, where its PIDs are free whenever it is restored.\n"
		"It takes no privilege but that users may make namespaces. torpor stays in the foreground, passes\n"
		"signals on and takes the exit status over.\n\n"
		"  -n, --name NAME  torpor dump NAME finds the program, also after it was restored\n",
	.run = run_run,
};
