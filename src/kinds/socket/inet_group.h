/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Multicast groups that a socket has joined. */

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "image/pb.h"

struct collect;
struct err;

/* Every group that some socket of this network namespace has joined, of every interface. */
struct inet_groups {
	struct inet_group {
		unsigned interface;
		struct sockaddr_storage address;
	} *v;
	size_t n;
	struct group_filter *answer; /* room for what a socket is asked; NULL: nobody has looked yet */
};

int inet_group_collect(struct collect *c, int fd, Pb__InetSocket *pb, struct err *e);

/* Join them again. */
int inet_group_restore(int fd, const Pb__InetSocket *pb, struct err *e);
