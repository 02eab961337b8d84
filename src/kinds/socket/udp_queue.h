/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Datagrams that a UDP socket has received and that the program has not read. */

#include "image/pb.h"
#include "kinds/kind.h"

/* Look at all of them. There must be no error to be seen by the program: a look would take it. */
int udp_queue_collect(struct collect *c, int fd, Pb__InetSocket *pb, struct err *e);

/*
 * Let it receive them again, from the addresses that they came from. What cannot
 * be had again is told as a note: datagrams may be lost. The socket is connected
 * to others meanwhile, and to its own peer (or nobody) in the end.
 */
int udp_queue_restore(struct restore_objects *r, int fd, const Pb__InetSocket *pb, struct err *e);
