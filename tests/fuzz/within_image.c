/* SPDX-License-Identifier: Apache-2.0 */

/*
 * within_image IMAGE...: does a restore of these images touch only what they name? Plan and scripts are made as
 * `torpor restore --explain` makes them, and read step by step; then the switch of address spaces, with nothing in its way and
 * with something. Each task is looked at in a process of its own.
 */

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/core.h"
#include "within.h"

static _Noreturn void die(const char *image, const char *what)
{
	printf("within_image: %s: %s\n", image, what);
	exit(1);
}

static void expect(const char *image, bool holds, const struct within *w, const struct err *e)
{
	if (holds)
		return;
	if (w->what)
		printf("within_image: %s: %s: %s (%#lx)\n", image, w->note, w->what, w->value);
	else
		printf("within_image: %s: %s\n", image, e->text);
	exit(1);
}

static void look_at_switch(const char *image, struct within *w, const struct plan *plan, size_t task, const struct image *img,
			   struct arena *arena)
{
	for (size_t parked = 0; parked < 4; parked++) {
		struct err e = ERR_INIT;
		pid_t pid = fork();
		int status;

		if (pid == 0) {
			expect(image, within_switch(w, plan, task, img, parked, arena, &e), w, &e);
			fflush(stdout);
			_exit(0);
		}
		if (pid < 0 || waitpid(pid, &status, 0) < 0 || status)
			die(image, "the switch is not within the image");
	}
}

static void look_at(const char *path, struct within *w)
{
	struct arena arena = ARENA_INIT;
	struct image *img;
	Pb__Image *meta;
	struct plan plan;
	struct err e = ERR_INIT;

	if (core_open(path, VERIFY_PAGES, &arena, &img, &meta, &e) < 0 || plan_make(&plan, meta, img, &arena, &e) < 0)
		die(path, e.text);
	expect(path, within_plan(w, &plan), w, &e);
	for (size_t i = 0; i < plan.n_tasks; i++) {
		struct explain x;

		if (plan.tasks[i].pb->state == PB__TASK_STATE__ZOMBIE)
			continue;
		if (explain_begin(&x, &plan, i, &arena, &e) < 0)
			die(path, e.text);
		expect(path, within_script(w, &plan, i, &x, true), w, &e);
		explain_end(&x);
		look_at_switch(path, w, &plan, i, img, &arena);
	}
	image_close(img);
	arena_done(&arena);
}

int main(int argc, char **argv)
{
	struct within *w = mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (argc < 2 || w == MAP_FAILED)
		die("usage", "within_image IMAGE...");
	for (int i = 1; i < argc; i++)
		look_at(argv[i], w);
	printf("%lu steps, %lu values looked at\n", w->steps, w->values);
	return 0;
}
