/* SPDX-License-Identifier: Apache-2.0 */
#include "unix_common.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common.h"

static socklen_t address(const char *name, struct sockaddr_un *a)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	strcpy(a->sun_path, name);
	if (name[0] != '@')
		return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1);
	a->sun_path[0] = '\0';
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
}

int unix_new(int type)
{
	return (int)check_call(socket(AF_UNIX, type, 0));
}

int unix_bound(int type, const char *name)
{
	struct sockaddr_un a;
	socklen_t size = address(name, &a);
	int fd = unix_new(type);

	check_call(bind(fd, (struct sockaddr *)&a, size));
	return fd;
}

int unix_listening(int type, const char *name, int backlog)
{
	int fd = unix_bound(type, name);

	check_call(listen(fd, backlog));
	return fd;
}

void unix_connect(int fd, const char *name)
{
	struct sockaddr_un a;
	socklen_t size = address(name, &a);

	check_call(connect(fd, (struct sockaddr *)&a, size));
}

int unix_connected(int type, const char *name)
{
	int fd = unix_new(type);

	unix_connect(fd, name);
	return fd;
}

static void check_address(const struct sockaddr_un *a, socklen_t size, const char *expected)
{
	struct sockaddr_un wanted;
	socklen_t path = offsetof(struct sockaddr_un, sun_path), wanted_size = *expected ? address(expected, &wanted) : path;

	if (*expected ? size != wanted_size || memcmp(a->sun_path, wanted.sun_path, size - path) != 0 : size > path) {
		fprintf(stderr, "the name is '%c%s', %u bytes; expected '%s'\n", a->sun_path[0] ? a->sun_path[0] : '@',
			size > path ? a->sun_path + 1 : "", size - path, expected);
		check_failed(__FILE__, __LINE__, expected, size);
	}
}

void check_name(int fd, const char *expected)
{
	struct sockaddr_un a = { 0 };
	socklen_t size = sizeof(a);

	check_call(getsockname(fd, (struct sockaddr *)&a, &size));
	check_address(&a, size, expected);
}

void check_peer(int fd, const char *expected)
{
	struct sockaddr_un a = { 0 };
	socklen_t size = sizeof(a);

	check_call(getpeername(fd, (struct sockaddr *)&a, &size));
	check_address(&a, size, expected);
}

void say(int fd, const char *text)
{
	check(check_call(send(fd, text, strlen(text), MSG_NOSIGNAL)) == (long)strlen(text));
}

void say_to(int fd, const char *text, const char *name)
{
	struct sockaddr_un a;
	socklen_t size = address(name, &a);

	check(check_call(sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&a, size)) ==
	      (long)strlen(text));
}

void get(int fd, const char *text)
{
	char buffer[256];
	long n = check_call(recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT));

	if (n != (long)strlen(text) || memcmp(buffer, text, (size_t)n) != 0) {
		fprintf(stderr, "expected '%s', got '%.*s'\n", text, (int)n, buffer);
		check_failed(__FILE__, __LINE__, text, n);
	}
}

void get_from(int fd, const char *text, const char *name)
{
	struct sockaddr_un a = { 0 };
	socklen_t size = sizeof(a);
	char buffer[256];
	long n = check_call(recvfrom(fd, buffer, sizeof(buffer), MSG_DONTWAIT, (struct sockaddr *)&a, &size));

	check(n == (long)strlen(text) && memcmp(buffer, text, (size_t)n) == 0);
	check_address(&a, size, name);
}

void get_nothing(int fd)
{
	char byte;

	check(recv(fd, &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
}

void get_end(int fd)
{
	char byte;

	check(check_call(recv(fd, &byte, 1, MSG_DONTWAIT)) == 0);
}

int option(int fd, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	check_call(getsockopt(fd, SOL_SOCKET, name, &value, &size));
	return value;
}

pid_t peer_pid(int fd)
{
	struct ucred creds;
	socklen_t size = sizeof(creds);

	check_call(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &creds, &size));
	return creds.pid;
}
