/* SPDX-License-Identifier: Apache-2.0 */

/*
 * POSIX message queues. A queue with a name lives on when the tree has ended, as
 * a file does, and others may send to it meanwhile. So at restore one that is
 * there stays as it is if all that waited in it still does; if nothing is left in
 * it (an image that is restored a second time), what waited is sent once more.
 */

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "kinds/kind.h"
#include "kinds/place.h"
#include "kinds/queue_content.h"
#include "util/fd.h"

enum { QUEUE_TAG = 35, QUEUE_MESSAGES_MAX = 65536, QUEUE_SIZE_MAX = 16 * 1024 * 1024, PERMISSIONS = 07777 };

static const char queue_deleted[] = " (deleted)";

static bool message_queue_match(const struct fd_view *v)
{
	return v->message_queue && !(v->info.flags & O_PATH);
}

/* ---- dump ---- */

/* Does it end in what the kernel shows behind a name that is gone? */
static bool queue_cut_deleted(char *name)
{
	size_t size = strlen(name), cut = strlen(queue_deleted);
	bool deleted = size > cut && strcmp(name + size - cut, queue_deleted) == 0;

	if (deleted)
		name[size - cut] = '\0';
	return deleted;
}

static int queue_collect_name(struct collect *c, const struct fd_view *v, Pb__MessageQueue *pb, struct err *e)
{
	pb->name = arena_strdup(c->arena, v->link);
	if (!pb->name)
		return err_nomem(e);
	pb_set(pb, unlinked, !v->st.st_nlink);
	if (pb->unlinked)
		queue_cut_deleted(pb->name);
	return 0;
}

/* Somebody who wants to be told of the next message (mq_notify(3)); 0: nobody. */
static pid_t queue_notified(int fd)
{
	char text[128] = "";
	const char *pid;

	if (pread(fd, text, sizeof(text) - 1, 0) < 0)
		return 0;
	pid = strstr(text, "NOTIFY_PID:");
	return pid ? atoi(pid + strlen("NOTIFY_PID:")) : 0;
}

/* What a queue holds is told by the first description of it. */
static bool queue_is_first(const struct collect *c, const struct fd_view *v)
{
	for (const struct fd_view *other = c->views.v; other < v; other++)
		if (other->message_queue && other->st.st_ino == v->st.st_ino && other->st.st_dev == v->st.st_dev)
			return false;
	return true;
}

static int queue_collect_messages(struct collect *c, const struct fd_view *v, int fd, size_t n, Pb__MessageQueue *pb,
				  struct err *e)
{
	if (c->look_only || !n)
		return 0;
	if (queue_peek(c->arena, fd, n, pb->message_size, &pb->messages, &pb->n_messages, e) < 0)
		return err_wrap(e, "looking at the messages of %s", v->link);
	return 0;
}

static int message_queue_collect(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e)
{
	Pb__MessageQueue *pb = (Pb__MessageQueue *)m;
	struct err ignored = ERR_INIT;
	cleanup_close int fd = kind_reopen(v, O_RDWR | O_NONBLOCK | O_CLOEXEC, &ignored);
	struct mq_attr attr;
	pid_t notified;

	if (fd < 0 || mq_getattr(fd, &attr) < 0)
		return kind_refuse(c, v, "E-FD-MQUEUE", "permit it by the mode of the queue",
				   "is a POSIX message queue that torpor may not read and write");
	if (queue_collect_name(c, v, pb, e) < 0)
		return -1;
	pb->flags = v->info.flags & ~(O_CLOEXEC | O_CREAT | O_EXCL);
	pb->ino = v->st.st_ino;
	pb_set(pb, mode, v->st.st_mode);
	pb_set(pb, uid, v->st.st_uid);
	pb_set(pb, gid, v->st.st_gid);
	pb->max_messages = (uint32_t)attr.mq_maxmsg;
	pb->message_size = (uint32_t)attr.mq_msgsize;
	notified = queue_notified(fd);
	/* The kernel does not tell the value that the signal carries. Taking the messages out would trigger it, too. */
	if (notified && (target_find(c->tree, notified) || attr.mq_curmsgs))
		return kind_refuse(c, v, "E-FD-MQUEUE-NOTIFY",
				   "let the program end the notification, or receive by a blocking call",
				   "is a POSIX message queue that notifies process %d of messages (mq_notify)", notified);
	return queue_is_first(c, v) ? queue_collect_messages(c, v, fd, (size_t)attr.mq_curmsgs, pb, e) : 0;
}

