/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The end of a tree that has been saved.
 *
 * One process ends by one signal. Of several, some would run on for a moment if
 * torpor died between two signals: they would see the others' ends, and do what
 * the image knows nothing of. So every thread is sent a SIGSTOP first, which it
 * takes before its next instruction should the kernel detach it; no thread is
 * resumed before it dies, so nobody ever sees that. A guard, a process that waits
 * at the end of a pipe, finishes what torpor has begun: the word "all are held"
 * decides whether that is the end of the tree, or its life.
 */

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys/process.h"
#include "target/target.h"
#include "util/fd.h"

struct guard {
	pid_t pid; /* 0: none could be made */
	int fd;    /* where it waits for the word */
};

/* Of those that were running: who had been stopped before does not go on by itself in any case. */
static void kill_send_running(const struct target_tree *tree, int signo)
{
	for (size_t i = 0; i < tree->n; i++)
		if (!tree->tasks[i]->zombie && !tree->tasks[i]->stop_signal)
			sys_pidfd_send_signal(tree->tasks[i]->pidfd, signo);
}

static void kill_hold(const struct target_tree *tree)
{
	for (size_t i = 0; i < tree->n; i++) {
		const struct target *t = tree->tasks[i];

		for (size_t k = 0; !t->stop_signal && k < t->n_threads; k++)
			sys_tgkill(t->pid, t->threads[k].tid, SIGSTOP);
	}
}

static void kill_all(const struct target_tree *tree)
{
	for (size_t i = 0; i < tree->n; i++)
		if (!tree->tasks[i]->zombie)
			sys_pidfd_send_signal(tree->tasks[i]->pidfd, SIGKILL);
}

/* Large memory takes its time to be given back: help with it. That is a favour, and may fail. */
static void kill_release_memory(const struct target_tree *tree)
{
	for (size_t i = 0; i < tree->n; i++)
		if (!tree->tasks[i]->zombie)
			sys_process_mrelease(tree->tasks[i]->pidfd);
}

static _Noreturn void guard_watch(const struct target_tree *tree, int fd)
{
	char word;

	if (read(fd, &word, 1) == 1)
		kill_all(tree);
	else
		kill_send_running(tree, SIGCONT);
	_exit(0);
}

static struct guard guard_begin(const struct target_tree *tree)
{
	struct guard g = { .fd = -1 };
	int fds[2];

	if (tree->n < 2 || pipe2(fds, O_CLOEXEC) < 0)
		return g;
	g.pid = fork();
	if (g.pid == 0) {
		close(fds[1]);
		guard_watch(tree, fds[0]);
	}
	close(fds[0]);
	g.fd = fds[1];
	return g;
}

static void guard_end(struct guard *g)
{
	fd_closep(&g->fd);
	if (g->pid > 0)
		waitpid(g->pid, NULL, 0);
}

void target_tree_kill(struct target_tree *tree)
{
	struct guard guard = guard_begin(tree);

	if (guard.pid > 0) {
		kill_hold(tree);
		/* From here on the tree ends, whatever happens to us. Should the pipe fail, we are there to do it. */
		(void)!write(guard.fd, "!", 1);
	}
	kill_all(tree);
	guard_end(&guard);
	kill_release_memory(tree);
	for (size_t i = tree->n; i-- > 0;) {
		for (size_t k = tree->tasks[i]->n_threads; k-- > 0;)
			while (waitpid(tree->tasks[i]->threads[k].tid, &(int){ 0 }, __WALL) > 0)
				;
		target_close(tree->tasks[i]);
	}
	tree->n = 0;
}
