/* SPDX-License-Identifier: Apache-2.0 */

/* torpor run: start a program in a PID namespace of its own, and stand in for it. */

#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/foreground.h"
#include "core/name.h"
#include "util/privilege.h"

/* As for every shell: a program that is not found, and one that cannot be executed. */
enum { STATUS_NOT_EXECUTABLE = 126, STATUS_NOT_FOUND = 127 };

static int run_parse(struct run_options *o, int argc, char **argv)
{
	static const struct option options[] = { { "name", required_argument, NULL, 'n' }, { 0 } };
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "+n:", options, NULL)) != -1) {
		if (c != 'n')
			return cmd_usage(&cmd_run, "unknown option or missing argument: %s", argv[optind - 1]);
		o->name = optarg;
	}
	if (o->name && !name_is_valid(o->name))
		return cmd_usage(&cmd_run, "a name has letters, digits and '._-', and begins with a letter, not '%s'", o->name);
	o->argv = argv + optind;
	return argv[optind] ? 0 : cmd_usage(&cmd_run, "the program is missing");
}

static void run_before(void *data)
{
	foreground_undo(data);
}

static int run_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct foreground f = FOREGROUND_INIT;
	struct run_options o = { .before = run_before, .before_data = &f };
	struct program program;
	struct err e = ERR_INIT;
	int result, status = run_parse(&o, argc, argv);

	(void)g;
	if (status)
		return status;
	foreground_begin(&f);
	result = core_start(&o, &program, &e);
	privilege_end();
	if (result == 0)
		return foreground_wait(&f, &program);
	status = cmd_fail(&e);
	if (e.reason != ERR_STATE || !e.number) /* the program was not even tried */
		return status;
	return e.number == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE;
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
