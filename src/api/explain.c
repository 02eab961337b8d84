/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor_restore_explain(): what a restore would do, in the order in which it does it: who makes whom, which sessions
 * and groups, files and objects, memory, and then the scripts, step by step. All of it follows from the image alone,
 * so that it is the same each time.
 */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "api/helper.h"
#include "api/image.h"
#include "core/explain.h"
#include "core/objects.h"
#include "core/plan.h"
#include "kinds/kind.h"

enum { NAME_MAX_SHOWN = 64, PATH_MAX_SHOWN = 512, LINE_SIZE = 8192 };
enum { ARGS_MAX = 6, LARGE = 0x10000 };

struct explaining {
	struct torpor_image *v;
	struct plan plan;
	int link; /* to whoever wants to know */
	char line[LINE_SIZE]; /* as far as it is complete */
	size_t used;
};

/* ---- lines ---- */

/* Lines are told one by one, when they are complete. What is too long for one is cut. */
static __attribute__((format(printf, 2, 3))) void explain_say(struct explaining *x, const char *fmt, ...)
{
	va_list ap;
	char *end;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(x->line + x->used, sizeof(x->line) - x->used, fmt, ap);
	va_end(ap);
	x->used += n < 0 ? 0 : (size_t)n;
	if (x->used >= sizeof(x->line))
		x->used = sizeof(x->line) - 1;
	while ((end = memchr(x->line, '\n', x->used))) {
		size_t rest = x->used - (size_t)(end + 1 - x->line);

		helper_say(x->link, HELPER_NEWS, 0, 0, 0, x->line, (size_t)(end - x->line));
		memmove(x->line, end + 1, rest + 1);
		x->used = rest;
	}
}

/* A name from the image: on one line, and not longer than people want it. */
static const char *explain_text(struct explaining *x, const char *s, size_t max)
{
	size_t n = s ? strnlen(s, max + 1) : 0;
	char *copy = arena_printf(&x->v->arena, "%.*s%s", (int)(n > max ? max : n), s ?: "", n > max ? "..." : "");

	for (char *p = copy; p && *p; p++)
		if (*p == '\n')
			*p = ' ';
	return copy ?: "";
}

static const char *explain_path(struct explaining *x, const char *s)
{
	return explain_text(x, s, PATH_MAX_SHOWN);
}

static const char *explain_bytes(struct explaining *x, uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	double n = (double)bytes;
	size_t unit = 0;

	while (n >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0]))
		n /= 1024, unit++;
	return arena_printf(&x->v->arena, unit ? "%.1f %s" : "%.0f %s", n, units[unit]) ?: "";
}

static const Pb__Task *explain_task(const struct explaining *x, size_t i)
{
	return x->plan.tasks[i].pb;
}

static const char *explain_name(struct explaining *x, const Pb__Task *t)
{
	return explain_text(x, t->comm, NAME_MAX_SHOWN);
}

/* ---- who makes whom ---- */

static void explain_birth(struct explaining *x, size_t i)
{
	const struct plan_task *t = &x->plan.tasks[i];
	int32_t pid = t->pb->pid;

	explain_say(x, "  %d %s: ", pid, explain_name(x, t->pb));
	switch (t->birth) {
	case BIRTH_ROOT:
		explain_say(x, "made by torpor");
		break;
	case BIRTH_BEFORE_SESSION:
		explain_say(x, "made by %d, before that leads a session of its own", t->pb->ppid);
		break;
	case BIRTH_CHILD:
		explain_say(x, "made by %d", t->pb->ppid);
		break;
	case BIRTH_BY_STANDIN:
		explain_say(x, "made by a stand-in with the PID %d for the ended leader of its session, as a child of %d", t->pb->sid,
		       t->pb->ppid);
		break;
	case BIRTH_BY_LEADER:
		explain_say(x, "made by %d, which leads its session, as a child of %d", explain_task(x, t->leader)->pid, t->pb->ppid);
		break;
	}
	if (t->pb->n_threads > 1)
		explain_say(x, "; then makes %zu thread%s", t->pb->n_threads - 1, t->pb->n_threads == 2 ? "" : "s");
	explain_say(x, "\n");
}

