/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor check: what this machine permits, tried for real (core/probe.c), and
 * which tiers that gives; or, for one process, what a dump of it would meet.
 */

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "cmd/cmd.h"
#include "cmd/inside.h"
#include "cmd/json.h"
#include "cmd/text.h"
#include "core/core.h"
#include "core/probe.h"
#include "util/fd.h"
#include "util/privilege.h"

enum { TIMEOUT_MS = 30000, COMM_MAX = 64, BYTES_PER_SECOND = 1 << 30 };

/* ---- this machine ---- */

struct check_machine {
	struct utsname uname;
	unsigned uid;
	struct probe_outcome outcomes[PROBES_MAX];
	struct probe_tier tiers[PROBE_TIERS];
	bool dump;
	const char *restore; /* the best tier that works; NULL: none */
};

static int check_try_all(struct check_machine *m, struct err *e)
{
	m->uid = geteuid();
	uname(&m->uname);
	for (size_t i = 0; i < n_probes; i++)
		if (probe_try(&probes[i], &m->outcomes[i], e) < 0)
			return -1;
	probe_tiers(m->outcomes, m->tiers);
	m->dump = probe_dump_works(m->outcomes);
	for (int i = PROBE_TIERS; i > 0; i--)
		if (m->tiers[i - 1].works)
			m->restore = m->tiers[i - 1].name;
	return 0;
}

static const char *check_state(const struct probe_tier *t)
{
	return t->works ? "yes" : t->implemented ? "NO" : "planned";
}

static void check_print_group(const struct check_machine *m, enum probe_use use, const char *title)
{
	printf("\n%s\n", title);
	for (size_t i = 0; i < n_probes; i++) {
		const struct probe *p = &probes[i];
		const struct probe_outcome *o = &m->outcomes[i];

		if (p->use != use)
			continue;
		printf("  %-4s %-51s %s%s%s%s\n", o->number ? "NO" : "yes", p->what, p->purpose, p->tiers[0] ? " [" : "", p->tiers,
		       p->tiers[0] ? "]" : "");
		if (o->number || o->detail[0])
			printf("         %s%s%s\n", o->number ? strerror(o->number) : "", o->number && o->detail[0] ? "; " : "",
			       o->detail);
		if (o->number)
			printf("         what would help: %s\n", probe_help(p, o));
	}
}

static void check_print_tiers(const struct check_machine *m)
{
	puts("\ntiers, best first");
	for (int i = 0; i < PROBE_TIERS; i++) {
		const struct probe_tier *t = &m->tiers[i];

		printf("  %-7s %-7s %s", check_state(t), t->name, t->about);
		if (t->missing)
			printf(" (needs: %s)", t->missing->what);
		else if (t->why_not)
			printf(" (%s)", t->why_not);
		putchar('\n');
	}
	printf("\ndump: %s; restore: %s%s\n", m->dump ? "yes" : "NO", m->restore ? "yes, in tier " : "NO", m->restore ?: "");
}

static void check_print(const struct check_machine *m)
{
	static const char *const titles[PROBE_USES] = {
		[PROBE_DUMP] = "needed by every dump",
		[PROBE_RESTORE] = "needed by every restore",
		[PROBE_TIER] = "needed by a restore in certain tiers",
		[PROBE_HELPS] = "used where it is there",
		[PROBE_PLANNED] = "for what is planned; nothing depends on it yet",
	};

	printf("Linux %s, %s, user %u; everything below was tried just now\n", m->uname.release, m->uname.machine, m->uid);
	if (privilege_why_not())
		printf("%s\n", privilege_why_not());
	for (int use = 0; use < PROBE_USES; use++)
		check_print_group(m, (enum probe_use)use, titles[use]);
	check_print_tiers(m);
}

static void check_write_probe(struct json *j, const struct probe *p, const struct probe_outcome *o)
{
	static const char *const uses[PROBE_USES] = { "dump", "restore", "tier", "optional", "planned" };

	json_open(j, '{');
	json_put_string(j, "id", p->id);
	json_put_string(j, "what", p->what);
	json_put_string(j, "purpose", p->purpose);
	json_put_string(j, "needed_by", uses[p->use]);
	json_put_string(j, "tiers", p->tiers);
	json_put_bool(j, "works", !o->number);
	json_put_string(j, "detail", o->detail);
	if (o->number) {
		json_put_u64(j, "errno", (uint64_t)o->number);
		json_put_string(j, "error", strerror(o->number));
		json_put_string(j, "help", probe_help(p, o));
	}
	json_close(j, '}');
}

static void check_write_tier(struct json *j, const struct probe_tier *t)
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

