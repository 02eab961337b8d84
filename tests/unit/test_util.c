/* SPDX-License-Identifier: Apache-2.0 */

/* Arena, errors, and whole reads and writes. */

#include <errno.h>
#include <fcntl.h>
#include <stdalign.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit.h"
#include "util/arena.h"
#include "util/err.h"
#include "util/fd.h"

#define cleanup_arena __attribute__((cleanup(arena_done)))

/* ---- arena ---- */

static bool is_zero(const unsigned char *p, size_t size)
{
	while (size && !p[size - 1])
		size--;
	return size == 0;
}

static void arena_zeroed_and_aligned(void)
{
	static const size_t sizes[] = { 1, 15, 16, 17, 0, 4095, 65536, 1, 200000, 3 };
	cleanup_arena struct arena arena = ARENA_INIT;

	for (unsigned round = 0; round < 50; round++) {
		for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
			unsigned char *p = arena_alloc(&arena, sizes[i]);

			UNIT_CHECK(p);
			UNIT_CHECK_EQ((uintptr_t)p % 16, 0);
			UNIT_CHECK(is_zero(p, sizes[i]));
			memset(p, 0xff, sizes[i]); /* a neighbour that overlaps would not be zero */
		}
	}
}

static void arena_lent(void)
{
	static alignas(16) char room[128];
	struct arena arena = ARENA_INIT;
	char *inside, *beyond;

	arena_begin_in(&arena, room, sizeof(room));
	inside = arena_alloc(&arena, 64);
	UNIT_CHECK(inside > room && inside + 64 <= room + sizeof(room));
	beyond = arena_alloc(&arena, 64);
	UNIT_CHECK(beyond && (beyond + 64 <= room || beyond >= room + sizeof(room)));
	arena_done(&arena); /* gives back what it got, and nothing else */
	UNIT_CHECK(arena_alloc(&arena, 64));
	arena_done(&arena);
}

static void arena_limits(void)
{
	cleanup_arena struct arena arena = { .limit = 64 };

	UNIT_CHECK(!arena_alloc(&arena, 65));
	UNIT_CHECK(arena_alloc(&arena, 33)); /* rounded up to 48 */
	UNIT_CHECK_EQ(arena.used, 48);
	UNIT_CHECK(!arena_alloc(&arena, 17));
	UNIT_CHECK(arena_alloc(&arena, 16));
	UNIT_CHECK(!arena_alloc(&arena, 1));
	UNIT_CHECK(!arena_alloc(&arena, SIZE_MAX));
	arena_done(&arena);
	UNIT_CHECK_EQ(arena.used, 0);
	UNIT_CHECK(arena_alloc(&arena, 64)); /* usable again */
}

static void arena_huge(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;

	UNIT_CHECK(!arena_alloc(&arena, SIZE_MAX));
	UNIT_CHECK(!arena_alloc(&arena, SIZE_MAX / 2 + 1));
	UNIT_CHECK_EQ(arena.used, 0);
}

static void arena_copies(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	char data[] = "one\0two", *copy;

	copy = arena_memdup(&arena, data, sizeof(data));
	data[0] = 'X';
	UNIT_CHECK(copy && memcmp(copy, "one\0two", sizeof(data)) == 0);
	UNIT_CHECK(arena_memdup(&arena, NULL, 0));
	UNIT_CHECK_STR(arena_strdup(&arena, ""), "");
	UNIT_CHECK_STR(arena_strdup(&arena, "three"), "three");
	UNIT_CHECK_STR(arena_printf(&arena, "%d/%s", 42, "fd"), "42/fd");
	UNIT_CHECK_EQ(strlen(arena_printf(&arena, "%0100000d", 7)), 100000);
}

static void arena_copies_limited(void)
{
	cleanup_arena struct arena arena = { .limit = 16 };

	UNIT_CHECK(!arena_memdup(&arena, "0123456789abcdefg", 17));
	UNIT_CHECK(!arena_strdup(&arena, "0123456789abcdef"));
	UNIT_CHECK(!arena_printf(&arena, "%017d", 1));
	UNIT_CHECK_STR(arena_printf(&arena, "%015d", 1), "000000000000001");
}

