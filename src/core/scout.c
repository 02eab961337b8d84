/* SPDX-License-Identifier: Apache-2.0 */
#include "core/scout.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cpu.h"
#include "util/crew.h"
#include "util/fd.h"

enum { SCOUT_TASKS = 8 }; /* fewer are examined sooner than a thread is made */

enum { SCOUTED_NOT, SCOUTED_CLAIMED, SCOUTED_READ, SCOUTED_FAILED };

/* What is going to be read in /proc/PID; nothing depends on it. */
static const char *const scout_names[] = {
	"smaps", "coredump_filter", "auxv", "exe", "cmdline", "personality", "ns/pid", "ns/user", "ns/mnt", "ns/net", "ns/ipc",
	"ns/uts", "ns/cgroup", "ns/time", "cwd", "root", "limits", "oom_score_adj", "timers", "pagemap",
};
static const char *const scout_thread_names[] = { "status", "comm" };

static bool scout_claim(struct scouted *t)
{
	int expected = SCOUTED_NOT;

	return atomic_compare_exchange_strong(&t->state, &expected, SCOUTED_CLAIMED);
}

/* A name that has been looked up stays as long as the process. */
static void scout_look_up(int proc, const char *name)
{
	struct stat st;

	(void)!fstatat(proc, name, &st, AT_SYMLINK_NOFOLLOW);
}

static void scout_look_up_fds(const struct scout *s, int proc)
{
	int fd = openat(proc, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC), number;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	char name[64];

	if (fd >= 0 && !dir)
		close(fd);
	while (dir && !atomic_load(&s->enough) && (entry = fd_next_entry(dir, &number))) {
		snprintf(name, sizeof(name), "fd/%d", atoi(entry->d_name));
		scout_look_up(proc, name);
		snprintf(name, sizeof(name), "fdinfo/%d", atoi(entry->d_name));
		scout_look_up(proc, name);
	}
	if (dir)
		closedir(dir);
}

static void scout_look_up_all(const struct scout *s, const struct target *task)
{
	cleanup_close int proc = fd_open_proc(task->pid, ".", O_PATH);
	char name[64];

	if (proc < 0)
		return;
	for (size_t i = 0; i < sizeof(scout_names) / sizeof(scout_names[0]); i++)
		scout_look_up(proc, scout_names[i]);
	for (size_t i = 0; i < sizeof(scout_thread_names) / sizeof(scout_thread_names[0]); i++) {
		snprintf(name, sizeof(name), "task/%d/%s", task->pid, scout_thread_names[i]);
		scout_look_up(proc, name);
	}
	scout_look_up_fds(s, proc);
}

static void scout_read_areas(struct scout *s, const struct target *task, struct scouted *t)
{
	struct err unheard = ERR_INIT; /* who examines the task will find out */
	int r = areas_read_all(task->pid, "smaps", &s->arena, NULL, &t->areas, &unheard);

	atomic_store(&t->state, r < 0 ? SCOUTED_FAILED : SCOUTED_READ);
}

/* The first task is left to who examines: he is there already. */
static void *scout_run(void *arg)
{
	struct scout *s = arg;

	for (size_t i = 1; i < s->tree->n && !atomic_load(&s->enough); i++) {
		const struct target *task = s->tree->tasks[i];

		if (task->zombie || !scout_claim(&s->tasks[i]))
			continue;
		scout_read_areas(s, task, &s->tasks[i]);
		scout_look_up_all(s, task);
	}
	return NULL;
}

void scout_begin(struct scout *s, const struct target_tree *tree)
{
	*s = (struct scout){ .tree = tree, .arena = ARENA_INIT };
	if (tree->n < SCOUT_TASKS || cpu_count() < 2)
		return;
	s->tasks = calloc(tree->n, sizeof(*s->tasks));
	s->runs = s->tasks && crew_thread(&s->thread, scout_run, s) == 0;
}

const struct vm_area_list *scout_areas(struct scout *s, size_t task)
{
	struct scouted *t;

	if (!s->runs)
		return NULL;
	t = &s->tasks[task];
	if (scout_claim(t))
		return NULL;
	while (atomic_load(&t->state) == SCOUTED_CLAIMED)
		sched_yield();
	return atomic_load(&t->state) == SCOUTED_READ ? &t->areas : NULL;
}

void scout_end(struct scout *s)
{
	if (!s->runs)
		return;
	atomic_store(&s->enough, true);
	pthread_join(s->thread, NULL);
	s->runs = false;
}

void scout_done(struct scout *s)
{
	scout_end(s);
	free(s->tasks);
	s->tasks = NULL;
	arena_done(&s->arena);
}
