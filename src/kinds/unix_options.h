/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Options of unix sockets that a program may have set. */

#include "image/pb.h"
#include "util/err.h"

struct collect;

int unix_options_collect(struct collect *c, int fd, Pb__UnixSocket *pb, struct err *e);
int unix_options_restore(int fd, const Pb__UnixSocket *pb, struct err *e);
