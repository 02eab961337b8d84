/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/tcp_address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "util/err.h"

const char *tcp_address_text(const struct sockaddr_storage *a, char buf[TCP_ADDRESS_TEXT])
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (a->ss_family == AF_INET6)
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)a)->sin6_addr, host, sizeof(host));
	else
		inet_ntop(AF_INET, &((const struct sockaddr_in *)a)->sin_addr, host, sizeof(host));
	snprintf(buf, TCP_ADDRESS_TEXT, a->ss_family == AF_INET6 ? "[%s]:%u" : "%s:%u", host, tcp_port(a));
	return buf;
}

int tcp_address_fail(const char *what, const struct sockaddr_storage *a, int number, struct err *e)
{
	char text[TCP_ADDRESS_TEXT];

	number = number < 0 ? -number : number;
	if (number != EADDRINUSE && number != EADDRNOTAVAIL) {
		err_sys(e, number, "%s %s", what, tcp_address_text(a, text));
		if (number != EACCES)
			return -1;
		err_id(e, "E-TCP-PORT");
		return err_help(e, "restore it as root, or permit the port: net.ipv4.ip_unprivileged_port_start");
	}
	err_state(e, "E-TCP-ADDRESS", number, "%s %s", what, tcp_address_text(a, text));
	if (number == EADDRINUSE)
		return err_help(e, "end the program that has this address, or wait for a minute");
	return err_help(e, "restore it where the machine has this address, and it is free");
}

socklen_t tcp_address_size(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

int tcp_address_parse(const void *data, size_t size, struct sockaddr_storage *ret)
{
	*ret = (struct sockaddr_storage){ 0 };
	if (size < sizeof(sa_family_t) || size > sizeof(*ret))
		return -EINVAL;
	memcpy(ret, data, size);
	return (ret->ss_family == AF_INET || ret->ss_family == AF_INET6) && size == tcp_address_size(ret) ? 0 : -EINVAL;
}

unsigned tcp_port(const struct sockaddr_storage *a)
{
	return ntohs(a->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)a)->sin6_port :
						((const struct sockaddr_in *)a)->sin_port);
}

void tcp_set_port(struct sockaddr_storage *a, unsigned port)
{
	if (a->ss_family == AF_INET6)
		((struct sockaddr_in6 *)a)->sin6_port = htons((uint16_t)port);
	else
		((struct sockaddr_in *)a)->sin_port = htons((uint16_t)port);
}

struct in6_addr tcp_mapped(const struct sockaddr_storage *a)
{
	struct in6_addr mapped = { .s6_addr = { [10] = 0xff, [11] = 0xff } };

	if (a->ss_family == AF_INET6)
		return ((const struct sockaddr_in6 *)a)->sin6_addr;
	memcpy(&mapped.s6_addr[12], &((const struct sockaddr_in *)a)->sin_addr, sizeof(struct in_addr));
	return mapped;
}

static bool tcp_is_loopback(const struct in6_addr *a)
{
	return IN6_IS_ADDR_LOOPBACK(a) || (IN6_IS_ADDR_V4MAPPED(a) && a->s6_addr[12] == 127);
}

void tcp_set_loopback(struct sockaddr_storage *a)
{
	struct in6_addr address = tcp_mapped(a), *v6 = &((struct sockaddr_in6 *)a)->sin6_addr;

	if (a->ss_family == AF_INET)
		((struct sockaddr_in *)a)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else if (IN6_IS_ADDR_V4MAPPED(&address))
		memcpy(&v6->s6_addr[12], &(in_addr_t){ htonl(INADDR_LOOPBACK) }, sizeof(in_addr_t));
	else
		*v6 = in6addr_loopback;
}

bool tcp_same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	struct in6_addr x = tcp_mapped(a), y = tcp_mapped(b);

	return tcp_port(a) == tcp_port(b) && memcmp(&x, &y, sizeof(x)) == 0;
}

static bool tcp_is_unspecified(const struct in6_addr *a)
{
	return IN6_IS_ADDR_UNSPECIFIED(a) || (IN6_IS_ADDR_V4MAPPED(a) && !memcmp(&a->s6_addr[12], "\0\0\0", 4));
}

bool tcp_is_bound(const struct sockaddr_storage *a)
{
	struct in6_addr host = tcp_mapped(a);

	return tcp_port(a) || !tcp_is_unspecified(&host);
}

bool tcp_is_at(const struct sockaddr_storage *bound, const struct sockaddr_storage *a)
{
	struct in6_addr host = tcp_mapped(bound);

	return tcp_is_unspecified(&host) ? tcp_port(bound) == tcp_port(a) : tcp_same_address(bound, a);
}

bool tcp_is_local(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	struct in6_addr x = tcp_mapped(a), y = tcp_mapped(b);

	return tcp_is_loopback(&x) || tcp_is_loopback(&y) || memcmp(&x, &y, sizeof(x)) == 0;
}
