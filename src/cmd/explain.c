/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a restore would do, in the order in which it does it: who makes whom,
 * which sessions and groups, files and objects, memory, and then the scripts,
 * step by step. All of it follows from the image alone, so that it is the same
 * each time.
 */

#include "cmd/explain.h"

#include <stdio.h>
#include <sys/syscall.h>

#include "cmd/cmd.h"
#include "cmd/view.h"
#include "core/explain.h"
#include "core/objects.h"
#include "core/plan.h"

enum { ARGS_MAX = 6, LARGE = 0x10000 };

struct explaining {
	struct view view;
	struct plan plan;
};

static const Pb__Task *explain_task(const struct explaining *x, size_t i)
{
	return x->plan.tasks[i].pb;
}

static const char *explain_name(struct explaining *x, const Pb__Task *t)
{
	return view_name(&x->view, t->comm);
}

/* ---- who makes whom ---- */

static void explain_birth(struct explaining *x, size_t i)
{
	const struct plan_task *t = &x->plan.tasks[i];
	int32_t pid = t->pb->pid;

	printf("  %d %s: ", pid, explain_name(x, t->pb));
	switch (t->birth) {
	case BIRTH_ROOT:
		printf("made by torpor");
		break;
	case BIRTH_BEFORE_SESSION:
		printf("made by %d, before that leads a session of its own", t->pb->ppid);
		break;
	case BIRTH_CHILD:
		printf("made by %d", t->pb->ppid);
		break;
	case BIRTH_BY_STANDIN:
		printf("made by a stand-in with the PID %d for the ended leader of its session, as a child of %d", t->pb->sid,
		       t->pb->ppid);
		break;
	case BIRTH_BY_LEADER:
		printf("made by %d, which leads its session, as a child of %d", explain_task(x, t->leader)->pid, t->pb->ppid);
		break;
	}
	if (t->pb->n_threads > 1)
		printf("; then makes %zu thread%s", t->pb->n_threads - 1, t->pb->n_threads == 2 ? "" : "s");
	putchar('\n');
}

static void explain_births(struct explaining *x)
{
	puts("\nwho makes whom (all meet at the barrier \"births\")");
	for (size_t i = 0; i < x->plan.n_tasks; i++)
		explain_birth(x, i);
}

static void explain_sessions(const struct explaining *x)
{
	puts("\nsessions and process groups");
	for (size_t i = 0; i < x->plan.n_tasks; i++) {
		const Pb__Task *t = explain_task(x, i);

		if (t->sid == t->pid)
			printf("  %d leads the session %d\n", t->pid, t->sid);
		else if (!i)
			printf("  %d stays in the session that torpor was started in\n", t->pid);
	}
}

static void explain_groups(const struct explaining *x)
{
	for (size_t i = 0; i < x->plan.n_tasks; i++) {
		const struct plan_task *t = &x->plan.tasks[i];

		if (t->pb->group_outside)
			printf("  %d stays in the process group that torpor was started in\n", t->pb->pid);
		else if (t->pb->pgid == t->pb->pid)
			printf("  %d leads the process group %d (barrier \"leaders\")\n", t->pb->pid, t->pb->pgid);
		else if (t->makes_group)
			printf("  %d makes a stand-in for the ended leader of the process group %d\n", t->pb->pid, t->pb->pgid);
	}
	for (size_t i = 0; i < x->plan.n_tasks; i++)
		if (explain_task(x, i)->pgid != explain_task(x, i)->pid && !explain_task(x, i)->group_outside)
			printf("  %d joins the process group %d (barrier \"members\")\n", explain_task(x, i)->pid,
			       explain_task(x, i)->pgid);
}

static void explain_zombies(const struct explaining *x)
{
	for (size_t i = 0; i < x->plan.n_tasks; i++)
		if (explain_task(x, i)->state == PB__TASK_STATE__ZOMBIE)
			printf("  %d ends, and waits for its parent as a zombie\n", explain_task(x, i)->pid);
}

/* ---- files and objects ---- */

static void explain_inodes(struct explaining *x)
{
	const Pb__Image *meta = x->view.meta;

	puts("\nfiles, first of all");
	for (size_t i = 0; i < meta->n_inodes; i++) {
		const Pb__Inode *n = meta->inodes[i];

		if (n->kind == PB__INODE_KIND__PATH && !n->has_content)
			printf("  open and check %s\n", view_path(&x->view, n->path));
		else
			printf("  make %s, %s, and fill it with %s\n", view_path(&x->view, n->path), view_bytes(&x->view, n->size),
			       view_bytes(&x->view, x->view.inode_bytes[i]));
	}
}

/* When the functions of its kind are called. */
static void explain_phases(const struct explaining *x, const Pb__Object *o)
{
	const struct kind *k = kind_by_tag(o->kind);
	const Pb__Task *home = explain_task(x, o->home_task);

	printf("%s", k->restore ? "made by torpor" : "made together with others by torpor");
	if (k->restore && k->restore_all)
		printf(", then with others");
	if (k->remake)
		printf(", made again in every task");
	if (k->lead)
		printf(", in leaders of sessions");
	if (k->group)
		printf(", in leaders of sessions behind the barrier \"members\"");
	if (k->finish && o->has_home_fd)
		printf(", completed in %d fd %u", home->pid, o->home_fd);
	if (k->last)
		printf(", completed last of all");
	if (k->release)
		printf(", set going");
}