/* ---- restore ---- */

static int queue_changed(const Pb__MessageQueue *pb, const char *how, struct err *e)
{
	err_state(e, "E-MQUEUE-CHANGED", 0, "the POSIX message queue %s %s since the image was taken", pb->name, how);
	return err_help(e, "remove it, or accept it as it is with --allow-changed-files");
}

static int queue_check(const Pb__MessageQueue *pb, struct err *e)
{
	if (pb->name[0] != '/' || strchr(pb->name + 1, '/') || !pb->max_messages || pb->max_messages > QUEUE_MESSAGES_MAX ||
	    !pb->message_size || pb->message_size > QUEUE_SIZE_MAX || pb->n_messages > pb->max_messages)
		return err_set(e, ERR_IMAGE, 0, "the POSIX message queue %s is damaged", pb->name);
	return 0;
}

static bool queue_message_is(const Pb__QueuedMessage *a, const Pb__QueuedMessage *b)
{
	return a->priority == b->priority && pb_same_bytes(&a->data, b->data.data, b->data.len);
}

/* Does all that waited still wait, in this order, whatever came between? */
static bool queue_still_holds(const Pb__MessageQueue *pb, Pb__QueuedMessage *const *now, size_t n)
{
	size_t found = 0;

	for (size_t i = 0; found < pb->n_messages && i < n; i++)
		found += queue_message_is(pb->messages[found], now[i]);
	return found == pb->n_messages;
}

/* It is there. */
static int queue_take_over(struct restore_objects *r, const Pb__MessageQueue *pb, int fd, struct err *e)
{
	Pb__QueuedMessage **now = NULL;
	struct mq_attr attr;
	size_t n;

	if (mq_getattr(fd, &attr) < 0)
		return err_sys(e, errno, "mq_getattr");
	if (r->allow_changed)
		return 0;
	if (attr.mq_maxmsg != (long)pb->max_messages || attr.mq_msgsize != (long)pb->message_size)
		return queue_changed(pb, "was replaced by one of another size", e);
	if (!attr.mq_curmsgs)
		return 0; /* filled at the end: a failed restore changes nothing */
	if (queue_peek(r->arena, fd, (size_t)attr.mq_curmsgs, pb->message_size, &now, &n, e) < 0)
		return -1;
	return queue_still_holds(pb, now, n) ? 0 : queue_changed(pb, "lost messages that waited in it", e);
}

static int queue_fill(const Pb__MessageQueue *pb, int fd, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) == 0 && (st.st_uid != pb->uid || st.st_gid != pb->gid) && fchown(fd, pb->uid, pb->gid) < 0 &&
	    errno != EPERM && errno != EINVAL)
		return err_sys(e, errno, "setting the owner of the POSIX message queue %s", pb->name);
	if (fchmod(fd, pb->mode & PERMISSIONS) < 0)
		return err_sys(e, errno, "setting the mode of the POSIX message queue %s", pb->name);
	return queue_put(fd, pb->messages, pb->n_messages, e);
}

/* Under which name it is found now: its own, or what had to be taken for the moment. */
static bool queue_name(int fd, char ret[PATH_MAX])
{
	char proc[32];
	ssize_t n;

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	n = readlink(proc, ret, PATH_MAX - 1);
	ret[n > 0 ? n : 0] = '\0';
	return n > 0;
}

/* It has lost its name, which another queue of the image has or had as well. */
static bool queue_must_share_name(const struct restore_objects *r, const Pb__MessageQueue *pb)
{
	for (size_t i = 0; pb->unlinked && i < r->n_objects; i++) {
		const Pb__MessageQueue *other = (const Pb__MessageQueue *)r->objects[i].m;

		if (r->objects[i].kind == &kind_message_queue && other->ino != pb->ino &&
		    strcmp(other->name, pb->name) == 0)
			return true;
	}
	return false;
}

