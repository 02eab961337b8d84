/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* TCP sockets that are not connected, and connections at the address of a listener. */

static int four, six, dual, plain, bound, new_four, new_six, ended, finished, shared, epoll;
static int group[2], choosy;
static int client, server, own_client, own_server;

static const struct sockaddr_in loopback = { .sin_family = AF_INET, .sin_addr.s_addr = 0x0100007f };
static const struct sockaddr_in6 any_six = { .sin6_family = AF_INET6 };

static int make(int family, int reuse, int only_six)
{
	int fd = (int)check_call(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));

	set_option(fd, SOL_SOCKET, SO_REUSEADDR, reuse);
	if (family == AF_INET6)
		set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, only_six);
	if (family == AF_INET)
		check_call(bind(fd, (const struct sockaddr *)&loopback, sizeof(loopback)));
	else
		check_call(bind(fd, (const struct sockaddr *)&any_six, sizeof(any_six)));
	return fd;
}

static int connect_to(int listener)
{
	struct sockaddr_storage a = { 0 };
	socklen_t size = sizeof(a);
	int fd;

	check_call(getsockname(listener, (struct sockaddr *)&a, &size));
	fd = (int)check_call(socket(a.ss_family, SOCK_STREAM, 0));
	check_call(connect(fd, (struct sockaddr *)&a, size));
	return fd;
}

static void await(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	check(check_call(poll(&p, 1, 5000)) == 1);
}

static void make_pair(int listener, int *ret_client, int *ret_server)
{
	*ret_client = connect_to(listener);
	*ret_server = (int)check_call(accept(listener, NULL, NULL));
}

