/* SPDX-License-Identifier: Apache-2.0 */

/* Connections by name: who listens, who waits, who was accepted, and what is left of the files. */

#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "unix_common.h"

/* A listening socket, and both ends of a connection to it. */
struct service {
	const char *name;
	int type, listening, client, server;
};

static char absolute[4096], abstract[64], longest[109];
static struct service services[] = {
	{ .name = "relative", .type = SOCK_STREAM }, { .name = absolute, .type = SOCK_STREAM },
	{ .name = abstract, .type = SOCK_STREAM }, { .name = "./sequence", .type = SOCK_SEQPACKET },
	{ .name = "replaced", .type = SOCK_STREAM }, { .name = longest, .type = SOCK_STREAM },
};
static const size_t n_services = sizeof(services) / sizeof(*services);

static struct service unlinked = { .name = "unlinked", .type = SOCK_STREAM };
static struct service closed = { .name = "closed", .type = SOCK_STREAM };
static struct service closed_abstract = { .type = SOCK_STREAM };
static struct service old = { .name = "replaced", .type = SOCK_STREAM };
static char closed_abstract_name[64];
static int named_client[2], orphan, other_orphan, waited[2], waiting[2], bound, autobound, deep, by_second, mode;

static void serve(struct service *s)
{
	s->listening = unix_listening(s->type, s->name, 5);
	s->client = unix_connected(s->type, s->name);
	s->server = (int)check_call(accept(s->listening, NULL, NULL));
	say(s->client, "asked");
	say(s->server, "answered");
}

static void setup_orphans(void)
{
	int listening = unix_listening(SOCK_STREAM, "mortal", 1), other;

	orphan = unix_connected(SOCK_STREAM, "mortal");
	other = (int)check_call(accept(listening, NULL, NULL));
	say(other, "last words");
	check_call(close(other));
	other = unix_connected(SOCK_STREAM, "mortal");
	other_orphan = (int)check_call(accept(listening, NULL, NULL));
	say(other, "last words");
	check_call(close(other));
	check_call(close(listening));
}

static void setup_named_client(void)
{
	int listening = unix_listening(SOCK_STREAM, "counter", 1);

	named_client[0] = unix_bound(SOCK_STREAM, "customer");
	unix_connect(named_client[0], "counter");
	named_client[1] = (int)check_call(accept(listening, NULL, NULL));
	check_call(close(listening));
}

static void arrive(void)
{
	waiting[0] = unix_connected(SOCK_STREAM, "queue");
	waiting[1] = unix_bound(SOCK_STREAM, "patient");
	unix_connect(waiting[1], "queue");
}

static void second_connects(void)
{
	by_second = unix_connected(SOCK_STREAM, "relative");
}

static void setup_second(void)
{
	second_task_start();
	second_task_run(second_connects);
	by_second = (int)check_call(accept(services[0].listening, NULL, NULL));
}

void setup(const char *argument)
{
	struct stat st;

	(void)argument;
	check(getcwd(absolute, sizeof(absolute) - 16));
	strcat(absolute, "/absolute");
	snprintf(abstract, sizeof(abstract), "@torpor abstract %d", getpid());
	snprintf(closed_abstract_name, sizeof(closed_abstract_name), "@torpor closed %d", getpid());
	closed_abstract.name = closed_abstract_name;
	memset(longest, 'l', 107);
	serve(&old);
	check_call(unlink("replaced"));
	for (size_t i = 0; i < n_services; i++)
		serve(&services[i]);
	check_call(chmod("relative", 0640));
	serve(&unlinked);
	check_call(unlink("unlinked"));
	serve(&closed);
	check_call(close(closed.listening));
	serve(&closed_abstract);
	check_call(close(closed_abstract.listening));
	setup_orphans();
	setup_named_client();
	waited[0] = unix_listening(SOCK_STREAM, "queue", 2);
	arrive();
	bound = unix_bound(SOCK_STREAM, "only bound");
	autobound = unix_new(SOCK_STREAM);
	check_call(bind(autobound, (struct sockaddr *)&(struct sockaddr){ .sa_family = AF_UNIX }, sizeof(sa_family_t)));
	check_call(mkdir("folder", 0700));
	check_call(mkdir("folder/deeper", 0700));
	deep = unix_listening(SOCK_STREAM, "folder/deeper/../socket", 1);
	check_call(lstat("queue", &st));
	mode = (int)st.st_mode;
	setup_second();
}