static void arena_vectors(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	uint64_t *a = NULL;
	char *b = NULL;
	size_t n;

	/* Two at once, so that one's growth would show in the other. */
	for (n = 0; n < 5000; n++) {
		a = arena_grow(&arena, a, n, sizeof(*a));
		b = arena_grow(&arena, b, n, sizeof(*b));
		UNIT_CHECK(a && b);
		a[n] = n * 3;
		b[n] = (char)n;
	}
	for (n = 0; n < 5000; n++) {
		UNIT_CHECK_EQ(a[n], n * 3);
		UNIT_CHECK_EQ(b[n], (char)n);
	}
}

static void arena_vector_limited(void)
{
	cleanup_arena struct arena arena = { .limit = 64 };
	uint64_t *vec = NULL, *grown;
	size_t n = 0;

	while ((grown = arena_grow(&arena, vec, n, sizeof(*vec)))) {
		vec = grown;
		vec[n] = n;
		n++;
	}
	UNIT_CHECK_EQ(n, 4); /* 16 bytes for one, 16 for two, 32 for four */
}

/* ---- err ---- */

static void err_sets(void)
{
	struct err e = ERR_INIT;

	UNIT_CHECK_EQ(err_set(&e, ERR_STATE, ENOTSUP, "fd %d", 7), -ENOTSUP);
	UNIT_CHECK_EQ(e.reason, ERR_STATE);
	UNIT_CHECK_EQ(e.number, ENOTSUP);
	UNIT_CHECK_STR(e.text, "fd 7: Operation not supported");
	UNIT_CHECK_EQ(err_set(&e, ERR_IMAGE, 0, "no trailer"), -ECANCELED);
	UNIT_CHECK_STR(e.text, "no trailer");
	UNIT_CHECK_EQ(err_set(&e, ERR_SYSTEM, 99999, "odd"), -99999);
	UNIT_CHECK(strncmp(e.text, "odd: ", 5) == 0 && strlen(e.text) > 5);
}

static void err_of_system_calls(void)
{
	struct err e = ERR_INIT;

	UNIT_CHECK_EQ(err_sys(&e, -EPERM, "clone3"), -EPERM);
	UNIT_CHECK_EQ(e.reason, ERR_PERMISSION);
	UNIT_CHECK_EQ(e.number, EPERM);
	UNIT_CHECK_STR(e.text, "clone3: Operation not permitted");
	UNIT_CHECK_EQ(err_sys(&e, EACCES, "open"), -EACCES);
	UNIT_CHECK_EQ(e.reason, ERR_PERMISSION);
	UNIT_CHECK_EQ(err_sys(&e, ENOSPC, "write"), -ENOSPC);
	UNIT_CHECK_EQ(e.reason, ERR_SYSTEM);
	UNIT_CHECK_EQ(err_nomem(&e), -ENOMEM);
	UNIT_CHECK_EQ(e.reason, ERR_SYSTEM);
}

static void err_wraps(void)
{
	struct err e = ERR_INIT;

	err_set(&e, ERR_STATE, 0, "state SYN_SENT");
	UNIT_CHECK_EQ(err_help(&e, "wait until it is %s", "connected"), -ECANCELED);
	UNIT_CHECK_EQ(err_wrap(&e, "fd %d (%s)", 7, "tcp"), -ECANCELED);
	UNIT_CHECK_EQ(err_wrap(&e, "task %d", 42), -ECANCELED);
	UNIT_CHECK_STR(e.text, "task 42: fd 7 (tcp): state SYN_SENT");
	UNIT_CHECK_STR(e.help, "wait until it is connected");
	UNIT_CHECK_EQ(e.reason, ERR_STATE);
	err_set(&e, ERR_SYSTEM, EIO, "read");
	UNIT_CHECK_STR(e.help, ""); /* advice of an older error is gone */
	UNIT_CHECK_EQ(err_wrap(&e, "image"), -EIO);
	UNIT_CHECK_STR(e.text, "image: read: Input/output error");
}

