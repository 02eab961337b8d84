/* SPDX-License-Identifier: Apache-2.0 */

/* File descriptors in flight: of every sort, alone in the world, and within one another. */

#include "common.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "unix_common.h"

static int stream[2], messages[2], nested[2], own[2], half[2], shared, listening[2], credited[2], writer, output[2];
static int watching[2];

static void send_fds(int socket, const char *text, const int *fds, size_t n)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(8 * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { (char *)text, strlen(text) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control };

	control.header = (struct cmsghdr){ CMSG_LEN(n * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(&control.header), fds, n * sizeof(int));
	m.msg_controllen = CMSG_SPACE(n * sizeof(int));
	check(check_call(sendmsg(socket, &m, 0)) == (long)strlen(text));
}

static void send_fd(int socket, const char *text, int fd)
{
	send_fds(socket, text, &fd, 1);
}

/* A whole message with so many fds. */
static void receive_fds(int socket, const char *text, int *fds, size_t n)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(8 * sizeof(int))];
	} control = { 0 };
	char buffer[64];
	struct iovec iov = { buffer, sizeof(buffer) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	long size = check_call(recvmsg(socket, &m, MSG_DONTWAIT));

	check(size == (long)strlen(text) && memcmp(buffer, text, (size_t)size) == 0);
	check(!(m.msg_flags & MSG_CTRUNC) && m.msg_controllen && control.header.cmsg_type == SCM_RIGHTS);
	check(control.header.cmsg_len == CMSG_LEN(n * sizeof(int)));
	memcpy(fds, CMSG_DATA(&control.header), n * sizeof(int));
}

static int receive_fd(int socket, const char *text)
{
	int fd;

	receive_fds(socket, text, &fd, 1);
	return fd;
}

static void pair(int type, int ends[2])
{
	check_call(socketpair(AF_UNIX, type, 0, ends));
}

/* Bytes before, between and behind; a reader of the first ones must not lose what is in flight. */
static void fill_stream(void)
{
	int ends[2], file = (int)check_call(open("file", O_RDWR | O_CREAT | O_TRUNC, 0600));

	check_write(file, "in a file without a name");
	check_call(lseek(file, 5, SEEK_SET));
	check_call(unlink("file"));
	check_call(pipe(ends));
	check_write(ends[1], "in the pipe");
	writer = ends[1];
	say(stream[0], "before ");
	say(stream[0], "the first");
	send_fd(stream[0], "with a file", file);
	send_fd(stream[0], "with a pipe", ends[0]);
	say(stream[0], "behind");
	check_call(close(file));
	check_call(close(ends[0]));
}

static void verify_stream(void)
{
	char text[20];
	int fd;

	check(check_call(recv(stream[1], text, 16, MSG_DONTWAIT)) == 16 && memcmp(text, "before the first", 16) == 0);
	fd = receive_fd(stream[1], "with a file");
	check(check_call(lseek(fd, 0, SEEK_CUR)) == 5);
	check_read(fd, "file without a name");
	check_call(close(fd));
	fd = receive_fd(stream[1], "with a pipe");
	check_read(fd, "in the pipe");
	check_write(writer, "more");
	check_read(fd, "more");
	check_call(close(fd));
	check_call(close(writer));
	get(stream[1], "behind");
	get_nothing(stream[1]);
	fill_stream();
}

static void fill_messages(void)
{
	int fds[3] = { eventfd(7, 0), shared, shared };

	say(messages[0], "plain");
	send_fds(messages[0], "three", fds, 3);
	send_fd(messages[0], "", shared);
	check_call(close(fds[0]));
}

static void verify_messages(void)
{
	uint64_t count;
	int fds[3], again;

	get(messages[1], "plain");
	receive_fds(messages[1], "three", fds, 3);
	again = receive_fd(messages[1], "");
	check(check_call(read(fds[0], &count, sizeof(count))) == sizeof(count) && count == 7);
	check_same_description(fds[1], shared, true);
	check_same_description(fds[2], shared, true);
	check_same_description(again, shared, true);
	for (int i = 0; i < 3; i++)
		check_call(close(fds[i]));
	check_call(close(again));
	get_nothing(messages[1]);
	fill_messages();
}

/* A socket in a queue of a socket in a queue, with something in its own queue, and nobody has it open. */
static void fill_nested(void)
{
	int middle[2], inner[2];

	pair(SOCK_STREAM, middle);
	pair(SOCK_DGRAM, inner);
	say(inner[0], "innermost");
	send_fd(middle[0], "middle", inner[1]);
	say(middle[0], "and more");
	send_fd(nested[0], "outer", middle[1]);
	send_fd(nested[0], "the other end", middle[0]);
	check_call(close(middle[0]));
	check_call(close(middle[1]));
	check_call(close(inner[0]));
	check_call(close(inner[1]));
}

static void verify_nested(void)
{
	int middle = receive_fd(nested[1], "outer"), other = receive_fd(nested[1], "the other end");
	int inner = receive_fd(middle, "middle");

	get(inner, "innermost");
	get(middle, "and more");
	say(other, "it is the other end");
	get(middle, "it is the other end");
	check_call(close(middle));
	check_call(close(other));
	check_call(close(inner));
	fill_nested();
}

static void fill_own(void)
{
	send_fd(own[0], "yourself", own[1]);
	send_fd(own[0], "me", own[0]);
}

static void verify_own(void)
{
	int fd = receive_fd(own[1], "yourself");

	check_same_description(fd, own[1], true);
	check_call(close(fd));
	fd = receive_fd(own[1], "me");
	check_same_description(fd, own[0], true);
	check_call(close(fd));
	fill_own();
}