static void verify_connection(const struct service *s)
{
	check_name(s->server, s->name);
	check_peer(s->client, s->name);
	check_name(s->client, "");
	check_peer(s->server, "");
	check(peer_pid(s->client) == getpid() && peer_pid(s->server) == getpid());
	get(s->server, "asked");
	get(s->client, "answered");
	get_nothing(s->server);
	get_nothing(s->client);
	say(s->client, "asked");
	say(s->server, "answered");
}

static void verify_new(const struct service *s)
{
	struct service again = *s;

	again.client = unix_connected(s->type, s->name);
	again.server = (int)check_call(accept(s->listening, NULL, NULL));
	say(again.client, "asked");
	say(again.server, "answered");
	verify_connection(&again);
	check_call(close(again.client));
	check_call(close(again.server));
}

static void verify_service(const struct service *s)
{
	check(option(s->listening, SO_ACCEPTCONN) == 1 && option(s->listening, SO_TYPE) == s->type);
	check_name(s->listening, s->name);
	verify_connection(s);
	verify_new(s);
}

static void verify_gone(const char *path)
{
	struct stat st;

	check(lstat(path, &st) == -1 && errno == ENOENT);
}

static void verify_files(void)
{
	struct stat st;

	check_call(lstat("relative", &st));
	check(S_ISSOCK(st.st_mode) && (st.st_mode & 07777) == 0640 && st.st_uid == getuid() && st.st_gid == getgid());
	check_call(lstat("queue", &st));
	check((int)st.st_mode == mode);
	verify_gone("unlinked");
	check_call(lstat("closed", &st));
	check(S_ISSOCK(st.st_mode));
	check_call(lstat("customer", &st));
	check(S_ISSOCK(st.st_mode));
}

static void verify_orphans(void)
{
	static bool before;

	check_peer(orphan, "mortal");
	check_name(other_orphan, "mortal");
	if (!before) {
		get(orphan, "last words");
		get(other_orphan, "last words");
	}
	before = true;
	get_end(orphan);
	get_end(other_orphan);
	check(send(orphan, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
}

static int verify_arrival(int client, const char *name)
{
	int fd = (int)check_call(accept(waited[0], NULL, NULL));

	check(peer_pid(fd) == getpid());
	check_peer(fd, name);
	check_peer(client, "queue");
	say(client, "at last");
	get(fd, "at last");
	return fd;
}

/* As many may wait as listen(2) was told, and one more: two do. */
static void verify_backlog(void)
{
	const struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "queue" };
	int third = unix_new(SOCK_STREAM | SOCK_NONBLOCK), fourth = unix_new(SOCK_STREAM | SOCK_NONBLOCK);

	check_call(connect(third, (const struct sockaddr *)&a, sizeof(a)));
	check(connect(fourth, (const struct sockaddr *)&a, sizeof(a)) == -1 && errno == EAGAIN);
	check_call(close(fourth));
	check_call(close(third));
	check_call(fcntl(waited[0], F_SETFL, O_NONBLOCK));
}

static void verify_waiting(void)
{
	int fds[3];

	get_nothing(waiting[0]);
	check_name(waiting[1], "patient");
	verify_backlog();
	fds[0] = verify_arrival(waiting[0], "");
	fds[1] = verify_arrival(waiting[1], "patient");
	fds[2] = (int)check_call(accept(waited[0], NULL, NULL)); /* from verify_backlog() */
	get_end(fds[2]);
	check(accept(waited[0], NULL, NULL) == -1 && errno == EAGAIN);
	check_call(fcntl(waited[0], F_SETFL, 0));
	for (int i = 0; i < 3; i++)
		check_call(close(fds[i]));
	check_call(close(waiting[0]));
	check_call(close(waiting[1]));
	check_call(unlink("patient"));
	arrive();
}

void verify(void)
{
	for (size_t i = 0; i < n_services; i++)
		verify_service(&services[i]);
	check_name(unlinked.listening, "unlinked");
	check(option(unlinked.listening, SO_ACCEPTCONN) == 1);
	verify_connection(&unlinked);
	check_name(old.listening, "replaced");
	verify_connection(&old);
	verify_connection(&closed);
	verify_connection(&closed_abstract);
	check_call(close(unix_bound(SOCK_STREAM, closed_abstract_name))); /* nobody has it any more */
	verify_files();
	verify_orphans();
	check_name(named_client[0], "customer");
	check_peer(named_client[0], "counter");
	check_name(named_client[1], "counter");
	check_peer(named_client[1], "customer");
	verify_waiting();
	check_name(bound, "only bound");
	check_name(deep, "folder/deeper/../socket");
	check_call(close(unix_connected(SOCK_STREAM, "folder/socket")));
	check_call(close((int)check_call(accept(deep, NULL, NULL))));
	check(peer_pid(by_second) == second_task_pid());
	get_nothing(by_second);
}
