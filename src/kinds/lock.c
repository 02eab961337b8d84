/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kinds/kind.h"
#include "target/script.h"
#include "util/fd.h"

static const char help_release[] = "let the program give the lock up first";

/* ---- dump ---- */

static Pb__FileLock *lock_new(struct arena *arena, const struct fdinfo_lock *lock)
{
	Pb__FileLock *pb = pb_new(arena, Pb__FileLock, pb__file_lock__init);

	if (!pb)
		return NULL;
	pb->flavour = lock->flavour;
	pb_set(pb, exclusive, lock->exclusive);
	pb_set(pb, start, lock->start);
	pb_set(pb, length, lock->end == UINT64_MAX ? 0 : lock->end - lock->start + 1);
	return pb;
}

int lock_collect_object(struct collect *c, const struct fd_view *v, Pb__Object *o, struct err *e)
{
	for (size_t i = 0; i < v->info.n_locks; i++) {
		const struct fdinfo_lock *lock = &v->info.locks[i];
		Pb__FileLock *pb;

		if (lock->flavour == FDINFO_LOCK_OTHER)
			return kind_refuse(c, v, "E-FD-LOCK", help_release, "holds a lock that cannot be kept (%s)", lock->text);
		if (v->peer_outside)
			return kind_refuse(c, v, "E-FD-LOCK", help_release, "holds a lock on something that is outside the tree");
		if (lock->flavour == FDINFO_LOCK_POSIX)
			continue;
		pb = lock_new(c->arena, lock);
		if (!pb || !pb_add(c->arena, o, locks, pb))
			return err_nomem(e);
	}
	return 0;
}

/* Every fd of a description shows the same locks of the task: the first has them. */
static bool lock_is_seen(const struct collect *c, const struct fd_view *v)
{
	for (const struct fd_view *p = v; p > c->views.v && p[-1].task == v->task; p--)
		if (p[-1].object == v->object)
			return true;
	return false;
}

int lock_collect_slot(struct collect *c, const struct fd_view *v, Pb__Slot *slot, struct err *e)
{
	if (!v->info.n_locks || lock_is_seen(c, v))
		return 0;
	for (size_t i = 0; i < v->info.n_locks; i++) {
		Pb__FileLock *pb;

		if (v->info.locks[i].flavour != FDINFO_LOCK_POSIX)
			continue;
		pb = lock_new(c->arena, &v->info.locks[i]);
		if (!pb || !pb_add(c->arena, slot, locks, pb))
			return err_nomem(e);
	}
	return 0;
}

/* ---- restore ---- */

static struct flock lock_range(const Pb__FileLock *pb)
{
	return (struct flock){
		.l_type = pb->exclusive ? F_WRLCK : F_RDLCK,
		.l_whence = SEEK_SET,
		.l_start = (off_t)pb->start,
		.l_len = (off_t)pb->length,
	};
}

/* "... of FILE cannot be had again" */
static int lock_failed(int fd, const char *what, int number, struct err *e)
{
	char path[32], file[512];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, file, sizeof(file) - 1);
	file[n > 0 ? n : 0] = '\0';
	if (number != EAGAIN && number != EACCES)
		return err_sys(e, number, "taking %s of %s again", what, file);
	err_state(e, "E-LOCK-TAKEN", 0, "%s of %s cannot be had again: another process is in the way", what, file);
	return err_help(e, "see who has that file open or locked (lsof, lslocks), and let it end");
}

int lock_restore(const Pb__Object *o, int fd, struct err *e)
{
	for (size_t i = 0; i < o->n_locks; i++) {
		const Pb__FileLock *pb = o->locks[i];
		struct flock range = lock_range(pb);

		if (pb->flavour == FDINFO_LOCK_FLOCK && flock(fd, (pb->exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) < 0)
			return lock_failed(fd, "the lock (flock)", errno, e);
		if (pb->flavour == FDINFO_LOCK_OFD && fcntl(fd, F_OFD_SETLK, &range) < 0)
			return lock_failed(fd, "a lock (F_OFD_SETLK)", errno, e);
	}
	return 0;
}

/* The signal that tells of its end also tells the number of the fd by which it was taken: have it there for a moment. */
static int lock_lease(int fd, int number, int type)
{
	int flags = fcntl(number, F_GETFD), r = 0;
	cleanup_close int kept = flags < 0 ? -1 : fcntl(number, F_DUPFD_CLOEXEC, 0);

	if (flags >= 0 && kept < 0)
		return -errno;
	if (dup3(fd, number, O_CLOEXEC) < 0 || fcntl(number, F_SETLEASE, type) < 0)
		r = -errno;
	if (kept < 0)
		close(number);
	else if (dup3(kept, number, flags & FD_CLOEXEC ? O_CLOEXEC : 0) < 0 && r == 0)
		r = -errno;
	return r;
}

int lock_restore_leases(const Pb__Object *o, int fd, struct err *e)
{
	for (size_t i = 0; i < o->n_locks; i++) {
		const Pb__FileLock *pb = o->locks[i];
		int r = 0;

		if (pb->flavour == FDINFO_LOCK_LEASE)
			r = lock_lease(fd, (int)o->home_fd, pb->exclusive ? F_WRLCK : F_RDLCK);
		if (r < 0)
			return lock_failed(fd, "the lease", -r, e);
	}
	return 0;
}

/* ---- restore: POSIX locks ---- */

static int lock_check(int fd, const Pb__FileLock *pb, struct err *e)
{
	struct flock other = lock_range(pb);

	if (fcntl(fd, F_GETLK, &other) < 0)
		return lock_failed(fd, "a lock (F_SETLK)", errno, e);
	if (other.l_type == F_UNLCK)
		return 0;
	lock_failed(fd, "a lock (F_SETLK)", EAGAIN, e);
	/* -1: the lock belongs to an open file description */
	return other.l_pid > 0 ? err_help(e, "process %d holds it; end that process, or let it give the lock up",
					  other.l_pid) : -1;
}

int lock_check_task(const struct restore_task *r, struct err *e)
{
	for (size_t i = 0; i < r->task->n_slots; i++) {
		const Pb__Slot *slot = r->task->slots[i];

		for (size_t k = 0; k < slot->n_locks; k++)
			if (lock_check((int)slot->fd, slot->locks[k], e) < 0)
				return err_wrap(e, "fd %u", slot->fd);
	}
	return 0;
}

int lock_restore_script(const Pb__Task *task, struct region *region, struct script_builder *b, struct err *e)
{
	for (size_t i = 0; i < task->n_slots; i++) {
		const Pb__Slot *slot = task->slots[i];

		for (size_t k = 0; k < slot->n_locks; k++) {
			const struct flock range = lock_range(slot->locks[k]);
			void *at = region_put(region, &range, sizeof(range));

			if (!at)
				return err_set(e, ERR_SYSTEM, 0, "the region for the switch is full");
			script_call(b, SCRIPT_MUST, "taking a file lock (F_SETLK) again", SYS_fcntl, slot->fd, F_SETLK, (uint64_t)at);
		}
	}
	return 0;
}

size_t lock_script_ops(const Pb__Task *task)
{
	size_t n = 0;

	for (size_t i = 0; i < task->n_slots; i++)
		n += task->slots[i]->n_locks;
	return n;
}
