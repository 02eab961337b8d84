/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * Connections to run.py, which must stay alive. What a client says first tells
 * the server what to do: it echoes what follows; after "say" it says "unread";
 * after "end" it says "last" and shuts down; after "pour" it sends POURED bytes;
 * after "hold" it reads nothing until it is told to, and then STUFFED bytes
 * (a file). The argument is "4:PORT" or "6:PORT".
 */

enum { POURED = 3000000 };

static struct sockaddr_storage server;
static int idle, unread, ended, finished, poured, held, held_end, closing;

static int make(const char *first)
{
	int fd = (int)check_call(socket(server.ss_family, SOCK_STREAM, 0));

	check_call(connect(fd, (struct sockaddr *)&server, sizeof(server)));
	check_write(fd, first);
	return fd;
}

static void await(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	check(check_call(poll(&p, 1, 15000)) == 1);
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

static void get_end(int fd)
{
	char byte;

	await(fd, POLLIN);
	check(check_call(recv(fd, &byte, 1, MSG_DONTWAIT)) == 0);
}

/* Until no more fits. */
static size_t stuff(int fd)
{
	char bytes[251 * 4];
	size_t total = 0;
	ssize_t n;

	for (;;) {
		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (char)((total + i) % 251);
		n = send(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN)
			return total;
		total += (size_t)check_call(n);
	}
}

static void note(const char *name, size_t value)
{
	FILE *file = fopen(name, "w");

	check(file && fprintf(file, "%zu", value) > 0 && fclose(file) == 0);
}

void setup(const char *argument)
{
	struct sockaddr_in *four = (struct sockaddr_in *)&server;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&server;
	in_port_t port = htons((uint16_t)atoi(argument + 2));

	signal(SIGPIPE, SIG_IGN);
	if (argument[0] == '4')
		*four = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = port,
					      .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	else
		*six = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = port, .sin6_addr = in6addr_loopback };
	idle = make("echo\n");
	check_call(setsockopt(idle, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)));
	check_call(setsockopt(idle, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)));
	unread = make("say\n");
	await(unread, POLLIN);
	ended = make("end\n");
	await(ended, POLLRDHUP);
	finished = make("finished\n");
	check_call(shutdown(finished, SHUT_WR));
	poured = make("pour\n");
	held = make("hold\n");
	note("stuffed", stuff(held));
	held_end = make("hold end\n");
	note("stuffed_end", stuff(held_end));
	check_call(shutdown(held_end, SHUT_WR));
	closing = make("end\n");
	get(closing, "last");
	get_end(closing);
}

static void verify_poured(void)
{
	unsigned char bytes[65536];

	for (size_t got = 0; got < POURED;) {
		await(poured, POLLIN);
		ssize_t n = check_call(recv(poured, bytes, sizeof(bytes), MSG_DONTWAIT));

		check(n > 0);
		for (ssize_t i = 0; i < n; i++)
			check(bytes[i] == (got + (size_t)i) % 251);
		got += (size_t)n;
	}
}

/* A socket in repair is useless. */
static void verify_repair(void)
{
	const int all[] = { idle, unread, ended, finished, poured, held, held_end, closing };

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		check(get_option(all[i], IPPROTO_TCP, TCP_REPAIR) == 0);
}

void verify(void)
{
	static bool before;

	verify_repair();
	check(get_option(idle, SOL_SOCKET, SO_REUSEADDR) == 1);
	check(get_option(unread, SOL_SOCKET, SO_REUSEADDR) == 0);
	check(get_option(idle, IPPROTO_TCP, TCP_NODELAY) == 1);
	check_write(idle, "are you there?");
	get(idle, "are you there?");
	if (access("all", F_OK) < 0) /* the rest is read when it is over */
		return;
	if (!before) {
		get(unread, "unread");
		get(ended, "last");
		get(finished, "late");
		verify_poured();
	}
	before = true;
	check_write(unread, "and you?");
	get(unread, "and you?");
	get_end(ended);
	get_end(closing);
	check_write(ended, "to the living half");
	check_write(closing, "to the living half");
	check(send(finished, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	check(send(held_end, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
}
