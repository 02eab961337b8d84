/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int level, edge, once, fired, outer, moved, shared, many;
static int ready, idle, gone_copy, socket_pair[2], pipe_ends[2];
static int closed_number, reused_number, polling;

/* As in <linux/eventpoll.h>, which clashes with libc's header; since Linux 6.9. */
struct params {
	uint32_t usecs;
	uint16_t budget;
	uint8_t prefer, unused;
};
#define SET_PARAMS _IOW(0x8a, 1, struct params)
#define GET_PARAMS _IOR(0x8a, 2, struct params)

static const struct params params = { 77, 5, 1, 0 };

static void add(int epoll, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = { .events = events, .data.u64 = data };

	check_call(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

/* Exactly one event, with this data. */
static void expect(int epoll, uint32_t events, uint64_t data)
{
	struct epoll_event event[4];

	check(check_call(epoll_wait(epoll, event, 4, 0)) == 1);
	check(event[0].events == events && event[0].data.u64 == data);
}

static void expect_nothing(int epoll)
{
	struct epoll_event event[4];

	check(check_call(epoll_wait(epoll, event, 4, 0)) == 0);
}

static void set(int fd)
{
	check(write(fd, &(uint64_t){ 1 }, 8) == 8);
}

static void clear(int fd)
{
	check(read(fd, &(uint64_t){ 0 }, 8) == 8);
}

static void setup_moved(void)
{
	int fd = (int)check_call(eventfd(1, EFD_NONBLOCK));

	/* Added by a number that is closed again, and by one that then means something else. */
	moved = (int)check_call(epoll_create1(0));
	closed_number = (int)check_call(fcntl(fd, F_DUPFD, 70));
	add(moved, closed_number, EPOLLIN, 70);
	check_call(close(closed_number));
	reused_number = (int)check_call(fcntl(fd, F_DUPFD, 80));
	add(moved, reused_number, EPOLLIN, 80);
	check_call(dup3(idle, reused_number, O_CLOEXEC));
	gone_copy = fd;
}

void setup(const char *argument)
{
	(void)argument;
	ready = (int)check_call(eventfd(1, EFD_NONBLOCK));
	idle = (int)check_call(eventfd(0, EFD_NONBLOCK));
	check_call(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, socket_pair));
	check_call(pipe2(pipe_ends, O_NONBLOCK));

	level = (int)check_call(epoll_create1(EPOLL_CLOEXEC));
	add(level, ready, EPOLLIN, 0x1122334455667788);
	add(level, idle, EPOLLIN, 2);
	add(level, socket_pair[0], EPOLLIN | EPOLLRDHUP, 3);

	edge = (int)check_call(epoll_create1(0));
	add(edge, idle, EPOLLIN | EPOLLET, 4);
	add(edge, pipe_ends[1], EPOLLOUT | EPOLLET, 5);
	expect(edge, EPOLLOUT, 5);

	once = (int)check_call(epoll_create1(0));
	add(once, ready, EPOLLIN | EPOLLONESHOT, 6);
	fired = (int)check_call(epoll_create1(0));
	add(fired, ready, EPOLLIN | EPOLLONESHOT, 7);
	add(fired, pipe_ends[0], EPOLLIN | EPOLLET, 77);
	expect(fired, EPOLLIN, 7);
	expect_nothing(fired);

	outer = (int)check_call(epoll_create1(0));
	add(outer, level, EPOLLIN, 8);
	add(outer, fired, EPOLLIN, 9);

	shared = (int)check_call(epoll_create1(0));
	add(shared, socket_pair[1], EPOLLIN | EPOLLEXCLUSIVE, 10);
	many = (int)check_call(epoll_create1(0));
	for (int i = 200; i < 700; i++)
		add(many, (int)check_call(fcntl(idle, F_DUPFD, i)), EPOLLIN | EPOLLET, (uint64_t)i);
	setup_moved();
	polling = (int)check_call(epoll_create1(0));
	if (ioctl(polling, SET_PARAMS, &params) < 0)
		polling = -1; /* an older kernel */
	second_task_start();
}

static void second_waits(void)
{
	expect(shared, EPOLLIN, 10);
	check_read(socket_pair[1], "x");
	expect_nothing(shared);
	expect(level, EPOLLIN, 0x1122334455667788);
}

static void verify_edge(void)
{
	struct epoll_event event[4];

	/* An edge that was seen before may be told of once more. */
	for (int i = 0; i < 2; i++)
		check_call(epoll_wait(edge, event, 4, 0));
	expect_nothing(edge);
	set(idle);
	expect(edge, EPOLLIN, 4);
	expect_nothing(edge);
	set(idle);
	expect(edge, EPOLLIN, 4);
	clear(idle);
	expect_nothing(edge);
}

static void verify_once(void)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = 6 };

	expect(once, EPOLLIN, 6);
	expect_nothing(once);
	check_call(epoll_ctl(once, EPOLL_CTL_MOD, ready, &event));

	expect_nothing(fired);
	event.data.u64 = 7;
	check_call(epoll_ctl(fired, EPOLL_CTL_MOD, ready, &event));
	expect(fired, EPOLLIN, 7);
	expect_nothing(fired);
}

static void verify_moved(void)
{
	struct epoll_event event[4];
	int n = (int)check_call(epoll_wait(moved, event, 4, 0));

	check(n == 2);
	check(event[0].data.u64 + event[1].data.u64 == 150);
	check(fcntl(closed_number, F_GETFD) == -1 && errno == EBADF);
	check_same_description(reused_number, idle, true);
	check_cloexec(reused_number, true);
	clear(gone_copy);
	expect_nothing(moved);
	set(gone_copy);
}

static void verify_many(void)
{
	struct epoll_event events[600];

	check(check_call(epoll_wait(many, events, 600, 0)) >= 0);
	set(idle);
	check(check_call(epoll_wait(many, events, 600, 0)) == 500);
	check(check_call(epoll_wait(many, events, 600, 0)) == 0);
	clear(idle);
}

static void verify_polling(void)
{
	struct params now, none = { 0 };

	if (polling < 0)
		return;
	check_call(ioctl(polling, GET_PARAMS, &now));
	check(memcmp(&now, &params, sizeof(now)) == 0);
	check_call(ioctl(level, GET_PARAMS, &now));
	check(memcmp(&now, &none, sizeof(now)) == 0);
}

void verify(void)
{
	verify_polling();
	check_cloexec(level, true);
	check_cloexec(edge, false);
	expect(level, EPOLLIN, 0x1122334455667788);
	expect(level, EPOLLIN, 0x1122334455667788);
	verify_edge();
	verify_once();
	expect(outer, EPOLLIN, 8);
	verify_moved();
	verify_many();

	expect_nothing(shared);
	check_write(socket_pair[0], "x");
	second_task_run(second_waits);
	expect(level, EPOLLIN, 0x1122334455667788);
}
