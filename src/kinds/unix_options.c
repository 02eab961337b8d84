/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/unix_options.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "kinds/kind.h"

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif
#ifndef SO_INQ
#define SO_INQ 84
#endif

/* ---- dump ---- */

/* Options that a program may have set, with the value of a new socket. The buffers' sizes vary: see below. */
static const struct unix_option {
	int name;
	socklen_t size;
	int64_t usual;
} unix_options[] = {
	{ SO_SNDBUF, sizeof(int), INT64_MIN },
	{ SO_RCVBUF, sizeof(int), INT64_MIN },
	{ SO_PASSCRED, sizeof(int), 0 },
	{ SO_PASSPIDFD, sizeof(int), 0 },
	{ SO_PASSSEC, sizeof(int), 0 },
	{ SO_PASSRIGHTS, sizeof(int), 1 },
	{ SO_INQ, sizeof(int), 0 },
	{ SO_PRIORITY, sizeof(int), 0 },
	{ SO_RCVLOWAT, sizeof(int), 1 },
	{ SO_PEEK_OFF, sizeof(int), -1 },
	{ SO_RCVTIMEO, sizeof(struct timeval), 0 },
	{ SO_SNDTIMEO, sizeof(struct timeval), 0 },
};

static const size_t unix_n_options = sizeof(unix_options) / sizeof(*unix_options);

static bool unix_is_usual(const struct unix_option *option, const void *value)
{
	static const struct timeval never;
	int number;

	if (option->size == sizeof(never))
		return memcmp(value, &never, sizeof(never)) == 0;
	memcpy(&number, value, sizeof(number));
	return number == option->usual;
}

int unix_options_collect(struct collect *c, int fd, Pb__UnixSocket *pb, struct err *e)
{
	for (size_t i = 0; i < unix_n_options; i++) {
		const struct unix_option *option = &unix_options[i];
		Pb__SocketOption *saved;
		char value[sizeof(struct timeval)];
		socklen_t size = option->size;

		if (getsockopt(fd, SOL_SOCKET, option->name, value, &size) < 0) /* an older kernel */
			continue;
		if (size != option->size || unix_is_usual(option, value))
			continue;
		saved = pb_new(c->arena, Pb__SocketOption, pb__socket_option__init);
		if (!saved || !pb_add(c->arena, pb, options, saved))
			return err_nomem(e);
		saved->level = SOL_SOCKET;
		saved->name = (uint32_t)option->name;
		saved->value.len = size;
		saved->value.data = arena_memdup(c->arena, value, size);
		if (!saved->value.data)
			return err_nomem(e);
	}
	return 0;
}

/* ---- restore ---- */

static const struct unix_option *unix_find_option(const Pb__SocketOption *saved)
{
	for (size_t i = 0; i < unix_n_options; i++)
		if (saved->level == SOL_SOCKET && saved->name == (uint32_t)unix_options[i].name &&
		    saved->value.len == unix_options[i].size)
			return &unix_options[i];
	return NULL;
}

/* Left alone where a new socket has that size already: more than the administrator allows cannot be set. */
static int unix_set_buffer(int fd, const Pb__SocketOption *saved, struct err *e)
{
	int value, now;
	socklen_t size = sizeof(now);

	memcpy(&value, saved->value.data, sizeof(value));
	if (getsockopt(fd, SOL_SOCKET, (int)saved->name, &now, &size) == 0 && now == value)
		return 0;
	value /= 2; /* the kernel doubles it */
	if (setsockopt(fd, SOL_SOCKET, (int)saved->name, &value, sizeof(value)) < 0)
		return err_sys(e, errno, "setting the size of a socket's buffer to %d", value);
	return 0;
}

int unix_options_restore(int fd, const Pb__UnixSocket *pb, struct err *e)
{
	for (size_t i = 0; i < pb->n_options; i++) {
		const Pb__SocketOption *saved = pb->options[i];
		const struct unix_option *option = unix_find_option(saved);

		if (!option)
			return err_set(e, ERR_IMAGE, 0, "a unix socket with the unknown option %u", saved->name);
		if (option->usual == INT64_MIN) {
			if (unix_set_buffer(fd, saved, e) < 0)
				return -1;
		} else if (setsockopt(fd, SOL_SOCKET, option->name, saved->value.data, option->size) < 0) {
			return err_sys(e, errno, "setting socket option %d", option->name);
		}
	}
	return 0;
}
