/* SPDX-License-Identifier: Apache-2.0 */

/* A program in namespaces of its own from the beginning, so that its PIDs are its own for ever. */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "core/core.h"
#include "core/init.h"
#include "core/name.h"
#include "core/namespace.h"
#include "util/fd.h"
#include "util/privilege.h"

struct run {
	const struct run_options *o;
	struct namespace ns;
	int name; /* -1: none */
};

/* In the child that becomes the program. Tells through the pipe why it did not. */
static _Noreturn void run_execute(const struct run *r, int pipe)
{
	int number;

	privilege_renounce(r->ns.bounding);
	if (r->o->before)
		r->o->before(r->o->before_data);
	execvp(r->o->argv[0], r->o->argv);
	number = errno;
	if (fd_write_full(pipe, &number, sizeof(number)) < 0)
		_exit(1);
	_exit(0);
}

static pid_t run_start(const struct run *r, struct err *e)
{
	int ends[2], number;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(e, errno, "pipe");
	pid = fork();
	if (pid == 0)
		run_execute(r, ends[1]);
	close(ends[1]);
	if (pid < 0)
		err_sys(e, errno, "fork");
	else if (read(ends[0], &number, sizeof(number)) == sizeof(number))
		pid = err_state(e, "E-RUN-PROGRAM", number, "cannot execute %s", r->o->argv[0]);
	close(ends[0]);
	return pid;
}

/*
 * PIDs begin where those outside are now, and so the numbers of several programs
 * are not the same: most images can be restored outside as well.
 */
static _Noreturn void run_inside(struct run *r)
{
	struct err e = ERR_INIT;
	sigset_t all;
	pid_t root;

	namespace_continue_pids(r->ns.init);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	root = run_start(r, &e);
	if (root < 0 || namespace_announce(&r->ns, root, &e) < 0)
		namespace_give_up(&r->ns, &e);
	namespace_say_done(&r->ns);
	init_serve(root, r->ns.reports, r->name);
}

static int run_ready(void *data, pid_t root, struct err *e)
{
	const struct run *r = data;

	return r->name < 0 ? 0 : name_tell(r->name, root, r->ns.init, e);
}

int core_start(const struct run_options *o, struct program *ret, struct err *e)
{
	struct run r = { .o = o, .name = -1 };
	int result;

	if (o->name && (r.name = name_take(o->name, e)) < 0)
		return -1;
	result = namespace_make(&r.ns, NULL, e);
	if (result > 0)
		run_inside(&r);
	if (result == 0)
		result = namespace_await(&r.ns, run_ready, &r, ret, e);
	fd_closep(&r.name); /* from now on, its init has it */
	return result;
}
