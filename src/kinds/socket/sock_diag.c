/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/socket/sock_diag.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "util/err.h"
#include "util/fd.h"

enum { BUFFER_SIZE = 64 * 1024 };

static int sock_diag_ask(int fd, const void *request, size_t size, const char *what, struct err *e)
{
	struct nlmsghdr header = {
		.nlmsg_len = (uint32_t)(sizeof(header) + size),
		.nlmsg_type = SOCK_DIAG_BY_FAMILY,
		.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
	};
	struct iovec parts[] = { { &header, sizeof(header) }, { (void *)request, size } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

	return sendmsg(fd, &message, 0) < 0 ? err_sys(e, errno, "asking sock_diag for %s", what) : 0;
}

/* One datagram of the answer. Returns 1 after the last, 0 when more will come. */
static int sock_diag_read(const void *buffer, size_t size, size_t message_size, sock_diag_take *take, void *data,
			  const char *what, struct err *e)
{
	size_t body = NLMSG_ALIGN(message_size);
	int r = 0;

	for (const struct nlmsghdr *h = buffer; r == 0 && NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
		const char *message = NLMSG_DATA(h);

		if (h->nlmsg_type == NLMSG_DONE)
			return 1;
		if (h->nlmsg_type == NLMSG_ERROR)
			return err_sys(e, ((const struct nlmsgerr *)NLMSG_DATA(h))->error, "sock_diag of %s", what);
		if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY && h->nlmsg_len >= NLMSG_LENGTH(message_size))
			r = take(data, message, (const void *)(message + body), NLMSG_PAYLOAD(h, body), e);
	}
	return r;
}

int sock_diag_dump(const void *request, size_t request_size, size_t message_size, sock_diag_take *take, void *data,
		   const char *what, struct err *e)
{
	cleanup_close int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	char *buffer = malloc(BUFFER_SIZE);
	int r;

	if (fd < 0)
		r = err_sys(e, errno, "opening sock_diag");
	else
		r = buffer ? sock_diag_ask(fd, request, request_size, what, e) : err_nomem(e);
	while (r == 0) {
		ssize_t n = recv(fd, buffer, BUFFER_SIZE, 0);

		if (n >= 0)
			r = sock_diag_read(buffer, (size_t)n, message_size, take, data, what, e);
		else if (errno != EINTR)
			r = err_sys(e, errno, "reading from sock_diag");
	}
	free(buffer);
	return r < 0 ? r : 0;
}
