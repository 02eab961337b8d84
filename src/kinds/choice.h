/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>

/* What may be let go that cannot be saved, as whoever asked for the dump decided. */
struct collect_choice {
	bool external;  /* pipes and sockets that lead outside the tree: the other end is closed; shared segments */
	bool tcp_close; /* TCP connections that lead outside the tree: the program finds them reset */
};
