/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/tcp_fin.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>

#include "kinds/tcp_lock.h"
#include "util/err.h"
#include "util/fd.h"

enum { FIN_PATIENCE_MS = 2000, FIN_HOPS = 64 };

/* What the checksum is made of: the addresses, and this in front of the segment. */
struct fin_pseudo {
	struct in6_addr from, to; /* an IPv4 address only in its last four bytes: zeros change no sum */
	uint32_t size, protocol;
	struct tcphdr tcp;
};

static uint16_t fin_checksum(const void *data, size_t size)
{
	const uint16_t *words = data;
	uint32_t sum = 0;

	for (size_t i = 0; i < size / 2; i++)
		sum += words[i];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static struct in6_addr fin_summed(const struct in6_addr *a)
{
	struct in6_addr v4 = { 0 };

	if (!IN6_IS_ADDR_V4MAPPED(a))
		return *a;
	memcpy(&v4.s6_addr[12], &a->s6_addr[12], 4);
	return v4;
}

static struct tcphdr fin_segment(const struct tcp_end *end, uint32_t sequence, uint32_t acknowledged)
{
	const struct in6_addr from = tcp_mapped(&end->remote), to = tcp_mapped(&end->local);
	struct fin_pseudo p = {
		.from = fin_summed(&from),
		.to = fin_summed(&to),
		.size = htonl(sizeof(p.tcp)),
		.protocol = htonl(IPPROTO_TCP),
		.tcp = {
			.source = htons((uint16_t)tcp_port(&end->remote)),
			.dest = htons((uint16_t)tcp_port(&end->local)),
			.seq = htonl(sequence),
			.ack_seq = htonl(acknowledged),
			.doff = sizeof(p.tcp) / 4,
			.fin = 1,
			.ack = 1,
			.window = htons(UINT16_MAX),
		},
	};

	p.tcp.check = fin_checksum(&p, sizeof(p));
	return p.tcp;
}

/* The kernel fills in the rest of the header. */
static int fin_send_v4(int raw, const struct in6_addr *from, const struct in6_addr *to, const struct tcphdr *tcp)
{
	struct {
		struct iphdr ip;
		struct tcphdr tcp;
	} packet = {
		.ip = { .version = 4, .ihl = 5, .ttl = FIN_HOPS, .protocol = IPPROTO_TCP, .tot_len = htons(sizeof(packet)) },
		.tcp = *tcp,
	};
	struct sockaddr_in a = { .sin_family = AF_INET };

	memcpy(&packet.ip.saddr, &from->s6_addr[12], 4);
	memcpy(&packet.ip.daddr, &to->s6_addr[12], 4);
	memcpy(&a.sin_addr, &to->s6_addr[12], 4);
	return sendto(raw, &packet, sizeof(packet), 0, (struct sockaddr *)&a, sizeof(a)) < 0 ? -errno : 0;
}

static int fin_send_v6(int raw, const struct sockaddr_in6 *from, const struct sockaddr_in6 *to, const struct tcphdr *tcp)
{
	struct {
		struct ipv6hdr ip;
		struct tcphdr tcp;
	} packet = {
		.ip = { .version = 6, .payload_len = htons(sizeof(*tcp)), .nexthdr = IPPROTO_TCP, .hop_limit = FIN_HOPS },
		.tcp = *tcp,
	};
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_addr = to->sin6_addr, .sin6_scope_id = to->sin6_scope_id };

	memcpy(&packet.ip.saddr, &from->sin6_addr, sizeof(packet.ip.saddr));
	memcpy(&packet.ip.daddr, &to->sin6_addr, sizeof(packet.ip.daddr));
	return sendto(raw, &packet, sizeof(packet), 0, (struct sockaddr *)&a, sizeof(a)) < 0 ? -errno : 0;
}

static int fin_send(const struct tcp_end *end, const struct tcphdr *tcp)
{
	const struct in6_addr from = tcp_mapped(&end->remote), to = tcp_mapped(&end->local);
	bool four = IN6_IS_ADDR_V4MAPPED(&to);
	cleanup_close int raw = socket(four ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	const int mark = TCP_LOCK_MARK;

	if (raw < 0 || setsockopt(raw, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0)
		return -errno;
	return four ? fin_send_v4(raw, &from, &to, tcp)
		    : fin_send_v6(raw, (const void *)&end->remote, (const void *)&end->local, tcp);
}

int tcp_fin_deliver(int fd, const struct tcp_end *end, uint32_t sequence, uint32_t acknowledged, struct err *e)
{
	const struct tcphdr tcp = fin_segment(end, sequence, acknowledged);
	struct pollfd p = { .fd = fd, .events = POLLRDHUP };
	int r = fin_send(end, &tcp);

	if (r < 0) {
		err_sys(e, r, "half closing a TCP connection again");
		if (r != -EPERM)
			return -1;
		err_id(e, "E-TCP-PRIVILEGE");
		return err_help(e, "restore it with CAP_NET_RAW, or as root");
	}
	if (poll(&p, 1, FIN_PATIENCE_MS) != 1)
		return err_set(e, ERR_SYSTEM, 0, "a TCP connection could not be half closed again");
	return 0;
}
