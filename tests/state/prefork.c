/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A parent, eight children and a grandchild that share memory since fork(2): pages
 * that were changed afterwards by one or the other, dropped, unmapped, protected,
 * added, and memory that the parent has given up since. Each verifies its own.
 */

#include "common.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	MIB = 1 << 20,
	CHILDREN = 8,
	GRANDCHILD = CHILDREN + 1,
	MAKER = 5, /* whose child that is */
	PROCESSES = GRANDCHILD + 1,
	MAIN = 64, LEFT = 8, TAIL = 4, FILE_SIZE = 2, HEAP = 2, /* MiB */
	DROPPED = 13, /* pages */
};

static struct {
	_Atomic unsigned ready;
	_Atomic unsigned asked;
	_Atomic unsigned done[PROCESSES];
	char failure[PROCESSES][128];
} *meeting;
static char *block, *left, *tail, *file, *heap, *more;
static size_t main_size;
static pid_t children[CHILDREN + 1];

static uint64_t word_of(unsigned what, size_t page, unsigned variant)
{
	return (page + 1) * 0x9e3779b97f4a7c15 + what * 1000 + variant;
}

static void put(char *p, unsigned what, size_t page, unsigned variant)
{
	*(uint64_t *)(p + page * PAGE + 8 * (page % 500)) = word_of(what, page, variant);
}

static bool has(const char *p, unsigned what, size_t page, unsigned variant)
{
	uint64_t word = *(const uint64_t *)(p + page * PAGE + 8 * (page % 500));

	return word == (variant == UINT32_MAX ? 0 : word_of(what, page, variant));
}

static void fill(char *p, unsigned what, size_t size)
{
	for (size_t page = 0; page < size / PAGE; page++)
		put(p, what, page, 0);
}

static char *map(size_t size)
{
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(p != MAP_FAILED);
	return p;
}

/* ---- who changes what in the main block ---- */

static bool parent_changes(size_t page)
{
	return page % 101 == 7;
}

static bool child_changes(unsigned child, size_t page)
{
	return page % 97 == child;
}

static bool child_drops(unsigned child, size_t page)
{
	return page >= child * 40 && page < child * 40 + DROPPED;
}

static bool maker_changes(size_t page)
{
	return page % 107 == 11;
}

static bool grandchild_changes(size_t page)
{
	return page % 103 == 9;
}

/* The variant of a page that a process should see; UINT32_MAX: it is empty. */
static unsigned expected(unsigned me, size_t page)
{
	unsigned child = me == GRANDCHILD ? MAKER : me;

	if (me == 0)
		return parent_changes(page) ? 100 : 0;
	if (me == GRANDCHILD && grandchild_changes(page))
		return 109;
	if (me == MAKER && maker_changes(page))
		return 105;
	if (child_drops(child, page))
		return UINT32_MAX;
	return child_changes(child, page) ? child : 0;
}

static void change(unsigned variant, bool (*which)(size_t page))
{
	for (size_t page = 0; page < main_size / PAGE; page++)
		if (which(page))
			put(block, 0, page, variant);
}

/* ---- the processes ---- */

static void verify_main(unsigned me)
{
	for (size_t page = 0; page < main_size / PAGE; page++)
		check(has(block, 0, page, expected(me, page)));
}

static void verify_all_of(const char *p, unsigned what, size_t pages)
{
	for (size_t page = 0; page < pages; page++)
		check(has(p, what, page, 0));
}

/* Every second page was changed before the fork; child 2 has dropped the first MiB, child 3 has changed the rest. */
static void verify_file(unsigned me)
{
	for (size_t page = 0; page < FILE_SIZE * MIB / PAGE; page++) {
		unsigned variant = page % 2 ? UINT32_MAX : 0;

		if (me == 2 && page < MIB / PAGE)
			variant = UINT32_MAX;
		if (me == 3 && page % 2)
			variant = 103;
		check(has(file, 3, page, variant));
	}
}

