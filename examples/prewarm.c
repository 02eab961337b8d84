/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A worker that takes long to warm up is warmed up once, saved, and started from there as often as it is needed.
 *
 *     prewarm FILE COPIES
 *
 * The worker answers each line that it reads with a line. The server below starts it with torpor_run(), so that it lives
 * in a PID namespace of its own and can be restored many times side by side, saves it when it is warm, and gives each
 * copy pipes of its own for standard input and output.
 */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <torpor/torpor.h>
#include <unistd.h>

enum { TABLE = 1 << 20, LINE = 128, COPIES_MAX = 64 };

/* ---- the worker ---- */

static unsigned *warm_up(void)
{
	unsigned *table = malloc(TABLE * sizeof(*table));

	for (unsigned i = 0; i < TABLE; i++)
		table[i] = i ? (table[i - 1] * 1664525u + 1013904223u) : 1;
	nanosleep(&(struct timespec){ .tv_sec = 1 }, NULL); /* it loads models, compiles rules, fills caches ... */
	return table;
}

static int work(void)
{
	unsigned *table = warm_up(), served = 0;
	char line[LINE];

	puts("warm");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		printf("%u is %u (request %u of this copy)\n", (unsigned)atoi(line), table[(unsigned)atoi(line) % TABLE], ++served);
		fflush(stdout);
	}
	return 0;
}

/* ---- the server ---- */

struct worker {
	struct torpor_program *program;
	FILE *in, *out; /* its standard input, and its standard output */
};

static int fail(const char *what, struct torpor_error *error)
{
	fprintf(stderr, "%s: %s\n%s\n", what, torpor_error_text(error), torpor_error_help(error));
	torpor_error_free(error);
	return 1;
}

/* Both pipes; the worker's ends are in ends[0] and ends[1]. */
static int connect_worker(struct worker *w, int ends[2])
{
	int in[2], out[2];

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
		return -1;
	ends[0] = in[0];
	ends[1] = out[1];
	w->in = fdopen(in[1], "w");
	w->out = fdopen(out[0], "r");
	return w->in && w->out ? 0 : -1;
}

static void let_go(struct worker *w)
{
	fclose(w->in);
	fclose(w->out);
	torpor_program_detach(w->program);
}

/* In what becomes the worker. */
static void take_pipes(void *data)
{
	const int *ends = data;

	dup2(ends[0], STDIN_FILENO);
	dup2(ends[1], STDOUT_FILENO);
}

static int start_cold(struct worker *w, struct torpor_error **error)
{
	char *argv[] = { (char *)"/proc/self/exe", (char *)"--work", NULL };
	struct torpor_options *o = torpor_options_new();
	char line[LINE] = "";
	int ends[2], r;

	if (!o || connect_worker(w, ends) < 0)
		exit(1);
	torpor_options_set_before(o, take_pipes, ends);
	r = torpor_run(argv, o, &w->program, error);
	torpor_options_free(o);
	close(ends[0]);
	close(ends[1]);
	if (r == 0 && (!fgets(line, sizeof(line), w->out) || strcmp(line, "warm\n") != 0))
		exit(1);
	return r;
}

/* It is ended when it has been saved. Its pipes lead to us: each copy gets others. */
static int save(struct worker *w, const char *path, struct torpor_error **error)
{
	struct torpor_result *result;
	int r = torpor_dump(torpor_program_pid(w->program), path, NULL, &result, error);

	for (size_t i = 0; r < 0 && torpor_result_obstacle(result, i); i++)
		fprintf(stderr, "%s\n", torpor_result_obstacle(result, i)->text);
	torpor_result_free(result);
	return r;
}

static int start_warm(struct worker *w, const char *path, struct torpor_error **error)
{
	struct torpor_options *o = torpor_options_new();
	int ends[2], r;

	if (!o || connect_worker(w, ends) < 0)
		exit(1);
	torpor_options_set_tier(o, TORPOR_TIER_USERNS);
	torpor_options_set_stream(o, 0, ends[0]);
	torpor_options_set_stream(o, 1, ends[1]);
	r = torpor_restore(path, o, &w->program, error);
	torpor_options_free(o);
	close(ends[0]);
	close(ends[1]);
	return r;
}

/* Each copy is asked, and told by the end of its input to end. */
static int serve(struct worker *workers, int n)
{
	char line[LINE];
	int status, r;

	for (int i = 0; i < n; i++) {
		fprintf(workers[i].in, "%d\n", 1000 + i);
		fflush(workers[i].in);
	}
	for (int i = 0; i < n; i++) {
		if (!fgets(line, sizeof(line), workers[i].out))
			return 1;
		printf("copy %d, process %d: %s", i, torpor_program_pid(workers[i].program), line);
	}
	for (int i = 0; i < n; i++) {
		fclose(workers[i].in);
		r = torpor_program_wait(workers[i].program, &status, NULL);
		fclose(workers[i].out);
		torpor_program_detach(workers[i].program);
		if (r < 0 || !WIFEXITED(status) || WEXITSTATUS(status))
			return 1;
	}
	return 0;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct worker first, workers[COPIES_MAX];
	struct torpor_error *error = NULL;
	double began = now();
	int n;

	if (argc == 2 && strcmp(argv[1], "--work") == 0)
		return work();
	n = argc == 3 ? atoi(argv[2]) : 0;
	if (n < 1 || n > COPIES_MAX) {
		fprintf(stderr, "usage: prewarm FILE COPIES\n");
		return 2;
	}
	if (start_cold(&first, &error) < 0)
		return fail("the worker cannot be started", error);
	printf("warm after %.2f s\n", now() - began);
	if (save(&first, argv[1], &error) < 0)
		return fail("it cannot be saved", error);
	let_go(&first);
	began = now();
	for (int i = 0; i < n; i++)
		if (start_warm(&workers[i], argv[1], &error) < 0)
			return fail("a copy cannot be started", error);
	printf("%d copies started in %.2f s\n", n, now() - began);
	return serve(workers, n);
}
