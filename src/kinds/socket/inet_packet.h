/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Packets whose sender is somebody else, to sockets of this machine, which the caller has made sure of. CAP_NET_RAW. */

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct inet_packet {
	const struct sockaddr_storage *from, *to; /* of one family, or one as IPv4 in IPv6 */
	int protocol;       /* IPPROTO_* */
	void *data;         /* its header and what follows; the ports are there already */
	size_t size;
	uint16_t *checksum; /* in `data`: is filled in */
	int mark;           /* SO_MARK; 0: none */
};

/* Returns 0 or -errno. */
int inet_packet_send(const struct inet_packet *p);
