/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LARGE = 200000 };

static int plain[2], same_end, empty[2], large[2], packets[2], no_reader, no_writer, blocking[2], both[2];
static int reopened_reader, reopened_both, fifo_reader, fifo_writer;
static int spliced[2], pages;

static void make(int ends[2], int flags)
{
	check_call(pipe2(ends, flags));
}

static void fill_large(void)
{
	char *content = malloc(LARGE);

	for (size_t i = 0; i < LARGE; i++)
		content[i] = (char)(i * 31 + i / 1000);
	check(write(large[1], content, LARGE) == LARGE);
	free(content);
}

static int reopen(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return (int)check_call(open(path, flags));
}

static void fill_packets(void)
{
	check_write(packets[1], "one");
	check_write(packets[1], "and two");
	check_write(packets[1], "3");
}

/* Pages of a file, not copies of them, and a part of one; and bytes behind them. */
static void fill_spliced(void)
{
	check(check_call(splice(pages, &(off_t){ 100 }, spliced[1], NULL, 8192, 0)) > 0);
	check_write(spliced[1], "bytes");
}

static void make_spliced(void)
{
	char page[4096];

	pages = (int)check_call(open("pages", O_RDWR | O_CREAT, 0600));
	for (int i = 0; i < 4; i++) {
		memset(page, 'a' + i, sizeof(page));
		check(write(pages, page, sizeof(page)) == sizeof(page));
	}
	make(spliced, O_NONBLOCK);
	fill_spliced();
}

void setup(const char *argument)
{
	int ends[2];

	(void)argument;
	signal(SIGPIPE, SIG_IGN);
	make(plain, O_NONBLOCK);
	check_write(plain[1], "some words ");
	check_write(plain[1], "and more");
	same_end = (int)check_call(fcntl(plain[1], F_DUPFD_CLOEXEC, 60));
	make(empty, O_NONBLOCK | O_CLOEXEC);
	make(large, O_NONBLOCK);
	check_call(fcntl(large[0], F_SETPIPE_SZ, 262144));
	fill_large();
	make(packets, O_DIRECT | O_NONBLOCK);
	fill_packets();

	make(ends, 0);
	no_reader = ends[1];
	check_write(no_reader, "nobody reads");
	check_call(close(ends[0]));
	make(ends, 0);
	no_writer = ends[0];
	check_write(ends[1], "last words");
	check_call(close(ends[1]));

	make(blocking, 0);
	reopened_reader = reopen(blocking[1], O_RDONLY | O_NONBLOCK);
	reopened_both = reopen(blocking[0], O_RDWR | O_CLOEXEC);
	check_write(blocking[1], "reopened");

	check_call(mkfifo("fifo", 0600));
	fifo_reader = (int)check_call(open("fifo", O_RDONLY | O_NONBLOCK));
	fifo_writer = (int)check_call(open("fifo", O_WRONLY));
	check_write(fifo_writer, "in a FIFO");

	make_spliced();
	make(both, 0);
	second_task_start();
}

static void second_reads(void)
{
	check_read(both[0], "to the second");
	check_write(both[1], "and back");
}

static void verify_packets(void)
{
	char text[64];

	check_flags(packets[1], O_DIRECT, O_DIRECT);
	check(read(packets[0], text, sizeof(text)) == 3 && !memcmp(text, "one", 3));
	check(read(packets[0], text, 3) == 3 && !memcmp(text, "and", 3)); /* the rest of a packet is lost */
	check(read(packets[0], text, sizeof(text)) == 1 && text[0] == '3');
	check_empty(packets[0]);
	fill_packets();
}

static void verify_large(void)
{
	char *content = malloc(LARGE);

	check(check_call(fcntl(large[0], F_GETPIPE_SZ)) == 262144);
	check(read(large[0], content, LARGE) == LARGE);
	for (size_t i = 0; i < LARGE; i++)
		check(content[i] == (char)(i * 31 + i / 1000));
	free(content);
	check_empty(large[0]);
	fill_large();
}

static void verify_closed(void)
{
	struct pollfd p = { .fd = no_reader, .events = POLLOUT };
	char text[64];
	int size;

	check(write(no_reader, "x", 1) == -1 && errno == EPIPE);
	check(poll(&p, 1, 0) == 1 && (p.revents & POLLERR));
	check(ioctl(no_writer, FIONREAD, &size) == 0 && (size == 10 || size == 0));
	if (size) /* the first time */
		check_read(no_writer, "last words");
	check(read(no_writer, text, sizeof(text)) == 0);
	p = (struct pollfd){ .fd = no_writer, .events = POLLIN };
	check(poll(&p, 1, 0) == 1 && (p.revents & POLLHUP));
}

static void verify_reopened(void)
{
	check_flags(reopened_reader, O_ACCMODE | O_NONBLOCK, O_RDONLY | O_NONBLOCK);
	check_flags(reopened_both, O_ACCMODE | O_NONBLOCK, O_RDWR);
	check_flags(blocking[0], O_ACCMODE | O_NONBLOCK, O_RDONLY);
	check_flags(blocking[1], O_ACCMODE | O_NONBLOCK, O_WRONLY);
	check_cloexec(reopened_both, true);
	check_same_description(blocking[0], reopened_reader, false);
	check_read(reopened_reader, "re");
	check_read(reopened_both, "open");
	check_read(blocking[0], "ed");
	check_empty(reopened_reader);
	check_write(reopened_both, "reopened");
}

static void verify_fifo(void)
{
	struct stat a, b;

	check_call(stat("fifo", &a));
	check_call(fstat(fifo_writer, &b));
	check(a.st_ino == b.st_ino && a.st_dev == b.st_dev);
	check_read(fifo_reader, "in a FIFO");
	check_empty(fifo_reader);
	check_write(fifo_writer, "in a FIFO");
}

static void verify_spliced(void)
{
	char text[8192 + 5];

	check(check_call(read(spliced[0], text, sizeof(text))) == sizeof(text));
	for (int i = 0; i < 8192; i++)
		check(text[i] == 'a' + (i + 100) / 4096);
	check(memcmp(text + 8192, "bytes", 5) == 0);
	check_empty(spliced[0]);
	fill_spliced();
}

void verify(void)
{
	verify_spliced();
	check_flags(plain[0], O_ACCMODE | O_NONBLOCK, O_RDONLY | O_NONBLOCK);
	check_same_description(plain[1], same_end, true);
	check_cloexec(same_end, true);
	check_cloexec(plain[1], false);
	check_cloexec(empty[0], true);
	check_read(plain[0], "some words and");
	check_read(plain[0], " more");
	check_empty(plain[0]);
	check_write(same_end, "some words and more");

	check_empty(empty[0]);
	check_write(empty[1], "x");
	check_read(empty[0], "x");

	verify_large();
	verify_packets();
	verify_closed();
	verify_reopened();
	verify_fifo();

	check_write(both[1], "to the second");
	second_task_run(second_reads);
	check_read(both[0], "and back");
}
