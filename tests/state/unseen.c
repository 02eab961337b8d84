/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Files without a name that nobody has open, of which the mappings show only a
 * part: the rest comes into view when a mapping is made longer. And a large one
 * that is nearly empty: looking for its pages must not make them.
 */

#include "common.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 40, LOW = 12, HIGH = 20, SHOWN = 4 };

#define SPARSE_SIZE (512ull << 20)

/* Each shows SHOWN pages from page LOW on, and in another mapping, from page HIGH on. */
static struct {
	const char *what;
	char *low, *high;
} files[3];

static char *beyond, *sparse;
static unsigned long odd = 77; /* bytes of a file that is not a multiple of a page */
static char *named;

static char byte_at(int page)
{
	return page % 3 ? (char)(page * 7 + 1) : 0; /* every third page is a hole */
}

static void fill(char *p)
{
	for (int i = 0; i < PAGES; i++)
		if (byte_at(i))
			memset(p + i * PAGE, byte_at(i), PAGE);
}

/* Keep two windows of a mapping of the whole, the second read-only. */
static void show_part(int number, const char *what, char *all)
{
	fill(all);
	files[number].what = what;
	files[number].low = all + LOW * PAGE;
	files[number].high = mremap(all + HIGH * PAGE, 0, SHOWN * PAGE, MREMAP_MAYMOVE);
	check(files[number].high != MAP_FAILED);
	check_call(mprotect(files[number].high, SHOWN * PAGE, PROT_READ));
	check_call(munmap(all, LOW * PAGE));
	check_call(munmap(all + (LOW + SHOWN) * PAGE, (PAGES - LOW - SHOWN) * PAGE));
}

static char *map_file(int fd, size_t size)
{
	char *p;

	check_call(ftruncate(fd, (off_t)size));
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(p != MAP_FAILED);
	close(fd);
	return p;
}

/* A file that is gone, mapped privately by two tasks; each has changed another page of it. */
static char *library;

static void change_second(void)
{
	library[2 * PAGE] = 's';
}

static void make_library(void)
{
	char page[PAGE];
	int fd = (int)check_call(open("library", O_RDWR | O_CREAT | O_EXCL, 0600));

	for (int i = 0; i < SHOWN; i++) {
		memset(page, 'a' + i, PAGE);
		check(write(fd, page, PAGE) == PAGE);
	}
	library = mmap(NULL, 2 * SHOWN * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0); /* also beyond its end */
	check(library != MAP_FAILED);
	close(fd);
	check_call(unlink("library"));
	second_task_start();
	library[PAGE] = 'p';
	second_task_run(change_second);
}

static void verify_library_second(void)
{
	check(library[0] == 'a' && library[PAGE] == 'b' && library[2 * PAGE] == 's' && library[2 * PAGE + 1] == 'c');
	check(library[3 * PAGE] == 'd');
}

static void verify_library(void)
{
	check(library[0] == 'a' && library[PAGE] == 'p' && library[PAGE + 1] == 'b' && library[2 * PAGE] == 'c');
	check(library[3 * PAGE] == 'd');
	second_task_run(verify_library_second);
}

void setup(const char *argument)
{
	char *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd;

	(void)argument;
	check(p != MAP_FAILED);
	show_part(0, "anonymous", p);
	show_part(1, "memfd", map_file((int)check_call(memfd_create("unseen", MFD_CLOEXEC)), PAGES * PAGE));
	fd = (int)check_call(open("unseen", O_RDWR | O_CREAT | O_EXCL, 0600));
	check_call(unlink("unseen"));
	show_part(2, "unlinked", map_file(fd, PAGES * PAGE));
	make_library();

	/* A file that ends within its mapping. */
	fd = (int)check_call(memfd_create("short", MFD_CLOEXEC));
	check_call(ftruncate(fd, 3 * PAGE));
	beyond = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(beyond != MAP_FAILED);
	close(fd);
	beyond[2 * PAGE] = 'b';

	sparse = mmap(NULL, SPARSE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(sparse != MAP_FAILED);
	sparse[SPARSE_SIZE / 3] = 's';

	fd = (int)check_call(open("named", O_RDWR | O_CREAT | O_EXCL, 0600));
	named = map_file(fd, odd);
	named[odd - 1] = 'n';
}

/* Make the mapping longer, in a place of its own, and look. */
static void verify_part(const char *part, int from, bool writable)
{
	int n = PAGES - from;
	char *p = mremap((char *)part, 0, (size_t)n * PAGE, MREMAP_MAYMOVE);

	check(p != MAP_FAILED);
	for (int i = 0; i < n; i++)
		check(p[i * PAGE] == byte_at(from + i) && p[i * PAGE + PAGE - 1] == byte_at(from + i));
	if (writable) {
		p[(n - 1) * PAGE] = '!';
		p[(n - 1) * PAGE] = byte_at(PAGES - 1);
	}
	check_call(munmap(p, (size_t)n * PAGE));
}

/* Which pages there are; a page that is only read would be one more. */
static void verify_sparse(void)
{
	static unsigned char there[SPARSE_SIZE / PAGE];
	size_t n = 0;

	check_call(mincore(sparse, SPARSE_SIZE, there));
	for (size_t i = 0; i < sizeof(there); i++)
		n += there[i] & 1;
	check(n <= 1);
	check(sparse[SPARSE_SIZE / 3] == 's');
}

static bool has_page(char *p)
{
	int pipe_fds[2];
	bool has;

	check_call(pipe(pipe_fds));
	has = write(pipe_fds[1], p, 1) == 1; /* EFAULT instead of SIGBUS */
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	return has;
}

void verify(void)
{
	for (int i = 0; i < 3; i++) {
		verify_part(files[i].low, LOW, true);
		verify_part(files[i].high, HIGH, false);
	}
	check(beyond[2 * PAGE] == 'b' && beyond[0] == 0);
	check(!has_page(beyond + 3 * PAGE) && !has_page(beyond + 7 * PAGE));
	verify_sparse();
	verify_library();
	check(named[odd - 1] == 'n');
}
