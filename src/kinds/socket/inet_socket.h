/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What UDP, ICMP and raw sockets have in common: addresses, options, multicast groups. */

#include "kinds/kind.h"
#include "kinds/socket/inet_address.h"

/* Fill all of the message but what is queued, which is for the kind to see to. `fd` is of the socket. */
int inet_socket_collect(struct collect *c, const struct fd_view *v, int fd, Pb__InetSocket *pb, struct err *e);

/* Has the program sent something that the kernel still holds back, after a moment of patience? */
bool inet_socket_holds_back(int fd);

/* Addresses as the image has them, checked; family 0: there is none. */
struct inet_socket_ends {
	struct sockaddr_storage local, remote;
};
int inet_socket_read(const Pb__InetSocket *pb, struct inet_socket_ends *ret, struct err *e);

/*
 * A new socket, bound and connected. One that is connected gets another address,
 * and a note, where the machine no longer has the one that it had.
 */
int inet_socket_make(struct restore_objects *r, const Pb__InetSocket *pb, const struct inet_socket_ends *ends,
		     struct err *e);

/* To `remote`; family 0: to nobody any more. */
int inet_socket_connect(int fd, const struct sockaddr_storage *remote, struct err *e);

/* The kind's `last`: options, groups, shut directions. */
int inet_socket_last(struct restore_objects *r, int fd, const ProtobufCMessage *m, struct err *e);

void inet_socket_describe(const ProtobufCMessage *m, char *buf, size_t size);