static void check_write(const struct check_machine *m)
{
	struct json j = JSON_INIT(stdout);

	json_open(&j, '{');
	json_put_string(&j, "kernel", m->uname.release);
	json_put_string(&j, "arch", m->uname.machine);
	json_put_u64(&j, "uid", m->uid);
	if (privilege_why_not())
		json_put_string(&j, "capability", privilege_why_not());
	json_key(&j, "probes");
	json_open(&j, '[');
	for (size_t i = 0; i < n_probes; i++)
		check_write_probe(&j, &probes[i], &m->outcomes[i]);
	json_close(&j, ']');
	json_key(&j, "tiers");
	json_open(&j, '[');
	for (int i = 0; i < PROBE_TIERS; i++)
		check_write_tier(&j, &m->tiers[i]);
	json_close(&j, ']');
	json_put_bool(&j, "dump", m->dump);
	json_put_bool(&j, "restore", m->restore);
	if (m->restore)
		json_put_string(&j, "restore_tier", m->restore);
	json_close(&j, '}');
}

static int check_machine(bool json)
{
	struct check_machine m = { .dump = false };
	struct err e = ERR_INIT;

	if (check_try_all(&m, &e) < 0)
		return cmd_fail(&e);
	if (json)
		check_write(&m);
	else
		check_print(&m);
	return m.dump && m.restore ? 0 : ERR_PERMISSION;
}

/* ---- one process ---- */

static void check_read_comm(pid_t pid, char comm[COMM_MAX])
{
	struct arena arena = ARENA_INIT;
	char *text;

	comm[0] = '\0';
	if (fd_read_proc(pid, "comm", &arena, &text, NULL) == 0) {
		text[strcspn(text, "\n")] = '\0';
		snprintf(comm, COMM_MAX, "%s", text_safe(&arena, text, COMM_MAX / 4));
	}
	arena_done(&arena);
}

/* For how long a dump would stop it: as we just did, and then its memory is copied. */
static double check_estimate(const struct dump_result *r)
{
	return (double)r->frozen_ns / 1e9 + (double)r->bytes / BYTES_PER_SECOND;
}

static void check_print_process(pid_t pid, const char *comm, const struct dump_result *r)
{
	char size[32];

	printf("process %d (%s) can be saved: %zu task%s, %zu thread%s, about %s, in about %.*f s\n", pid, comm, r->n_tasks,
	       r->n_tasks == 1 ? "" : "s", r->n_threads, r->n_threads == 1 ? "" : "s", cmd_format_bytes(size, r->bytes),
	       check_estimate(r) < 1 ? 2 : 0, check_estimate(r));
}

static void check_write_process(pid_t pid, const char *comm, const struct dump_result *r, const struct err *e)
{
	struct json j = JSON_INIT(stdout);

	json_open(&j, '{');
	json_put_u64(&j, "pid", (uint64_t)pid);
	json_put_string(&j, "name", comm);
	json_put_bool(&j, "can_be_saved", !e->reason);
	if (e->reason) {
		json_put_string(&j, "error", e->text);
		json_put_string(&j, "id", cmd_error_id(e));
		json_put_string(&j, "help", e->help);
	}
	json_key(&j, "obstacles");
	json_open(&j, '[');
	for (size_t i = 0; i < r->obstacles.n; i++) {
		json_open(&j, '{');
		json_put_string(&j, "id", r->obstacles.v[i].id);
		json_put_string(&j, "text", r->obstacles.v[i].text);
		json_put_string(&j, "help", r->obstacles.v[i].help);
		json_close(&j, '}');
	}
	json_close(&j, ']');
	json_put_u64(&j, "tasks", r->n_tasks);
	json_put_u64(&j, "threads", r->n_threads);
	json_put_u64(&j, "bytes", r->bytes);
	json_put_u64(&j, "frozen_ns", r->frozen_ns);
	json_close(&j, '}');
}

static int check_process(const struct cmd_globals *g, pid_t pid, bool json)
{
	struct dump_options o = { .check_only = true, .timeout_ms = TIMEOUT_MS, .log = &g->log };
	struct arena arena = ARENA_INIT;
	struct visit visit = { 0 };
	struct dump_result result;
	struct err e = ERR_INIT;
	char comm[COMM_MAX];
	int status = 0;

	if (inside_done(&pid, &arena, &visit, &status))
		return status;
	o.pid = pid;
	o.outside = visit.pid ? &visit.outside : NULL;
	check_read_comm(pid, comm);
	if (core_dump(&o, &result, &e) < 0)
		status = e.reason ? (int)e.reason : ERR_SYSTEM;
	if (json) {
		check_write_process(pid, comm, &result, &e);
	} else if (status) {
		cmd_print_obstacles(&result.obstacles);
		cmd_fail(&e);
	} else {
		check_print_process(pid, comm, &result);
	}
	dump_result_done(&result);
	arena_done(&arena);
	return status;
}

/* ---- the command ---- */

static int check_run(const struct cmd_globals *g, int argc, char **argv)
{
	static const struct option options[] = { { "json", no_argument, NULL, 'j' }, { 0 } };
	const char *name;
	bool json = false;
	pid_t pid = 0;
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