static void verify_process(unsigned me)
{
	verify_main(me);
	verify_file(me);
	verify_all_of(heap, 4, (me ? HEAP : HEAP - 1) * MIB / PAGE);
	verify_all_of(tail, 2, (me == 4 ? TAIL / 2 : TAIL) * MIB / PAGE);
	if (me)
		verify_all_of(left, 1, LEFT * MIB / PAGE);
	if (me == 7)
		verify_all_of(more, 5, MIB / PAGE);
}

static _Noreturn void serve(unsigned me)
{
	pid_t parent = getppid();

	meeting->ready++;
	while (getppid() == parent) {
		if (meeting->done[me] != meeting->asked) {
			check_here(meeting->failure[me], sizeof(meeting->failure[me]), verify_process, me);
			meeting->done[me] = meeting->asked;
		}
		usleep(2000);
	}
	_exit(1);
}

static void wait_ready(unsigned count)
{
	while (meeting->ready < count)
		usleep(1000);
}

static void child_of_its_own(void)
{
	if (check_call(fork()) == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		change(109, grandchild_changes);
		serve(GRANDCHILD);
	}
	change(105, maker_changes);
}

static _Noreturn void child_main(unsigned me)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t page = 0; page < main_size / PAGE; page++)
		if (child_changes(me, page))
			put(block, 0, page, me);
	check_call(madvise(block + me * 40 * PAGE, DROPPED * PAGE, MADV_DONTNEED));
	if (me == 2)
		check_call(madvise(file, MIB, MADV_DONTNEED));
	for (size_t page = 1; me == 3 && page < FILE_SIZE * MIB / PAGE; page += 2)
		put(file, 3, page, 103);
	if (me == 4)
		check_call(munmap(tail + TAIL / 2 * MIB, TAIL / 2 * MIB));
	if (me == 6)
		check_call(mprotect(tail + MIB, MIB, PROT_READ));
	if (me == 7) {
		more = sbrk(MIB);
		check(more != (void *)-1);
		fill(more, 5, MIB);
	}
	if (me == MAKER)
		child_of_its_own();
	serve(me);
}

static void make_file(void)
{
	int fd = (int)check_call(open("prefork", O_RDWR | O_CREAT | O_EXCL, 0600));

	check_call(ftruncate(fd, FILE_SIZE * MIB));
	file = mmap(NULL, FILE_SIZE * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	check(file != MAP_FAILED);
	close(fd);
	for (size_t page = 0; page < FILE_SIZE * MIB / PAGE; page += 2)
		put(file, 3, page, 0);
}

/* At the end of the heap, aligned, and with nothing behind it. */
static void make_heap(void)
{
	heap = sbrk(0);
	check(sbrk(HEAP * MIB + (-(intptr_t)heap & (PAGE - 1))) == heap);
	heap += -(uintptr_t)heap & (PAGE - 1);
	fill(heap, 4, HEAP * MIB);
}

void setup(const char *argument)
{
	main_size = (argument && strcmp(argument, "small") == 0 ? 2 : MAIN) * (size_t)MIB;
	meeting = mmap(NULL, sizeof(*meeting), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(meeting != MAP_FAILED);
	block = map(main_size);
	left = map(LEFT * MIB);
	tail = map(TAIL * MIB);
	fill(block, 0, main_size);
	fill(left, 1, LEFT * MIB);
	fill(tail, 2, TAIL * MIB);
	make_file();
	make_heap();
	for (unsigned i = 1; i <= CHILDREN; i++) {
		children[i] = (pid_t)check_call(fork());
		if (children[i] == 0)
			child_main(i);
	}
	wait_ready(CHILDREN + 1);
	change(100, parent_changes);
	check_call(munmap(left, LEFT * MIB));
	check(sbrk(-MIB) != (void *)-1);
}

void verify(void)
{
	meeting->asked++;
	verify_process(0);
	for (unsigned i = 1; i < PROCESSES; i++) {
		while (meeting->done[i] != meeting->asked) {
			check(i > CHILDREN || waitpid(children[i], NULL, WNOHANG) == 0);
			usleep(1000);
		}
		if (meeting->failure[i][0])
			fprintf(stderr, "process %u: %s\n", i, meeting->failure[i]);
		check(!meeting->failure[i][0]);
	}
}
