/* SPDX-License-Identifier: Apache-2.0 */

/* Datagram sockets: many to one, both ways, to one that is gone; whose messages are whose. */

#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "unix_common.h"

static int service, unnamed[2], named, stranger, autobound, ring[2], chain[3], orphan, left[2], limited, abstract;
static int credited, by_second;
static char abstract_name[64];

static int connected(const char *name)
{
	return unix_connected(SOCK_DGRAM, name);
}

static void fill_service(void)
{
	int gone = unix_bound(SOCK_DGRAM, "gone");

	say(unnamed[0], "first");
	say(named, "second");
	say(unnamed[1], "");
	say_to(stranger, "third", "service");
	say_to(gone, "fourth", "service");
	say(unnamed[0], "fifth");
	check_call(close(gone));
	check_call(unlink("gone"));
}

/* Each is connected to the other; more can wait than for others. */
static void fill_ring(void)
{
	char text[] = "0 from one";

	for (int i = 0; i < 20; i++, text[0] = (char)('a' + i))
		say(ring[0], text);
	say(ring[1], "from the other");
}

static void setup_ring(void)
{
	ring[0] = unix_bound(SOCK_DGRAM, "one");
	ring[1] = unix_bound(SOCK_DGRAM, "other");
	say_to(stranger, "before", "other");
	unix_connect(ring[0], "other");
	unix_connect(ring[1], "one");
	get(ring[1], "before");
	fill_ring();
}

static void setup_chain(void)
{
	chain[2] = unix_bound(SOCK_DGRAM, "last");
	chain[1] = unix_bound(SOCK_DGRAM, "middle");
	chain[0] = connected("middle");
	say_to(stranger, "foreign", "middle");
	unix_connect(chain[1], "last");
}

static void setup_lonely(void)
{
	int gone = unix_bound(SOCK_DGRAM, "gone"), ends[2];

	orphan = connected("gone");
	check_call(close(gone));
	check_call(unlink("gone"));
	check_call(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
	check_call(connect(ends[1], &(struct sockaddr){ .sa_family = AF_UNSPEC }, sizeof(struct sockaddr)));
	left[0] = ends[0];
	left[1] = ends[1];
}

static void second_sends(void)
{
	say_to(by_second, "by the second", "credited");
}

static void fill_credited(void)
{
	say_to(stranger, "by the first", "credited");
	second_task_run(second_sends);
	say_to(named, "by the first again", "credited");
}

void setup(const char *argument)
{
	(void)argument;
	service = unix_bound(SOCK_DGRAM, "service");
	unnamed[0] = connected("service");
	unnamed[1] = connected("service");
	named = unix_bound(SOCK_DGRAM, "named");
	unix_connect(named, "service");
	stranger = unix_bound(SOCK_DGRAM, "stranger");
	fill_service();
	setup_ring();
	setup_chain();
	setup_lonely();
	autobound = unix_new(SOCK_DGRAM);
	check_call(bind(autobound, &(struct sockaddr){ .sa_family = AF_UNIX }, sizeof(sa_family_t)));
	snprintf(abstract_name, sizeof(abstract_name), "@torpor datagrams %d", getpid());
	abstract = unix_bound(SOCK_DGRAM, abstract_name);
	limited = connected(abstract_name);
	say(limited, "to the abstract");
	credited = unix_bound(SOCK_DGRAM, "credited");
	check_call(setsockopt(credited, SOL_SOCKET, SO_PASSCRED, &(int){ 1 }, sizeof(int)));
	by_second = unix_bound(SOCK_DGRAM, "by second");
	second_task_start();
	fill_credited();
}

static void verify_service(void)
{
	check_name(service, "service");
	check_peer(unnamed[0], "service");
	check_peer(named, "service");
	get_from(service, "first", "");
	get_from(service, "second", "named");
	get_from(service, "", "");
	get_from(service, "third", "stranger");
	get_from(service, "fourth", "gone");
	get_from(service, "fifth", "");
	get_nothing(service);
	say_to(service, "an answer", "named");
	get_from(named, "an answer", "service");
	check(access("gone", F_OK) == -1);
	fill_service();
}

static void verify_ring(void)
{
	char text[] = "0 from one";

	check_peer(ring[0], "other");
	check_peer(ring[1], "one");
	for (int i = 0; i < 20; i++, text[0] = (char)('a' + i))
		get_from(ring[1], text, "one");
	get_nothing(ring[1]);
	get_from(ring[0], "from the other", "other");
	fill_ring();
}

static void verify_chain(void)
{
	static bool before;

	if (!before)
		get_from(chain[1], "foreign", "stranger");
	before = true;
	check_peer(chain[0], "middle");
	check_peer(chain[1], "last");
	check(send(chain[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPERM); /* it listens to the last only */
	say(chain[1], "on");
	get_from(chain[2], "on", "middle");
	get_nothing(chain[1]);
}

static void verify_lonely(void)
{
	static bool before;

	if (!before)
		check_peer(orphan, "gone");
	check(send(orphan, "x", 1, MSG_NOSIGNAL) == -1 && errno == (before ? ENOTCONN : ECONNREFUSED));
	before = true;
	check_peer(left[0], "");
	check(send(left[1], "x", 1, MSG_NOSIGNAL) == -1 && errno == ENOTCONN);
	say(left[0], "to one who left");
	get_from(left[1], "to one who left", "");
}

static void get_by(const char *text, pid_t pid)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(struct ucred))];
	} control = { 0 };
	char buffer[64];
	struct iovec iov = { buffer, sizeof(buffer) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct ucred creds;
	long n = check_call(recvmsg(credited, &m, MSG_DONTWAIT));

	check(n == (long)strlen(text) && memcmp(buffer, text, (size_t)n) == 0);
	check(m.msg_controllen && control.header.cmsg_type == SCM_CREDENTIALS);
	memcpy(&creds, CMSG_DATA(&control.header), sizeof(creds));
	check(creds.pid == pid && creds.uid == getuid() && creds.gid == getgid());
}

/* Where a peek looks is as it was. */
static void check_peek(int fd)
{
	int offset = 0;
	socklen_t size = sizeof(offset);

	check_call(getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, &size));
	check(offset == -1);
}

void verify(void)
{
	char name[16] = { 0 };
	socklen_t size = sizeof(name);

	check_peek(ring[0]);
	check_peek(ring[1]);
	check_peek(abstract);
	verify_service();
	verify_ring();
	verify_chain();
	verify_lonely();
	check_call(getsockname(autobound, (struct sockaddr *)name, &size));
	check(size == sizeof(sa_family_t) + 6 && name[2] == '\0');
	check_name(abstract, abstract_name);
	get_from(abstract, "to the abstract", "");
	say(limited, "to the abstract");
	get_by("by the first", getpid());
	get_by("by the second", second_task_pid());
	get_by("by the first again", getpid());
	fill_credited();
}
