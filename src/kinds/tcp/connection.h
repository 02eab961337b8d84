/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the two halves of the kind have in common: saving (tcp_connection.c) and making again (tcp_restore.c). */

#include <stdbool.h>
#include <stdint.h>

#include "kinds/kind.h"
#include "kinds/socket/inet_address.h"
#include "kinds/socket/socket_options.h"

enum { TCP_CONNECTION_TAG = 17 };

/* Is this the state (enum inet_view_state) of a connection that can be saved? */
bool tcp_state_is_known(uint32_t state);
const char *tcp_state_name(uint32_t state);

/* Has its other end said that nothing follows, has it said so itself (FIN)? Both, if it has ended (CLOSE). */
bool tcp_has_received_end(uint32_t state);
bool tcp_has_sent_end(uint32_t state);

/* Addresses as the image has them, checked. Return 0 or negative. */
int tcp_read_address(const ProtobufCBinaryData *saved, struct sockaddr_storage *ret, struct err *e);
int tcp_read_end(const Pb__TcpConnection *pb, struct inet_end *ret, struct err *e);

/* Another fd of a socket, at or above `base`. */
int tcp_duplicate(int fd, int base, struct err *e);

int tcp_connection_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e);
int tcp_connection_last(struct restore_objects *r, int fd, const ProtobufCMessage *m, struct err *e);
void tcp_connection_release(struct restore_objects *r, const ProtobufCMessage *m);
