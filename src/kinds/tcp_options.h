/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Options of TCP sockets: what socket_options.c does not know of them. */

#include "kinds/socket_options.h"

struct err;

/* Add what `fd` has other than a new socket of its family. */
int tcp_options_collect(struct arena *arena, int fd, int family, struct socket_options to, struct err *e);

/* What a program has set that cannot be set again: words to follow "is a TCP socket"; NULL: nothing. */
const char *tcp_options_obstacle(int fd);
