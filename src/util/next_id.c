/* SPDX-License-Identifier: Apache-2.0 */
#include "util/next_id.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#include "util/err.h"
#include "util/fd.h"
#include "util/privilege.h"

enum { TRIES = 3, NEW = IPC_CREAT | IPC_EXCL | 0600 };

static int make_segment(key_t key, size_t size)
{
	return shmget(key, size, NEW);
}

static int make_set(key_t key, size_t size)
{
	return semget(key, (int)size, NEW);
}

static int make_queue(key_t key, size_t size)
{
	(void)size;
	return msgget(key, NEW);
}

static void remove_segment(int id)
{
	shmctl(id, IPC_RMID, NULL);
}

static void remove_set(int id)
{
	semctl(id, 0, IPC_RMID);
}

static void remove_queue(int id)
{
	msgctl(id, IPC_RMID, NULL);
}

static const struct next_id_type {
	const char *path;
	int (*make)(key_t key, size_t size);
	void (*remove)(int id);
} types[] = {
	[NEXT_ID_SHM] = { "/proc/sys/kernel/shm_next_id", make_segment, remove_segment },
	[NEXT_ID_SEM] = { "/proc/sys/kernel/sem_next_id", make_set, remove_set },
	[NEXT_ID_MSG] = { "/proc/sys/kernel/msg_next_id", make_queue, remove_queue },
};

static int next_id_choose(const struct next_id_type *type, int id, struct err *e)
{
	cleanup_privilege struct privilege p = privilege_raise(PRIVILEGE_CHECKPOINT);
	cleanup_close int fd = open(type->path, O_WRONLY | O_CLOEXEC);
	char text[16];
	int r;

	snprintf(text, sizeof(text), "%d", id);
	r = fd < 0 ? -errno : fd_write_full(fd, text, strlen(text));
	if (r == 0)
		return 0;
	if (r != -EACCES && r != -EPERM && r != -EROFS)
		return err_sys(e, r, "writing %d to %s", id, type->path);
	err_set(e, ERR_PERMISSION, -r, "torpor may not choose its id (%s)", type->path);
	err_id(e, "E-SYSV-ID");
	return err_help(e, "%s", privilege_why_not() ?: "give it the capability: setcap cap_checkpoint_restore=ep torpor");
}

/* The kernel keeps an id that was chosen and not taken, for whoever is next: take it. */
static void next_id_drop_choice(const struct next_id_type *type)
{
	int id = type->make(IPC_PRIVATE, 1);

	if (id >= 0)
		type->remove(id);
}

int next_id_make(enum next_id type, int id, key_t key, size_t size, struct err *e)
{
	const struct next_id_type *t = &types[type];

	/* Somebody else may be quicker, and get the id that was chosen. */
	for (int i = 0; i < TRIES; i++) {
		int made, number;

		if (next_id_choose(t, id, e) < 0)
			return -1;
		made = t->make(key, size);
		number = errno;
		if (made == id)
			return 0;
		if (made < 0) {
			next_id_drop_choice(t);
			return err_sys(e, number, "making it again");
		}
		t->remove(made);
	}
	return 1;
}