/* Without SO_REUSEADDR, TIME_WAIT would keep the address from whoever is restored a second time. */
static void reset_at_end(int fd)
{
	const struct linger now = { .l_onoff = 1 };

	check_call(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
}

/* Two that share a port. */
static void make_group(void)
{
	struct sockaddr_in a = loopback;
	socklen_t size = sizeof(a);

	for (int i = 0; i < 2; i++) {
		group[i] = (int)check_call(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
		set_option(group[i], SOL_SOCKET, SO_REUSEPORT, 1);
		check_call(bind(group[i], (struct sockaddr *)&a, sizeof(a)));
		check_call(getsockname(group[i], (struct sockaddr *)&a, &size));
		check_call(listen(group[i], 5));
	}
}

/* The kernel chooses who of them gets a connection: sooner or later, each does. */
static void verify_group(void)
{
	bool got[2] = { false, false };

	for (int i = 0; i < 200 && !(got[0] && got[1]); i++) {
		struct pollfd p[] = { { .fd = group[0], .events = POLLIN }, { .fd = group[1], .events = POLLIN } };
		int mine = connect_to(group[0]), who;

		check(check_call(poll(p, 2, 5000)) == 1);
		who = p[1].revents != 0;
		got[who] = true;
		reset_at_end(mine);
		check_call(close((int)check_call(accept(group[who], NULL, NULL))));
		check_call(close(mine));
	}
	check(got[0] && got[1]);
	check(get_option(group[0], SOL_SOCKET, SO_REUSEPORT) == 1 && get_option(group[1], SOL_SOCKET, SO_REUSEPORT) == 1);
}

/* With something unread, at the one end of a connection that has ended. */
static int make_ended(bool reset)
{
	int a, b;

	make_pair(four, &a, &b);
	check_write(a, "testament");
	await(b, POLLIN);
	if (reset)
		reset_at_end(a);
	else
		check_call(shutdown(b, SHUT_WR));
	check_call(close(a));
	await(b, POLLHUP);
	return b;
}

void setup(const char *argument)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = 4 };

	(void)argument;
	signal(SIGPIPE, SIG_IGN);
	four = make(AF_INET, 1, 0);
	set_option(four, IPPROTO_TCP, TCP_DEFER_ACCEPT, 0);
	set_option(four, IPPROTO_TCP, TCP_NODELAY, 1);
	check_call(listen(four, 7));
	check_call(fcntl(four, F_SETFL, O_NONBLOCK));
	shared = (int)check_call(fcntl(four, F_DUPFD, 80));
	six = make(AF_INET6, 1, 1);
	check_call(listen(six, 5));
	dual = make(AF_INET6, 1, 0);
	check_call(listen(dual, 5));
	plain = make(AF_INET, 0, 0);
	check_call(listen(plain, 5));
	bound = make(AF_INET, 0, 0);
	make_group();
	choosy = make(AF_INET, 1, 0);
	set_option(choosy, IPPROTO_TCP, TCP_DEFER_ACCEPT, 7);
	set_option(choosy, IPPROTO_TCP, TCP_FASTOPEN, 16);
	set_option(choosy, IPPROTO_TCP, TCP_USER_TIMEOUT, 4000);
	check_call(listen(choosy, 3));
	new_four = (int)check_call(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	new_six = (int)check_call(socket(AF_INET6, SOCK_STREAM, 0));
	set_option(new_six, SOL_SOCKET, SO_KEEPALIVE, 1);
	make_pair(four, &client, &server);
	make_pair(plain, &own_client, &own_server);
	reset_at_end(own_client);
	reset_at_end(own_server);
	finished = make_ended(false);
	ended = make_ended(true);
	epoll = (int)check_call(epoll_create1(0));
	check_call(epoll_ctl(epoll, EPOLL_CTL_ADD, four, &event));
	second_task_start();
}

static void verify_listener(int fd, bool only_six)
{
	struct sockaddr_storage a = { 0 };
	socklen_t size = sizeof(a);
	char text[4] = "";
	int mine, accepted;

	check(get_option(fd, SOL_SOCKET, SO_ACCEPTCONN) == 1);
	check_call(getsockname(fd, (struct sockaddr *)&a, &size));
	if (a.ss_family == AF_INET6)
		check(get_option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == only_six);
	mine = connect_to(fd);
	await(fd, POLLIN);
	accepted = (int)check_call(accept(fd, NULL, NULL));
	check_write(mine, "new");
	check(check_call(read(accepted, text, 3)) == 3 && !strcmp(text, "new"));
	check_call(close(mine)); /* TIME_WAIT is at the client's port */
	await(accepted, POLLIN);
	check(check_call(read(accepted, text, 3)) == 0);
	check_call(close(accepted));
}

static void second_accepts(void)
{
	int accepted;

	await(four, POLLIN);
	accepted = (int)check_call(accept(four, NULL, NULL));
	check_write(accepted, "second");
	check_call(close(accepted));
}

static void verify_second(void)
{
	struct epoll_event event = { 0 };
	char text[8] = "";
	int fd = connect_to(four);

	check(check_call(epoll_wait(epoll, &event, 1, 5000)) == 1 && event.data.u32 == 4);
	second_task_run(second_accepts);
	check(check_call(read(fd, text, 6)) == 6 && !strcmp(text, "second"));
	check_call(close(fd));
	check(check_call(epoll_wait(epoll, &event, 1, 0)) == 0);
}

static void verify_pair(int a, int b)
{
	char text[4] = "";

	check_write(a, "one");
	check(check_call(read(b, text, 3)) == 3 && !strcmp(text, "one"));
	check_write(b, "two");
	check(check_call(read(a, text, 3)) == 3 && !strcmp(text, "two"));
}

static void verify_ended(int fd, bool reset, bool before)
{
	char text[16] = "";

	if (!before) {
		check(check_call(read(fd, text, sizeof(text))) == 9 && !strcmp(text, "testament"));
		if (reset)
			check(read(fd, text, 1) == -1 && errno == ECONNRESET);
	}
	check(check_call(read(fd, text, 1)) == 0);
	check(send(fd, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
}

void verify(void)
{
	static bool before;

	check(accept(four, NULL, NULL) == -1 && errno == EAGAIN);
	check_flags(four, O_NONBLOCK, O_NONBLOCK);
	check_same_description(four, shared, true);
	check_cloexec(four, true);
	check_cloexec(shared, false);
	check(get_option(four, SOL_SOCKET, SO_REUSEADDR) == 1);
	check(get_option(plain, SOL_SOCKET, SO_REUSEADDR) == 0);
	check(get_option(bound, SOL_SOCKET, SO_REUSEADDR) == 0);
	check(get_option(four, IPPROTO_TCP, TCP_NODELAY) == 1);
	check(get_option(choosy, IPPROTO_TCP, TCP_DEFER_ACCEPT) == 7);
	check(get_option(choosy, IPPROTO_TCP, TCP_FASTOPEN) == 16);
	check(get_option(choosy, IPPROTO_TCP, TCP_USER_TIMEOUT) == 4000);
	check(get_option(choosy, SOL_SOCKET, SO_ACCEPTCONN) == 1);
	verify_group();
	verify_listener(four, false);
	verify_listener(six, true);
	verify_listener(dual, false);
	verify_second();
	verify_pair(client, server);
	verify_pair(own_client, own_server);
	check(get_option(bound, SOL_SOCKET, SO_ACCEPTCONN) == 0);
	check_call(listen(bound, 1));
	check_call(shutdown(bound, SHUT_RD)); /* bound, and no more */
	check_flags(new_four, O_NONBLOCK, O_NONBLOCK);
	check(get_option(new_six, SOL_SOCKET, SO_KEEPALIVE) == 1);
	check(get_option(new_six, SOL_SOCKET, SO_DOMAIN) == AF_INET6);
	verify_ended(finished, false, before);
	verify_ended(ended, true, before);
	before = true;
}