/* The other end of this one is only in flight. */
static void fill_half(void)
{
	int ends[2];

	pair(SOCK_STREAM, ends);
	say(ends[1], "to the one at home");
	say(ends[0], "to the one that flies");
	send_fd(half[0], "half", ends[1]);
	check_call(close(ends[1]));
	check_call(dup2(ends[0], 100));
	check_call(close(ends[0]));
}

static void verify_half(void)
{
	int fd = receive_fd(half[1], "half");

	get(fd, "to the one that flies");
	get(100, "to the one at home");
	check_call(close(fd));
	get_end(100);
	fill_half();
}

static void fill_listening(void)
{
	int fd = unix_listening(SOCK_STREAM, "flying", 1);

	send_fd(listening[0], "a server", fd);
	check_call(close(fd));
}

static void verify_listening(void)
{
	int client = unix_connected(SOCK_STREAM, "flying"), fd = receive_fd(listening[1], "a server"), server;

	server = (int)check_call(accept(fd, NULL, NULL));
	say(client, "hello");
	get(server, "hello");
	check_call(close(client));
	check_call(close(server));
	check_call(close(fd));
	check_call(unlink("flying"));
	fill_listening();
}

static void fill_credited(void)
{
	say(credited[0], "words");
	send_fd(credited[0], "and a file", shared);
}

static void check_credentials(const char *text, bool fd)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	char buffer[64];
	struct iovec iov = { buffer, strlen(text) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	bool credentials = false, rights = false;

	check(check_call(recvmsg(credited[1], &m, MSG_DONTWAIT)) == (long)strlen(text));
	check(memcmp(buffer, text, strlen(text)) == 0);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_type == SCM_RIGHTS) {
			int received;

			memcpy(&received, CMSG_DATA(c), sizeof(received));
			check_same_description(received, shared, true);
			check_call(close(received));
			rights = true;
		} else if (c->cmsg_type == SCM_CREDENTIALS) {
			struct ucred creds;

			memcpy(&creds, CMSG_DATA(c), sizeof(creds));
			check(creds.pid == getpid());
			credentials = true;
		}
	}
	check(credentials && rights == fd);
}

static void verify_credited(void)
{
	check_credentials("words", false);
	check_credentials("and a file", true);
	fill_credited();
}

/* An epoll instance that nobody has open, and some of what it watches neither. */
static void fill_epoll(void)
{
	int fd = (int)check_call(epoll_create1(0)), lone = eventfd(1, 0), fired = eventfd(1, 0);
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 11 };

	check_call(dup2(lone, 120));
	check_call(epoll_ctl(fd, EPOLL_CTL_ADD, 120, &event)); /* by a number that is closed */
	event = (struct epoll_event){ .events = EPOLLIN | EPOLLONESHOT, .data.u64 = 12 };
	check_call(epoll_ctl(fd, EPOLL_CTL_ADD, fired, &event));
	event.data.u64 = 13;
	check_call(epoll_ctl(fd, EPOLL_CTL_ADD, credited[1], &event));
	check(check_call(epoll_wait(fd, (struct epoll_event[4]){ 0 }, 4, 0)) == 3);
	send_fd(watching[0], "an instance", fd);
	send_fd(watching[0], "a counter", lone);
	send_fd(watching[0], "and another", fired);
	check_call(close(fd));
	check_call(close(lone));
	check_call(close(fired));
	check_call(close(120));
}

static void verify_epoll(void)
{
	int fd = receive_fd(watching[1], "an instance"), lone = receive_fd(watching[1], "a counter");
	int fired = receive_fd(watching[1], "and another");
	struct epoll_event event[4];

	check(check_call(epoll_wait(fd, event, 4, 0)) == 1 && event[0].data.u64 == 11);
	check(check_call(read(lone, &(uint64_t){ 0 }, 8)) == 8);
	check(check_call(epoll_wait(fd, event, 4, 0)) == 0);
	check_call(close(fd));
	check_call(close(lone));
	check_call(close(fired));
	fill_epoll();
}

static void second_receives(void)
{
	int fd = receive_fd(output[1], "for the second");

	check_same_description(fd, shared, true);
	check_call(close(fd));
}

void setup(const char *argument)
{
	(void)argument;
	signal(SIGPIPE, SIG_IGN);
	pair(SOCK_STREAM, stream);
	pair(SOCK_SEQPACKET, messages);
	pair(SOCK_STREAM, nested);
	pair(SOCK_STREAM, own);
	pair(SOCK_DGRAM, half);
	pair(SOCK_STREAM, listening);
	pair(SOCK_STREAM, credited);
	pair(SOCK_STREAM, output);
	pair(SOCK_STREAM, watching);
	shared = (int)check_call(open("shared", O_RDWR | O_CREAT, 0600));
	check_call(setsockopt(credited[1], SOL_SOCKET, SO_PASSCRED, &(int){ 1 }, sizeof(int)));
	fill_stream();
	fill_messages();
	fill_nested();
	fill_own();
	fill_half();
	fill_listening();
	fill_credited();
	fill_epoll();
	second_task_start();
	send_fd(output[0], "for the second", shared);
}

void verify(void)
{
	verify_stream();
	verify_messages();
	verify_nested();
	verify_own();
	verify_half();
	verify_listening();
	verify_epoll();
	verify_credited();
	second_task_run(second_receives);
	send_fd(output[0], "for the second", shared);
}
