/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Connections that no packet reaches or leaves (a table of nf_tables), so that
 * the peer neither changes them while they are looked at, nor is told that they
 * are gone while they sleep. CAP_NET_ADMIN.
 */

#include <stddef.h>
#include <stdint.h>

#include "kinds/socket/inet_address.h"

struct arena;
struct err;

struct tcp_lock {
	int fd;           /* the netlink socket that owns the table: when it is closed, the kernel opens the lock */
	const char *name; /* of the table that tcp_lock_persist() makes */
	const struct inet_end *ends;
	size_t n;
};

/* Lock these connections; `ends` must live as long. Whatever becomes of torpor, the lock opens when the fd is closed. */
int tcp_lock_begin(struct tcp_lock *lock, struct arena *arena, const struct inet_end *ends, size_t n, struct err *e);

/* Let a second lock of all these connections outlive torpor. */
int tcp_lock_persist(const struct tcp_lock *lock, struct err *e);

/* Open the lock of this name. None is there, after a reboot, or if the program was never ended: that is no error. */
int tcp_lock_open(const char *name, struct err *e);

/* Packets of torpor itself that pass any lock have this mark (SO_MARK). */
#define TCP_LOCK_MARK 0x746f7270
