/* SPDX-License-Identifier: Apache-2.0 */
#include "api/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "api/api.h"
#include "api/supervise.h"
#include "util/fd.h"
#include "util/interrupt.h"
#include "util/privilege.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#else /* only the address sanitizer wants to be told of a new stack */
#define __sanitizer_start_switch_fiber(save, stack, size) ((void)0)
#define __sanitizer_finish_switch_fiber(save, stack, size) ((void)0)
#endif

enum { LOOK_EVERY_MS = 50, FDS_KEPT_MAX = 16, STACK_SIZE = 8 << 20 };

/* ---- the link ---- */

int helper_say(int link, enum helper_type type, int32_t number, uint64_t a, uint64_t b, const void *data, size_t size)
{
	struct helper_message m = { .type = (uint32_t)type, .number = number, .a = a, .b = b };
	struct iovec parts[2] = { { &m, sizeof(m) },
				  { (void *)(uintptr_t)data, size < HELPER_DATA_MAX ? size : HELPER_DATA_MAX } };
	struct msghdr h = { .msg_iov = parts, .msg_iovlen = 2 };
	ssize_t n;

	do
		n = sendmsg(link, &h, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

int helper_say_text(int link, enum helper_type type, int32_t number, const char *text)
{
	return helper_say(link, type, number, 0, 0, text ?: "", text ? strlen(text) : 0);
}

/* One message; the size of what is behind it, which is NUL-terminated in `buf`. Negative: the other end is closed. */
static ssize_t helper_receive(int link, struct helper_message *m, char *buf)
{
	struct iovec parts[2] = { { m, sizeof(*m) }, { buf, HELPER_DATA_MAX } };
	struct msghdr h = { .msg_iov = parts, .msg_iovlen = 2 };
	ssize_t n;

	do
		n = recvmsg(link, &h, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < (ssize_t)sizeof(*m))
		return -ECONNRESET;
	n -= (ssize_t)sizeof(*m);
	buf[n] = '\0';
	return n;
}

int helper_hear_answer(int link, int32_t *ret_number)
{
	struct helper_message m;
	ssize_t n;

	do
		n = recv(link, &m, sizeof(m), 0);
	while (n < 0 && errno == EINTR);
	if (n != sizeof(m) || m.type != HELPER_ANSWER)
		return -ECONNRESET;
	*ret_number = m.number;
	return 0;
}

/* ---- in the helper ---- */

static void helper_send_log(void *data, enum log_level level, const char *text)
{
	helper_say_text(*(const int *)data, HELPER_LOG, (int32_t)level, text);
}

static void helper_send_step(void *data, const char *what, uint64_t done, uint64_t total)
{
	helper_say(*(const int *)data, HELPER_PROGRESS, TORPOR_BYTES, done, total, what, strlen(what));
}

static void helper_send_count(void *data, const char *what, uint64_t done, uint64_t limit)
{
	helper_say(*(const int *)data, HELPER_PROGRESS, TORPOR_ATTEMPTS, done, limit, what, strlen(what));
}

struct api_callbacks helper_callbacks(const struct torpor_options *o, const int *link)
{
	void *data = (void *)(uintptr_t)link;
	struct api_callbacks c = { 0 };

	if (o->log)
		c.log = (struct log){ helper_send_log, data };
	if (o->progress)
		c.progress = (struct progress){ helper_send_step, helper_send_count, data };
	return c;
}

void helper_close_fds(const int *keep, size_t n)
{
	int fds[FDS_KEPT_MAX];

	memcpy(fds, keep, n * sizeof(*fds));
	fd_close_others(STDERR_FILENO + 1, fds, n);
}

/*
 * No handler of the caller runs here. All signals are blocked: those that are to call the work off are seen when they
 * are pending (interrupt.h), but what the caller ignores is ignored.
 */
static void helper_settle_signals(void)
{
	sigset_t blocked, interrupts;

	sigfillset(&blocked);
	interrupt_signals(&interrupts);
	for (int signo = 1; signo < NSIG; signo++) {
		struct sigaction sa;

		if (sigaction(signo, NULL, &sa) < 0)
			continue;
		if (sa.sa_handler != SIG_IGN && sa.sa_handler != SIG_DFL)
			signal(signo, SIG_DFL);
		else if (sa.sa_handler == SIG_IGN && sigismember(&interrupts, signo) == 1)
			sigdelset(&blocked, signo);
	}
	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error, not our end */
	sigprocmask(SIG_SETMASK, &blocked, NULL);
}

void helper_undo_signals(const struct helper_job *job)
{
	sigaction(SIGPIPE, &job->pipe, NULL);
	sigaction(SIGXFSZ, &job->xfsz, NULL);
	sigaction(SIGCHLD, &job->chld, NULL);
	sigprocmask(SIG_SETMASK, &job->mask, NULL);
}

static void helper_settle(const struct helper_job *job, int link, pid_t parent)
{
	int fds[FDS_KEPT_MAX] = { link };
	size_t n = 1;

	prctl(PR_SET_NAME, "torpor-helper");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(ERR_SYSTEM);
	helper_settle_signals();
	for (size_t i = 0; i < job->n_fds && n < FDS_KEPT_MAX; i++)
		if (job->fds[i] >= 0)
			fds[n++] = job->fds[i];
	if (!job->keeps_all)
		helper_close_fds(fds, n);
	fd_fill_standard(O_CLOEXEC);
}

static void helper_enter(unsigned function_low, unsigned function_high, unsigned data_low, unsigned data_high)
{
	void (*function)(void *data) = (void (*)(void *))((uintptr_t)function_high << 32 | function_low);

	__sanitizer_finish_switch_fiber(NULL, NULL, NULL);
	function((void *)((uintptr_t)data_high << 32 | data_low));
	_exit(ERR_SYSTEM);
}

_Noreturn void helper_change_stack(void (*function)(void *data), void *data)
{
	const uintptr_t f = (uintptr_t)function, d = (uintptr_t)data;
	void *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	ucontext_t context;

	if (stack == MAP_FAILED || getcontext(&context) < 0)
		_exit(ERR_SYSTEM);
	context.uc_stack.ss_sp = stack;
	context.uc_stack.ss_size = STACK_SIZE;
	context.uc_link = NULL;
	makecontext(&context, (void (*)(void))helper_enter, 4, (unsigned)f, (unsigned)(f >> 32), (unsigned)d, (unsigned)(d >> 32));
	__sanitizer_start_switch_fiber(NULL, stack, STACK_SIZE);
	setcontext(&context);
	_exit(ERR_SYSTEM);
}

struct helper_begin {
	const struct helper_job *job;
	int link;
	pid_t parent;
};

static void helper_main(void *data)
{
	const struct helper_begin *begin = data;
	const struct helper_job *job = begin->job;
	int link = begin->link, r;
	struct err e = ERR_INIT;

	helper_settle(job, link, begin->parent);
	if (!privilege_begin()) {
		r = err_set(&e, ERR_PERMISSION, 0, "a process that is set-user-ID or set-group-ID must not use torpor");
	} else {
		prctl(PR_SET_DUMPABLE, 1); /* capabilities may have changed that, and our /proc files would not be ours */
		r = job->work(link, job->data, &e);
	}
	if (r >= 0 && job->after)
		prctl(PR_SET_PDEATHSIG, 0);
	helper_say(link, HELPER_DONE, r, 0, 0, &e, sizeof(e));
	if (r >= 0 && job->after)
		job->after(link, job->data);
	_exit(0);
}

/* ---- in the caller ---- */

void helper_reap(pid_t pid)
{
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

/* A signal that waits for us, because we hold it back, is for the helper: each only once. */
static void helper_pass_signals(pid_t pid, sigset_t *passed)
{
	sigset_t wanted, pending;

	interrupt_signals(&wanted);
	if (sigpending(&pending) < 0)
		return;
	for (int signo = 1; signo < NSIG; signo++) {
		if (sigismember(&wanted, signo) != 1 || sigismember(&pending, signo) != 1 || sigismember(passed, signo) == 1)
			continue;
		sigaddset(passed, signo);
		kill(pid, signo);
	}
}

static void helper_dispatch(const struct helper_job *job, int link, const struct helper_message *m, const char *text, size_t size)
{
	if (m->type == HELPER_LOG)
		api_tell_log(job->options, (enum log_level)m->number, text);
	else if (m->type == HELPER_PROGRESS)
		api_tell_progress(job->options, text, m->a, m->b, (enum torpor_unit)m->number);
	else if (m->type == HELPER_NEWS && job->hear)
		job->hear(link, job->data, m, text, size);
}

/* Is it stuck for good? Then it is ended. One that was called off by a signal need not be waited for that long. */
static bool helper_is_stuck(struct supervision *s, const sigset_t *passed, struct err *e)
{
	if (!s->timeout_ms || !supervise_look(s, LOOK_EVERY_MS, !sigisemptyset(passed)))
		return false;
	supervise_blame(s, e);
	kill(s->pid, SIGKILL);
	return true;
}

/* Until the work is done, or the helper has ended without a word, or is stuck. */
static int helper_hear(const struct helper_job *job, int link, pid_t pid, char *buf, struct err *e)
{
	struct supervision supervision = { .pid = pid, .timeout_ms = job->timeout_ms };
	struct helper_message m;
	sigset_t passed;
	ssize_t n;

	sigemptyset(&passed);
	for (;;) {
		helper_pass_signals(pid, &passed);
		if (poll(&(struct pollfd){ .fd = link, .events = POLLIN }, 1, LOOK_EVERY_MS) <= 0) {
			if (helper_is_stuck(&supervision, &passed, e))
				return -1;
			continue;
		}
		n = helper_receive(link, &m, buf);
		if (n < 0)
			return err_set(e, ERR_SYSTEM, 0, "the process that torpor had made for it was killed");
		if (m.type == HELPER_DONE && n == sizeof(*e)) {
			memcpy(e, buf, sizeof(*e));
			return m.number;
		}
		helper_dispatch(job, link, &m, buf, (size_t)n);
	}
}

/* The helper begins with all signals blocked, so that no handler of the caller ever runs in it. */
static pid_t helper_fork(struct helper_job *job, const int ends[2])
{
	struct helper_begin begin = { job, ends[1], getpid() };
	sigset_t all;
	pid_t pid;

	sigaction(SIGPIPE, NULL, &job->pipe);
	sigaction(SIGXFSZ, NULL, &job->xfsz);
	sigaction(SIGCHLD, NULL, &job->chld);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &job->mask);
	pid = fork();
	if (pid == 0) {
		close(ends[0]);
		helper_change_stack(helper_main, &begin);
	}
	pthread_sigmask(SIG_SETMASK, &job->mask, NULL);
	return pid;
}

int helper_run(struct helper_job *job, int *ret_link, pid_t *ret_pid, struct err *e)
{
	char *buf = malloc(HELPER_DATA_MAX + 1);
	int ends[2], r;
	pid_t pid;

	if (!buf)
		return err_nomem(e);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
		free(buf);
		return err_sys(e, errno, "socketpair");
	}
	pid = helper_fork(job, ends);
	close(ends[1]);
	r = pid < 0 ? err_sys(e, errno, "making a process") : helper_hear(job, ends[0], pid, buf, e);
	free(buf);
	if (r >= 0 && job->after) {
		*ret_link = ends[0];
		*ret_pid = pid;
		return r;
	}
	close(ends[0]);
	if (pid > 0)
		helper_reap(pid);
	return r;
}
