/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The "save game" pattern: a program saves itself at points where it can stand, and goes on; when it is restored, it
 * knows, and does what a new beginning needs.
 *
 *     save_game FILE [ROUNDS]
 *
 * Then, at any time, even when it has ended: torpor restore FILE
 */

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <torpor/torpor.h>
#include <unistd.h>

enum { ROUNDS = 10, ROUNDS_PER_SAVE = 3 };

struct game {
	unsigned round, score;
	unsigned lives_used; /* how often it was restored */
};

static void play(struct game *g)
{
	g->round++;
	g->score += 7 * g->round % 11;
	printf("round %u: score %u\n", g->round, g->score);
	fflush(stdout);
	nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
}

/* What this process holds that is worth nothing in another one: here, its standard output only wants to be told. */
static void resume(struct game *g)
{
	g->lives_used++;
	printf("restored, for the %u. time: round %u, score %u\n", g->lives_used, g->round, g->score);
	fflush(stdout);
}

static int save(struct game *g, const char *path)
{
	struct torpor_error *error = NULL;
	int r = torpor_dump_self(path, NULL, &error);

	if (r < 0) {
		fprintf(stderr, "cannot save: %s\n%s\n", torpor_error_text(error), torpor_error_help(error));
		torpor_error_free(error);
		return r;
	}
	if (r == 1)
		resume(g);
	else
		printf("saved\n");
	fflush(stdout);
	return 0;
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 2 ? (unsigned)atoi(argv[2]) : ROUNDS;
	struct game g = { 0 };

	if (argc < 2) {
		fprintf(stderr, "usage: save_game FILE [ROUNDS]\n");
		return 2;
	}
	while (g.round < rounds) {
		play(&g);
		if (g.round % ROUNDS_PER_SAVE == 0 && save(&g, argv[1]) < 0)
			return 1;
	}
	printf("the end: score %u, restored %u times\n", g.score, g.lives_used);
	return 0;
}
