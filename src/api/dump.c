/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor_dump() and torpor_check(). What lives in a namespace of torpor's is dumped inside (core/visit.h), by a child
 * of the helper; everything else by the helper itself, or by the caller if it is there for that.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/api.h"
#include "api/helper.h"
#include "api/supervise.h"
#include "core/visit.h"
#include "util/fd.h"

/* What the helper tells of; a text each, or numbers. */
enum dump_news { NEWS_COMM, NEWS_PATH, NEWS_LEFTOVERS, NEWS_TASKS, NEWS_BYTES, NEWS_RUNNING, NEWS_PARENT, NEWS_OBSTACLE };

struct dump_job {
	const struct torpor_options *o;
	pid_t pid;
	const char *path;
	bool check_only;
	struct result *result;
	bool no_memory; /* the caller could not keep what it heard */
};

/* ---- the dump ---- */

static const char *dump_read_comm(pid_t pid, struct arena *arena)
{
	char *comm;

	if (fd_read_proc(pid, "comm", arena, &comm, NULL) < 0)
		return arena_strdup(arena, "");
	comm[strcspn(comm, "\n")] = '\0';
	return comm;
}

/* A program chooses its name itself: what could be a path, or do something to a terminal, is replaced. */
static const char *dump_default_path(const struct dump_job *j, pid_t pid, const char *comm, struct arena *arena)
{
	char *name = arena_strdup(arena, comm[0] ? comm : "process");

	if (j->o->name)
		return arena_printf(arena, "%s.torpor", j->o->name);
	for (char *p = name; p && *p; p++)
		if (*p == '/' || *p <= ' ' || *p >= 0x7f)
			*p = '_';
	return name ? arena_printf(arena, "%s-%d.torpor", name, pid) : NULL;
}

/* In this very process. `pid` is what the process is called here. */
static int dump_here(const struct dump_job *j, pid_t pid, const struct proc_status *outside, const struct api_callbacks *c,
		     struct result *r, struct err *e)
{
	struct dump_options o = j->o->dump;
	struct dump_result result;
	int ret;

	o.pid = pid;
	o.name = j->o->name;
	o.outside = outside;
	o.check_only = j->check_only;
	o.keep_running &= !j->check_only;
	o.log = &c->log;
	o.progress = &c->progress;
	r->public.pid = pid;
	r->public.comm = dump_read_comm(pid, &r->arena);
	if (!r->public.comm)
		return err_nomem(e);
	o.path = j->path ?: dump_default_path(j, pid, r->public.comm, &r->arena);
	r->public.path = o.path ? arena_strdup(&r->arena, o.path) : NULL;
	if (!r->public.path)
		return err_nomem(e);
	ret = core_dump(&o, &result, e);
	if (api_result_fill(r, &result) < 0 && ret == 0)
		ret = err_nomem(e);
	dump_result_done(&result);
	return ret;
}

/* ---- in the helper ---- */

static void dump_tell(int link, const struct result *r)
{
	const struct torpor_result *p = &r->public;
	char text[HELPER_DATA_MAX];

	helper_say(link, HELPER_NEWS, NEWS_TASKS, p->tasks, p->threads, &p->pid, sizeof(p->pid));
	helper_say(link, HELPER_NEWS, NEWS_BYTES, p->bytes, p->frozen_ns, &p->packed_bytes, sizeof(p->packed_bytes));
	helper_say(link, HELPER_NEWS, NEWS_RUNNING, (uint64_t)p->while_running, 0, NULL, 0);
	helper_say(link, HELPER_NEWS, NEWS_PARENT, p->parent_bytes, 0, NULL, 0);
	helper_say_text(link, HELPER_NEWS, NEWS_COMM, p->comm);
	helper_say_text(link, HELPER_NEWS, NEWS_PATH, p->path);
	if (p->leftovers)
		helper_say_text(link, HELPER_NEWS, NEWS_LEFTOVERS, p->leftovers);
	for (size_t i = 0; i < r->obstacles.n; i++) {
		const struct obstacle *o = &r->obstacles.v[i];
		int n = snprintf(text, sizeof(text), "%s%c%s%c%s", o->id, '\0', o->text, '\0', o->help);

		helper_say(link, HELPER_NEWS, NEWS_OBSTACLE, 0, 0, text, n < (int)sizeof(text) ? (size_t)n : sizeof(text) - 1);
	}
}

static int dump_and_tell(int link, struct dump_job *j, pid_t pid, const struct proc_status *outside, struct err *e)
{
	const struct api_callbacks c = helper_callbacks(j->o, &link);
	struct result *r = api_result_new();
	int ret;

	if (!r)
		return err_nomem(e);
	ret = dump_here(j, pid, outside, &c, r, e);
	if (r->public.path)
		dump_tell(link, r);
	torpor_result_free(&r->public);
	return ret;
}

/* How it went inside, in shared memory. */
struct dump_inside {
	int r;
	struct err e;
};

/* What the caller passes on is for the child; what a terminal sends has reached it. */
static int dump_await_inside(pid_t child, const struct dump_inside *shared, struct err *e)
{
	sigset_t all;
	siginfo_t si;
	int status;

	sigfillset(&all);
	for (;;) {
		pid_t got = waitpid(child, &status, WNOHANG);

		if (got < 0 && errno != EINTR)
			return err_sys(e, errno, "waiting for the process that dumps");
		if (got > 0 && WIFEXITED(status)) {
			*e = shared->e;
			return shared->r;
		}
		if (got > 0)
			return err_set(e, ERR_SYSTEM, 0, "the process that dumps was killed by signal %d", WTERMSIG(status));
		if (sigwaitinfo(&all, &si) > 0 && si.si_signo != SIGCHLD && si.si_code != SI_KERNEL)
			kill(child, si.si_signo);
	}
}

