/* SPDX-License-Identifier: Apache-2.0 */

/* Character devices without state: /dev/null and its like. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "util/fd.h"

static const struct device_name {
	unsigned minor; /* of major 1 */
	const char *path;
} device_names[] = {
	{ 3, "/dev/null" }, { 5, "/dev/zero" }, { 7, "/dev/full" }, { 8, "/dev/random" }, { 9, "/dev/urandom" },
};

static const char *device_path(uint64_t rdev)
{
	for (size_t i = 0; i < sizeof(device_names) / sizeof(*device_names); i++)
		if (rdev == makedev(1, device_names[i].minor))
			return device_names[i].path;
	return NULL;
}

static bool device_match(const struct fd_view *v)
{
	return S_ISCHR(v->st.st_mode) && !(v->info.flags & O_PATH) && device_path(v->st.st_rdev);
}

static int device_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__Device *pb = (Pb__Device *)m;

	pb->path = arena_strdup(c->arena, v->link);
	pb->flags = v->info.flags & ~O_CLOEXEC;
	pb->rdev = v->st.st_rdev;
	pb_set(pb, offset, v->info.pos);
	return pb->path ? 0 : err_nomem(e);
}

/* An fd, or -errno: -ENODEV when something else is there. */
static int device_open(const char *path, unsigned flags, uint64_t rdev)
{
	cleanup_close int fd = -1;
	struct stat st;

	/* Looked at before it is opened: opening some other device may have effects. */
	if (stat(path, &st) < 0)
		return -errno;
	if (!S_ISCHR(st.st_mode) || st.st_rdev != rdev)
		return -ENODEV;
	fd = open(path, (int)flags | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != rdev)
		return -ENODEV;
	return fd_take(&fd);
}

static int device_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__Device *pb = (const Pb__Device *)m;
	const char *usual = device_path(pb->rdev);
	int fd;

	if (!usual)
		return err_set(e, ERR_IMAGE, 0, "%s: device %u:%u is not one that torpor saves", pb->path,
			       major(pb->rdev), minor(pb->rdev));
	fd = device_open(pb->path, pb->flags, pb->rdev);
	if (fd < 0)
		fd = device_open(usual, pb->flags, pb->rdev);
	if (fd < 0)
		return err_sys(e, fd, "opening %s", usual);
	if (pb->offset)
		lseek(fd, (off_t)pb->offset, SEEK_SET); /* means nothing to these devices */
	return kind_raise_fd(fd, r->fd_base, e);
}

static void device_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	snprintf(buf, size, "%s", ((const Pb__Device *)m)->path);
}

const struct kind kind_device = {
	.name = "device",
	.tag = 5,
	.message = &pb__device__descriptor,
	.match = device_match,
	.collect = device_collect,
	.restore = device_restore,
	.describe = device_describe,
};
