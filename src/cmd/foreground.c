/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/foreground.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>


void foreground_begin(struct foreground *f)
{
	sigset_t set;

	sigfillset(&set);
	sigdelset(&set, SIGTTOU); /* ignored: we change the foreground group from the background */
	sigaction(SIGTTOU, &(struct sigaction){ .sa_handler = SIG_IGN }, &f->ttou);
	sigprocmask(SIG_BLOCK, &set, &f->mask);
	f->signals = signalfd(-1, &set, SFD_CLOEXEC);
	f->tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
	if (f->tty >= 0 && tcgetpgrp(f->tty) != getpgrp()) {
		close(f->tty);
		f->tty = -1;
	}
}

void foreground_undo(const struct foreground *f)
{
	signal(SIGXFSZ, SIG_DFL); /* main() ignores it */
	sigaction(SIGTTOU, &f->ttou, NULL);
	sigprocmask(SIG_SETMASK, &f->mask, NULL);
}

void foreground_give_terminal(struct foreground *f, pid_t group)
{
	if (f->tty < 0 || group <= 0 || group == getpgrp())
		return;
	f->group = group;
	tcsetpgrp(f->tty, group);
}

void foreground_signal(const struct foreground *f, struct torpor_program *p, int signo)
{
	kill(f->group ? -f->group : torpor_program_pid(p), signo);
}

/* The program has stopped: so do we, until the shell continues us. */
static void foreground_stop(struct foreground *f, struct torpor_program *p)
{
	if (f->group && tcgetpgrp(f->tty) == f->group) /* not from the background, where the terminal is somebody else's */
		tcsetpgrp(f->tty, getpgrp());
	raise(SIGSTOP);
	if (f->group && tcgetpgrp(f->tty) == getpgrp())
		tcsetpgrp(f->tty, f->group);
	foreground_signal(f, p, SIGCONT);
}

/* The terminal is ours again, if it is the program's, or that of a group which that had made and which is gone. */
static void foreground_take_terminal(const struct foreground *f)
{
	pid_t group = f->tty < 0 ? 0 : tcgetpgrp(f->tty);

	if (group > 0 && (group == f->group || (kill(-group, 0) < 0 && errno == ESRCH)))
		tcsetpgrp(f->tty, getpgrp());
}

/* End as the program did. */
static int foreground_end(struct foreground *f, int status)
{
	int signo = WTERMSIG(status);

	witness_end(&f->witness);
	foreground_take_terminal(f);
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	signal(signo, SIG_DFL);
	sigprocmask(SIG_SETMASK, &(sigset_t){ 0 }, NULL);
	raise(signo);
	return 128 + signo;
}

/* A signal from the terminal, or another one to our whole group, reaches the program by itself when that is in it. */
static bool foreground_passes(struct foreground *f, struct torpor_program *p, const struct signalfd_siginfo *si)
{
	bool from_terminal = si->ssi_code == SI_KERNEL;
	bool to_group = si->ssi_signo != SIGCHLD && witness_saw(&f->witness, (int)si->ssi_signo);

	if (si->ssi_signo == SIGCHLD || si->ssi_signo == SIGCONT)
		return false;
	if (to_group && getpgid(torpor_program_pid(p)) == getpgrp())
		return false;
	return !from_terminal || f->group;
}

int foreground_wait(struct foreground *f, struct torpor_program *p)
{
	struct pollfd fds[2] = { { .fd = f->signals, .events = POLLIN }, { .fd = torpor_program_fd(p), .events = POLLIN } };
	struct signalfd_siginfo si;
	int status;

	witness_begin(&f->witness);
	for (;;) {
		int known = torpor_program_poll(p, &status);

		if (known < 0)
			return TORPOR_SYSTEM;
		if (known && WIFSTOPPED(status))
			foreground_stop(f, p);
		else if (known)
			return foreground_end(f, status);
		else if (poll(fds, 2, -1) > 0 && fds[0].revents && read(f->signals, &si, sizeof(si)) == sizeof(si) &&
			 foreground_passes(f, p, &si))
			kill(torpor_program_pid(p), (int)si.ssi_signo);
	}
}
