/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/socket/inet_packet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <stdbool.h>
#include <string.h>
#include <sys/uio.h>

#include "kinds/socket/inet_address.h"
#include "util/fd.h"
#include "util/privilege.h"

enum { PACKET_HOPS = 64 };

/* What goes into the checksum before the packet itself. */
struct packet_pseudo {
	struct in6_addr from, to; /* an IPv4 address only in its last four bytes: zeros change no sum */
	uint32_t size, protocol;
};

static uint32_t packet_sum(uint32_t sum, const void *data, size_t size)
{
	const uint8_t *bytes = data;
	uint16_t word;

	for (size_t i = 0; i + 1 < size; i += sizeof(word)) {
		memcpy(&word, bytes + i, sizeof(word));
		sum += word;
	}
	if (size % 2)
		sum += bytes[size - 1];
	return sum;
}

static struct in6_addr packet_summed(const struct in6_addr *a)
{
	struct in6_addr v4 = { 0 };

	if (!IN6_IS_ADDR_V4MAPPED(a))
		return *a;
	memcpy(&v4.s6_addr[12], &a->s6_addr[12], 4);
	return v4;
}

/* Zero would mean that there is none. */
static uint16_t packet_checksum(const struct inet_packet *p, const struct in6_addr *from, const struct in6_addr *to)
{
	const struct packet_pseudo pseudo = {
		.from = packet_summed(from),
		.to = packet_summed(to),
		.size = htonl((uint32_t)p->size),
		.protocol = htonl((uint32_t)p->protocol),
	};
	uint32_t sum = packet_sum(packet_sum(0, &pseudo, sizeof(pseudo)), p->data, p->size);

	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff ? 0xffff : (uint16_t)~sum;
}

static int packet_send(int raw, void *header, size_t header_size, const struct inet_packet *p, void *to, socklen_t size)
{
	struct iovec parts[] = { { header, header_size }, { p->data, p->size } };
	const struct msghdr message = { .msg_name = to, .msg_namelen = size, .msg_iov = parts, .msg_iovlen = 2 };

	return sendmsg(raw, &message, 0) < 0 ? -errno : 0;
}

/* The kernel fills in the rest of the header. */
static int packet_send_v4(int raw, const struct inet_packet *p, const struct in6_addr *from, const struct in6_addr *to)
{
	struct iphdr ip = { .version = 4, .ihl = 5, .ttl = PACKET_HOPS, .protocol = (uint8_t)p->protocol };
	struct sockaddr_in a = { .sin_family = AF_INET };

	memcpy(&ip.saddr, &from->s6_addr[12], 4);
	memcpy(&ip.daddr, &to->s6_addr[12], 4);
	memcpy(&a.sin_addr, &to->s6_addr[12], 4);
	return packet_send(raw, &ip, sizeof(ip), p, &a, sizeof(a));
}

static int packet_send_v6(int raw, const struct inet_packet *p, const struct in6_addr *from, const struct in6_addr *to)
{
	struct ipv6hdr ip = {
		.version = 6,
		.payload_len = htons((uint16_t)p->size),
		.nexthdr = (uint8_t)p->protocol,
		.hop_limit = PACKET_HOPS,
	};
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_addr = *to };

	if (p->to->ss_family == AF_INET6)
		a.sin6_scope_id = ((const struct sockaddr_in6 *)p->to)->sin6_scope_id;
	memcpy(&ip.saddr, from, sizeof(ip.saddr));
	memcpy(&ip.daddr, to, sizeof(ip.daddr));
	return packet_send(raw, &ip, sizeof(ip), p, &a, sizeof(a));
}

int inet_packet_send(const struct inet_packet *p)
{
	cleanup_privilege struct privilege privilege = privilege_raise(PRIVILEGE(CAP_NET_RAW) | PRIVILEGE(CAP_NET_ADMIN));
	const struct in6_addr from = inet_mapped(p->from), to = inet_mapped(p->to);
	bool four = IN6_IS_ADDR_V4MAPPED(&to);
	cleanup_close int raw = socket(four ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);

	if (raw < 0 || (p->mark && setsockopt(raw, SOL_SOCKET, SO_MARK, &p->mark, sizeof(p->mark)) < 0))
		return -errno;
	if (four != (bool)IN6_IS_ADDR_V4MAPPED(&from) || p->size > UINT16_MAX)
		return -EINVAL;
	*p->checksum = 0;
	*p->checksum = packet_checksum(p, &from, &to);
	return four ? packet_send_v4(raw, p, &from, &to) : packet_send_v6(raw, p, &from, &to);
}
