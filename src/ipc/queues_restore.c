/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The restore's side of System V message queues. One that is there is treated as a
 * POSIX message queue is (kinds/message_queue.c): others may have sent to it. One
 * that is gone is made again; a task of the tree sends the last message, so that
 * the queue is known to be the tree's.
 */

#include <errno.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/syscall.h>

#include "ipc/ipc.h"
#include "util/next_id.h"

enum { QUEUES_MAX = 32768, PERMISSIONS = 0777, TYPE_SIZE = sizeof(long), MESSAGE_MAX = 1 << 24 };

static int queue_changed(const Pb__SysvQueue *pb, const char *how, struct err *e)
{
	err_state(e, "E-MSG-CHANGED", 0, "the System V message queue %d (key %#x) %s", pb->id, pb->key, how);
	return err_help(e, "remove it, if nobody needs it: ipcrm -q %d", pb->id);
}

static bool message_is(const Pb__SysvMessage *a, const Pb__SysvMessage *b)
{
	return a->type == b->type && pb_same_bytes(&a->data, b->data.data, b->data.len);
}

/* Does all that waited still wait, in this order? Or nothing any more: then it is sent again in the end. */
static int queue_compare(struct ipc_restore *r, const Pb__SysvQueue *pb, const struct msqid_ds *ds, struct err *e)
{
	Pb__SysvMessage **now = NULL;
	size_t n = 0, found = 0;
	int result = queue_copy_messages(r->arena, pb->id, ds->msg_qnum, ds->__msg_cbytes, &now, &n);

	if (result < 0)
		return err_sys(e, result, "looking at the messages of the System V message queue %d", pb->id);
	for (size_t i = 0; found < pb->n_messages && i < n; i++)
		found += message_is(pb->messages[found], now[i]);
	if (found == pb->n_messages || !n || r->allow_changed)
		return 0;
	return queue_changed(pb, "lost messages that waited in it since the image was taken", e);
}

/* 1: it is there; 0: it is gone; or negative. */
static int queue_find(struct ipc_restore *r, const Pb__SysvQueue *pb, struct err *e)
{
	struct msqid_ds ds;

	if (msgctl(pb->id, IPC_STAT, &ds) < 0) {
		if (errno == EINVAL || errno == EIDRM)
			return 0;
		return queue_changed(pb, "belongs to somebody else now", e);
	}
	if ((uint32_t)ds.msg_perm.__key != pb->key)
		return queue_changed(pb, "cannot have its id again, which another one has now", e);
	return queue_compare(r, pb, &ds, e) < 0 ? -1 : 1;
}

static int queue_make(const Pb__SysvQueue *pb, struct err *e)
{
	int r;

	if (pb->key != IPC_PRIVATE && msgget((key_t)pb->key, 0) >= 0)
		return queue_changed(pb, "cannot have its key again, which another one has now", e);
	r = next_id_make(NEXT_ID_MSG, pb->id, (key_t)pb->key, 0, e);
	if (r < 0)
		return err_wrap(e, "the System V message queue %d (key %#x) is gone", pb->id, pb->key);
	return r > 0 ? queue_changed(pb, "cannot have its id again: the kernel gives another one", e) : 0;
}

static bool message_is_possible(const Pb__SysvMessage *m)
{
	return m->type > 0 && m->data.len <= MESSAGE_MAX;
}

/* A buffer as msgsnd(2) wants it. */
static void message_put(char *buf, const Pb__SysvMessage *m)
{
	memcpy(buf, &m->type, TYPE_SIZE);
	if (m->data.len)
		memcpy(buf + TYPE_SIZE, m->data.data, m->data.len);
}

static int queue_send(struct ipc_restore *r, const Pb__SysvQueue *pb, size_t n, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		char *buf = arena_alloc(r->arena, TYPE_SIZE + pb->messages[i]->data.len);

		if (!buf)
			return err_nomem(e);
		message_put(buf, pb->messages[i]);
		if (msgsnd(pb->id, buf, pb->messages[i]->data.len, IPC_NOWAIT) < 0)
			return err_sys(e, errno, "sending %zu bytes to the System V message queue %d",
				       pb->messages[i]->data.len, pb->id);
	}
	return 0;
}

static int queue_set(const Pb__SysvQueue *pb, struct err *e)
{
	struct msqid_ds ds;

	if (msgctl(pb->id, IPC_STAT, &ds) < 0)
		return err_sys(e, errno, "examining the System V message queue %d", pb->id);
	ds.msg_perm.mode = (unsigned short)(pb->mode & PERMISSIONS);
	ds.msg_perm.uid = pb->uid;
	ds.msg_perm.gid = pb->gid;
	ds.msg_qbytes = pb->bytes_max;
	if (msgctl(pb->id, IPC_SET, &ds) < 0)
		return err_sys(e, errno, "setting mode, owner and size (%lu) of the System V message queue %d", pb->bytes_max,
			       pb->id);
	return 0;
}

/* Does a task send the last message? */
static bool queue_has_user(const Pb__Image *img, size_t index)
{
	for (size_t i = 0; i < img->n_tasks; i++)
		for (size_t k = 0; k < img->tasks[i]->n_sysv_queue_uses; k++)
			if (img->tasks[i]->sysv_queue_uses[k]->queue == index && img->tasks[i]->sysv_queue_uses[k]->last)
				return true;
	return false;
}

