/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/udp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* UDP and UDP-Lite sockets: their addresses and options, and what they have received from whom. */

enum { LARGE = 9000, LITE = 136 };

static int four, six, dual, shared, epoll, joined, four_sender, six_sender;
static int left, right, moved, plain, options, options_six, groups, groups_six, filtered, told, group[2], reusing[2];
static int lite[2] = { -1, -1 }, shut, corked;
static unsigned gone_port; /* of a sender that was closed */

static socklen_t size_of(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

static struct sockaddr_storage address(const char *host, unsigned port)
{
	struct sockaddr_storage a = { .ss_family = strchr(host, ':') ? AF_INET6 : AF_INET };

	if (a.ss_family == AF_INET6) {
		check(inet_pton(AF_INET6, host, &((struct sockaddr_in6 *)&a)->sin6_addr) == 1);
		((struct sockaddr_in6 *)&a)->sin6_port = htons((uint16_t)port);
	} else {
		check(inet_pton(AF_INET, host, &((struct sockaddr_in *)&a)->sin_addr) == 1);
		((struct sockaddr_in *)&a)->sin_port = htons((uint16_t)port);
	}
	return a;
}

static struct sockaddr_storage name_of(int fd)
{
	struct sockaddr_storage a = { 0 };
	socklen_t size = sizeof(a);

	check_call(getsockname(fd, (struct sockaddr *)&a, &size));
	return a;
}

static unsigned port_of(int fd)
{
	struct sockaddr_storage a = name_of(fd);

	return ntohs(((struct sockaddr_in *)&a)->sin_port); /* at the same place in both */
}

/* A port that was asked for stays when a socket is disconnected; one that the kernel chose does not. */
static void bind_at(int fd, const char *host, unsigned port)
{
	struct sockaddr_storage a = address(host, port);

	if (!port) {
		int other = (int)check_call(socket(a.ss_family, SOCK_DGRAM, 0));

		check_call(bind(other, (struct sockaddr *)&a, size_of(&a)));
		a = address(host, port_of(other));
		check_call(close(other));
	}
	check_call(bind(fd, (struct sockaddr *)&a, size_of(&a)));
}

static int make(const char *host, unsigned port, int protocol)
{
	int fd = (int)check_call(socket(strchr(host, ':') ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, protocol));

	bind_at(fd, host, port);
	return fd;
}

static void connect_to(int fd, int other)
{
	struct sockaddr_storage a = name_of(other);

	check_call(connect(fd, (struct sockaddr *)&a, size_of(&a)));
}

static void await(int fd)
{
	check(check_call(poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 5000)) == 1);
}

static void send_to(int from, const char *host, unsigned port, const void *data, size_t size)
{
	struct sockaddr_storage a = address(host, port);

	check((size_t)check_call(sendto(from, data, size, 0, (struct sockaddr *)&a, size_of(&a))) == size);
}

/* The next datagram is this one, from this port of this address. */
static void receive(int fd, const char *expected, const char *host, unsigned port)
{
	struct sockaddr_storage a = { 0 };
	socklen_t size = sizeof(a);
	char text[128], from[INET6_ADDRSTRLEN];
	ssize_t n;

	await(fd);
	n = check_call(recvfrom(fd, text, sizeof(text) - 1, 0, (struct sockaddr *)&a, &size));
	text[n] = '\0';
	check(strcmp(text, expected) == 0);
	if (a.ss_family == AF_INET6)
		inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&a)->sin6_addr, from, sizeof(from));
	else
		inet_ntop(AF_INET, &((struct sockaddr_in *)&a)->sin_addr, from, sizeof(from));
	check(strcmp(from, host) == 0);
	check(ntohs(((struct sockaddr_in *)&a)->sin_port) == port);
}

/* ---- what is queued: sent again after each look ---- */

static void fill_four(void)
{
	static char large[LARGE];
	int fd = make("127.0.0.1", gone_port, 0);

	memset(large, 'l', sizeof(large));
	send_to(fd, "127.0.0.1", port_of(four), "from one that is gone", 21);
	check_call(close(fd));
	send_to(four_sender, "127.0.0.1", port_of(four), "", 0);
	send_to(four_sender, "127.0.0.1", port_of(four), large, sizeof(large));
	send_to(four_sender, "127.0.0.1", port_of(four), "last", 4);
}

