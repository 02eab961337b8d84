/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* Connections of which both ends are in the tree. In each pair, [0] had called connect(2). */

enum { LARGE = 300000 };

static int plain[2], six[2], mixed[2], half[2], deaf[2], full[2], large[2], both[2], options[2], copy;
static int orphan, empty_orphan;
static size_t stuffed;

struct name {
	struct sockaddr_storage address;
	socklen_t size;
};

static struct name names[4]; /* of plain[0] and plain[1]: own, peer's */

static void set_nonblocking(int fd)
{
	check_call(fcntl(fd, F_SETFL, O_NONBLOCK));
}

/* A listener of `family`; connections may come from the other one. */
static int listening(int family, struct sockaddr_storage *ret)
{
	struct sockaddr_in6 six_any = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = (int)check_call(socket(family == AF_INET ? AF_INET : AF_INET6, SOCK_STREAM, 0));
	socklen_t size = sizeof(*ret);

	if (family == AF_UNSPEC) /* of both */
		six_any.sin6_addr = in6addr_any;
	check_call(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)));
	if (family == AF_INET)
		check_call(bind(fd, (struct sockaddr *)&four, sizeof(four)));
	else
		check_call(bind(fd, (struct sockaddr *)&six_any, sizeof(six_any)));
	check_call(listen(fd, 1));
	check_call(getsockname(fd, (struct sockaddr *)ret, &size));
	return fd;
}

static void make(int family, int ends[2])
{
	struct sockaddr_storage a = { 0 };
	int listener = listening(family, &a);

	if (family == AF_UNSPEC) {
		struct sockaddr_in *four = (struct sockaddr_in *)&a;
		in_port_t port = ((struct sockaddr_in6 *)&a)->sin6_port;

		*four = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = port,
					      .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	}
	ends[0] = (int)check_call(socket(a.ss_family, SOCK_STREAM, 0));
	check_call(connect(ends[0], (struct sockaddr *)&a, a.ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(a)));
	ends[1] = (int)check_call(accept(listener, NULL, NULL));
	check_call(close(listener));
	set_nonblocking(ends[0]);
	set_nonblocking(ends[1]);
}

static void put(int fd, const char *text)
{
	check(check_call(send(fd, text, strlen(text), MSG_NOSIGNAL)) == (long)strlen(text));
}

/* What is sent arrives in its own time, but within this machine that is soon. */
static void await(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	check(check_call(poll(&p, 1, 5000)) == 1);
}

static void get(int fd, const char *text)
{
	char buffer[256];
	size_t n = 0;

	while (n < strlen(text)) {
		await(fd, POLLIN);
		n += (size_t)check_call(recv(fd, buffer + n, strlen(text) - n, MSG_DONTWAIT));
	}
	check(memcmp(buffer, text, n) == 0);
}

