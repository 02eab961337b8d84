/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Names of unix sockets: what sun_path holds, without the NUL that ends a path.
 * An abstract name begins with NUL. A path is kept as it was given to bind(2),
 * be it relative; the file it led to is only a way to find the socket.
 */

#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "image/pb.h"
#include "util/err.h"

struct collect;
struct fd_view;
struct restore_objects;

enum { UNIX_NAME_MAX = sizeof(((struct sockaddr_un *)0)->sun_path) };

/* For people; an abstract name begins with "@". */
void unix_name_print(const void *name, size_t size, char *buf, size_t room);

/* The size of a name in a socket address, given that of sun_path's bytes. */
size_t unix_name_size(const char *name, size_t size);

/*
 * The file of a socket that is bound to a path. NULL in *ret when no file is left
 * that leads to it, or it has no path.
 */
int unix_name_find_file(struct collect *c, const struct fd_view *v, Pb__UnixFile **ret, struct err *e);

/*
 * Bind a new socket. Where there is no `file`, no file is left behind either, and
 * nothing that stands at that path is touched. Returns a handle (O_PATH) by which
 * others can reach the socket, UNIX_NAME_ABSTRACT, or negative.
 */
enum { UNIX_NAME_ABSTRACT = 0 };
int unix_name_bind(struct restore_objects *r, int fd, const ProtobufCBinaryData *name, const Pb__UnixFile *file,
		   struct err *e);

/* The address by which such a socket is reached; returns its size. */
socklen_t unix_name_reach(int handle, const ProtobufCBinaryData *name, struct sockaddr_un *ret);