static void take_four(void)
{
	static char large[LARGE + 1];

	receive(four, "from one that is gone", "127.0.0.1", gone_port);
	receive(four, "", "127.0.0.1", port_of(four_sender));
	check(check_call(read(four, large, sizeof(large))) == LARGE);
	for (size_t i = 0; i < LARGE; i++)
		check(large[i] == 'l');
	receive(four, "last", "127.0.0.1", port_of(four_sender));
	check_empty(four);
}

static void fill_dual(void)
{
	send_to(six_sender, "::1", port_of(six), "to six", 6);
	send_to(six_sender, "::1", port_of(dual), "by six", 6);
	send_to(four_sender, "127.0.0.1", port_of(dual), "by four", 7);
}

static void take_dual(void)
{
	receive(six, "to six", "::1", port_of(six_sender));
	receive(dual, "by six", "::1", port_of(six_sender));
	receive(dual, "by four", "::ffff:127.0.0.1", port_of(four_sender));
}

/* Both have received something from the other. What `moved` has is not from whom it is connected to. */
static void fill_connected(void)
{
	check_write(left, "to the right");
	check_write(right, "to the left");
	check_call(connect(moved, &(struct sockaddr){ .sa_family = AF_UNSPEC }, sizeof(struct sockaddr)));
	send_to(six_sender, "::1", port_of(moved), "before", 6);
	connect_to(moved, six);
}

static void take_connected(void)
{
	struct sockaddr_storage a = { 0 };
	socklen_t size = sizeof(a);

	receive(left, "to the left", "127.0.0.1", port_of(right));
	receive(right, "to the right", "127.0.0.1", port_of(left));
	check_call(getpeername(moved, (struct sockaddr *)&a, &size));
	check(ntohs(((struct sockaddr_in6 *)&a)->sin6_port) == port_of(six));
	receive(moved, "before", "::1", port_of(six_sender));
}

/* Of sockets with one port, whoever is connected to the sender gets what it sends. */
static void fill_shared_port(const int *fds)
{
	for (int i = 0; i < 2; i++) {
		connect_to(fds[i], four_sender);
		send_to(four_sender, "127.0.0.1", port_of(fds[i]), i ? "second" : "first", i ? 6 : 5);
		await(fds[i]);
		check_call(connect(fds[i], &(struct sockaddr){ .sa_family = AF_UNSPEC }, sizeof(struct sockaddr)));
	}
}

static void take_shared_port(const int *fds)
{
	check(port_of(fds[0]) == port_of(fds[1]));
	receive(fds[0], "first", "127.0.0.1", port_of(four_sender));
	receive(fds[1], "second", "127.0.0.1", port_of(four_sender));
}

static void fill_told(void)
{
	send_to(four_sender, "127.0.0.2", port_of(told), "to another", 10);
}

static void take_told(void)
{
	_Alignas(struct cmsghdr) char control[256];
	char text[16];
	struct iovec iov = { text, sizeof(text) };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	const struct cmsghdr *m;

	await(told);
	check(check_call(recvmsg(told, &header, 0)) == 10);
	m = CMSG_FIRSTHDR(&header);
	check(m && m->cmsg_level == IPPROTO_IP && m->cmsg_type == IP_PKTINFO);
	check(((const struct in_pktinfo *)CMSG_DATA(m))->ipi_addr.s_addr == inet_addr("127.0.0.2"));
}

/* ---- the kernel joins datagrams that were sent at once; later they may come one by one ---- */

static void fill_joined(void)
{
	int fd = make("127.0.0.1", 0, 0);

	set_option(fd, IPPROTO_UDP, UDP_SEGMENT, 10);
	send_to(fd, "127.0.0.1", port_of(joined), "0123456789abcdefghijABC", 23);
	check_call(close(fd));
}

static void take_joined(void)
{
	char text[32] = "";
	size_t n = 0;

	while (n < 23) {
		await(joined);
		n += (size_t)check_call(read(joined, text + n, sizeof(text) - n));
	}
	check(strcmp(text, "0123456789abcdefghijABC") == 0);
}

static void fill_lite(void)
{
	if (lite[0] >= 0)
		check_write(lite[0], "light");
}

static void take_lite(void)
{
	if (lite[0] < 0)
		return;
	receive(lite[1], "light", "127.0.0.1", port_of(lite[0]));
	check(get_option(lite[0], LITE, 10) == 12);
	check(get_option(lite[1], SOL_SOCKET, SO_PROTOCOL) == LITE);
}

