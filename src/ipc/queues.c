/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The dump's side of System V message queues: those that a task of the tree sent
 * to or received from last, or that a thread of it waits for. MSG_COPY shows
 * messages without taking them.
 */

#include <errno.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/syscall.h>

#include "ipc/ipc.h"

/* As MSG_STAT, also of a queue that we may not read (msgctl(2)); since Linux 4.17. */
#ifndef MSG_STAT_ANY
#define MSG_STAT_ANY 13
#endif

enum { PERMISSIONS = 0777, TYPE_SIZE = sizeof(long) };

/* The messages as they wait; -errno when they cannot be seen. */
int queue_copy_messages(struct arena *arena, int id, size_t n, size_t bytes, Pb__SysvMessage ***ret, size_t *ret_n)
{
	struct msgbuf *buf = arena_alloc(arena, TYPE_SIZE + bytes + 1);
	Pb__SysvMessage **messages = arena_alloc(arena, (n + 1) * sizeof(Pb__SysvMessage *));

	if (!buf || !messages)
		return -ENOMEM;
	*ret_n = 0;
	for (size_t i = 0; i < n; i++) {
		ssize_t size = msgrcv(id, buf, bytes, (long)i, MSG_COPY | IPC_NOWAIT);

		if (size < 0)
			return errno == ENOMSG ? 0 : -errno;
		messages[i] = pb_new(arena, Pb__SysvMessage, pb__sysv_message__init);
		if (!messages[i])
			return -ENOMEM;
		messages[i]->type = buf->mtype;
		messages[i]->data = (ProtobufCBinaryData){ (size_t)size, arena_memdup(arena, buf->mtext, (size_t)size) };
		if (!messages[i]->data.data)
			return -ENOMEM;
		*ret = messages;
		*ret_n = i + 1;
	}
	return 0;
}

/* Which task of the tree has this PID and lives? NULL: none. */
static Pb__Task *queue_user(const struct ipc_collect *c, Pb__Image *img, pid_t pid)
{
	for (size_t i = 0; pid > 0 && i < c->tree->n; i++)
		if (c->tree->tasks[i]->pid == pid && !c->tree->tasks[i]->zombie)
			return img->tasks[i];
	return NULL;
}

/* Whoever sent last, sends the last message again, where the queue must be made again. */
static int queue_record_user(struct ipc_collect *c, const struct msqid_ds *ds, const Pb__SysvQueue *pb, Pb__Image *img,
			     struct err *e)
{
	Pb__Task *task = queue_user(c, img, ds->msg_lspid) ?: queue_user(c, img, ds->msg_lrpid);
	Pb__SysvQueueUse *use = task ? pb_new(c->arena, Pb__SysvQueueUse, pb__sysv_queue_use__init) : NULL;

	if (!task)
		return 0;
	if (!use || !pb_add(c->arena, task, sysv_queue_uses, use))
		return err_nomem(e);
	use->queue = (uint32_t)img->n_sysv_queues - 1;
	use->last = pb->n_messages ? pb->messages[pb->n_messages - 1] : NULL;
	return 0;
}

static int queue_record(struct ipc_collect *c, int id, const struct msqid_ds *ds, Pb__Image *img, struct err *e)
{
	Pb__SysvQueue *pb = pb_new(c->arena, Pb__SysvQueue, pb__sysv_queue__init);
	const struct target *t = c->tree->tasks[0];
	int r;

	if (!pb || !pb_add(c->arena, img, sysv_queues, pb))
		return err_nomem(e);
	pb->id = id;
	pb_set(pb, key, (uint32_t)ds->msg_perm.__key);
	pb_set(pb, mode, ds->msg_perm.mode & PERMISSIONS);
	pb_set(pb, uid, ds->msg_perm.uid);
	pb_set(pb, gid, ds->msg_perm.gid);
	pb_set(pb, bytes_max, ds->msg_qbytes);
	r = queue_copy_messages(c->arena, id, ds->msg_qnum, ds->__msg_cbytes, &pb->messages, &pb->n_messages);
	if (r == -ENOMEM)
		return err_nomem(e);
	if (r < 0)
		return obstacle_add(c->obstacles, "E-MSG-COPY", t->pid, t->stat.comm,
				    "let the program empty the queue, or remove it",
				    "the messages in the System V message queue %d (key %#x) cannot be seen (MSG_COPY): %s",
				    id, pb->key, strerror(-r)) < 0 ? err_nomem(e) : 0;
	return queue_record_user(c, ds, pb, img, e);
}

int queues_collect(struct ipc_collect *c, Pb__Image *img, struct err *e)
{
	struct msginfo info;
	int highest = msgctl(0, MSG_INFO, (struct msqid_ds *)&info);

	for (int index = 0; index <= highest; index++) {
		struct msqid_ds ds;
		int id = msgctl(index, MSG_STAT_ANY, &ds);

		if (id < 0)
			id = msgctl(index, MSG_STAT, &ds);
		if (id < 0 || (!target_find(c->tree, ds.msg_lspid) && !target_find(c->tree, ds.msg_lrpid) &&
			       !ipc_is_waited_for(c->tree, id, SYS_msgsnd, SYS_msgrcv)))
			continue;
		if (queue_record(c, id, &ds, img, e) < 0)
			return -1;
	}
	return 0;
}
