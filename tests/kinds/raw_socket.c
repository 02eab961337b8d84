/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * ICMP sockets, raw ones and packet sockets, and a TCP socket with a packet filter,
 * for whoever may have them: run.py is root, in a network of its own. The loopback
 * answers. With an argument, only ICMP sockets, which everybody may be permitted.
 */

static bool pings_only;
static int listener, ping, ping_connected, ping_six, raw, raw_connected, raw_six, packets, packets_new;

static const struct sockaddr_in loopback = { .sin_family = AF_INET, .sin_addr.s_addr = 0x0100007f };
static const struct sockaddr_in6 loopback_six = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };

static uint16_t port_of(int fd)
{
	struct sockaddr_in a = { 0 };
	socklen_t size = sizeof(a);

	check_call(getsockname(fd, (struct sockaddr *)&a, &size));
	return ntohs(a.sin_port);
}

static void make_pings(void)
{
	ping = (int)check_call(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMP));
	check_call(bind(ping, (const struct sockaddr *)&(struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(777) },
			sizeof(loopback)));
	set_option(ping, IPPROTO_IP, IP_RECVERR, 1);
	set_option(ping, IPPROTO_IP, IP_TTL, 8);
	ping_connected = (int)check_call(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
	check_call(connect(ping_connected, (const struct sockaddr *)&loopback, sizeof(loopback)));
	ping_six = (int)check_call(socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6));
	check_call(connect(ping_six, (const struct sockaddr *)&loopback_six, sizeof(loopback_six)));
}

static void make_raw(void)
{
	const int only_replies = ~(1 << ICMP_ECHOREPLY);
	struct icmp6_filter filter;

	raw = (int)check_call(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	check_call(bind(raw, (const struct sockaddr *)&loopback, sizeof(loopback)));
	check_call(setsockopt(raw, SOL_RAW, 1 /* ICMP_FILTER */, &only_replies, sizeof(only_replies)));
	raw_connected = (int)check_call(socket(AF_INET, SOCK_RAW, 253));
	check_call(connect(raw_connected, (const struct sockaddr *)&loopback, sizeof(loopback)));
	set_option(raw_connected, IPPROTO_IP, IP_HDRINCL, 1);
	raw_six = (int)check_call(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
	ICMP6_FILTER_SETBLOCKALL(&filter);
	ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
	check_call(setsockopt(raw_six, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof(filter)));
}

/* Only of protocol 253: nobody else's traffic. */
static void make_packets(void)
{
	struct sock_filter code[] = {
		{ BPF_LD | BPF_B | BPF_ABS, 0, 0, 9 },
		{ BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 253 },
		{ BPF_RET | BPF_K, 0, 0, 0xffff },
		{ BPF_RET | BPF_K, 0, 0, 0 },
	};
	const struct sock_fprog program = { 4, code };
	const struct sockaddr_ll a = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP),
				       .sll_ifindex = (int)if_nametoindex("lo") };
	const struct packet_mreq all = { .mr_ifindex = a.sll_ifindex, .mr_type = PACKET_MR_PROMISC };

	packets = (int)check_call(socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
	check_call(setsockopt(packets, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)));
	set_option(packets, SOL_PACKET, PACKET_AUXDATA, 1);
	check_call(setsockopt(packets, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof(all)));
	check_call(bind(packets, (const struct sockaddr *)&a, sizeof(a)));
	packets_new = (int)check_call(socket(AF_PACKET, SOCK_RAW, 0));
}

static void make_listener(void)
{
	struct sock_filter all = { BPF_RET | BPF_K, 0, 0, 0xffff };
	const struct sock_fprog program = { 1, &all };

	listener = (int)check_call(socket(AF_INET, SOCK_STREAM, 0));
	check_call(setsockopt(listener, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)));
	check_call(listen(listener, 1));
}

void setup(const char *argument)
{
	pings_only = argument;
	make_pings();
	if (pings_only)
		return;
	make_raw();
	make_packets();
	make_listener();
}

static void await(int fd)
{
	check(check_call(poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 5000)) == 1);
}

