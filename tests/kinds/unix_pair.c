/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "unix_common.h"

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

static int stream[2], datagram[2], sequence[2], half[2], deaf[2], options[2], both[2], empty[2], peeked[2];
static bool has_rights;
static int orphan, empty_orphan, reset_orphan, datagram_orphan, alone, copy, many[2];

static void make(int type, int ends[2])
{
	check_call(socketpair(AF_UNIX, type, 0, ends));
}

static void fill_messages(int ends[2])
{
	say(ends[1], "one");
	say(ends[1], "");
	say(ends[1], "and two");
	say(ends[0], "the other way");
}

static void fill_many(void)
{
	char text[1000];

	memset(text, 'm', sizeof(text));
	for (int i = 0; i < 60; i++)
		check(check_call(send(many[1], text, sizeof(text), MSG_DONTWAIT)) == sizeof(text));
}

static void setup_options(void)
{
	struct timeval time = { .tv_sec = 2, .tv_usec = 500000 };

	make(SOCK_STREAM, options);
	check_call(setsockopt(options[0], SOL_SOCKET, SO_SNDBUF, &(int){ 20000 }, sizeof(int)));
	check_call(setsockopt(options[0], SOL_SOCKET, SO_RCVBUF, &(int){ 30000 }, sizeof(int)));
	check_call(setsockopt(options[0], SOL_SOCKET, SO_PASSCRED, &(int){ 1 }, sizeof(int)));
	check_call(setsockopt(options[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)));
	check_call(setsockopt(options[1], SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time)));
	check_call(setsockopt(options[1], SOL_SOCKET, SO_RCVLOWAT, &(int){ 7 }, sizeof(int)));
	has_rights = setsockopt(options[1], SOL_SOCKET, SO_PASSRIGHTS, &(int){ 0 }, sizeof(int)) == 0; /* since Linux 6.16 */
	make(SOCK_STREAM, peeked);
	say(peeked[1], "peeked at");
	check_call(setsockopt(peeked[0], SOL_SOCKET, SO_PEEK_OFF, &(int){ 3 }, sizeof(int)));
}

static int orphaned(int type, const char *unread, const char *lost)
{
	int ends[2];

	make(type, ends);
	if (unread)
		say(ends[1], unread);
	if (lost)
		say(ends[0], lost);
	check_call(close(ends[1]));
	return ends[0];
}

void setup(const char *argument)
{
	(void)argument;
	signal(SIGPIPE, SIG_IGN);
	make(SOCK_STREAM | SOCK_NONBLOCK, stream);
	say(stream[0], "first ");
	say(stream[0], "second");
	say(stream[1], "back");
	copy = (int)check_call(fcntl(stream[1], F_DUPFD_CLOEXEC, 90));
	make(SOCK_DGRAM | SOCK_CLOEXEC, datagram);
	fill_messages(datagram);
	make(SOCK_SEQPACKET, sequence);
	fill_messages(sequence);
	make(SOCK_STREAM, half);
	say(half[0], "before the end");
	check_call(shutdown(half[0], SHUT_WR));
	make(SOCK_DGRAM, deaf);
	say(deaf[1], "heard");
	check_call(shutdown(deaf[0], SHUT_RD));
	make(SOCK_STREAM, empty);
	setup_options();
	orphan = orphaned(SOCK_STREAM, "testament", NULL);
	empty_orphan = orphaned(SOCK_STREAM, NULL, NULL);
	reset_orphan = orphaned(SOCK_STREAM, NULL, "never read");
	datagram_orphan = orphaned(SOCK_DGRAM, "testament", NULL);
	alone = (int)check_call(socket(AF_UNIX, SOCK_DGRAM, 0));
	make(SOCK_STREAM, many);
	fill_many();
	make(SOCK_SEQPACKET, both);
	second_task_start();
}

static void second_answers(void)
{
	get(both[1], "to the second");
	say(both[1], "and back");
}

