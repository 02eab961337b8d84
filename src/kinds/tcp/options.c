/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/tcp/options.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "kinds/socket/socket_options.h"
#include "util/privilege.h"

/* Unlike those of other sockets, filters of TCP ones are for the privileged. */
const char *tcp_options_obstacle(int fd)
{
	enum socket_filter filter = socket_options_filter(fd);
	char name[16] = "";
	socklen_t size = sizeof(name);

	if (filter == SOCKET_FILTER_UNREADABLE)
		return "with a packet filter that cannot be read (SO_ATTACH_BPF)";
	if (filter == SOCKET_FILTER_CLASSIC && !privilege_can(PRIVILEGE(CAP_NET_ADMIN)))
		return "with a packet filter (SO_ATTACH_FILTER), which takes CAP_NET_ADMIN";
	if (getsockopt(fd, IPPROTO_TCP, TCP_ULP, name, &size) == 0 && size && name[0])
		return "whose bytes the kernel transforms (TCP_ULP), like TLS";
	return NULL;
}
