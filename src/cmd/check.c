/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor check: what this machine permits, tried for real, and
 * which tiers that gives; or, for one process, what a dump of it would meet.
 */

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/json.h"
#include "cmd/text.h"

enum { COMM_MAX = 64, BYTES_PER_SECOND = 1 << 30 };

/* ---- this machine ---- */

static const char *check_state(const struct torpor_tier_state *t)
{
	return t->works ? "yes" : t->implemented ? "NO" : "planned";
}

static void check_print_group(const struct torpor_machine *m, const char *needed_by, const char *title)
{
	const struct torpor_probe *p;

	printf("\n%s\n", title);
	for (size_t i = 0; (p = torpor_machine_probe(m, i)); i++) {
		if (strcmp(p->needed_by, needed_by) != 0)
			continue;
		printf("  %-4s %-51s %s%s%s%s\n", p->number ? "NO" : "yes", p->what, p->purpose, p->tiers[0] ? " [" : "", p->tiers,
		       p->tiers[0] ? "]" : "");
		if (p->number || p->detail[0])
			printf("         %s%s%s\n", p->number ? strerror(p->number) : "", p->number && p->detail[0] ? "; " : "",
			       p->detail);
		if (p->number)
			printf("         what would help: %s\n", p->help);
	}
}

static void check_print_tiers(const struct torpor_machine *m)
{
	const struct torpor_tier_state *t;

	puts("\ntiers, best first");
	for (size_t i = 0; (t = torpor_machine_tier(m, i)); i++) {
		printf("  %-7s %-7s %s", check_state(t), t->name, t->about);
		if (t->missing)
			printf(" (needs: %s)", t->missing->what);
		else if (t->why_not)
			printf(" (%s)", t->why_not);
		putchar('\n');
	}
	printf("\ndump: %s; restore: %s%s\n", m->dump ? "yes" : "NO", m->restore_tier ? "yes, in tier " : "NO",
	       m->restore_tier ?: "");
}

static void check_print(const struct torpor_machine *m)
{
	static const struct {
		const char *needed_by, *title;
	} groups[] = {
		{ "dump", "needed by every dump" },
		{ "restore", "needed by every restore" },
		{ "tier", "needed by a restore in certain tiers" },
		{ "optional", "used where it is there" },
		{ "planned", "for what is planned; nothing depends on it yet" },
	};

	printf("Linux %s, %s, user %u; everything below was tried just now\n", m->kernel, m->arch, m->uid);
	if (m->capability)
		printf("%s\n", m->capability);
	for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
		check_print_group(m, groups[i].needed_by, groups[i].title);
	check_print_tiers(m);
}

static void check_write_probe(struct json *j, const struct torpor_probe *p)
{
	json_open(j, '{');
	json_put_string(j, "id", p->id);
	json_put_string(j, "what", p->what);
	json_put_string(j, "purpose", p->purpose);
	json_put_string(j, "needed_by", p->needed_by);
	json_put_string(j, "tiers", p->tiers);
	json_put_bool(j, "works", !p->number);
	json_put_string(j, "detail", p->detail);
	if (p->number) {
		json_put_u64(j, "errno", (uint64_t)p->number);
		json_put_string(j, "error", strerror(p->number));
		json_put_string(j, "help", p->help);
	}
	json_close(j, '}');
}

static void check_write_tier(struct json *j, const struct torpor_tier_state *t)
{
	json_open(j, '{');
	json_put_string(j, "name", t->name);
	json_put_string(j, "about", t->about);
	json_put_bool(j, "implemented", t->implemented);
	json_put_bool(j, "works", t->works);
	if (t->missing)
		json_put_string(j, "missing", t->missing->id);
	json_close(j, '}');
}

static void check_write(const struct torpor_machine *m)
{
	struct json j = JSON_INIT(stdout);

	json_open(&j, '{');
	json_put_string(&j, "kernel", m->kernel);
	json_put_string(&j, "arch", m->arch);
	json_put_u64(&j, "uid", m->uid);
	if (m->capability)
		json_put_string(&j, "capability", m->capability);
	json_key(&j, "probes");
	json_open(&j, '[');
	for (size_t i = 0; i < m->probes; i++)
		check_write_probe(&j, torpor_machine_probe(m, i));
	json_close(&j, ']');
	json_key(&j, "tiers");
	json_open(&j, '[');
	for (size_t i = 0; i < m->tiers; i++)
		check_write_tier(&j, torpor_machine_tier(m, i));
	json_close(&j, ']');
	json_put_bool(&j, "dump", m->dump);
	json_put_bool(&j, "restore", m->restore_tier != NULL);
	if (m->restore_tier)
		json_put_string(&j, "restore_tier", m->restore_tier);
	json_close(&j, '}');
}

