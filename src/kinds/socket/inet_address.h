/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Addresses of internet sockets: IPv4, IPv6, and IPv4 as IPv6 sockets show it, which compare as equal. */

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

struct err;

/* Where one end of a connection is, and the other, as this one's socket sees it: their family is the socket's. */
struct inet_end {
	struct sockaddr_storage local;  /* port 0: any */
	struct sockaddr_storage remote;
};

/* Room for an address in words. */
enum { INET_ADDRESS_TEXT = 80 };

/* "127.0.0.1:80" or "[::1]:80"; returns `buf`. */
const char *inet_address_text(const struct sockaddr_storage *a, char buf[INET_ADDRESS_TEXT]);

/* "WHAT ADDRESS: why it cannot be had", and what would help. `number` is of errno, or negative. */
int inet_address_fail(const char *what, const struct sockaddr_storage *a, int number, struct err *e);

/* bind(2); with CAP_NET_BIND_SERVICE where only that helps: a port below 1024. `what` as above. */
int inet_address_bind(int fd, const struct sockaddr_storage *a, const char *what, struct err *e);

socklen_t inet_address_size(const struct sockaddr_storage *a);

/* One of these two families, and its size. Returns 0, or -EINVAL. */
int inet_address_parse(const void *data, size_t size, struct sockaddr_storage *ret);

/* Is this the address of a socket that was bound? */
bool inet_is_bound(const struct sockaddr_storage *a);

unsigned inet_port(const struct sockaddr_storage *a);
void inet_set_port(struct sockaddr_storage *a, unsigned port);

/* The address as IPv6 has it: an IPv4 one as ::ffff:A.B.C.D. */
struct in6_addr inet_mapped(const struct sockaddr_storage *a);

/* Replace the address by the loopback's of the same family. */
void inet_set_loopback(struct sockaddr_storage *a);

bool inet_same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b);

/* Does a socket that is bound to `bound` own `a`? */
bool inet_is_at(const struct sockaddr_storage *bound, const struct sockaddr_storage *a);

/* Are both on this machine? As far as can be told from a look at them: one is the loopback, or they are the same. */
bool inet_is_local(const struct sockaddr_storage *a, const struct sockaddr_storage *b);
