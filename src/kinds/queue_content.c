/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Theory of operation: the kernel shows how many messages a queue holds, and
 * yields them only to mq_receive(3), which takes them away. So they are taken and
 * put back while the tree stands still, by a process that survives torpor. The
 * order in which they come is that of their priorities, and within a priority of
 * their age: sent again in the order in which they came, they stand as before.
 */

#include "kinds/queue_content.h"

#include <errno.h>
#include <mqueue.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/err.h"
#include "util/survivor.h"

enum { QUEUE_PATIENCE_MS = 5000, QUEUE_PAUSE_US = 1000 };

struct queue_item {
	unsigned priority;
	size_t size;
	char data[];
};

/* In memory that is shared with the process that looks. */
struct queue_look {
	size_t whole; /* bytes of it all */
	int fd;
	size_t n, message_size, item_size;
	size_t taken;
	int result; /* -errno of what failed */
	char items[];
};

static struct queue_item *queue_item(struct queue_look *look, size_t i)
{
	return (struct queue_item *)(look->items + i * look->item_size);
}

static void queue_take_and_put(void *data)
{
	struct queue_look *look = data;

	for (; look->taken < look->n; look->taken++) {
		struct queue_item *item = queue_item(look, look->taken);
		ssize_t size = mq_receive(look->fd, item->data, look->message_size, &item->priority);

		if (size < 0) {
			look->result = errno == EAGAIN ? 0 : -errno;
			break;
		}
		item->size = (size_t)size;
	}
	for (size_t i = 0; i < look->taken; i++) {
		const struct queue_item *item = queue_item(look, i);

		while (mq_send(look->fd, item->data, item->size, item->priority) < 0) {
			if (errno != EAGAIN) {
				look->result = -errno;
				break;
			}
			/* Somebody has waited for room, and got ours. Whoever receives next, makes new room. */
			usleep(QUEUE_PAUSE_US);
		}
	}
}

static struct queue_look *queue_look_new(int fd, size_t n, size_t message_size)
{
	const int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE;
	size_t item = (sizeof(struct queue_item) + message_size + 7) & ~(size_t)7;
	size_t size = sizeof(struct queue_look) + n * item;
	struct queue_look *look = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (look == MAP_FAILED)
		return NULL;
	look->whole = size;
	look->fd = fd;
	look->n = n;
	look->message_size = message_size;
	look->item_size = item;
	return look;
}

static int queue_copy(struct arena *arena, struct queue_look *look, Pb__QueuedMessage ***ret, size_t *ret_n, struct err *e)
{
	Pb__QueuedMessage **messages = arena_alloc(arena, (look->taken + 1) * sizeof(Pb__QueuedMessage *));

	if (!messages)
		return err_nomem(e);
	for (size_t i = 0; i < look->taken; i++) {
		const struct queue_item *item = queue_item(look, i);

		messages[i] = pb_new(arena, Pb__QueuedMessage, pb__queued_message__init);
		if (!messages[i])
			return err_nomem(e);
		messages[i]->priority = item->priority;
		messages[i]->data = (ProtobufCBinaryData){ item->size, arena_memdup(arena, item->data, item->size) };
		if (!messages[i]->data.data)
			return err_nomem(e);
	}
	*ret = messages;
	*ret_n = look->taken;
	return 0;
}

int queue_peek(struct arena *arena, int fd, size_t n, size_t message_size, Pb__QueuedMessage ***ret, size_t *ret_n,
	       struct err *e)
{
	struct queue_look *look = n ? queue_look_new(fd, n, message_size) : NULL;
	int r;

	*ret_n = 0;
	if (!n)
		return 0;
	if (!look)
		return err_nomem(e);
	r = survivor_run(queue_take_and_put, look, QUEUE_PATIENCE_MS, e);
	if (r == -ETIME)
		err_state(e, "E-FD-MQUEUE", 0,
			  "somebody else was waiting to send to it; what was taken out goes back as there is room");
	else if (r == 0 && look->result < 0)
		r = err_sys(e, look->result, "taking messages out and putting them back");
	if (r == 0)
		r = queue_copy(arena, look, ret, ret_n, e);
	munmap(look, look->whole);
	return r;
}

int queue_put(int fd, Pb__QueuedMessage *const *messages, size_t n, struct err *e)
{
	for (size_t i = 0; i < n; i++)
		if (mq_send(fd, (const char *)messages[i]->data.data, messages[i]->data.len, messages[i]->priority) < 0)
			return err_sys(e, errno, "sending a message of %zu bytes", messages[i]->data.len);
	return 0;
}
