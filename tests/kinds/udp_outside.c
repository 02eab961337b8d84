/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * A socket that others send to; the file "port" tells them where. With the
 * argument "low" it is a port that is for the privileged. The file "expected" has
 * a line "TEXT ADDRESS PORT" for each datagram that is to be there.
 */

static int server;

void setup(const char *argument)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(a);
	char text[16];
	int fd;

	a.sin_port = htons(argument && !strcmp(argument, "low") ? 77 : 0);
	server = (int)check_call(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
	check_call(bind(server, (struct sockaddr *)&a, sizeof(a)));
	check_call(getsockname(server, (struct sockaddr *)&a, &size));
	fd = (int)check_call(creat("port", 0600));
	snprintf(text, sizeof(text), "%u", ntohs(a.sin_port));
	check_write(fd, text);
	check_call(close(fd));
}

void verify(void)
{
	char text[64], host[INET_ADDRSTRLEN], line[128], expected[128];
	FILE *file = fopen("expected", "r");
	struct sockaddr_in a;
	socklen_t size = sizeof(a);

	check(file != NULL);
	while (fgets(expected, sizeof(expected), file)) {
		ssize_t n;

		check(check_call(poll(&(struct pollfd){ .fd = server, .events = POLLIN }, 1, 5000)) == 1);
		n = check_call(recvfrom(server, text, sizeof(text) - 1, 0, (struct sockaddr *)&a, &size));
		text[n] = '\0';
		inet_ntop(AF_INET, &a.sin_addr, host, sizeof(host));
		snprintf(line, sizeof(line), "%s %s %u\n", text, host, ntohs(a.sin_port));
		check(strcmp(line, expected) == 0);
	}
	fclose(file);
	check_empty(server);
}
