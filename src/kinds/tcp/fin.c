/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/tcp/fin.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h>
#include <poll.h>

#include "kinds/socket/inet_packet.h"
#include "kinds/tcp/lock.h"
#include "util/err.h"

enum { FIN_PATIENCE_MS = 2000 };

static struct tcphdr fin_segment(const struct inet_end *end, uint32_t sequence, uint32_t acknowledged)
{
	return (struct tcphdr){
		.source = htons((uint16_t)inet_port(&end->remote)),
		.dest = htons((uint16_t)inet_port(&end->local)),
		.seq = htonl(sequence),
		.ack_seq = htonl(acknowledged),
		.doff = sizeof(struct tcphdr) / 4,
		.fin = 1,
		.ack = 1,
		.window = htons(UINT16_MAX),
	};
}

int tcp_fin_deliver(int fd, const struct inet_end *end, uint32_t sequence, uint32_t acknowledged, struct err *e)
{
	struct tcphdr tcp = fin_segment(end, sequence, acknowledged);
	const struct inet_packet packet = {
		.from = &end->remote,
		.to = &end->local,
		.protocol = IPPROTO_TCP,
		.data = &tcp,
		.size = sizeof(tcp),
		.checksum = &tcp.check,
		.mark = TCP_LOCK_MARK,
	};
	struct pollfd p = { .fd = fd, .events = POLLRDHUP };
	int r = inet_packet_send(&packet);

	if (r < 0) {
		err_sys(e, r, "half closing a TCP connection again");
		if (r != -EPERM)
			return -1;
		err_id(e, "E-TCP-PRIVILEGE");
		return err_help(e, "restore it with CAP_NET_RAW, or as root");
	}
	if (poll(&p, 1, FIN_PATIENCE_MS) != 1)
		return err_set(e, ERR_SYSTEM, 0, "a TCP connection could not be half closed again");
	return 0;
}