static void explain_births(struct explaining *x)
{
	explain_say(x, "\nwho makes whom (all meet at the barrier \"births\")\n");
	for (size_t i = 0; i < x->plan.n_tasks; i++)
		explain_birth(x, i);
}

static void explain_sessions(struct explaining *x)
{
	explain_say(x, "\nsessions and process groups\n");
	for (size_t i = 0; i < x->plan.n_tasks; i++) {
		const Pb__Task *t = explain_task(x, i);

		if (t->sid == t->pid)
			explain_say(x, "  %d leads the session %d\n", t->pid, t->sid);
		else if (!i)
			explain_say(x, "  %d stays in the session that torpor was started in\n", t->pid);
	}
}

static void explain_groups(struct explaining *x)
{
	for (size_t i = 0; i < x->plan.n_tasks; i++) {
		const struct plan_task *t = &x->plan.tasks[i];

		if (t->pb->group_outside)
			explain_say(x, "  %d stays in the process group that torpor was started in\n", t->pb->pid);
		else if (t->pb->pgid == t->pb->pid)
			explain_say(x, "  %d leads the process group %d (barrier \"leaders\")\n", t->pb->pid, t->pb->pgid);
		else if (t->makes_group)
			explain_say(x, "  %d makes a stand-in for the ended leader of the process group %d\n", t->pb->pid, t->pb->pgid);
	}
	for (size_t i = 0; i < x->plan.n_tasks; i++)
		if (explain_task(x, i)->pgid != explain_task(x, i)->pid && !explain_task(x, i)->group_outside)
			explain_say(x, "  %d joins the process group %d (barrier \"members\")\n", explain_task(x, i)->pid,
			       explain_task(x, i)->pgid);
}

static void explain_zombies(struct explaining *x)
{
	for (size_t i = 0; i < x->plan.n_tasks; i++)
		if (explain_task(x, i)->state == PB__TASK_STATE__ZOMBIE)
			explain_say(x, "  %d ends, and waits for its parent as a zombie\n", explain_task(x, i)->pid);
}

/* ---- files and objects ---- */

static void explain_inodes(struct explaining *x)
{
	const Pb__Image *meta = x->v->meta;

	explain_say(x, "\nfiles, first of all\n");
	for (size_t i = 0; i < meta->n_inodes; i++) {
		const Pb__Inode *n = meta->inodes[i];

		if (n->kind == PB__INODE_KIND__PATH && !n->has_content)
			explain_say(x, "  open and check %s\n", explain_path(x, n->path));
		else
			explain_say(x, "  make %s, %s, and fill it with %s\n", explain_path(x, n->path), explain_bytes(x, n->size),
			       explain_bytes(x, x->v->inodes[i].stored_bytes));
	}
}

/* When the functions of its kind are called. */
static void explain_phases(struct explaining *x, const Pb__Object *o)
{
	const struct kind *k = kind_by_tag(o->kind);
	const Pb__Task *home = explain_task(x, o->home_task);

	explain_say(x, "%s", k->restore ? "made by torpor" : "made together with others by torpor");
	if (k->restore && k->restore_all)
		explain_say(x, ", then with others");
	if (k->remake)
		explain_say(x, ", made again in every task");
	if (k->lead)
		explain_say(x, ", in leaders of sessions");
	if (k->group)
		explain_say(x, ", in leaders of sessions behind the barrier \"members\"");
	if (k->finish && o->has_home_fd)
		explain_say(x, ", completed in %d fd %u", home->pid, o->home_fd);
	if (k->last)
		explain_say(x, ", completed last of all");
	if (k->release)
		explain_say(x, ", set going");
}

static void explain_objects(struct explaining *x)
{
	const Pb__Image *meta = x->v->meta;

	explain_say(x, "\nobjects, in this order; every task inherits them all and keeps its own\n");
	for (uint32_t i = 0; i < meta->n_objects; i++) {
		const Pb__Object *o = meta->objects[i];

		explain_say(x, "  %3u %-14s %s: ", i, api_image_kind(o), explain_path(x, torpor_image_describe(x->v, i)));
		explain_phases(x, o);
		for (size_t k = 0; k < o->n_needs; k++)
			explain_say(x, "%s%u", k ? ", " : "; needs ", o->needs[k]);
		explain_say(x, "\n");
	}
}