static void err_is_bounded(void)
{
	cleanup_arena struct arena arena = ARENA_INIT;
	struct err e = ERR_INIT;
	char *text = arena_printf(&arena, "%05000d", 0);

	UNIT_CHECK_EQ(err_set(&e, ERR_SYSTEM, EIO, "%s", text), -EIO);
	UNIT_CHECK_EQ(strlen(e.text), sizeof(e.text) - 1);
	for (int i = 0; i < 20; i++)
		err_wrap(&e, "level %d %.100s", i, text);
	UNIT_CHECK(strlen(e.text) < sizeof(e.text));
	UNIT_CHECK(strncmp(e.text, "level 19 ", 9) == 0);
	err_wrap(&e, "%s", text);
	err_help(&e, "%s", text);
	UNIT_CHECK_EQ(strlen(e.help), sizeof(e.help) - 1);
	UNIT_CHECK_EQ(e.number, EIO);
}

/* ---- fd ---- */

static void fd_ownership(void)
{
	int kept, closed;

	{
		cleanup_close int a = open("/dev/null", O_RDWR | O_CLOEXEC);
		cleanup_close int b = open("/dev/null", O_RDWR | O_CLOEXEC);
		cleanup_close int none = -1;

		UNIT_CHECK(a >= 0 && b >= 0);
		closed = b;
		kept = fd_take(&a);
		UNIT_CHECK_EQ(a, -1);
		UNIT_CHECK_EQ(none, -1);
	}
	UNIT_CHECK(fcntl(kept, F_GETFD) >= 0);
	UNIT_CHECK(fcntl(closed, F_GETFD) < 0 && errno == EBADF);
	close(kept);
}

static void fd_positioned(void)
{
	cleanup_close int fd = memfd_create("test_util", MFD_CLOEXEC);
	char buf[8] = { 0 };

	UNIT_CHECK_EQ(fd_write_full(fd, "01234567", 8), 0);
	UNIT_CHECK_EQ(fd_pwrite_full(fd, "ab", 2, 6), 0);
	UNIT_CHECK_EQ(fd_pread_full(fd, buf, 4, 4), 0);
	UNIT_CHECK_STR(buf, "45ab");
	UNIT_CHECK_EQ(fd_pread_full(fd, buf, 0, 8), 0);
	UNIT_CHECK_EQ(fd_pread_full(fd, buf, 4, 5), -EIO); /* ends before */
	UNIT_CHECK_EQ(fd_pread_full(fd, buf, 1, 100), -EIO);
	UNIT_CHECK_EQ(lseek(fd, 0, SEEK_CUR), 8); /* the offset is not touched */
}

static void fd_errors(void)
{
	cleanup_close int rd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	cleanup_close int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
	cleanup_arena struct arena arena = ARENA_INIT;
	char byte = 0, *text;

	UNIT_CHECK_EQ(fd_write_full(rd, &byte, 1), -EBADF);
	UNIT_CHECK_EQ(fd_pwrite_full(rd, &byte, 1, 0), -EBADF);
	UNIT_CHECK_EQ(fd_write_full(full, &byte, 1), -ENOSPC);
	UNIT_CHECK_EQ(fd_pread_full(-1, &byte, 1, 0), -EBADF);
	UNIT_CHECK_EQ(fd_read_all(-1, &arena, &text, NULL), -EBADF);
	UNIT_CHECK_EQ(fd_read_all(full, &arena, &text, NULL), -EBADF);
}

static void fd_reads_all_of_size(size_t size)
{
	cleanup_close int fd = memfd_create("test_util", MFD_CLOEXEC);
	cleanup_arena struct arena arena = ARENA_INIT;
	size_t got = 77;
	char *text = NULL;

	UNIT_CHECK_EQ(ftruncate(fd, (off_t)size), 0);
	if (size)
		UNIT_CHECK_EQ(fd_pwrite_full(fd, "Z", 1, (off_t)size - 1), 0);
	UNIT_CHECK_EQ(fd_read_all(fd, &arena, &text, &got), 0);
	UNIT_CHECK_EQ(got, size);
	UNIT_CHECK_EQ(text[size], '\0');
	if (size)
		UNIT_CHECK_EQ(text[size - 1], 'Z');
}

