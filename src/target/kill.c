/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The end of a tree that has been saved.
 *
 * One process ends by one signal. Of several, some would run on for a moment if
 * torpor died between two signals: they would see the others' ends, and do what
 * the image knows nothing of. So every thread is sent a SIGSTOP first, which it
 * takes before its next instruction should the kernel detach it; no thread is
 * resumed before it dies, so nobody ever sees that. A guard (util/guard.h) finishes
 * what torpor has begun: whether all are held decides if that is the end of the
 * tree, or its life.
 */

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "sys/process.h"
#include "target/target.h"
#include "util/guard.h"

enum { WORTH_HELP = 16 << 20 };

struct ending {
	const struct target_tree *tree;
	atomic_bool *held; /* shared with the guard: the tree ends */
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

static void kill_one(const struct target *t)
{
	int r = sys_pidfd_send_signal(t->pidfd, SIGKILL);

	/* We are going to wait for its end: try the other way. Only while it is there, or the PID might be another's. */
	if (r < 0 && r != -ESRCH)
		kill(t->pid, SIGKILL);
}

static void kill_all(const struct target_tree *tree)
{
	for (size_t i = 0; i < tree->n; i++)
		if (!tree->tasks[i]->zombie)
			kill_one(tree->tasks[i]);
}

/* Large memory takes its time to be given back: help with it. That is a favour, and may fail. With less, we would only be in the way. */
static void kill_release_memory(const struct target_tree *tree)
{
	for (size_t i = 0; i < tree->n; i++)
		if (!tree->tasks[i]->zombie && tree->tasks[i]->resident >= WORTH_HELP)
			sys_process_mrelease(tree->tasks[i]->pidfd);
}

/* In the guard: torpor is done with the tree, or was killed. */
static void kill_decide(void *data)
{
	const struct ending *ending = data;

	if (atomic_load(ending->held))
		kill_all(ending->tree);
	else
		kill_send_running(ending->tree, SIGCONT);
}

/* Of several processes: as above. False: no guard can be had, and nothing has happened. */
static bool kill_together(const struct target_tree *tree)
{
	struct ending ending = { tree, mmap(NULL, sizeof(*ending.held), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) };
	struct err unheard = ERR_INIT;
	struct guard guard;
	bool guarded = ending.held != MAP_FAILED && guard_begin(&guard, kill_decide, &ending, &unheard) == 0;

	if (guarded) {
		kill_hold(tree);
		atomic_store(ending.held, true); /* from here on the tree ends, whatever happens to us */
		kill_all(tree);
		guard_end(&guard);
	}
	if (ending.held != MAP_FAILED)
		munmap(ending.held, sizeof(*ending.held));
	return guarded;
}

void target_tree_kill(struct target_tree *tree)
{
	if (tree->n < 2 || !kill_together(tree))
		kill_all(tree);
	kill_release_memory(tree);
	for (size_t i = tree->n; i-- > 0;) {
		for (size_t k = tree->tasks[i]->n_threads; k-- > 0;)
			while (waitpid(tree->tasks[i]->threads[k].tid, &(int){ 0 }, __WALL) > 0)
				;
		target_close(tree->tasks[i]);
	}
	tree->n = 0;
}