/* ---- memory ---- */

static void explain_memory(struct explaining *x, const Pb__Task *t)
{
	const struct torpor_image *v = x->v;
	const Pb__AddressSpace *s = v->meta->spaces[t->space];
	uint64_t mapped = 0;
	size_t files = 0;

	for (size_t i = 0; i < s->n_mappings; i++) {
		mapped += s->mappings[i]->end - s->mappings[i]->start;
		files += s->mappings[i]->kind == PB__MAPPING_KIND__FILE_PRIVATE || s->mappings[i]->kind == PB__MAPPING_KIND__FILE_SHARED;
	}
	explain_say(x, "  map %zu mappings, %s, %zu of them of files; load %s from the image\n", s->n_mappings, explain_bytes(x, mapped), files,
	       explain_bytes(x, v->spaces[t->space].stored_bytes));
	explain_say(x, "  fill %zu file descriptors from the objects, close all others\n", t->n_slots);
	explain_say(x, "  enter the folder %s\n", explain_path(x, t->cwd->path));
}

/* ---- scripts ---- */

struct explain_call {
	long nr;
	const char *name;
	int args;
};

static const struct explain_call calls[] = {
	{ SYS_capset, "capset", 2 },
	{ SYS_clone3, "clone3", 2 },
	{ SYS_close_range, "close_range", 3 },
	{ SYS_fcntl, "fcntl", 3 },
	{ SYS_membarrier, "membarrier", 3 },
	{ SYS_mremap, "mremap", 5 },
	{ SYS_munmap, "munmap", 2 },
	{ SYS_personality, "personality", 1 },
	{ SYS_prctl, "prctl", 5 },
	{ SYS_prlimit64, "prlimit64", 4 },
	{ SYS_rseq, "rseq", 4 },
	{ SYS_rt_sigaction, "rt_sigaction", 4 },
	{ SYS_rt_sigqueueinfo, "rt_sigqueueinfo", 3 },
	{ SYS_rt_tgsigqueueinfo, "rt_tgsigqueueinfo", 4 },
	{ SYS_set_robust_list, "set_robust_list", 2 },
	{ SYS_set_tid_address, "set_tid_address", 1 },
	{ SYS_setfsgid, "setfsgid", 1 },
	{ SYS_setfsuid, "setfsuid", 1 },
	{ SYS_setgroups, "setgroups", 2 },
	{ SYS_setitimer, "setitimer", 3 },
	{ SYS_setresgid, "setresgid", 3 },
	{ SYS_setresuid, "setresuid", 3 },
	{ SYS_sigaltstack, "sigaltstack", 2 },
	{ SYS_timer_create, "timer_create", 3 },
	{ SYS_timer_delete, "timer_delete", 1 },
	{ SYS_timer_settime, "timer_settime", 4 },
};

/* A number; or a place among the data of the scripts. */
static void explain_arg(struct explaining *x, const struct explain *s, uint64_t arg)
{
	if (arg >= s->region.start && arg < s->region.start + s->region.size)
		explain_say(x, "data+%#lx", arg - s->region.start);
	else
		explain_say(x, arg < LARGE ? "%ld" : "%#lx", arg);
}

static void explain_step(struct explaining *x, const struct explain *s, size_t number, const struct script_op *op)
{
	struct explain_call call = { op->nr, NULL, ARGS_MAX };

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (op->code == SCRIPT_SYSCALL && calls[i].nr == op->nr)
			call = calls[i];
	if (op->code == SCRIPT_THREAD)
		call = (struct explain_call){ SYS_clone3, "clone3", 2 };
	explain_say(x, "  %4zu ", number);
	if (call.name)
		explain_say(x, "%s(", call.name);
	else
		explain_say(x, "syscall %ld (", op->nr);
	for (int i = 0; i < call.args; i++) {
		explain_say(x, "%s", i ? ", " : "");
		explain_arg(x, s, op->args[i]);
	}
	explain_say(x, ")%s%s%s\n", op->flags & SCRIPT_MUST ? "" : ", may fail", op->note ? "    " : "",
	       op->note ? (const char *)op->note : "");
}

