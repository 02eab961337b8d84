/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor_restore() and torpor_run(), and the programs that they give. What the caller's process did itself is its own
 * child; else the helper is the program's parent, and tells the caller what becomes of it as long as that listens.
 */

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/api.h"
#include "api/helper.h"
#include "core/name.h"
#include "util/fd.h"
#include "util/privilege.h"

/* What the helper tells of: the program; whether it leads a group; the modes of its terminal, or nothing. */
enum { NEWS_READY, NEWS_STARTED };

struct program_job {
	const struct torpor_options *o;
	const char *path;    /* restore */
	char *const *argv;   /* run */
	struct torpor_program *p; /* the caller's; in the helper, a copy of it */
	int link;
	const struct helper_job *job;
};

/* ---- ready ---- */

static void program_note(struct torpor_program *p, pid_t root, const Pb__Image *image)
{
	const Pb__Task *pb = image->tasks[0];

	p->program.root = root;
	p->leads_group = !pb->group_outside && pb->sid != pb->pid;
	p->has_modes = pb->foreground && core_terminal_modes(image, &p->modes);
}

static int program_called_off(int number, struct err *e)
{
	return err_sys(e, number, "the restore was called off by who asked for it");
}

/* In the caller's process. */
static int program_ready_here(void *data, pid_t root, const Pb__Image *image, struct err *e)
{
	struct program_job *j = data;
	int r;

	program_note(j->p, root, image);
	r = j->o->ready ? j->o->ready(j->o->ready_data, j->p) : 0;
	return r < 0 ? program_called_off(r, e) : 0;
}

/* In the helper: ask the caller. */
static int program_ready_there(void *data, pid_t root, const Pb__Image *image, struct err *e)
{
	struct program_job *j = data;
	int32_t answer;

	program_note(j->p, root, image);
	if (helper_say(j->link, HELPER_NEWS, NEWS_READY, (uint64_t)root, j->p->leads_group, &j->p->modes,
		       j->p->has_modes ? sizeof(j->p->modes) : 0) < 0 ||
	    helper_hear_answer(j->link, &answer) < 0)
		return err_set(e, ERR_SYSTEM, 0, "who asked for the restore has ended");
	return answer < 0 ? program_called_off(answer, e) : 0;
}

/* In the caller: be asked. */
static void program_hear(int link, void *data, const struct helper_message *m, const char *text, size_t size)
{
	struct program_job *j = data;
	int r = 0;

	j->p->program.root = (pid_t)m->a;
	if (m->number != NEWS_READY)
		return;
	j->p->leads_group = m->b;
	j->p->has_modes = size == sizeof(j->p->modes);
	if (j->p->has_modes)
		memcpy(&j->p->modes, text, size);
	if (j->o->ready)
		r = j->o->ready(j->o->ready_data, j->p);
	helper_say(link, HELPER_ANSWER, r, 0, 0, NULL, 0);
}

/* ---- restore ---- */

static int program_restore_here(struct program_job *j, struct err *e)
{
	struct restore_options o = j->o->restore;
	const struct api_callbacks c = api_callbacks(j->o);
	int r;

	o.path = j->path;
	o.ready = program_ready_here;
	o.ready_data = j;
	o.log = &c.log;
	o.progress = &c.progress;
	r = core_restore(&o, &j->p->program, e);
	privilege_end();
	return r;
}

static int program_restore_there(int link, void *data, struct err *e)
{
	struct program_job *j = data;
	struct restore_options o = j->o->restore;
	const struct api_callbacks c = helper_callbacks(j->o, &link);

	j->link = link;
	o.path = j->path;
	o.ready = program_ready_there;
	o.ready_data = j;
	o.log = &c.log;
	o.progress = &c.progress;
	return core_restore(&o, &j->p->program, e);
}

/* ---- run ---- */

static int program_run_here(struct program_job *j, struct err *e)
{
	const struct run_options o = { .argv = j->argv, .name = j->o->name, .before = j->o->before, .before_data = j->o->before_data };
	int r = core_start(&o, &j->p->program, e);

	privilege_end();
	return r;
}

/* In what becomes the program. */
static void program_before(void *data)
{
	const struct program_job *j = data;

	helper_undo_signals(j->job);
	if (j->o->before)
		j->o->before(j->o->before_data);
}

static int program_run_there(int link, void *data, struct err *e)
{
	struct program_job *j = data;
	const struct run_options o = { .argv = j->argv, .name = j->o->name, .before = program_before, .before_data = j };
	int r = core_start(&o, &j->p->program, e);

	if (r == 0)
		helper_say(link, HELPER_NEWS, NEWS_STARTED, (uint64_t)j->p->program.root, 0, NULL, 0);
	return r;
}

/* ---- standing in ---- */

/* What has become of the root since this was last asked? 1: see *ret_status; 0: nothing; negative: nobody knows. */
static int program_ask(const struct program *p, int *ret_status)
{
	pid_t got;

	if (p->reports >= 0) {
		if (poll(&(struct pollfd){ .fd = p->reports, .events = POLLIN }, 1, 0) <= 0)
			return 0;
		if (read(p->reports, ret_status, sizeof(*ret_status)) == sizeof(*ret_status))
			return 1;
	}
	do /* its init was killed, and the program with it; or there is none */
		got = waitpid(p->reports >= 0 ? p->init : p->root, ret_status, p->reports >= 0 ? 0 : WUNTRACED | WNOHANG);
	while (got < 0 && errno == EINTR);
	return got > 0 ? 1 : got;
}