static void get_nothing(int fd)
{
	char byte;

	check(recv(fd, &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
}

static void get_end(int fd)
{
	char byte;

	await(fd, POLLIN);
	check(check_call(recv(fd, &byte, 1, MSG_DONTWAIT)) == 0);
}

static void read_name(struct name *n, int (*ask)(int, struct sockaddr *, socklen_t *), int fd)
{
	memset(n, 0, sizeof(*n));
	n->size = sizeof(n->address);
	check_call(ask(fd, (struct sockaddr *)&n->address, &n->size));
}

static void read_names(struct name into[4])
{
	for (int i = 0; i < 2; i++) {
		read_name(&into[i * 2], getsockname, plain[i]);
		read_name(&into[i * 2 + 1], getpeername, plain[i]);
	}
}

static unsigned char pattern(size_t i)
{
	return (unsigned char)(i * 2654435761u >> 13);
}

/* Until neither end takes any more, or there are so many bytes. */
static size_t stuff(int fd, size_t most)
{
	unsigned char bytes[1000];
	size_t total = 0;

	while (total < most) {
		ssize_t n;

		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = pattern(total + i);
		n = send(fd, bytes, most - total < sizeof(bytes) ? most - total : sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN)
			return total;
		total += (size_t)check_call(n);
	}
	return total;
}

static void drain(int fd, size_t total)
{
	unsigned char bytes[65536];

	for (size_t got = 0; got < total;) {
		await(fd, POLLIN);
		ssize_t n = check_call(recv(fd, bytes, total - got < sizeof(bytes) ? total - got : sizeof(bytes), 0));

		check(n > 0);
		for (ssize_t i = 0; i < n; i++)
			check(bytes[i] == pattern(got + (size_t)i));
		got += (size_t)n;
	}
	get_nothing(fd);
}

static const struct linger linger = { .l_onoff = 1, .l_linger = 3 };
static const struct timeval patience = { .tv_sec = 2, .tv_usec = 500000 };

static void setup_options(void)
{
	make(AF_INET, options);
	check_call(setsockopt(options[0], SOL_SOCKET, SO_RCVBUF, &(int){ 30000 }, sizeof(int)));
	check_call(setsockopt(options[0], SOL_SOCKET, SO_SNDBUF, &(int){ 20000 }, sizeof(int)));
	check_call(setsockopt(options[0], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)));
	check_call(setsockopt(options[0], SOL_SOCKET, SO_KEEPALIVE, &(int){ 1 }, sizeof(int)));
	check_call(setsockopt(options[0], IPPROTO_TCP, TCP_KEEPIDLE, &(int){ 77 }, sizeof(int)));
	check_call(setsockopt(options[0], IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)));
	check_call(setsockopt(options[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
	check_call(setsockopt(options[1], SOL_SOCKET, SO_OOBINLINE, &(int){ 1 }, sizeof(int)));
	check_call(setsockopt(options[1], IPPROTO_IP, IP_TOS, &(int){ 16 }, sizeof(int)));
	check_call(setsockopt(options[1], IPPROTO_TCP, TCP_USER_TIMEOUT, &(int){ 5000 }, sizeof(int)));
}

static void verify_options(void)
{
	struct linger l = { 0 };
	struct timeval time = { 0 };
	socklen_t size = sizeof(l);

	check_call(getsockopt(options[0], SOL_SOCKET, SO_LINGER, &l, &size));
	check(l.l_onoff == 1 && l.l_linger == 3);
	size = sizeof(l);
	check_call(getsockopt(plain[0], SOL_SOCKET, SO_LINGER, &l, &size));
	check(l.l_onoff == 0);
	size = sizeof(time);
	check_call(getsockopt(options[1], SOL_SOCKET, SO_RCVTIMEO, &time, &size));
	check(time.tv_sec == 2 && time.tv_usec == 500000);
	check(get_option(options[0], SOL_SOCKET, SO_RCVBUF) == 60000);
	check(get_option(options[1], SOL_SOCKET, SO_RCVBUF) != 60000);
	check(get_option(options[0], SOL_SOCKET, SO_SNDBUF) == 40000);
	check(get_option(options[0], SOL_SOCKET, SO_KEEPALIVE) == 1);
	check(get_option(options[1], SOL_SOCKET, SO_KEEPALIVE) == 0);
	check(get_option(options[0], IPPROTO_TCP, TCP_KEEPIDLE) == 77);
	check(get_option(options[0], IPPROTO_TCP, TCP_NODELAY) == 1);
	check(get_option(options[1], IPPROTO_TCP, TCP_NODELAY) == 0);
	check(get_option(options[1], SOL_SOCKET, SO_OOBINLINE) == 1);
	check(get_option(options[1], IPPROTO_IP, IP_TOS) == 16);
	check(get_option(options[1], IPPROTO_TCP, TCP_USER_TIMEOUT) == 5000);
	check(get_option(plain[0], SOL_SOCKET, SO_REUSEADDR) == 0);
	check(get_option(plain[1], SOL_SOCKET, SO_REUSEADDR) == 1);
}

static int orphaned(const char *unread)
{
	int ends[2];

	make(AF_INET, ends);
	if (unread)
		put(ends[0], unread);
	check_call(close(ends[0]));
	await(ends[1], POLLIN);
	return ends[1];
}

void setup(const char *argument)
{
	(void)argument;
	signal(SIGPIPE, SIG_IGN);
	make(AF_INET, plain);
	put(plain[0], "first ");
	put(plain[0], "second");
	put(plain[1], "back");
	copy = (int)check_call(fcntl(plain[1], F_DUPFD_CLOEXEC, 90));
	read_names(names);
	make(AF_INET6, six);
	put(six[1], "six");
	check_call(fcntl(six[1], F_SETFL, 0));
	make(AF_UNSPEC, mixed);
	put(mixed[0], "from four");
	put(mixed[1], "from six");
	make(AF_INET, half);
	put(half[0], "before the end");
	check_call(shutdown(half[0], SHUT_WR));
	make(AF_INET, deaf);
	check_call(shutdown(deaf[0], SHUT_RD));
	make(AF_INET, full);
	stuffed = stuff(full[0], SIZE_MAX);
	make(AF_INET, large);
	check(stuff(large[1], LARGE) == LARGE);
	setup_options();
	orphan = orphaned("testament");
	empty_orphan = orphaned(NULL);
	make(AF_INET, both);
	second_task_start();
}

static void second_answers(void)
{
	get(both[1], "to the second");
	put(both[1], "and back");
}

static void verify_plain(void)
{
	struct name now[4];

	check_flags(plain[0], O_NONBLOCK, O_NONBLOCK);
	check_flags(six[1], O_NONBLOCK, 0);
	check_same_description(plain[1], copy, true);
	check_cloexec(copy, true);
	check_cloexec(plain[1], false);
	read_names(now);
	check(memcmp(now, names, sizeof(names)) == 0);
	get(copy, "first second");
	get_nothing(plain[1]);
	get(plain[0], "back");
	get_nothing(plain[0]);
	put(plain[0], "first ");
	put(plain[0], "second");
	put(copy, "back");
	get(six[0], "six");
	put(six[1], "six");
}

static void verify_mixed(void)
{
	check(get_option(mixed[0], SOL_SOCKET, SO_DOMAIN) == AF_INET);
	check(get_option(mixed[1], SOL_SOCKET, SO_DOMAIN) == AF_INET6);
	check(get_option(six[0], SOL_SOCKET, SO_DOMAIN) == AF_INET6);
	get(mixed[1], "from four");
	get(mixed[0], "from six");
	put(mixed[0], "from four");
	put(mixed[1], "from six");
}

/* What is read here is gone for the next time. */
static void verify_ends(void)
{
	static bool before;

	if (!before) {
		get(half[1], "before the end");
		get(orphan, "testament");
	}
	before = true;
	get_end(half[1]);
	check(send(half[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	put(half[1], "the living half");
	get(half[0], "the living half");
	get_end(orphan);
	get_end(empty_orphan);
	get_end(deaf[0]);
	put(deaf[0], "it can speak");
	get(deaf[1], "it can speak");
}

void verify(void)
{
	verify_plain();
	verify_mixed();
	verify_ends();
	verify_options();
	drain(full[1], stuffed);
	stuffed = stuff(full[0], SIZE_MAX);
	drain(large[0], LARGE);
	check(stuff(large[1], LARGE) == LARGE);
	put(both[0], "to the second");
	second_task_run(second_answers);
	get(both[0], "and back");
}