static void fill(void)
{
	fill_four();
	fill_dual();
	fill_connected();
	fill_shared_port(group);
	fill_shared_port(reusing);
	fill_told();
	fill_joined();
	fill_lite();
	send_to(four_sender, "127.0.0.1", port_of(filtered), "xenon", 5);
	send_to(four_sender, "127.0.0.1", port_of(filtered), "argon", 5);
}

/* ---- options ---- */

static void make_options(void)
{
	const struct timeval t = { .tv_sec = 7, .tv_usec = 500000 };
	const struct in_addr loopback = { htonl(INADDR_LOOPBACK) };

	options = (int)check_call(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
	set_option(options, SOL_SOCKET, SO_BROADCAST, 1);
	set_option(options, SOL_SOCKET, SO_RCVBUF, 50000);
	set_option(options, SOL_SOCKET, SO_TIMESTAMPNS, 1);
	set_option(options, IPPROTO_IP, IP_TOS, 0x10);
	set_option(options, SOL_SOCKET, SO_PRIORITY, 3);
	set_option(options, IPPROTO_IP, IP_TTL, 9);
	set_option(options, IPPROTO_IP, IP_RECVERR, 1);
	set_option(options, IPPROTO_IP, IP_RECVTTL, 1);
	set_option(options, IPPROTO_IP, IP_MULTICAST_TTL, 5);
	set_option(options, IPPROTO_IP, IP_MULTICAST_LOOP, 0);
	set_option(options, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO);
	check_call(setsockopt(options, IPPROTO_IP, IP_MULTICAST_IF, &loopback, sizeof(loopback)));
	check_call(setsockopt(options, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)));
	check_call(setsockopt(options, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
	options_six = (int)check_call(socket(AF_INET6, SOCK_DGRAM, 0));
	set_option(options_six, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	set_option(options_six, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 3);
	set_option(options_six, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 4);
	set_option(options_six, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0);
	set_option(options_six, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
	set_option(options_six, IPPROTO_IPV6, IPV6_RECVERR, 1);
	set_option(options_six, IPPROTO_IPV6, IPV6_TCLASS, 0x20);
}

static void check_device(int fd, const char *expected)
{
	char name[IFNAMSIZ] = "";
	socklen_t size = sizeof(name);

	check_call(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &size));
	check(strcmp(name, expected) == 0);
}

static void verify_options(void)
{
	struct timeval t = { 0 };
	struct in_addr interface = { 0 };
	socklen_t size = sizeof(t), n_interface = sizeof(interface);

	check_flags(options, O_NONBLOCK, O_NONBLOCK);
	check(get_option(options, SOL_SOCKET, SO_BROADCAST) == 1);
	check(get_option(options, SOL_SOCKET, SO_RCVBUF) == 100000);
	check(get_option(options, SOL_SOCKET, SO_TIMESTAMPNS) == 1);
	check(get_option(options, SOL_SOCKET, SO_TIMESTAMP) == 0);
	check(get_option(options, SOL_SOCKET, SO_PRIORITY) == 3);
	check(get_option(options, IPPROTO_IP, IP_TOS) == 0x10);
	check(get_option(options, IPPROTO_IP, IP_TTL) == 9);
	check(get_option(options, IPPROTO_IP, IP_RECVERR) == 1);
	check(get_option(options, IPPROTO_IP, IP_RECVTTL) == 1);
	check(get_option(options, IPPROTO_IP, IP_MULTICAST_TTL) == 5);
	check(get_option(options, IPPROTO_IP, IP_MULTICAST_LOOP) == 0);
	check(get_option(options, IPPROTO_IP, IP_MTU_DISCOVER) == IP_PMTUDISC_DO);
	check_call(getsockopt(options, IPPROTO_IP, IP_MULTICAST_IF, &interface, &n_interface));
	check(interface.s_addr == htonl(INADDR_LOOPBACK));
	check_call(getsockopt(options, SOL_SOCKET, SO_RCVTIMEO, &t, &size));
	check(t.tv_sec == 7 && t.tv_usec == 500000);
	check_device(options, "lo");
	check_device(told, "lo");
	check_device(four, "");
	check(port_of(options) == 0);
	check(get_option(options_six, IPPROTO_IPV6, IPV6_V6ONLY) == 1);
	check(get_option(options_six, IPPROTO_IPV6, IPV6_UNICAST_HOPS) == 3);
	check(get_option(options_six, IPPROTO_IPV6, IPV6_MULTICAST_HOPS) == 4);
	check(get_option(options_six, IPPROTO_IPV6, IPV6_MULTICAST_LOOP) == 0);
	check(get_option(options_six, IPPROTO_IPV6, IPV6_RECVPKTINFO) == 1);
	check(get_option(options_six, IPPROTO_IPV6, IPV6_RECVERR) == 1);
	check(get_option(options_six, IPPROTO_IPV6, IPV6_TCLASS) == 0x20);
}

/* ---- multicast groups ---- */

static void join(int fd, const char *host, const char *source, int option_name)
{
	struct group_source_req s = { .gsr_interface = if_nametoindex("lo"), .gsr_group = address(host, 0) };
	struct group_req g = { .gr_interface = s.gsr_interface, .gr_group = s.gsr_group };
	int level = s.gsr_group.ss_family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;

	if (source)
		s.gsr_source = address(source, 0);
	check_call(setsockopt(fd, level, option_name, source ? (void *)&s : (void *)&g, source ? sizeof(s) : sizeof(g)));
}

/* The number of sources, or -1: no member. */
static int sources_of(int fd, const char *host, uint32_t *ret_mode)
{
	union {
		struct group_filter filter;
		char room[GROUP_FILTER_SIZE(8)];
	} u = { .filter = { .gf_interface = if_nametoindex("lo"), .gf_group = address(host, 0), .gf_numsrc = 8 } };
	socklen_t size = sizeof(u);

	if (getsockopt(fd, strchr(host, ':') ? IPPROTO_IPV6 : IPPROTO_IP, MCAST_MSFILTER, &u, &size) < 0)
		return -1;
	*ret_mode = u.filter.gf_fmode;
	return (int)u.filter.gf_numsrc;
}

static void make_groups(void)
{
	groups = (int)check_call(socket(AF_INET, SOCK_DGRAM, 0));
	join(groups, "239.7.7.1", NULL, MCAST_JOIN_GROUP);
	join(groups, "239.7.7.2", NULL, MCAST_JOIN_GROUP);
	join(groups, "239.7.7.2", "10.1.2.3", MCAST_BLOCK_SOURCE);
	join(groups, "232.7.7.3", "10.1.2.3", MCAST_JOIN_SOURCE_GROUP);
	join(groups, "232.7.7.3", "10.1.2.4", MCAST_JOIN_SOURCE_GROUP);
	groups_six = (int)check_call(socket(AF_INET6, SOCK_DGRAM, 0));
	join(groups_six, "ff15::77", NULL, MCAST_JOIN_GROUP);
	join(groups_six, "239.7.7.4", NULL, MCAST_JOIN_GROUP);
}

static void verify_groups(void)
{
	uint32_t mode = 9;

	check(sources_of(groups, "239.7.7.1", &mode) == 0 && mode == MCAST_EXCLUDE);
	check(sources_of(groups, "239.7.7.2", &mode) == 1 && mode == MCAST_EXCLUDE);
	check(sources_of(groups, "232.7.7.3", &mode) == 2 && mode == MCAST_INCLUDE);
	check(sources_of(groups, "239.7.7.4", &mode) == -1);
	check(sources_of(groups_six, "ff15::77", &mode) == 0 && mode == MCAST_EXCLUDE);
	check(sources_of(groups_six, "239.7.7.4", &mode) == 0 && mode == MCAST_EXCLUDE);
	check(sources_of(groups_six, "239.7.7.1", &mode) == -1);
}

/* ---- others ---- */

static void make_shared_ports(void)
{
	for (int i = 0; i < 2; i++) {
		group[i] = (int)check_call(socket(AF_INET, SOCK_DGRAM, 0));
		set_option(group[i], SOL_SOCKET, SO_REUSEPORT, 1);
		bind_at(group[i], "127.0.0.1", i ? port_of(group[0]) : 0);
		reusing[i] = (int)check_call(socket(AF_INET, SOCK_DGRAM, 0));
		set_option(reusing[i], SOL_SOCKET, SO_REUSEADDR, 1);
		bind_at(reusing[i], "0.0.0.0", i ? port_of(reusing[0]) : 0);
	}
}

/* What begins with an x is dropped. Filters see the header, too: eight bytes. */
static void make_filtered(void)
{
	struct sock_filter code[] = {
		{ BPF_LD | BPF_B | BPF_ABS, 0, 0, 8 },
		{ BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 'x' },
		{ BPF_RET | BPF_K, 0, 0, 0 },
		{ BPF_RET | BPF_K, 0, 0, 0xffff },
	};
	struct sock_fprog program = { 4, code };

	filtered = make("127.0.0.1", 0, 0);
	check_call(setsockopt(filtered, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)));
	set_option(filtered, SOL_SOCKET, SO_LOCK_FILTER, 1);
}

static void make_lite(void)
{
	lite[1] = socket(AF_INET, SOCK_DGRAM, LITE);
	if (lite[1] < 0)
		return;
	bind_at(lite[1], "127.0.0.1", 0);
	lite[0] = make("127.0.0.1", 0, LITE);
	set_option(lite[0], LITE, 10 /* UDPLITE_SEND_CSCOV */, 12);
	connect_to(lite[0], lite[1]);
}

void setup(const char *argument)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.u32 = 4 };
	int fd;

	(void)argument;
	four = make("127.0.0.1", 0, 0);
	check_call(fcntl(four, F_SETFL, O_NONBLOCK));
	shared = (int)check_call(fcntl(four, F_DUPFD, 80));
	four_sender = make("127.0.0.1", 0, 0);
	six_sender = make("::1", 0, 0);
	six = make("::1", 0, 0);
	dual = make("::", 0, 0);
	fd = make("127.0.0.1", 0, 0);
	gone_port = port_of(fd);
	check_call(close(fd));
	left = make("127.0.0.1", 0, 0);
	right = make("127.0.0.1", 0, 0);
	connect_to(left, right);
	connect_to(right, left);
	moved = make("::1", 0, 0);
	plain = (int)check_call(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	make_shared_ports();
	told = make("0.0.0.0", 0, 0);
	set_option(told, IPPROTO_IP, IP_PKTINFO, 1);
	check_call(setsockopt(told, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
	joined = make("127.0.0.1", 0, 0);
	set_option(joined, IPPROTO_UDP, UDP_GRO, 1);
	corked = make("127.0.0.1", 0, 0);
	set_option(corked, IPPROTO_UDP, UDP_CORK, 1);
	shut = make("127.0.0.1", 0, 0);
	connect_to(shut, left);
	check_call(shutdown(shut, SHUT_WR));
	make_filtered();
	make_lite();
	make_options();
	make_groups();
	epoll = (int)check_call(epoll_create1(0));
	check_call(epoll_ctl(epoll, EPOLL_CTL_ADD, four_sender, &event));
	fill();
	second_task_start();
}

static void second_answers(void)
{
	send_to(four, "127.0.0.1", port_of(four_sender), "second", 6);
}

static void verify_second(void)
{
	struct epoll_event event = { 0 };

	second_task_run(second_answers);
	check(check_call(epoll_wait(epoll, &event, 1, 5000)) == 1 && event.data.u32 == 4);
	receive(four_sender, "second", "127.0.0.1", port_of(four));
}

static void verify_flags(void)
{
	check_flags(four, O_NONBLOCK, O_NONBLOCK);
	check_same_description(four, shared, true);
	check_cloexec(four, true);
	check_cloexec(shared, false);
	check_cloexec(plain, true);
	check(port_of(plain) == 0);
	check(get_option(plain, SOL_SOCKET, SO_DOMAIN) == AF_INET6);
	check(get_option(four, SOL_SOCKET, SO_REUSEADDR) == 0);
	check(get_option(group[1], SOL_SOCKET, SO_REUSEPORT) == 1);
	check(get_option(reusing[1], SOL_SOCKET, SO_REUSEADDR) == 1);
	check(get_option(corked, IPPROTO_UDP, UDP_CORK) == 1);
	check(get_option(joined, IPPROTO_UDP, UDP_GRO) == 1);
	check(get_option(four, SOL_SOCKET, SO_RCVBUF) == get_option(plain, SOL_SOCKET, SO_RCVBUF));
	check(get_option(filtered, SOL_SOCKET, SO_LOCK_FILTER) == 1);
	check(send(shut, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	check(get_option(left, SOL_SOCKET, SO_PEEK_OFF) == -1 && get_option(six, SOL_SOCKET, SO_PEEK_OFF) == -1);
	check(get_option(four, SOL_SOCKET, SO_PEEK_OFF) == -1 && get_option(dual, SOL_SOCKET, SO_PEEK_OFF) == -1);
}

void verify(void)
{
	verify_flags();
	take_four();
	take_dual();
	take_connected();
	take_shared_port(group);
	take_shared_port(reusing);
	take_told();
	take_joined();
	take_lite();
	receive(filtered, "argon", "127.0.0.1", port_of(four_sender));
	verify_options();
	verify_groups();
	verify_second();
	fill();
}
