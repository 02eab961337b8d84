/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor restore: in the foreground it stands in for the restored program as far
 * as a shell can tell: signals are passed on, the terminal is handed over, the
 * exit status is taken over.
 */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/explain.h"
#include "core/core.h"
#include "util/fd.h"
#include "util/privilege.h"

enum { PID_WAIT_MS = 10000, STREAMS = 3 };

struct foreground {
	bool detach;
	bool explain;  /* only say what would be done */
	const char *pidfile;
	int tty;       /* our controlling terminal; -1: none, or we are not in its foreground */
	pid_t group;   /* the root's process group, when it is not ours */
	bool redraw;   /* a full-screen program: what it had drawn is gone */
	sigset_t mask; /* as it was before we blocked what is passed on */
	int signals;   /* signalfd of what is passed on, and of SIGCHLD */
};

/* ---- options ---- */

/* --fd N=inherit|null|PATH */
static int restore_parse_fd(struct restore_options *o, const char *arg)
{
	const char *to = strchr(arg, '=');
	int n = arg[0] - '0';

	if (!to || to != arg + 1 || n < 0 || n >= STREAMS)
		return cmd_usage(&cmd_restore, "--fd needs N=inherit, N=null or N=PATH with N from 0 to 2, not '%s'", arg);
	if (strcmp(++to, "inherit") == 0)
		o->streams[n] = n;
	else if (strcmp(to, "null") == 0)
		o->streams[n] = open("/dev/null", O_RDWR | O_CLOEXEC);
	else
		o->streams[n] = open(to, (n ? O_WRONLY | O_CREAT | O_APPEND : O_RDONLY) | O_CLOEXEC | O_NOCTTY, 0666);
	if (o->streams[n] < 0) {
		fprintf(stderr, "torpor: cannot open %s: %s\n", to, strerror(errno));
		return ERR_SYSTEM;
	}
	return 0;
}

static int restore_parse_tier(struct restore_options *o, const char *arg)
{
	static const char *const names[] = {
		[TIER_AUTO] = "auto", [TIER_CAP] = "cap", [TIER_ROOT] = "root", [TIER_USERNS] = "userns", [TIER_FORK] = "fork",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(arg, names[i]) == 0) {
			o->tier = (enum tier)i;
			return 0;
		}
	}
	return cmd_usage(&cmd_restore, "--tier is one of auto, cap, root, userns, fork, not '%s'", arg);
}

static int restore_parse_limit(struct restore_options *o, const char *arg)
{
	char *end;

	errno = 0;
	o->fork_limit = strtoull(arg, &end, 10);
	if (errno || *end || end == arg || *arg == '-')
		return cmd_usage(&cmd_restore, "--fork-limit needs a number, not '%s'", arg);
	return 0;
}

static int restore_parse(struct restore_options *o, struct foreground *f, int argc, char **argv)
{
	static const struct option options[] = {
		{ "detach", no_argument, NULL, 'd' },
		{ "pidfile", required_argument, NULL, 'p' },
		{ "fd", required_argument, NULL, 'f' },
		{ "allow-changed-files", no_argument, NULL, 'a' },
		{ "allow-foreign-image", no_argument, NULL, 'o' },
		{ "tier", required_argument, NULL, 't' },
		{ "fork-limit", required_argument, NULL, 'l' },
		{ "explain", no_argument, NULL, 'e' },
		{ 0 },
	};
	int c, status;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "-d", options, NULL)) != -1) {
		if (c == 'd')
			f->detach = true;
		else if (c == 'p')
			f->pidfile = optarg;
		else if (c == 'e')
			f->explain = true;
		else if (c == 'a')
			o->allow_changed = true;
		else if (c == 'o')
			o->allow_foreign = true;
		else if (c == 't' && (status = restore_parse_tier(o, optarg)))
			return status;
		else if (c == 'l' && (status = restore_parse_limit(o, optarg)))
			return status;
		else if (c == 'f' && (status = restore_parse_fd(o, optarg)))
			return status;
		else if (c == 1 && o->path)
			return cmd_usage(&cmd_restore, "one image, not also '%s'", optarg);
		else if (c == 1)
			o->path = optarg;
		else if (c == '?')
			return cmd_usage(&cmd_restore, "unknown option or missing argument: %s", argv[optind - 1]);
	}
	return o->path ? 0 : cmd_usage(&cmd_restore, "the image is missing");
}

/* ---- just before the tree runs ---- */

static int restore_write_pidfile(const char *path, pid_t root, struct err *e)
{
	cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	char text[16];
	int n = snprintf(text, sizeof(text), "%d\n", root);

	if (fd < 0 || fd_write_full(fd, text, (size_t)n) < 0)
		return err_sys(e, errno, "writing the PID to %s", path);
	return 0;
}

/* A program that leads its own group gets the terminal, as a shell would give it. */
static void restore_give_terminal(struct foreground *f, pid_t group)
{
	if (f->tty < 0 || group == getpgrp())
		return;
	f->group = group;
	tcsetpgrp(f->tty, group);
}

/* The modes that the program had set; the shell sets its own again when we end or stop. */
static void restore_terminal_modes(struct foreground *f, const Pb__Image *image)
{
	struct termios modes;

	if (f->tty < 0 || !image->tasks[0]->foreground || !core_terminal_modes(image, &modes))
		return;
	tcsetattr(f->tty, TCSANOW, &modes);
	f->redraw = !(modes.c_lflag & ICANON);
}