static void explain_objects(struct explaining *x)
{
	const Pb__Image *meta = x->view.meta;

	puts("\nobjects, in this order; every task inherits them all and keeps its own");
	for (uint32_t i = 0; i < meta->n_objects; i++) {
		const Pb__Object *o = meta->objects[i];

		printf("  %3u %-14s %s: ", i, view_kind_name(o), view_path(&x->view, view_describe(&x->view, i)));
		explain_phases(x, o);
		for (size_t k = 0; k < o->n_needs; k++)
			printf("%s%u", k ? ", " : "; needs ", o->needs[k]);
		putchar('\n');
	}
}

/* ---- memory ---- */

static void explain_memory(struct explaining *x, const Pb__Task *t)
{
	struct view *v = &x->view;
	const Pb__AddressSpace *s = v->meta->spaces[t->space];
	uint64_t mapped = 0;
	size_t files = 0;

	for (size_t i = 0; i < s->n_mappings; i++) {
		mapped += s->mappings[i]->end - s->mappings[i]->start;
		files += s->mappings[i]->kind == PB__MAPPING_KIND__FILE_PRIVATE || s->mappings[i]->kind == PB__MAPPING_KIND__FILE_SHARED;
	}
	printf("  map %zu mappings, %s, %zu of them of files; load %s from the image\n", s->n_mappings, view_bytes(v, mapped), files,
	       view_bytes(v, v->space_bytes[t->space]));
	printf("  fill %zu file descriptors from the objects, close all others\n", t->n_slots);
	printf("  enter the folder %s\n", view_path(v, t->cwd->path));
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
static void explain_arg(const struct explain *s, uint64_t arg)
{
	if (arg >= s->region.start && arg < s->region.start + s->region.size)
		printf("data+%#lx", arg - s->region.start);
	else
		printf(arg < LARGE ? "%ld" : "%#lx", arg);
}

static void explain_step(const struct explain *s, size_t number, const struct script_op *op)
{
	struct explain_call call = { op->nr, NULL, ARGS_MAX };

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (op->code == SCRIPT_SYSCALL && calls[i].nr == op->nr)
			call = calls[i];
	if (op->code == SCRIPT_THREAD)
		call = (struct explain_call){ SYS_clone3, "clone3", 2 };
	printf("  %4zu ", number);
	if (call.name)
		printf("%s(", call.name);
	else
		printf("syscall %ld (", op->nr);
	for (int i = 0; i < call.args; i++) {
		printf("%s", i ? ", " : "");
		explain_arg(s, op->args[i]);
	}
	printf(")%s%s%s\n", op->flags & SCRIPT_MUST ? "" : ", may fail", op->note ? "    " : "",
	       op->note ? (const char *)op->note : "");
}

static void explain_script(const struct explain *s, const struct script *script)
{
	const struct script_op *ops = (const struct script_op *)script->ops;

	for (size_t i = 0; i < script->n; i++)
		explain_step(s, i + 1, &ops[i]);
	for (size_t i = 0; i < script->n; i++) {
		const struct script *thread = (const struct script *)ops[i].args[2];

		if (ops[i].code != SCRIPT_THREAD)
			continue;
		printf("  thread %lu, from step %zu on\n", thread->tid, i + 1);
		for (size_t k = 0; k < thread->n; k++)
			explain_step(s, k + 1, &((const struct script_op *)thread->ops)[k]);
	}
}

static int explain_living(struct explaining *x, size_t i, struct err *e)
{
	const Pb__Task *t = explain_task(x, i);
	struct explain s;
	int r;

	if (t->state == PB__TASK_STATE__ZOMBIE)
		return 0;
	printf("\nin %d %s\n", t->pid, explain_name(x, t));
	explain_memory(x, t);
	puts("  then the script: unmap the old address space, move what is not yet in its place, set the memory layout;\n"
	     "  these steps depend on where things are at that time, the others do not:");
	r = explain_begin(&s, &x->plan, i, &x->view.arena, e);
	if (r == 0)
		explain_script(&s, s.script);
	explain_end(&s);
	return r;
}

/* ---- all of it ---- */

static int explain_all(struct explaining *x, struct err *e)
{
	const Pb__Image *meta = x->view.meta;

	if (plan_make(&x->plan, meta, x->view.image, &x->view.arena, e) < 0)
		return -1;
	printf("%s: %zu process%s, %zu thread%s, %zu file%s, %zu object%s\n", view_path(&x->view, x->view.path), meta->n_tasks,
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
	puts("\nat last\n  each thread gets its registers and its signal mask; torpor lets go of them, children first");
	return 0;
}

int explain_print(const char *path)
{
	struct explaining x = { .view.path = path };
	struct err e = ERR_INIT;
	int r = view_open(&x.view, &e);

	if (r == 0)
		r = explain_all(&x, &e);
	fflush(stdout);
	view_close(&x.view);
	return r < 0 ? cmd_fail(&e) : 0;
}