static int check_machine(bool json)
{
	struct torpor_error *error = NULL;
	struct torpor_machine *m;
	int status;

	if (torpor_machine_try(&m, &error) < 0)
		return cmd_fail(error);
	if (json)
		check_write(m);
	else
		check_print(m);
	status = m->dump && m->restore_tier ? 0 : TORPOR_PERMISSION;
	torpor_machine_free(m);
	return status;
}

/* ---- one process ---- */

/* For how long a dump would stop it: as we just did, and then its memory is copied. */
static double check_estimate(const struct torpor_result *r)
{
	return (double)r->frozen_ns / 1e9 + (double)r->bytes / BYTES_PER_SECOND;
}

static void check_print_process(const char *comm, const struct torpor_result *r)
{
	char size[32];

	printf("process %d (%s) can be saved: %zu task%s, %zu thread%s, about %s, in about %.*f s\n", r->pid, comm, r->tasks,
	       r->tasks == 1 ? "" : "s", r->threads, r->threads == 1 ? "" : "s", cmd_format_bytes(size, r->bytes),
	       check_estimate(r) < 1 ? 2 : 0, check_estimate(r));
}

static void check_write_process(const char *comm, const struct torpor_result *r, const struct torpor_error *error)
{
	struct json j = JSON_INIT(stdout);
	const struct torpor_obstacle *o;

	json_open(&j, '{');
	json_put_u64(&j, "pid", (uint64_t)r->pid);
	json_put_string(&j, "name", comm);
	json_put_bool(&j, "can_be_saved", !error);
	if (error) {
		json_put_string(&j, "error", torpor_error_text(error));
		json_put_string(&j, "id", torpor_error_id(error));
		json_put_string(&j, "help", torpor_error_help(error));
	}
	json_key(&j, "obstacles");
	json_open(&j, '[');
	for (size_t i = 0; (o = torpor_result_obstacle(r, i)); i++) {
		json_open(&j, '{');
		json_put_string(&j, "id", o->id);
		json_put_string(&j, "text", o->text);
		json_put_string(&j, "help", o->help);
		json_close(&j, '}');
	}
	json_close(&j, ']');
	json_put_u64(&j, "tasks", r->tasks);
	json_put_u64(&j, "threads", r->threads);
	json_put_u64(&j, "bytes", r->bytes);
	json_put_u64(&j, "frozen_ns", r->frozen_ns);
	json_close(&j, '}');
}

/* What there is to say, and the exit status. The error is taken. */
static int check_tell(const struct torpor_result *r, struct torpor_error *error, bool json)
{
	struct pool pool = POOL_INIT;
	const char *comm = text_safe(&pool, r ? r->comm : "", COMM_MAX / 4);
	int status = error ? (int)torpor_error_reason(error) : 0;

	if (json && r) {
		check_write_process(comm, r, error);
		torpor_error_free(error);
	} else if (error) {
		cmd_print_obstacles(r);
		cmd_fail(error);
	} else {
		check_print_process(comm, r);
	}
	pool_done(&pool);
	return status;
}

static int check_process(const struct cmd_globals *g, int pid, bool json)
{
	struct torpor_result *result = NULL;
	struct torpor_error *error = NULL;
	struct cmd_progress progress;
	struct torpor_options *o = cmd_options(g, &progress);
	int status;

	if (!o)
		return TORPOR_SYSTEM;
	cmd_progress_init(&progress, CMD_PROGRESS_NONE);
	if (torpor_check(pid, o, &result, &error) < 0 && !error)
		status = cmd_no_memory();
	else
		status = check_tell(result, error, json);
	torpor_result_free(result);
	torpor_options_free(o);
	return status;
}

/* ---- the command ---- */

static int check_run(const struct cmd_globals *g, int argc, char **argv)
{
	static const struct option options[] = { { "json", no_argument, NULL, 'j' }, { 0 } };
	const char *name;
	bool json = false;
	int pid = 0;
	int c, status;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "-", options, NULL)) != -1) {
		if (c == 'j')
			json = true;
		else if (c == 1 && pid)
			return cmd_usage(&cmd_check, "one PID, not also '%s'", optarg);
		else if (c == 1 && (status = cmd_parse_program(&cmd_check, optarg, &pid, &name)))
			return status;
		else if (c == '?')
			return cmd_usage(&cmd_check, "unknown option: %s", argv[optind - 1]);
	}
	if (optind < argc)
		return cmd_usage(&cmd_check, "unexpected '%s'", argv[optind]);
	return pid ? check_process(g, pid, json) : check_machine(json);
}

const struct cmd cmd_check = {
	.name = "check",
	.usage = "check [PID|NAME] [--json]",
	.help = "Without a PID: try everything that a dump or a restore can need on this machine, and show\n"
		"what works, what would help where it does not, and which ways of working (tiers) that\n"
		"gives. Exit status 0 when both dump and restore work, else 3.\n\n"
		"With a PID: find out whether that process and its descendants can be saved. They stand\n"
		"still for a moment, as long as it takes to look at them. Exit status 0 when they can be.\n\n"
		"      --json  for programs\n",
	.run = check_run,
};