/* An echo request of a ping socket, and its answer. */
static void verify_ping(int fd, int request, int reply, const struct sockaddr_in *to)
{
	struct icmphdr echo = { .type = (uint8_t)request, .un.echo.sequence = htons(5) }, answer = { 0 };

	if (to)
		check_call(sendto(fd, &echo, sizeof(echo), 0, (const struct sockaddr *)to, sizeof(*to)));
	else
		check_call(send(fd, &echo, sizeof(echo), 0));
	await(fd);
	check(check_call(recv(fd, &answer, sizeof(answer), 0)) == sizeof(answer));
	check(answer.type == reply && answer.un.echo.sequence == htons(5));
}

static void verify_pings(void)
{
	verify_ping(ping, ICMP_ECHO, ICMP_ECHOREPLY, &loopback);
	check(port_of(ping) == 777);
	check(get_option(ping, IPPROTO_IP, IP_TTL) == 8 && get_option(ping, IPPROTO_IP, IP_RECVERR) == 1);
	check_cloexec(ping, true);
	verify_ping(ping_connected, ICMP_ECHO, ICMP_ECHOREPLY, NULL);
	verify_ping(ping_six, ICMP6_ECHO_REQUEST, ICMP6_ECHO_REPLY, NULL);
}

/* They see the replies that the ping sockets got, and nothing else: what was unread is lost, so take all there is. */
static void verify_raw(void)
{
	char packet[256];
	ssize_t n, seen = 0;

	await(raw);
	while ((n = recv(raw, packet, sizeof(packet), MSG_DONTWAIT)) > 0) {
		check(((struct icmphdr *)(packet + 20))->type == ICMP_ECHOREPLY);
		seen++;
	}
	check(seen >= 2);
	await(raw_six);
	while ((n = recv(raw_six, packet, sizeof(packet), MSG_DONTWAIT)) > 0)
		check(packet[0] == (char)ICMP6_ECHO_REPLY);
	check(get_option(raw_connected, IPPROTO_IP, IP_HDRINCL) == 1);
	check(get_option(raw_connected, SOL_SOCKET, SO_PROTOCOL) == 253);
}

/* How many have asked for all packets of an interface. */
static uint32_t promiscuity(int interface)
{
	struct {
		struct nlmsghdr header;
		struct ifinfomsg link;
	} request = {
		.header = { sizeof(request), RTM_GETLINK, NLM_F_REQUEST, 0, 0 },
		.link = { .ifi_index = interface },
	};
	_Alignas(struct nlmsghdr) char answer[16384];
	struct nlmsghdr *h = (void *)answer;
	int fd = (int)check_call(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)), left;

	check_call(send(fd, &request, sizeof(request), 0));
	check_call(recv(fd, answer, sizeof(answer), 0));
	check_call(close(fd));
	check(h->nlmsg_type == RTM_NEWLINK);
	left = (int)IFLA_PAYLOAD(h);
	for (struct rtattr *a = IFLA_RTA(NLMSG_DATA(h)); RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == IFLA_PROMISCUITY)
			return *(uint32_t *)RTA_DATA(a);
	return 0;
}

/* A packet with a header of our own, which the packet socket sees coming. */
static void verify_packets(void)
{
	unsigned char packet[24] = { 0x45, 0, 0, 24, [8] = 3, 253, [12] = 127, 0, 0, 1, 127, 0, 0, 1, 'd', 'a', 't', 'a' };
	unsigned char got[64];
	struct sockaddr_ll a = { 0 };
	socklen_t size = sizeof(a);

	check_empty(packets);
	check(check_call(send(raw_connected, packet, sizeof(packet), 0)) == sizeof(packet));
	await(packets);
	check(check_call(recv(packets, got, sizeof(got), 0)) == sizeof(packet) && !memcmp(got + 20, "data", 4));
	await(raw_connected);
	check(check_call(recv(raw_connected, got, sizeof(got), 0)) == sizeof(packet));
	check(get_option(packets, SOL_PACKET, PACKET_AUXDATA) == 1);
	check_call(getsockname(packets, (struct sockaddr *)&a, &size));
	check(a.sll_protocol == htons(ETH_P_IP) && a.sll_ifindex == (int)if_nametoindex("lo"));
	check(promiscuity(a.sll_ifindex) == 1);
	check_call(getsockname(packets_new, (struct sockaddr *)&a, &size));
	check(a.sll_protocol == 0);
}

void verify(void)
{
	socklen_t n_filter = 0;

	verify_pings();
	if (pings_only)
		return;
	verify_raw();
	verify_packets();
	check_call(getsockopt(listener, SOL_SOCKET, SO_GET_FILTER, NULL, &n_filter));
	check(n_filter == 1);
}
