/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/stand_in.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys/process.h"
#include "util/err.h"
#include "util/privilege.h"

/* What the stand-in leaves behind, in shared memory. */
struct stand_in_report {
	int result, fds[2];
	struct err err;
};

static pid_t stand_in_clone(pid_t pid)
{
	cleanup_privilege struct privilege p = privilege_raise(pid > 0 ? PRIVILEGE_CHECKPOINT : 0);
	struct clone_args args = {
		.flags = CLONE_FILES,
		.exit_signal = SIGCHLD,
		.set_tid = pid > 0 ? (uint64_t)&pid : 0,
		.set_tid_size = pid > 0,
	};

	return sys_clone3(&args);
}

static struct stand_in_report *stand_in_report_new(void)
{
	void *p = mmap(NULL, sizeof(struct stand_in_report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int stand_in_wait(pid_t pid, struct err *e)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_sys(e, errno, "waiting for process %d", pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return err_set(e, ERR_SYSTEM, 0, "process %d ended with status %#x", pid, status);
	return 0;
}

int stand_in_run(pid_t pid, int (*work)(void *data, int ret_fds[2], struct err *e), void *data, int ret_fds[2],
		 struct err *e)
{
	struct stand_in_report *report = stand_in_report_new();
	pid_t coordinator = getpid(), child;
	int r;

	if (!report)
		return err_nomem(e);
	report->fds[0] = report->fds[1] = -1;
	child = stand_in_clone(pid);
	if (child < 0 && pid > 0) /* somebody else has that PID, or we may not choose one */
		child = stand_in_clone(0);
	if (child == 0) {
		if (pid > 0)
			prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (pid > 0 && getppid() != coordinator)
			_exit(1);
		report->result = work(data, report->fds, &report->err);
		_exit(0);
	}
	r = child < 0 ? err_sys(e, child, "making a process") : stand_in_wait(child, e);
	if (r == 0) {
		r = report->result;
		memcpy(ret_fds, report->fds, sizeof(report->fds));
		if (r < 0)
			*e = report->err;
	}
	munmap(report, sizeof(*report));
	return r;
}
