/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor inspect: what is in an image, for people and (--json) for programs. It
 * needs the metadata and the memory index only; whether the pages themselves are
 * whole is the business of torpor verify.
 */

#include "cmd/inspect.h"

#include <getopt.h>
#include <stdio.h>

#include "cmd/text.h"

struct inspect_options {
	bool json;
	const char *html; /* the page to write; NULL: none */
	int task;
};

static int inspect_parse(struct inspect *s, struct inspect_options *o, int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "html", required_argument, NULL, 'h' },
		{ "task", required_argument, NULL, 't' },
		{ "fds", no_argument, NULL, 'f' },
		{ "maps", no_argument, NULL, 'm' },
		{ "threads", no_argument, NULL, 'T' },
		{ 0 },
	};
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "-t:", options, NULL)) != -1) {
		if (c == 'j')
			o->json = true;
		else if (c == 'h')
			o->html = optarg;
		else if (c == 't' && !(o->task = cmd_parse_pid(optarg)))
			return cmd_usage(&cmd_inspect, "--task needs a PID, not '%s'", optarg);
		else if (c == 'f')
			s->parts |= INSPECT_FDS;
		else if (c == 'm')
			s->parts |= INSPECT_MAPS;
		else if (c == 'T')
			s->parts |= INSPECT_TREE | INSPECT_THREADS;
		else if (c == 1 && s->v->path)
			return cmd_usage(&cmd_inspect, "one image, not also '%s'", optarg);
		else if (c == 1)
			s->v->path = optarg;
		else if (c == '?')
			return cmd_usage(&cmd_inspect, "unknown option or missing argument: %s", argv[optind - 1]);
	}
	if (!s->v->path && optind < argc)
		s->v->path = argv[optind++];
	if (o->json && o->html)
		return cmd_usage(&cmd_inspect, "either --json or --html");
	if (!s->v->path || optind < argc)
		return cmd_usage(&cmd_inspect, s->v->path ? "one image, and nothing else" : "the image is missing");
	return 0;
}

/* Without a choice of parts: an overview. What is asked for is shown in full. */
static void inspect_choose(struct inspect *s, int verbose)
{
	s->everything = s->parts || verbose;
	if (!s->parts)
		s->parts = INSPECT_TREE | INSPECT_FDS | INSPECT_MEMORY | INSPECT_TIME | (verbose ? INSPECT_THREADS : 0);
}

static int inspect_find_task(struct inspect *s, int pid)
{
	s->task = SIZE_MAX;
	for (size_t i = 0; pid && i < s->v->info->tasks; i++)
		if (view_task(s->v, i)->pid == pid)
			s->task = i;
	if (!pid || s->task != SIZE_MAX)
		return 0;
	return cmd_complain(TORPOR_USAGE, "torpor inspect without --task shows those that there are", "there is no task %d in the image",
			    pid);
}

static int inspect_show(struct inspect *s, const struct inspect_options *o)
{
	int status = inspect_find_task(s, o->task);

	if (status)
		return status;
	if (o->json)
		return inspect_write_json(s->v);
	if (o->html)
		return inspect_write_html(s->v, o->html);
	return inspect_print(s) < 0 ? cmd_no_memory() : 0;
}

static int inspect_say_damage(const struct torpor_error *damage)
{
	const char *text = torpor_error_text(damage), *help = torpor_error_help(damage);

	fflush(stdout);
	return cmd_complain_of(torpor_error_reason(damage), torpor_error_id(damage),
			       help[0] ? help : "what could be read is shown; torpor verify checks the rest", text);
}

static int inspect_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct view v = { 0 };
	struct inspect s = { .v = &v };
	struct inspect_options o = { 0 };
	struct torpor_error *error = NULL;
	int status = inspect_parse(&s, &o, argc, argv);

	if (status)
		return status;
	inspect_choose(&s, g->verbose);
	status = view_open(&v, TORPOR_OPEN_SALVAGE, &error) < 0 ? cmd_fail(error) : inspect_show(&s, &o);
	if (status == 0 && torpor_image_damage(v.image))
		status = inspect_say_damage(torpor_image_damage(v.image));
	view_close(&v);
	return status;
}

const struct cmd cmd_inspect = {
	.name = "inspect",
	.usage = "inspect FILE [--task PID] [--threads] [--fds] [--maps] [--json] [--html FILE]",
	.help = "Show what is in an image: where and when it was taken, the processes as a tree, what their\n"
		"file descriptors refer to, which memory is stored, and where the time went. Only the\n"
		"metadata is read; torpor verify checks the rest. Of a damaged image, what can be read is\n"
		"shown, and the exit status is 4.\n\n"
		"  -t, --task PID  only this process\n"
		"      --threads   the processes with their threads\n"
		"      --fds       all file descriptors\n"
		"      --maps      all mappings\n"
		"  -v, --verbose   the overview, with nothing left out\n"
		"      --json      everything, for programs; see doc/inspect.schema.json\n"
		"      --html FILE     everything, as one page to look at in a browser; FILE must not exist\n",
	.run = inspect_run,
};