/* It is there, and knows who used it: the tasks have nothing to do for it. */
static void queue_drop_uses(const Pb__Image *img, size_t index)
{
	for (size_t i = 0; i < img->n_tasks; i++) {
		Pb__Task *t = img->tasks[i];
		size_t n = 0;

		for (size_t k = 0; k < t->n_sysv_queue_uses; k++)
			if (t->sysv_queue_uses[k]->queue != index)
				t->sysv_queue_uses[n++] = t->sysv_queue_uses[k];
		t->n_sysv_queue_uses = n;
	}
}

static int queue_check(const Pb__SysvQueue *pb, struct err *e)
{
	bool good = pb->id >= 0;

	for (size_t i = 0; good && i < pb->n_messages; i++)
		good = message_is_possible(pb->messages[i]);
	return good ? 0 : err_set(e, ERR_IMAGE, 0, "the System V message queue %d is damaged", pb->id);
}

static int queue_restore(struct ipc_restore *r, size_t index, bool *ret_made, struct err *e)
{
	const Pb__SysvQueue *pb = r->image->sysv_queues[index];
	int found = queue_check(pb, e) < 0 ? -1 : queue_find(r, pb, e);

	if (found < 0 || (!found && queue_make(pb, e) < 0))
		return -1;
	*ret_made = !found;
	if (found) {
		queue_drop_uses(r->image, index);
		return 0;
	}
	if (queue_set(pb, e) < 0)
		return -1;
	return queue_send(r, pb, pb->n_messages - (pb->n_messages && queue_has_user(r->image, index)), e);
}

int queues_restore(struct ipc_restore *r, struct err *e)
{
	const Pb__Image *img = r->image;

	if (img->n_sysv_queues > QUEUES_MAX)
		return err_set(e, ERR_IMAGE, 0, "the image has %zu message queues", img->n_sysv_queues);
	r->queue_made = arena_alloc(r->arena, img->n_sysv_queues + 1);
	if (!r->queue_made)
		return err_nomem(e);
	for (; r->n_queues < img->n_sysv_queues; r->n_queues++) {
		r->queue_made[r->n_queues] = false;
		if (queue_restore(r, r->n_queues, &r->queue_made[r->n_queues], e) < 0) {
			r->n_queues++;
			return -1;
		}
	}
	return 0;
}

int queues_complete(struct ipc_restore *r, struct err *e)
{
	for (size_t i = 0; i < r->n_queues; i++) {
		const Pb__SysvQueue *pb = r->image->sysv_queues[i];
		struct msqid_ds ds;

		if (r->queue_made[i] || !pb->n_messages || r->allow_changed)
			continue;
		if (msgctl(pb->id, IPC_STAT, &ds) < 0)
			return err_sys(e, errno, "examining the System V message queue %d", pb->id);
		if (!ds.msg_qnum && queue_send(r, pb, pb->n_messages, e) < 0)
			return -1;
	}
	return 0;
}

void queues_done(struct ipc_restore *r, bool failed)
{
	for (size_t i = 0; failed && i < r->n_queues; i++)
		if (r->queue_made[i])
			msgctl(r->image->sysv_queues[i]->id, IPC_RMID, NULL);
	r->n_queues = 0;
}

/* ---- in a task ---- */

enum { STEPS_PER_USE = 2, DUMMY_TYPE = 1 };

size_t queues_script_ops(const Pb__Task *task)
{
	return task->n_sysv_queue_uses * STEPS_PER_USE;
}

size_t queues_script_bytes(const Pb__Task *task)
{
	size_t bytes = 0;

	for (size_t i = 0; i < task->n_sysv_queue_uses; i++)
		bytes += 64 + (task->sysv_queue_uses[i]->last ? task->sysv_queue_uses[i]->last->data.len : 0);
	return bytes;
}

/* The last message; or where none waits, one that is received at once. */
static int script_use(struct script_builder *b, struct region *region, int id, const Pb__SysvMessage *m, struct err *e)
{
	static const long dummy = DUMMY_TYPE;
	size_t size = m ? m->data.len : 0;
	char *buf = region_alloc(region, TYPE_SIZE + size);

	if (!buf)
		return err_set(e, ERR_SYSTEM, 0, "the region for the switch is full");
	if (m)
		message_put(buf, m);
	else
		memcpy(buf, &dummy, TYPE_SIZE);
	script_call(b, SCRIPT_MUST, "sending to a message queue", SYS_msgsnd, (uint64_t)id, (uint64_t)buf, size,
		    IPC_NOWAIT);
	if (!m)
		script_call(b, SCRIPT_MUST, "receiving from a message queue", SYS_msgrcv, (uint64_t)id, (uint64_t)buf, 0,
			    dummy, IPC_NOWAIT);
	return 0;
}

int queues_restore_script(const Pb__Image *img, const Pb__Task *task, struct region *region, struct script_builder *b,
			  struct err *e)
{
	for (size_t i = 0; i < task->n_sysv_queue_uses; i++) {
		const Pb__SysvQueueUse *use = task->sysv_queue_uses[i];

		if (use->queue >= img->n_sysv_queues || (use->last && !message_is_possible(use->last)))
			return err_set(e, ERR_IMAGE, 0, "task %d uses the message queue %u, which is not there", task->pid,
				       use->queue);
		if (script_use(b, region, img->sysv_queues[use->queue]->id, use->last, e) < 0)
			return -1;
	}
	return 0;
}
