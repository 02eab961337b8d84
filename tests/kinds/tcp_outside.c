/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * Connections whose other ends are outside the tree: run.py serves them, at the
 * port that is the argument. What a client says first tells the server what to
 * do: it echoes what follows; after "say" it says "unread"; after "end" it says
 * "last" and shuts down.
 *
 * As long as there is no file "reset", the connections are to be alive; then, to
 * be found reset.
 */

static struct connection {
	int fd;
	struct sockaddr_in name;
} idle, unread, ended, finished;
static int epoll;

static struct connection make(in_port_t port, const char *first)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = port, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct connection c = { .fd = (int)check_call(socket(AF_INET, SOCK_STREAM, 0)) };
	socklen_t size = sizeof(c.name);

	check_call(connect(c.fd, (struct sockaddr *)&a, sizeof(a)));
	check_call(getsockname(c.fd, (struct sockaddr *)&c.name, &size));
	check_write(c.fd, first);
	return c;
}

static void await(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	check(check_call(poll(&p, 1, 5000)) == 1);
}

static void get(int fd, const char *text)
{
	char buffer[64];
	size_t n = 0;

	while (n < strlen(text)) {
		await(fd, POLLIN);
		n += (size_t)check_call(recv(fd, buffer + n, strlen(text) - n, MSG_DONTWAIT));
	}
	check(memcmp(buffer, text, n) == 0);
}

void setup(const char *argument)
{
	in_port_t port = htons((uint16_t)atoi(argument));
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = 17 };

	signal(SIGPIPE, SIG_IGN);
	idle = make(port, "echo\n");
	unread = make(port, "say\n");
	await(unread.fd, POLLIN);
	ended = make(port, "end\n");
	await(ended.fd, POLLRDHUP);
	finished = make(port, "echo\n");
	check_call(shutdown(finished.fd, SHUT_WR));
	epoll = (int)check_call(epoll_create1(0));
	check_call(epoll_ctl(epoll, EPOLL_CTL_ADD, idle.fd, &event));
}

static void verify_alive(void)
{
	struct epoll_event event;

	check(check_call(epoll_wait(epoll, &event, 1, 0)) == 0);
	check_write(idle.fd, "are you there?");
	get(idle.fd, "are you there?");
}

static int error_of(int fd)
{
	int error = -1;
	socklen_t size = sizeof(error);

	check_call(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size));
	return error;
}

static void verify_dead(const struct connection *c)
{
	struct sockaddr_in now = { 0 };
	socklen_t size = sizeof(now);
	char byte;

	check(check_call(read(c->fd, &byte, 1)) == 0);
	check(send(c->fd, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	check(getpeername(c->fd, (struct sockaddr *)&now, &size) == -1 && errno == ENOTCONN);
	size = sizeof(now);
	check_call(getsockname(c->fd, (struct sockaddr *)&now, &size));
	check(memcmp(&now, &c->name, sizeof(now)) == 0);
}

static void verify_reset(void)
{
	struct epoll_event event = { 0 };
	static bool before;
	char byte;

	check(check_call(epoll_wait(epoll, &event, 1, 0)) == 1 && event.data.u32 == 17);
	check((event.events & EPOLLHUP) && (event.events & EPOLLIN) && !!(event.events & EPOLLERR) == !before);
	if (!before) {
		check(error_of(idle.fd) == ECONNRESET);
		get(unread.fd, "unread");
		check(read(unread.fd, &byte, 1) == -1 && errno == ECONNRESET);
		get(ended.fd, "last");
		check(check_call(read(ended.fd, &byte, 1)) == 0);
		check(error_of(ended.fd) == EPIPE);
		check(read(finished.fd, &byte, 1) == -1 && errno == ECONNRESET);
	}
	before = true;
	verify_dead(&idle);
	verify_dead(&unread);
	verify_dead(&ended);
	verify_dead(&finished);
}

void verify(void)
{
	if (access("reset", F_OK) == 0)
		verify_reset();
	else
		verify_alive();
}
