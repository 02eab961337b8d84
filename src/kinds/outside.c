/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What leads out of the tree by a standard stream: the terminal a program was
 * started from, the pipe of a shell. The restored program gets the stream of the
 * restoring command in its place.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <termios.h>

#include "kinds/kind.h"
#include "util/fd.h"

static bool outside_match(const struct fd_view *v)
{
	return v->peer_outside && v->stream >= 0;
}

/* A full-screen program has set modes that the shell takes back while it sleeps. */
static int outside_collect_modes(struct collect *c, const struct fd_view *v, Pb__Outside *pb, struct err *e)
{
	struct err ignored = ERR_INIT;
	cleanup_close int fd = kind_steal(v, &ignored);
	struct termios modes;

	if (fd < 0 || tcgetattr(fd, &modes) < 0)
		return 0;
	return pb_set_bytes(c->arena, pb, termios, &modes, sizeof(modes)) ? 0 : err_nomem(e);
}

static int outside_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__Outside *pb = (Pb__Outside *)m;

	pb->stream = (uint32_t)v->stream;
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->what = arena_strdup(c->arena, v->link);
	pb_set(pb, terminal, v->terminal);
	if (!pb->what)
		return err_nomem(e);
	return v->terminal ? outside_collect_modes(c, v, pb, e) : 0;
}

/* Is this description, as it is, what the program had? */
static bool outside_fits(int now, int wanted)
{
	const int status = O_APPEND | O_NONBLOCK;
	int has = now & O_ACCMODE, needs = wanted & O_ACCMODE;

	return (has == needs || has == O_RDWR) && (now & status) == (wanted & status);
}

/*
 * Flags belong to the description, which the shell and others share: where they
 * must differ, the same file is opened anew. A regular file is not, because its
 * offset is shared on purpose; a socket cannot be.
 */
static int outside_reopen(int stream, int flags)
{
	struct stat st;
	char path[64];

	if (fstat(stream, &st) < 0 || S_ISREG(st.st_mode) || S_ISSOCK(st.st_mode))
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", stream);
	return open(path, (flags & (O_ACCMODE | O_APPEND | O_NONBLOCK)) | O_NOCTTY | O_CLOEXEC);
}

static int outside_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Outside *pb = (const Pb__Outside *)m;
	int stream, now, fd = -1;

	if (pb->stream > 2)
		return err_set(e, ERR_IMAGE, 0, "standard stream %u does not exist", pb->stream);
	stream = r->streams[pb->stream];
	now = stream < 0 ? -1 : fcntl(stream, F_GETFL);
	if (now < 0) { /* the restoring command runs without it */
		fd = open("/dev/null", (int)(pb->flags & O_ACCMODE) | O_CLOEXEC);
		return fd < 0 ? err_sys(e, errno, "/dev/null") : kind_raise_fd(fd, r->fd_base, e);
	}
	if (!outside_fits(now, (int)pb->flags))
		fd = outside_reopen(stream, (int)pb->flags);
	if (fd < 0)
		fd = fcntl(stream, F_DUPFD_CLOEXEC, r->fd_base);
	if (fd < 0)
		return err_sys(e, errno, "duplicating standard stream %u", pb->stream);
	return kind_raise_fd(fd, r->fd_base, e);
}

static void outside_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__Outside *pb = (const Pb__Outside *)m;
	static const char *const names[] = { "standard input", "standard output", "standard error" };

	snprintf(buf, size, "%s (was %s)", pb->stream < 3 ? names[pb->stream] : "?", pb->what ? pb->what : "?");
}

const struct kind kind_outside = {
	.name = "outside",
	.tag = 1,
	.message = &pb__outside__descriptor,
	.match = outside_match,
	.collect = outside_collect,
	.restore = outside_restore,
	.describe = outside_describe,
};