/* In the helper, when the program runs: until that has ended, or the caller does not care any more. */
static void program_stand_in(int link, void *data)
{
	const struct program_job *j = data;
	const struct program *p = &j->p->program;
	struct pollfd fds[3] = { { .fd = link, .events = POLLIN }, { .fd = p->reports, .events = POLLIN }, { .events = POLLIN } };
	struct signalfd_siginfo si;
	sigset_t chld;

	privilege_end();
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	fds[2].fd = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
	helper_close_fds((int[]){ link, p->reports, fds[2].fd }, 3);
	close_range(STDIN_FILENO, STDERR_FILENO, 0);
	if (chdir("/") < 0)
		return;
	for (;;) {
		int status, known = program_ask(p, &status);

		if (known > 0)
			helper_say(link, HELPER_STATUS, status, 0, 0, NULL, 0);
		if (known < 0 || (known > 0 && !WIFSTOPPED(status)))
			return;
		if (known == 0 && poll(fds, 3, -1) > 0 && fds[0].revents)
			return;
		while (read(fds[2].fd, &si, sizeof(si)) == sizeof(si))
			;
	}
}

/* ---- begin ---- */

static int program_by_helper(struct program_job *j, int (*work)(int link, void *data, struct err *e), struct err *e)
{
	struct helper_job job = { .work = work, .after = program_stand_in, .hear = program_hear, .data = j, .options = j->o,
				  .fds = j->o->restore.streams, .n_fds = 3, .keeps_all = j->argv };

	j->job = &job;
	return helper_run(&job, &j->p->link, &j->p->helper, e);
}

static int program_begin(struct program_job *j, const struct torpor_options *o, struct torpor_program **ret,
			 struct torpor_error **error)
{
	struct torpor_options defaults;
	struct err e = ERR_INIT;
	int r;

	api_options_default(&defaults);
	j->o = o ?: &defaults;
	j->p = calloc(1, sizeof(*j->p));
	if (!j->p)
		return err_nomem(&e), api_fail(error, &e);
	j->p->program.reports = j->p->link = -1;
	if (!j->o->in_process)
		r = program_by_helper(j, j->argv ? program_run_there : program_restore_there, &e);
	else
		r = j->argv ? program_run_here(j, &e) : program_restore_here(j, &e);
	if (r < 0) {
		free(j->p);
		return api_fail(error, &e);
	}
	*ret = j->p;
	return 0;
}

int torpor_restore(const char *path, const struct torpor_options *o, struct torpor_program **ret, struct torpor_error **error)
{
	struct program_job j = { .path = path };

	return program_begin(&j, o, ret, error);
}

int torpor_run(char *const argv[], const struct torpor_options *o, struct torpor_program **ret, struct torpor_error **error)
{
	struct program_job j = { .argv = argv };

	return program_begin(&j, o, ret, error);
}

/* ---- the handle ---- */

int torpor_program_pid(const struct torpor_program *program)
{
	return program->program.root;
}

int torpor_program_fd(const struct torpor_program *program)
{
	return program->link >= 0 ? program->link : program->program.reports;
}

int torpor_program_leads_group(const struct torpor_program *program)
{
	return program->leads_group;
}

const struct termios *torpor_program_terminal_modes(const struct torpor_program *program)
{
	return program->has_modes ? &program->modes : NULL;
}

static int program_listen(const struct torpor_program *p, int *ret_status)
{
	struct helper_message m;
	ssize_t n;

	do
		n = recv(p->link, &m, sizeof(m), MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return 0;
	if (n != sizeof(m) || m.type != HELPER_STATUS)
		return -TORPOR_SYSTEM;
	*ret_status = m.number;
	return 1;
}

int torpor_program_poll(struct torpor_program *program, int *status)
{
	int r = -TORPOR_SYSTEM;

	if (!program->over)
		r = program->link >= 0 ? program_listen(program, status) : program_ask(&program->program, status);
	program->over |= r < 0 || (r > 0 && !WIFSTOPPED(*status));
	return r < 0 ? -TORPOR_SYSTEM : r;
}

/* For something new. */
static void program_pause(const struct torpor_program *p)
{
	siginfo_t si;

	if (torpor_program_fd(p) >= 0)
		poll(&(struct pollfd){ .fd = torpor_program_fd(p), .events = POLLIN }, 1, -1);
	else
		waitid(P_PID, (id_t)p->program.root, &si, WEXITED | WSTOPPED | WNOWAIT);
}

int torpor_program_wait(struct torpor_program *program, int *status, struct torpor_error **error)
{
	struct err e = ERR_INIT;

	for (;;) {
		int news, r = torpor_program_poll(program, &news);

		if (r < 0) {
			err_set(&e, ERR_SYSTEM, 0, "nobody knows any more what became of process %d", program->program.root);
			return api_fail(error, &e);
		}
		if (r > 0 && !WIFSTOPPED(news)) {
			if (status)
				*status = news;
			return 0;
		}
		if (r == 0)
			program_pause(program);
	}
}

void torpor_program_detach(struct torpor_program *program)
{
	if (!program)
		return;
	fd_closep(&program->link);
	fd_closep(&program->program.reports);
	if (program->helper > 0)
		helper_reap(program->helper);
	free(program);
}

/* ---- names ---- */

int torpor_find(const char *name, struct torpor_error **error)
{
	struct err e = ERR_INIT;
	pid_t pid;

	if (!name_is_valid(name)) {
		err_set(&e, ERR_USAGE, 0, "'%s' is no name of a program", name);
		return api_fail(error, &e);
	}
	pid = name_find(name, &e);
	return pid < 0 ? api_fail(error, &e) : pid;
}

int torpor_name_is_valid(const char *name)
{
	return name_is_valid(name);
}
