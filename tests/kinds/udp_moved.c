/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * A socket that is connected to the first address of the argument, bound to the
 * second, if there is one. The file "address" says which one it should have.
 */

static struct sockaddr_in peer = { .sin_family = AF_INET };
static uint16_t port;
static int client;

static struct sockaddr_in own(void)
{
	struct sockaddr_in a = { 0 };
	socklen_t size = sizeof(a);

	check_call(getsockname(client, (struct sockaddr *)&a, &size));
	return a;
}

void setup(const char *argument)
{
	char to[INET_ADDRSTRLEN] = "", from[INET_ADDRSTRLEN] = "0.0.0.0";
	struct sockaddr_in a = { .sin_family = AF_INET };

	check(sscanf(argument, "%15s %15s", to, from) >= 1);
	check(inet_pton(AF_INET, to, &peer.sin_addr) == 1 && inet_pton(AF_INET, from, &a.sin_addr) == 1);
	peer.sin_port = htons(9999);
	client = (int)check_call(socket(AF_INET, SOCK_DGRAM, 0));
	check_call(bind(client, (struct sockaddr *)&a, sizeof(a)));
	check_call(connect(client, (struct sockaddr *)&peer, sizeof(peer)));
	port = own().sin_port;
}

void verify(void)
{
	char expected[INET_ADDRSTRLEN] = "", host[INET_ADDRSTRLEN];
	struct sockaddr_in a = { 0 };
	socklen_t size = sizeof(a);
	FILE *file = fopen("address", "r");

	check(file && fscanf(file, "%15s", expected) == 1);
	fclose(file);
	inet_ntop(AF_INET, &(struct in_addr){ own().sin_addr.s_addr }, host, sizeof(host));
	check(strcmp(host, expected) == 0);
	check(own().sin_port == port);
	check_call(getpeername(client, (struct sockaddr *)&a, &size));
	check(a.sin_addr.s_addr == peer.sin_addr.s_addr && a.sin_port == peer.sin_port);
}