static void fd_reads_all(void)
{
	static const size_t sizes[] = { 0, 1, 4095, 4096, 4097, 8192, 1000000 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		fd_reads_all_of_size(sizes[i]);
}

static void fd_reads_all_limited(void)
{
	cleanup_close int fd = memfd_create("test_util", MFD_CLOEXEC);
	cleanup_arena struct arena arena = { .limit = 16 };
	char *text;

	UNIT_CHECK_EQ(fd_write_full(fd, "0123456789abcdef", 16), 0);
	UNIT_CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
	UNIT_CHECK_EQ(fd_read_all(fd, &arena, &text, NULL), -ENOMEM);
	UNIT_CHECK_EQ(lseek(fd, 1, SEEK_SET), 1);
	UNIT_CHECK_EQ(fd_read_all(fd, &arena, &text, NULL), 0);
	UNIT_CHECK_STR(text, "123456789abcdef");
}

/* A pipe takes and gives little at a time. */
static void fd_pieces(void)
{
	enum { SIZE = 1000000 };
	cleanup_arena struct arena arena = ARENA_INIT;
	char *data = arena_alloc(&arena, SIZE), *text;
	int pipe_fd[2], status;
	size_t size;
	pid_t child;

	memset(data, 'p', SIZE);
	UNIT_CHECK_EQ(pipe(pipe_fd), 0);
	child = fork();
	if (child == 0)
		_exit(fd_write_full(pipe_fd[1], data, SIZE) ? 1 : 0);
	UNIT_CHECK(child > 0);
	close(pipe_fd[1]);
	UNIT_CHECK_EQ(fd_read_all(pipe_fd[0], &arena, &text, &size), 0);
	close(pipe_fd[0]);
	waitpid(child, &status, 0);
	UNIT_CHECK_EQ(status, 0);
	UNIT_CHECK_EQ(size, SIZE);
	UNIT_CHECK(memcmp(text, data, SIZE) == 0);
}

static void fd_entries(void)
{
	int number = -1, n = 0;
	DIR *dir = opendir("/proc/self/task");

	UNIT_CHECK(dir);
	while (fd_next_entry(dir, &number))
		n++;
	UNIT_CHECK_EQ(n, 1); /* the one thread; neither "." nor ".." */
	UNIT_CHECK_EQ(number, 0);
	close(dirfd(dir)); /* from now on it cannot be read, which is not its end */
	rewinddir(dir);
	UNIT_CHECK(!fd_next_entry(dir, &number));
	UNIT_CHECK_EQ(number, EBADF);
	closedir(dir);
}

static void fd_proc_if_any(void)
{
	struct arena arena = ARENA_INIT;
	char none[1], *text = none;

	UNIT_CHECK_EQ(fd_read_proc_if_any(getpid(), "no such file", &arena, &text), 0);
	UNIT_CHECK(!text);
	UNIT_CHECK_EQ(fd_read_proc_if_any(getpid(), "comm", &arena, &text), 0);
	UNIT_CHECK(text && text[0]);
	UNIT_CHECK_EQ(fd_read_proc_if_any(getpid(), "fd", &arena, &text), -EISDIR);
	arena_done(&arena);
}

static void paths_that_are_gone(void)
{
	UNIT_CHECK(path_is_gone(ENOENT) && path_is_gone(ENOTDIR) && path_is_gone(EACCES));
	UNIT_CHECK(!path_is_gone(EIO) && !path_is_gone(EMFILE) && !path_is_gone(ENOMEM) && !path_is_gone(0));
}

UNIT_MAIN(UNIT_CASE(arena_zeroed_and_aligned), UNIT_CASE(arena_limits), UNIT_CASE(arena_lent), UNIT_CASE(arena_huge),
	  UNIT_CASE(arena_copies), UNIT_CASE(arena_copies_limited), UNIT_CASE(arena_vectors),
	  UNIT_CASE(arena_vector_limited), UNIT_CASE(err_sets), UNIT_CASE(err_of_system_calls),
	  UNIT_CASE(err_wraps), UNIT_CASE(err_is_bounded), UNIT_CASE(fd_ownership), UNIT_CASE(fd_positioned),
	  UNIT_CASE(fd_errors), UNIT_CASE(fd_reads_all), UNIT_CASE(fd_reads_all_limited), UNIT_CASE(fd_pieces), UNIT_CASE(fd_entries),
	  UNIT_CASE(fd_proc_if_any), UNIT_CASE(paths_that_are_gone))
