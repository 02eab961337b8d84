/* SPDX-License-Identifier: Apache-2.0 */

/* The region for the switch: what lies where, what happens when it is full, and that the runner executes what stands there. */

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "target/script.h"
#include "unit.h"
#include "util/err.h"

enum { PAGE = 4096, STEPS = 20, DATA = 16 * 1024, PARKING = 64 * 1024, TEXT = 3000 };

/* Where nothing is: the kernel is asked for a place, which is given back. */
static bool region_new(struct region *r, size_t steps, uint64_t data, struct err *e)
{
	uint64_t size = region_size(steps, data) + PARKING;
	void *p = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p != MAP_FAILED && munmap(p, size) == 0 && region_map(r, (uint64_t)p, steps, data, PARKING, e) == 0;
}

static void region_end(struct region *r)
{
	munmap((void *)r->start, r->size);
}

/* Data in front of the script and downwards, steps behind it and upwards, all of it in as few pages as it has bytes for. */
static void grows_both_ways(void)
{
	struct script_builder b;
	struct err e = ERR_INIT;
	struct region r;
	uint64_t before;

	UNIT_CHECK(region_new(&r, STEPS, DATA, &e));
	UNIT_CHECK_EQ(r.size, region_size(STEPS, DATA) + PARKING);
	script_begin(&b, &r);
	before = (uint64_t)b.script;
	for (unsigned i = 0; i < STEPS; i++) {
		uint64_t p = (uint64_t)region_put(&r, "of a step", 10), op = b.script->ops + i * sizeof(struct script_op);

		UNIT_CHECK(p % 16 == 0 && p < before && before - p <= 16);
		before = p;
		script_call(&b, SCRIPT_MUST, "a step", SYS_getpid, i);
		UNIT_CHECK(op > (uint64_t)b.script && op + sizeof(struct script_op) <= r.parking);
		UNIT_CHECK_EQ(((struct script_op *)op)->args[0], i);
	}
	UNIT_CHECK_EQ(script_finish(&b, &e), 0);
	UNIT_CHECK(before > r.start + PAGE); /* the stack has room there */
	UNIT_CHECK((uint64_t)region_alloc_aligned(&r, 100, 64) % 64 == 0);
	region_end(&r);
}

static void is_full(void)
{
	struct script_builder b, of_thread;
	struct err e = ERR_INIT;
	struct region r;

	UNIT_CHECK(region_new(&r, 1, 512, &e));
	script_begin(&b, &r);
	script_call(&b, 0, NULL, SYS_getpid);
	UNIT_CHECK_EQ(script_finish(&b, &e), 0);
	script_call(&b, 0, NULL, SYS_getpid);
	UNIT_CHECK(script_finish(&b, &e) < 0 && strstr(e.text, "no room"));
	e = ERR_INIT;
	UNIT_CHECK_EQ(script_begin_thread(&of_thread, &r, 2, &e), 0);
	UNIT_CHECK(script_begin_thread(&of_thread, &r, 10, &e) < 0 && strstr(e.text, "is full"));
	UNIT_CHECK(region_alloc(&r, 128));
	UNIT_CHECK(!region_alloc(&r, 512) && !region_put(&r, &r, 400));
	region_end(&r);
}

/* A script that writes `text`, which stands next to the runner's stack, and ends with status 7. */
static _Noreturn void run_script(int out, const char *text)
{
	struct script_builder b;
	struct err e = ERR_INIT;
	struct region r;
	void *p;

	if (!region_new(&r, STEPS, DATA, &e))
		_exit(1);
	script_begin(&b, &r);
	p = region_put(&r, text, TEXT);
	for (int i = 0; i < STEPS - 2; i++)
		script_call(&b, SCRIPT_MUST, "asking", SYS_getpid);
	script_call(&b, SCRIPT_MUST, "writing", SYS_write, (uint64_t)out, (uint64_t)p, TEXT);
	script_call(&b, SCRIPT_MUST, "ending", SYS_exit_group, 7);
	if (!p || script_finish(&b, &e) < 0)
		_exit(2);
	script_enter(&r);
}

static void is_executed(void)
{
	char text[TEXT], got[TEXT + 1];
	int fds[2], status;
	pid_t pid;

	for (size_t i = 0; i < TEXT; i++)
		text[i] = (char)(i * 7 + 1);
	UNIT_CHECK_EQ(pipe(fds), 0);
	pid = fork();
	if (pid == 0)
		run_script(fds[1], text);
	UNIT_CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
	UNIT_CHECK(WIFEXITED(status));
	UNIT_CHECK_EQ(WEXITSTATUS(status), 7);
	UNIT_CHECK_EQ(read(fds[0], got, sizeof(got)), TEXT);
	UNIT_CHECK(memcmp(got, text, TEXT) == 0);
	close(fds[0]);
	close(fds[1]);
}

UNIT_MAIN(UNIT_CASE(grows_both_ways), UNIT_CASE(is_full), UNIT_CASE(is_executed))
