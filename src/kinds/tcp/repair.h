/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * TCP connections as the kernel has them (TCP_REPAIR), to be saved here and to go
 * on elsewhere, or later, without the other end noticing. CAP_NET_ADMIN.
 */

#include <stdbool.h>

#include "image/pb.h"
#include "kinds/socket/inet_address.h"

struct err;

/* May torpor do this here? */
bool tcp_repair_is_permitted(void);

/*
 * Fill `pb` from a connection that is locked. Meanwhile its socket is useless for
 * the program, which stands still; a guard makes it useful again if torpor dies.
 * `ended`, `end_received`: an end (FIN) was sent, or received.
 */
int tcp_repair_collect(struct arena *arena, int fd, bool ended, bool end_received, Pb__TcpRepair *pb, struct err *e);

/* The tree is gone: when the fd is closed, so is the connection, but nobody is told. */
void tcp_repair_part(int fd);

/* Whose connection, and what it had received and not read. */
struct tcp_repaired {
	struct inet_end end;
	const void *received;
	size_t n_received;
	bool end_received;
};

/* Make the connection again, still in repair: silent, and gone without a trace when it is closed. An fd, or negative. */
int tcp_repair_restore(const struct tcp_repaired *r, const Pb__TcpRepair *pb, struct err *e);

/* Let it go on. What can fail now fails as a network does: silently. */
void tcp_repair_release(int fd, const Pb__TcpRepair *pb, bool ended);
