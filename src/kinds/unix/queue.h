/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a unix socket has received and its program has not read yet, as MSG_PEEK shows it. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct arena;
struct err;
struct unix_view;

/* What one recvmsg(2) gives at most: of a stream, bytes that carry the same. */
struct unix_message {
	const void *data;
	size_t size;
	unsigned *fds;    /* that it carries: duplicates among our own fds, for the reader to close */
	size_t n_fds;
	pid_t pid;        /* whose credentials it has; 0: none are shown */
	const char *from; /* datagram: the name of its sender */
	size_t from_size; /* without the NUL that ends a path */
};

struct unix_queue {
	struct unix_message *v;
	size_t n;
	bool error; /* one that the program has not seen yet */
	bool urgent; /* a byte that was sent with MSG_OOB is in it */
	bool pidfd;  /* the program gets a pidfd of the sender with what is in it (SO_PASSPIDFD) */
};

/*
 * Read the queue of a frozen program's socket through a duplicate of it, and
 * leave it as it was. fds in flight are made at `fd_next` and above, ascending
 * in the order in which they are found, and `fd_next` is left above the last.
 */
int unix_queue_read(struct arena *arena, int fd, const struct unix_view *socket, unsigned *fd_next,
		    struct unix_queue *ret, struct err *e);

