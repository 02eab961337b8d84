/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/socket/inet_address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "util/err.h"
#include "util/privilege.h"

const char *inet_address_text(const struct sockaddr_storage *a, char buf[INET_ADDRESS_TEXT])
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (a->ss_family == AF_INET6)
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)a)->sin6_addr, host, sizeof(host));
	else
		inet_ntop(AF_INET, &((const struct sockaddr_in *)a)->sin_addr, host, sizeof(host));
	snprintf(buf, INET_ADDRESS_TEXT, a->ss_family == AF_INET6 ? "[%s]:%u" : "%s:%u", host, inet_port(a));
	return buf;
}

int inet_address_fail(const char *what, const struct sockaddr_storage *a, int number, struct err *e)
{
	char text[INET_ADDRESS_TEXT];

	number = number < 0 ? -number : number;
	if (number == ENETUNREACH || number == EHOSTUNREACH) {
		err_state(e, "E-INET-ROUTE", number, "%s %s", what, inet_address_text(a, text));
		return err_help(e, "restore it where there is a way to that address");
	}
	if (number != EADDRINUSE && number != EADDRNOTAVAIL) {
		err_sys(e, number, "%s %s", what, inet_address_text(a, text));
		if (number != EACCES)
			return -1;
		err_id(e, "E-INET-PORT");
		return err_help(e, "restore it as root or with CAP_NET_BIND_SERVICE, or permit the port: "
				   "net.ipv4.ip_unprivileged_port_start");
	}
	err_state(e, "E-INET-ADDRESS", number, "%s %s", what, inet_address_text(a, text));
	if (number == EADDRINUSE)
		return err_help(e, "end the program that has this address, or wait for a minute");
	return err_help(e, "restore it where the machine has this address, and it is free");
}

int inet_address_bind(int fd, const struct sockaddr_storage *a, const char *what, struct err *e)
{
	cleanup_privilege struct privilege p = { 0 };

	if (bind(fd, (const struct sockaddr *)a, inet_address_size(a)) == 0)
		return 0;
	if (errno == EACCES) {
		p = privilege_raise(PRIVILEGE(CAP_NET_BIND_SERVICE));
		if (bind(fd, (const struct sockaddr *)a, inet_address_size(a)) == 0)
			return 0;
	}
	return inet_address_fail(what, a, errno, e);
}

socklen_t inet_address_size(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

int inet_address_parse(const void *data, size_t size, struct sockaddr_storage *ret)
{
	*ret = (struct sockaddr_storage){ 0 };
	if (size < sizeof(sa_family_t) || size > sizeof(*ret))
		return -EINVAL;
	memcpy(ret, data, size);
	return (ret->ss_family == AF_INET || ret->ss_family == AF_INET6) && size == inet_address_size(ret) ? 0 : -EINVAL;
}

unsigned inet_port(const struct sockaddr_storage *a)
{
	return ntohs(a->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)a)->sin6_port :
						((const struct sockaddr_in *)a)->sin_port);
}

void inet_set_port(struct sockaddr_storage *a, unsigned port)
{
	if (a->ss_family == AF_INET6)
		((struct sockaddr_in6 *)a)->sin6_port = htons((uint16_t)port);
	else
		((struct sockaddr_in *)a)->sin_port = htons((uint16_t)port);
}

struct in6_addr inet_mapped(const struct sockaddr_storage *a)
{
	struct in6_addr mapped = { .s6_addr = { [10] = 0xff, [11] = 0xff } };

	if (a->ss_family == AF_INET6)
		return ((const struct sockaddr_in6 *)a)->sin6_addr;
	memcpy(&mapped.s6_addr[12], &((const struct sockaddr_in *)a)->sin_addr, sizeof(struct in_addr));
	return mapped;
}

static bool inet_is_loopback(const struct in6_addr *a)
{
	return IN6_IS_ADDR_LOOPBACK(a) || (IN6_IS_ADDR_V4MAPPED(a) && a->s6_addr[12] == 127);
}

void inet_set_loopback(struct sockaddr_storage *a)
{
	struct in6_addr address = inet_mapped(a), *v6 = &((struct sockaddr_in6 *)a)->sin6_addr;

	if (a->ss_family == AF_INET)
		((struct sockaddr_in *)a)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else if (IN6_IS_ADDR_V4MAPPED(&address))
		memcpy(&v6->s6_addr[12], &(in_addr_t){ htonl(INADDR_LOOPBACK) }, sizeof(in_addr_t));
	else
		*v6 = in6addr_loopback;
}

bool inet_same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	struct in6_addr x = inet_mapped(a), y = inet_mapped(b);

	return inet_port(a) == inet_port(b) && memcmp(&x, &y, sizeof(x)) == 0;
}

static bool inet_is_unspecified(const struct in6_addr *a)
{
	return IN6_IS_ADDR_UNSPECIFIED(a) || (IN6_IS_ADDR_V4MAPPED(a) && !memcmp(&a->s6_addr[12], "\0\0\0", 4));
}

bool inet_is_bound(const struct sockaddr_storage *a)
{
	struct in6_addr host = inet_mapped(a);

	return inet_port(a) || !inet_is_unspecified(&host);
}

bool inet_is_at(const struct sockaddr_storage *bound, const struct sockaddr_storage *a)
{
	struct in6_addr host = inet_mapped(bound);

	return inet_is_unspecified(&host) ? inet_port(bound) == inet_port(a) : inet_same_address(bound, a);
}

bool inet_is_local(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	struct in6_addr x = inet_mapped(a), y = inet_mapped(b);

	return inet_is_loopback(&x) || inet_is_loopback(&y) || memcmp(&x, &y, sizeof(x)) == 0;
}
