/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * Connections that have not been answered yet (SYN_SENT): one does not block; in
 * one the second task waits in connect(2). The argument is the port. Once there
 * is a file "accepted", they are to be made.
 */

static struct sockaddr_in server, name;
static int waiting, blocked;

static void second_connects(void)
{
	check_call(connect(blocked, (struct sockaddr *)&server, sizeof(server)));
	check_write(blocked, "blocked");
	for (;;)
		pause();
}

void setup(const char *argument)
{
	socklen_t size = sizeof(name);

	server = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argument)),
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	waiting = (int)check_call(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	blocked = (int)check_call(socket(AF_INET, SOCK_STREAM, 0));
	if (check_call(fork()) == 0)
		second_connects();
	check(connect(waiting, (struct sockaddr *)&server, sizeof(server)) == -1 && errno == EINPROGRESS);
	check_call(getsockname(waiting, (struct sockaddr *)&name, &size));
}

void verify(void)
{
	struct pollfd p = { .fd = waiting, .events = POLLOUT };
	struct sockaddr_in now = { 0 };
	socklen_t size = sizeof(now);
	int error = -1;

	check_flags(waiting, O_NONBLOCK, O_NONBLOCK);
	check_flags(blocked, O_NONBLOCK, 0);
	check_call(getsockname(waiting, (struct sockaddr *)&now, &size));
	check(memcmp(&now, &name, sizeof(now)) == 0);
	if (access("accepted", F_OK) < 0) {
		check(check_call(poll(&p, 1, 0)) == 0);
		check(connect(waiting, (struct sockaddr *)&server, sizeof(server)) == -1 && errno == EALREADY);
		return;
	}
	check(check_call(poll(&p, 1, 15000)) == 1);
	size = sizeof(error);
	check_call(getsockopt(waiting, SOL_SOCKET, SO_ERROR, &error, &size));
	check(error == 0);
	check_write(waiting, "waiting");
}