static void verify_stream(void)
{
	check_flags(stream[0], O_NONBLOCK, O_NONBLOCK);
	check_same_description(stream[1], copy, true);
	check_cloexec(copy, true);
	check_cloexec(stream[1], false);
	get(copy, "first second");
	get_nothing(stream[1]);
	get(stream[0], "back");
	get_nothing(stream[0]);
	say(stream[0], "first ");
	say(stream[0], "second");
	say(copy, "back");
	get_nothing(empty[0]);
	say(empty[0], "x");
	get(empty[1], "x");
}

static void verify_messages(int ends[2])
{
	get(ends[0], "one");
	get(ends[0], "");
	get(ends[0], "and two");
	get_nothing(ends[0]);
	get(ends[1], "the other way");
	get_nothing(ends[1]);
	fill_messages(ends);
}

static void verify_options(void)
{
	struct timeval time = { 0 };
	socklen_t size = sizeof(time);
	char text[16];

	check(option(options[0], SO_SNDBUF) == 40000);
	check(option(options[0], SO_RCVBUF) == 60000);
	check(option(options[1], SO_SNDBUF) != 40000);
	check(option(options[0], SO_PASSCRED) == 1);
	check(option(options[1], SO_PASSCRED) == 0);
	check(option(options[1], SO_RCVLOWAT) == 7);
	check(!has_rights || (option(options[0], SO_PASSRIGHTS) == 1 && option(options[1], SO_PASSRIGHTS) == 0));
	check_call(getsockopt(options[0], SOL_SOCKET, SO_RCVTIMEO, &time, &size));
	check(time.tv_sec == 2 && time.tv_usec == 500000);
	check_call(getsockopt(options[1], SOL_SOCKET, SO_SNDTIMEO, &time, &size));
	check(time.tv_sec == 2 && time.tv_usec == 500000);
	check(option(peeked[0], SO_PEEK_OFF) == 3);
	check(check_call(recv(peeked[0], text, sizeof(text), MSG_PEEK)) == 6 && !memcmp(text, "ked at", 6));
	check_call(setsockopt(peeked[0], SOL_SOCKET, SO_PEEK_OFF, &(int){ 3 }, sizeof(int)));
}

/* What is read here is gone for the next time. */
static void verify_orphans(void)
{
	static bool before;
	struct pollfd p = { .fd = reset_orphan, .events = POLLIN };
	char byte;

	check(poll(&p, 1, 0) == 1 && !!(p.revents & POLLERR) == !before && (p.revents & POLLHUP));
	if (!before) {
		get(orphan, "testament");
		check(recv(reset_orphan, &byte, 1, MSG_DONTWAIT) == -1 && errno == ECONNRESET);
		get(datagram_orphan, "testament");
		get(half[1], "before the end");
		get(deaf[0], "heard");
	}
	before = true;
	get_end(orphan);
	get_end(empty_orphan);
	get_end(reset_orphan);
	get_end(half[1]);
	check(send(orphan, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	check(send(half[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	say(half[1], "the living half");
	get(half[0], "the living half");
	check(send(deaf[1], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	say(deaf[0], "it can speak");
	get(deaf[1], "it can speak");
	check(send(alone, "x", 1, MSG_NOSIGNAL) == -1 && errno == ENOTCONN);
	check(option(alone, SO_TYPE) == SOCK_DGRAM);
}

static void verify_many(void)
{
	char text[1000];

	for (int i = 0; i < 60; i++) {
		check(check_call(recv(many[0], text, sizeof(text), MSG_DONTWAIT)) == sizeof(text));
		check(text[0] == 'm' && text[999] == 'm');
	}
	get_nothing(many[0]);
	fill_many();
}

void verify(void)
{
	verify_stream();
	check_cloexec(datagram[0], true);
	verify_messages(datagram);
	verify_messages(sequence);
	check(option(sequence[0], SO_TYPE) == SOCK_SEQPACKET);
	verify_options();
	verify_orphans();
	verify_many();
	say(both[0], "to the second");
	second_task_run(second_answers);
	get(both[0], "and back");
}