static int dump_visit(int link, struct dump_job *j, struct visit *v, struct err *e)
{
	struct dump_inside *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t parent = getppid(), child;
	int r;

	if (shared == MAP_FAILED)
		return err_nomem(e);
	child = visit_enter(v, j->pid, e);
	if (child == 0) {
		shared->r = dump_and_tell(link, j, v->pid, &v->outside, &shared->e);
		_exit(0);
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* entering the namespaces has taken that back */
	if (getppid() != parent)
		_exit(ERR_SYSTEM);
	r = child < 0 ? child : dump_await_inside(child, shared, e);
	if (child > 0)
		visit_done(v);
	munmap(shared, sizeof(*shared));
	return r;
}

static int dump_work(int link, void *data, struct err *e)
{
	struct dump_job *j = data;
	struct arena arena = ARENA_INIT;
	struct visit v = { 0 };
	int found = visit_find(j->pid, &arena, &v, e), r = found;

	if (found == 0)
		r = dump_and_tell(link, j, j->pid, NULL, e);
	else if (found > 0)
		r = dump_visit(link, j, &v, e);
	arena_done(&arena);
	return r;
}

/* ---- in the caller ---- */

static bool dump_keep_obstacle(struct result *r, const char *text, size_t size)
{
	const char *end = text + size, *second = memchr(text, 0, size);
	const char *third = second ? memchr(second + 1, 0, (size_t)(end - second) - 1) : NULL;
	struct obstacle *v = arena_grow(&r->arena, r->obstacles.v, r->obstacles.n, sizeof(*v));

	if (!v || !third)
		return v;
	r->obstacles.v = v;
	v[r->obstacles.n++] = (struct obstacle){ arena_strdup(&r->arena, text), arena_strdup(&r->arena, second + 1),
						 arena_strdup(&r->arena, third + 1) };
	r->public.obstacles = r->obstacles.n;
	return v[r->obstacles.n - 1].help;
}

static void dump_hear(int link, void *data, const struct helper_message *m, const char *text, size_t size)
{
	struct dump_job *j = data;
	struct torpor_result *p = &j->result->public;
	const char *copy = arena_strdup(&j->result->arena, text);

	(void)link;
	j->no_memory |= !copy;
	switch (m->number) {
	case NEWS_COMM:
		p->comm = copy;
		break;
	case NEWS_PATH:
		p->path = copy;
		break;
	case NEWS_LEFTOVERS:
		p->leftovers = copy;
		break;
	case NEWS_TASKS:
		p->tasks = m->a;
		p->threads = m->b;
		if (size == sizeof(p->pid))
			memcpy(&p->pid, text, size);
		break;
	case NEWS_BYTES:
		p->bytes = m->a;
		p->frozen_ns = m->b;
		if (size == sizeof(p->packed_bytes))
			memcpy(&p->packed_bytes, text, size);
		break;
	case NEWS_RUNNING:
		p->while_running = (int)m->a;
		break;
	case NEWS_PARENT:
		p->parent_bytes = m->a;
		break;
	case NEWS_OBSTACLE:
		j->no_memory |= !dump_keep_obstacle(j->result, text, size);
		break;
	}
}

static int dump_by_helper(struct dump_job *j, struct err *e)
{
	struct helper_job job = { .work = dump_work, .hear = dump_hear, .data = j, .options = j->o, .timeout_ms = j->o->dump.timeout_ms };
	int r = helper_run(&job, NULL, NULL, e);

	return r == 0 && j->no_memory ? err_nomem(e) : r;
}

/*
 * Whoever lives in a namespace of torpor's is dumped by another process in any case; and so is who may have files on a
 * server, because this process could then wait for that server for ever, and the program would stand.
 */
static int dump_in_process(struct dump_job *j, struct err *e)
{
	const struct api_callbacks c = api_callbacks(j->o);
	struct arena arena = ARENA_INIT;
	struct visit v = { 0 };
	int found = visit_find(j->pid, &arena, &v, e);

	arena_done(&arena);
	if (found < 0)
		return found;
	return found || supervise_is_needed(j->pid) ? dump_by_helper(j, e) : dump_here(j, j->pid, NULL, &c, j->result, e);
}

static int dump(struct dump_job *j, const struct torpor_options *o, struct torpor_result **ret, struct torpor_error **error)
{
	struct torpor_options defaults;
	struct err e = ERR_INIT;
	int r;

	api_options_default(&defaults);
	j->o = o ?: &defaults;
	j->result = api_result_new();
	if (j->result)
		j->result->public = (struct torpor_result){ .pid = j->pid, .comm = "" };
	if (j->pid <= 0)
		r = err_set(&e, ERR_USAGE, 0, "%d is no PID", j->pid);
	else if (!j->result)
		r = err_nomem(&e);
	else
		r = j->o->in_process ? dump_in_process(j, &e) : dump_by_helper(j, &e);
	if (ret)
		*ret = j->result ? &j->result->public : NULL;
	else
		torpor_result_free(j->result ? &j->result->public : NULL);
	return r < 0 ? api_fail(error, &e) : 0;
}

int torpor_dump(int pid, const char *path, const struct torpor_options *o, struct torpor_result **ret, struct torpor_error **error)
{
	struct dump_job j = { .pid = pid, .path = path };

	return dump(&j, o, ret, error);
}

int torpor_check(int pid, const struct torpor_options *o, struct torpor_result **ret, struct torpor_error **error)
{
	struct dump_job j = { .pid = pid, .check_only = true };

	return dump(&j, o, ret, error);
}