static int restore_ready(void *data, pid_t root, const Pb__Image *image, struct err *e)
{
	struct foreground *f = data;
	const Pb__Task *pb = image->tasks[0];

	if (f->pidfile && restore_write_pidfile(f->pidfile, root, e) < 0)
		return -1;
	if (!f->detach && !pb->group_outside && pb->sid != pb->pid)
		restore_give_terminal(f, pb->pgid);
	if (!f->detach)
		restore_terminal_modes(f, image);
	return 0;
}

/* ---- in the foreground ---- */

static void foreground_begin(struct foreground *f)
{
	sigset_t set;

	sigfillset(&set);
	sigdelset(&set, SIGTTOU); /* ignored: we change the foreground group from the background */
	signal(SIGTTOU, SIG_IGN);
	sigprocmask(SIG_BLOCK, &set, &f->mask);
	f->signals = signalfd(-1, &set, SFD_CLOEXEC);
	f->tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
	if (f->tty >= 0 && tcgetpgrp(f->tty) != getpgrp()) {
		close(f->tty);
		f->tty = -1;
	}
}

/* The program has stopped: so do we, until the shell continues us. */
static void foreground_stop(struct foreground *f, pid_t root)
{
	if (f->group)
		tcsetpgrp(f->tty, getpgrp());
	raise(SIGSTOP);
	if (f->group && tcgetpgrp(f->tty) == getpgrp())
		tcsetpgrp(f->tty, f->group);
	kill(f->group ? -f->group : root, SIGCONT);
}

/* End as the program did. */
static int foreground_end(struct foreground *f, int status)
{
	int signo = WTERMSIG(status);

	if (f->group)
		tcsetpgrp(f->tty, getpgrp());
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	signal(signo, SIG_DFL);
	sigprocmask(SIG_SETMASK, &(sigset_t){ 0 }, NULL);
	raise(signo);
	return 128 + signo;
}

/* A signal from the terminal reaches the program's group by itself, when that is ours. */
static bool foreground_passes(const struct foreground *f, const struct signalfd_siginfo *si)
{
	bool from_terminal = si->ssi_code == SI_KERNEL;

	if (si->ssi_signo == SIGCHLD || si->ssi_signo == SIGCONT)
		return false;
	return !from_terminal || f->group;
}

static int foreground_wait(struct foreground *f, pid_t root)
{
	struct signalfd_siginfo si;
	int status;

	for (;;) {
		pid_t got = waitpid(root, &status, WUNTRACED | WNOHANG);

		if (got < 0 && errno != EINTR)
			return ERR_SYSTEM;
		if (got > 0 && WIFSTOPPED(status))
			foreground_stop(f, root);
		else if (got > 0)
			return foreground_end(f, status);
		else if (read(f->signals, &si, sizeof(si)) == sizeof(si) && foreground_passes(f, &si))
			kill(root, (int)si.ssi_signo);
	}
}

/* ---- the command ---- */

static int restore_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct foreground f = { .tty = -1, .signals = -1 };
	struct restore_options o = { .streams = { 0, 1, 2 },
				     .pid_wait_ms = PID_WAIT_MS,
				     .fork_limit = FORK_LIMIT_DEFAULT,
				     .ready = restore_ready,
				     .ready_data = &f,
				     .log = &g->log };
	struct cmd_progress progress;
	struct err e = ERR_INIT;
	int status = restore_parse(&o, &f, argc, argv);
	pid_t root;

	if (status)
		return status;
	if (f.explain)
		return explain_print(o.path);
	if (!f.detach)
		foreground_begin(&f);
	cmd_progress_init(&progress, g->progress);
	o.progress = &progress.progress;
	root = core_restore(&o, &e);
	cmd_progress_done(&progress);
	privilege_end();
	if (root < 0)
		return cmd_fail(&e);
	if (f.detach) {
		if (!f.pidfile) /* standard output may be the program's by now: nothing more than asked for */
			printf("%d\n", root);
		return 0;
	}
	if (f.redraw)
		kill(f.group ? -f.group : root, SIGWINCH);
	return foreground_wait(&f, root);
}

const struct cmd cmd_restore = {
	.name = "restore",
	.usage = "restore FILE [--detach] [--pidfile FILE] [--fd N=inherit|null|PATH] [--explain]",
	.help = "Make the saved processes again, with their PIDs, and let them go on. Without --detach\n"
		"torpor stays in the foreground: it passes signals on and takes the exit status over.\n"
		"Standard streams that led to a terminal or pipe outside the saved tree are joined to\n"
		"torpor's own.\n\n"
		"      --explain       make nothing; say what would be done, step by step\n"
		"  -d, --detach        return when the processes run again, and print the root's PID\n"
		"      --pidfile FILE  write the root's PID to FILE\n"
		"      --fd N=WHAT     join stream N (0 to 2) to torpor's own (inherit), /dev/null (null) or a file\n"
		"      --tier TIER     cap, root, fork; auto: the best that works (torpor check shows which do)\n"
		"      --fork-limit N  tier fork: make at most N processes until the PIDs come up (1000000)\n"
		"      --allow-changed-files  accept files that changed since the dump\n"
		"      --allow-foreign-image  accept an image that another user could have written\n",
	.run = restore_run,
};
