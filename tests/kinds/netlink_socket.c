/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Netlink sockets: new, bound by the kernel or to a port of choice, in groups, with options; and they still answer. */

enum { PORT = 0x7a000000, HIGH_GROUP = RTNLGRP_TUNNEL };

static int new, usual, second, chosen, listener, uevents, user, from_user, shared;

static struct sockaddr_nl name_of(int fd)
{
	struct sockaddr_nl a = { 0 };
	socklen_t size = sizeof(a);

	check_call(getsockname(fd, (struct sockaddr *)&a, &size));
	return a;
}

static int make(int type, int protocol, uint32_t port, uint32_t groups)
{
	const struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_pid = port, .nl_groups = groups };
	int fd = (int)check_call(socket(AF_NETLINK, type | SOCK_CLOEXEC, protocol));

	check_call(bind(fd, (const struct sockaddr *)&a, sizeof(a)));
	return fd;
}

/* Ask for the loopback; the answer is read whole. */
static void ask(int fd, uint32_t sequence)
{
	struct {
		struct nlmsghdr header;
		struct ifinfomsg link;
	} request = {
		.header = { sizeof(request), RTM_GETLINK, NLM_F_REQUEST, sequence, 0 },
		.link = { .ifi_index = 1 },
	};
	const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	_Alignas(struct nlmsghdr) char answer[16384];
	const struct nlmsghdr *h = (void *)answer;
	struct sockaddr_nl from = { 0 };
	socklen_t size = sizeof(from);

	check_call(sendto(fd, &request, sizeof(request), 0, (const struct sockaddr *)&kernel, sizeof(kernel)));
	check_call(recvfrom(fd, answer, sizeof(answer), 0, (struct sockaddr *)&from, &size));
	check(from.nl_pid == 0);
	check(h->nlmsg_type == RTM_NEWLINK && h->nlmsg_seq == sequence && h->nlmsg_pid == name_of(fd).nl_pid);
}

static bool is_member(int fd, uint32_t group)
{
	uint32_t words[8] = { 0 };
	socklen_t size = sizeof(words);

	check_call(getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, words, &size));
	return words[(group - 1) / 32] & 1u << (group - 1) % 32;
}

void setup(const char *argument)
{
	struct sock_filter all = { BPF_RET | BPF_K, 0, 0, 0xffff };
	const struct sock_fprog program = { 1, &all };

	(void)argument;
	new = (int)check_call(socket(AF_NETLINK, SOCK_DGRAM | SOCK_NONBLOCK, NETLINK_SOCK_DIAG));
	set_option(new, SOL_NETLINK, NETLINK_EXT_ACK, 1);
	usual = make(SOCK_RAW, NETLINK_ROUTE, 0, 0);
	shared = (int)check_call(fcntl(usual, F_DUPFD, 80));
	second = make(SOCK_RAW, NETLINK_ROUTE, 0, 0);
	chosen = make(SOCK_DGRAM, NETLINK_ROUTE, PORT, 0);
	set_option(chosen, SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1);
	set_option(chosen, SOL_NETLINK, NETLINK_CAP_ACK, 1);
	set_option(chosen, SOL_NETLINK, NETLINK_NO_ENOBUFS, 1);
	set_option(chosen, SOL_SOCKET, SO_RCVBUF, 60000);
	/* Of changes that nothing here makes. */
	listener = make(SOCK_RAW, NETLINK_ROUTE, 0, 1 << (RTNLGRP_DECnet_IFADDR - 1));
	set_option(listener, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, HIGH_GROUP);
	set_option(listener, SOL_NETLINK, NETLINK_PKTINFO, 1);
	uevents = make(SOCK_RAW, NETLINK_KOBJECT_UEVENT, 0, 1);
	check_call(setsockopt(uevents, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)));
	set_option(uevents, SOL_SOCKET, SO_PASSCRED, 1);
	user = make(SOCK_DGRAM, NETLINK_USERSOCK, PORT, 0);
	from_user = make(SOCK_DGRAM, NETLINK_USERSOCK, PORT + 1, 0);
	check_call(connect(from_user, &(const struct sockaddr){ AF_NETLINK, { 0 } }, sizeof(struct sockaddr_nl)));
	check_call(connect(from_user, (const struct sockaddr *)&(const struct sockaddr_nl){ AF_NETLINK, 0, PORT, 0 },
			   sizeof(struct sockaddr_nl)));
	second_task_start();
}

static void second_asks(void)
{
	ask(usual, 4);
}

void verify(void)
{
	struct nlmsghdr message = { sizeof(message), NLMSG_MIN_TYPE, 0, 9, 0 }, got = { 0 };
	socklen_t n_filter = 0;

	check(name_of(new).nl_pid == 0);
	check_flags(new, O_NONBLOCK, O_NONBLOCK);
	check(get_option(new, SOL_NETLINK, NETLINK_EXT_ACK) == 1);
	check(name_of(usual).nl_pid == (uint32_t)getpid());
	check(name_of(second).nl_pid != (uint32_t)getpid() && name_of(second).nl_pid != 0);
	check(name_of(chosen).nl_pid == PORT);
	check_cloexec(usual, true);
	check_same_description(usual, shared, true);
	check(get_option(usual, SOL_NETLINK, NETLINK_EXT_ACK) == 0);
	check(get_option(chosen, SOL_NETLINK, NETLINK_GET_STRICT_CHK) == 1);
	check(get_option(chosen, SOL_NETLINK, NETLINK_CAP_ACK) == 1);
	check(get_option(chosen, SOL_NETLINK, NETLINK_NO_ENOBUFS) == 1);
	check(get_option(chosen, SOL_SOCKET, SO_RCVBUF) == 120000);
	check(get_option(chosen, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM);
	check(name_of(listener).nl_groups == 1u << (RTNLGRP_DECnet_IFADDR - 1));
	check(is_member(listener, HIGH_GROUP) && !is_member(listener, RTNLGRP_LINK));
	check(get_option(listener, SOL_NETLINK, NETLINK_PKTINFO) == 1);
	check(name_of(uevents).nl_groups == 1 && get_option(uevents, SOL_SOCKET, SO_PROTOCOL) == NETLINK_KOBJECT_UEVENT);
	check_call(getsockopt(uevents, SOL_SOCKET, SO_GET_FILTER, NULL, &n_filter));
	check(n_filter == 1 && get_option(uevents, SOL_SOCKET, SO_PASSCRED) == 1);
	ask(usual, 1);
	ask(second, 2);
	ask(chosen, 3);
	second_task_run(second_asks);
	check(check_call(send(from_user, &message, sizeof(message), 0)) == sizeof(message));
	check(check_call(recv(user, &got, sizeof(got), MSG_DONTWAIT)) == sizeof(got) && got.nlmsg_seq == 9);
}
