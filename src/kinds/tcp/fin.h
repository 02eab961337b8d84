/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The end of what the other side of a connection sends (FIN). It cannot be put
 * into a socket by TCP_REPAIR: it has to arrive as a packet. CAP_NET_RAW.
 */

#include <stdint.h>

#include "kinds/socket/inet_address.h"

struct err;

/* Deliver one, as if the other side had sent it, and wait until it has arrived. */
int tcp_fin_deliver(int fd, const struct inet_end *end, uint32_t sequence, uint32_t acknowledged, struct err *e);
