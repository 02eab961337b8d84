/* SPDX-License-Identifier: Apache-2.0 */
#include "core/init.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys/process.h"
#include "util/fd.h"
#include "util/privilege.h"

enum { VISITOR_POLL_US = 10000, FDS_KEPT = STDERR_FILENO + 3 };

struct init {
	pid_t root; /* 0: it has ended */
	int reports;
	int status; /* to end with */
};

/* A folder or a pipe that we held would be in somebody's way. */
static void init_let_go(int reports, int keep)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	reports = fcntl(reports, F_DUPFD_CLOEXEC, FDS_KEPT);
	keep = keep < 0 ? -1 : fcntl(keep, F_DUPFD_CLOEXEC, FDS_KEPT);
	for (int i = 0; i <= STDERR_FILENO; i++)
		dup2(fd, i);
	dup3(reports, STDERR_FILENO + 1, O_CLOEXEC);
	if (keep < 0)
		close(STDERR_FILENO + 2);
	else
		dup3(keep, STDERR_FILENO + 2, O_CLOEXEC);
	close_range(FDS_KEPT, ~0u, 0);
	if (chdir("/") < 0)
		return; /* it stays where it is */
}

static void init_report(struct init *in, int status)
{
	fd_write_full(in->reports, &status, sizeof(status)); /* nobody need listen */
	if (WIFSTOPPED(status))
		return;
	in->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	in->root = 0;
	close(in->reports);
}

/* False: we have no children any more. */
static bool init_reap(struct init *in)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED | __WALL)) > 0)
		if (pid == in->root)
			init_report(in, status);
	return pid == 0 || errno == EINTR;
}

/* A torpor that dumps, and has ended the program, is nobody's child here; it would be killed with us. */
static bool init_has_visitors(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *d;
	bool found = false;

	while (proc && !found && (d = readdir(proc)))
		found = isdigit(d->d_name[0]) && atoi(d->d_name) != getpid();
	if (proc)
		closedir(proc);
	return found;
}

_Noreturn void init_serve(pid_t root, int reports, int keep)
{
	struct init in = { root, STDERR_FILENO + 1, 0 };
	sigset_t all;

	init_let_go(reports, keep);
	sys_sched_allow_all(0); /* whoever is as free as the init counts as free: thread_collect_outside() */
	privilege_end();
	malloc_trim(0);
	sigfillset(&all);
	/* What comes besides SIGCHLD is meant for the program: it went to its whole group, or torpor outside passes it on. */
	while (init_reap(&in))
		sigwaitinfo(&all, NULL);
	while (init_has_visitors())
		usleep(VISITOR_POLL_US);
	_exit(in.status);
}
