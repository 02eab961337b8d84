/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Multicast groups that a socket has joined. */

#include "image/pb.h"

struct collect;
struct err;

int inet_group_collect(struct collect *c, int fd, Pb__InetSocket *pb, struct err *e);

/* Join them again. */
int inet_group_restore(int fd, const Pb__InetSocket *pb, struct err *e);
