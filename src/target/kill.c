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

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys/process.h"
#include "sys/ptrace.h"
#include "target/target.h"
#include "util/cpu.h"
#include "util/crew.h"
#include "util/guard.h"

enum { WORTH_HELP = 16 << 20, HEAD_START_US = 50 };

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

/* Until it has ended. */
static void kill_await(pid_t tid)
{
	while (waitpid(tid, &(int){ 0 }, __WALL) > 0)
		;
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

/* ---- large memory ---- */

/*
 * It takes its time to be given back, which the last thread to end does alone. process_mrelease(2) is another pair of hands, but
 * only between the signal and the moment in which that thread lets go of the memory. Whoever has sent the signal tends to lose
 * the CPU right then. So one thread is held where the kernel stops it for its tracer before it lets go (PTRACE_EVENT_EXIT), until
 * the help has begun. If torpor is killed, the kernel lets it go on to its end. All of that is a favour, and may fail.
 */
struct help {
	int pidfd;
	atomic_bool begins;
};

/* The one with large memory; NULL: none, or several, which end on as many CPUs. With less, we would only be in the way. */
static const struct target *help_find(const struct target_tree *tree)
{
	const struct target *found = NULL;

	for (size_t i = 0; i < tree->n; i++) {
		const struct target *t = tree->tasks[i];

		if (t->zombie || t->resident < WORTH_HELP)
			continue;
		if (found)
			return NULL;
		found = t;
	}
	return cpu_count() > 1 ? found : NULL;
}

static void *help_run(void *arg)
{
	struct help *help = arg;

	atomic_store(&help->begins, true);
	sys_process_mrelease(help->pidfd);
	return NULL;
}

/* Returns true when it stands at its end; false: it has ended. */
static bool help_await_stop(pid_t tid)
{
	int status;

	for (;;) {
		pid_t got = waitpid(tid, &status, __WALL);

		if (got < 0 && errno == EINTR)
			continue;
		if (got != tid || !WIFSTOPPED(status))
			return false;
		if (status >> 16 == PTRACE_EVENT_EXIT)
			return true;
		sys_ptrace(SYS_PTRACE_CONT, tid, 0, 0);
	}
}

/* Of a task that has been killed, and whose leader stops at its end. Its other threads end first: they need a CPU for that. */
static void help_release(const struct target *t)
{
	struct help help = { .pidfd = t->pidfd };
	pid_t leader = t->threads[0].tid;
	pthread_t thread;
	bool helps;

	if (!help_await_stop(leader))
		return;
	for (size_t k = 1; k < t->n_threads; k++)
		kill_await(t->threads[k].tid);
	helps = crew_thread(&thread, help_run, &help) == 0;
	while (helps && !atomic_load(&help.begins))
		sched_yield();
	if (helps)
		usleep(HEAD_START_US);
	sys_ptrace(SYS_PTRACE_CONT, leader, 0, 0);
	if (helps)
		pthread_join(thread, NULL);
}

/* ---- all of it ---- */

void target_tree_kill(struct target_tree *tree)
{
	const struct target *large = help_find(tree);
	bool stops = large && sys_ptrace(PTRACE_SETOPTIONS, large->threads[0].tid, 0, PTRACE_O_TRACEEXIT) == 0;

	if (tree->n < 2 || !kill_together(tree))
		kill_all(tree);
	if (stops)
		help_release(large);
	for (size_t i = tree->n; i-- > 0;) {
		for (size_t k = tree->tasks[i]->n_threads; k-- > 0;)
			kill_await(tree->tasks[i]->threads[k].tid);
		target_close(tree->tasks[i]);
	}
	tree->n = 0;
}