static void explain_script(struct explaining *x, const struct explain *s, const struct script *script)
{
	const struct script_op *ops = (const struct script_op *)script->ops;

	for (size_t i = 0; i < script->n; i++)
		explain_step(x, s, i + 1, &ops[i]);
	for (size_t i = 0; i < script->n; i++) {
		const struct script *thread = (const struct script *)ops[i].args[2];

		if (ops[i].code != SCRIPT_THREAD)
			continue;
		explain_say(x, "  thread %lu, from step %zu on\n", thread->tid, i + 1);
		for (size_t k = 0; k < thread->n; k++)
			explain_step(x, s, k + 1, &((const struct script_op *)thread->ops)[k]);
	}
}

static int explain_living(struct explaining *x, size_t i, struct err *e)
{
	const Pb__Task *t = explain_task(x, i);
	struct explain s;
	int r;

	if (t->state == PB__TASK_STATE__ZOMBIE)
		return 0;
	explain_say(x, "\nin %d %s\n", t->pid, explain_name(x, t));
	explain_memory(x, t);
	explain_say(x, "  then the script: unmap the old address space, move what is not yet in its place, set the memory layout;\n"
	     "  these steps depend on where things are at that time, the others do not:\n");
	r = explain_begin(&s, &x->plan, i, &x->v->arena, e);
	if (r == 0)
		explain_script(x, &s, s.script);
	explain_end(&s);
	return r;
}

/* ---- all of it ---- */

static int explain_all(struct explaining *x, struct err *e)
{
	const Pb__Image *meta = x->v->meta;

	if (plan_make(&x->plan, meta, x->v->image, &x->v->arena, e) < 0)
		return -1;
	explain_say(x, "%s: %zu process%s, %zu thread%s, %zu file%s, %zu object%s\n", explain_path(x, x->v->info.path), meta->n_tasks,
	       meta->n_tasks == 1 ? "" : "es", x->plan.n_threads, x->plan.n_threads == 1 ? "" : "s", meta->n_inodes,
	       meta->n_inodes == 1 ? "" : "s", meta->n_objects, meta->n_objects == 1 ? "" : "s");
	explain_inodes(x);
	explain_objects(x);
	explain_births(x);
	explain_sessions(x);
	explain_groups(x);
	explain_zombies(x);
	for (size_t i = 0; i < x->plan.n_tasks; i++)
		if (explain_living(x, i, e) < 0)
			return -1;
	explain_say(x, "\nat last\n  each thread gets its registers and its signal mask; torpor lets go of them, children first\n");
	return 0;
}

struct explain_job {
	const char *path;
	void (*line)(void *data, const char *text);
	void *data;
};

/* In a helper: the scripts are built at addresses that must be free. */
static int explain_work(int link, void *data, struct err *e)
{
	const struct explain_job *j = data;
	struct explaining x = { .link = link };
	int r = api_image_open(j->path, 0, &x.v, e);

	if (r < 0)
		return r;
	r = explain_all(&x, e);
	torpor_image_close(x.v);
	return r;
}

static void explain_hear(int link, void *data, const struct helper_message *m, const char *text, size_t size)
{
	const struct explain_job *j = data;

	(void)link, (void)m, (void)size;
	j->line(j->data, text);
}

int torpor_restore_explain(const char *path, void (*line)(void *data, const char *text), void *data, struct torpor_error **error)
{
	struct explain_job j = { path, line, data };
	struct torpor_options o;
	struct helper_job job = { .work = explain_work, .hear = explain_hear, .data = &j, .options = &o };
	struct err e = ERR_INIT;

	api_options_default(&o);
	return helper_run(&job, NULL, NULL, &e) < 0 ? api_fail(error, &e) : 0;
}