static int queue_make(struct restore_objects *r, const Pb__MessageQueue *pb, struct err *e)
{
	struct mq_attr attr = { .mq_maxmsg = pb->max_messages, .mq_msgsize = pb->message_size };
	char spare[64];
	const char *name = pb->name;
	int fd = queue_must_share_name(r, pb) ? -1 : mq_open(name, O_RDWR | O_NONBLOCK | O_CREAT | O_EXCL, 0600, &attr);

	if (fd < 0 && pb->unlinked) { /* its name is another's now */
		snprintf(spare, sizeof(spare), "/torpor-%d-%lu", getpid(), pb->ino);
		name = spare;
		fd = mq_open(name, O_RDWR | O_NONBLOCK | O_CREAT | O_EXCL, 0600, &attr);
	}
	if (fd < 0) {
		err_sys(e, errno, "making a POSIX message queue of %u messages of %u bytes", pb->max_messages,
			pb->message_size);
		return err_help(e, "see the limits in /proc/sys/fs/mqueue, and ulimit -q");
	}
	name = arena_strdup(r->arena, name);
	if (!name)
		return close(fd), err_nomem(e);
	if (place_note_made(r, name, mq_unlink, e) < 0)
		return mq_unlink(name), close(fd), -1;
	if (queue_fill(pb, fd, e) < 0)
		return close(fd), -1;
	return fd;
}

/* The queue itself, open for reading and writing: by its first description. */
static int queue_find_or_make(struct restore_objects *r, const Pb__MessageQueue *pb, struct err *e)
{
	int fd = pb->unlinked ? -1 : mq_open(pb->name, O_RDWR | O_NONBLOCK);

	if (!pb->unlinked && fd < 0 && errno != ENOENT)
		return err_sys(e, errno, "opening the POSIX message queue %s", pb->name);
	if (fd < 0)
		return queue_make(r, pb, e);
	if (queue_take_over(r, pb, fd, e) < 0)
		return close(fd), -1;
	return fd;
}

static int message_queue_restore(struct restore_objects *r, const ProtobufCMessage *m, struct err *e)
{
	const Pb__MessageQueue *pb = (const Pb__MessageQueue *)m;
	cleanup_close int queue = -1, fd = -1;
	char name[PATH_MAX];

	if (queue_check(pb, e) < 0)
		return -1;
	queue = kind_stash_take(r, QUEUE_TAG, pb->ino);
	if (queue < 0)
		queue = queue_find_or_make(r, pb, e);
	if (queue < 0)
		return err_wrap(e, "the POSIX message queue %s", pb->name);
	/* By mq_open(3), which is not quite as open(2) of the fd: it sets no O_LARGEFILE. */
	fd = queue_name(queue, name) ? mq_open(name, (int)pb->flags & (O_ACCMODE | O_NONBLOCK)) : -1;
	if (fd < 0)
		return err_sys(e, errno, "opening the POSIX message queue %s", pb->name);
	/* For the next description of it. */
	queue = kind_raise_fd(fd_take(&queue), r->fd_base, e);
	if (queue < 0 || kind_stash_put(r, QUEUE_TAG, pb->ino, fd_take(&queue), e) < 0)
		return -1;
	return kind_raise_fd(fd_take(&fd), r->fd_base, e);
}

/* It was there and empty. */
static int queue_fill_again(const Pb__MessageQueue *pb, struct err *e)
{
	cleanup_close int queue = mq_open(pb->name, O_RDWR | O_NONBLOCK);
	struct mq_attr attr;

	if (queue < 0 || mq_getattr(queue, &attr) < 0)
		return err_sys(e, errno, "opening the POSIX message queue %s", pb->name);
	return attr.mq_curmsgs ? 0 : queue_put(queue, pb->messages, pb->n_messages, e);
}

static int message_queue_last(struct restore_objects *r, int fd, const ProtobufCMessage *m, struct err *e)
{
	const Pb__MessageQueue *pb = (const Pb__MessageQueue *)m;
	char name[PATH_MAX];

	if (!pb->unlinked)
		return pb->n_messages && !r->allow_changed ? queue_fill_again(pb, e) : 0;
	if (queue_name(fd, name) && !queue_cut_deleted(name))
		mq_unlink(name);
	return 0;
}

static void message_queue_describe(const ProtobufCMessage *m, char *buf, size_t size)
{
	const Pb__MessageQueue *pb = (const Pb__MessageQueue *)m;

	snprintf(buf, size, "%s%s, %zu of %u messages", pb->name, pb->unlinked ? " (unlinked)" : "", pb->n_messages,
		 pb->max_messages);
}

const struct kind kind_message_queue = {
	.name = "message_queue",
	.tag = QUEUE_TAG,
	.message = &pb__message_queue__descriptor,
	.match = message_queue_match,
	.collect = message_queue_collect,
	.restore = message_queue_restore,
	.last = message_queue_last,
	.describe = message_queue_describe,
};
