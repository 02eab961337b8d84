/* SPDX-License-Identifier: Apache-2.0 */

/* States that cannot be saved, one at a time: the argument says which. 77: not on this kernel, or not for this user. */

#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, SKIP = 77, SYS_MSEAL = 462 };

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

static char *page;

static void skip_unless(bool condition)
{
	if (!condition)
		exit(SKIP);
}

static void make_sealed(void)
{
	skip_unless(syscall(SYS_MSEAL, page, PAGE, 0) == 0);
}

static void make_watched(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .range = { (uintptr_t)page, PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING };

	skip_unless(fd >= 0);
	check_call(ioctl(fd, UFFDIO_API, &api));
	check_call(ioctl(fd, UFFDIO_REGISTER, &range));
}

static void make_ring(void)
{
	struct io_uring_params p = { 0 };
	int fd = (int)syscall(SYS_io_uring_setup, 4, &p);

	skip_unless(fd >= 0);
	check(mmap(NULL, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING) !=
	      MAP_FAILED);
}

static void make_aio(void)
{
	unsigned long context = 0;

	skip_unless(syscall(SYS_io_setup, 4, &context) == 0);
}

static void make_nondumpable(void)
{
	check_call(prctl(PR_SET_DUMPABLE, 0));
}

static _Atomic bool ready;

static void *unshared_main(void *arg)
{
	check_call(unshare((int)(intptr_t)arg));
	ready = true;
	for (;;)
		pause();
	return arg;
}

static void make_unshared(int flag)
{
	pthread_t thread;

	check(pthread_create(&thread, NULL, unshared_main, (void *)(intptr_t)flag) == 0);
	while (!ready)
		usleep(1000);
}

static void make_own_folder(void)
{
	make_unshared(CLONE_FS);
}

static void make_own_files(void)
{
	make_unshared(CLONE_FILES);
}

static int set_id = -1, queue_id = -1; /* removed at the end */

static void remove_sysv(void)
{
	semctl(set_id, 0, IPC_RMID);
	msgctl(queue_id, IPC_RMID, NULL);
}

static void make_shared_undo(void)
{
	struct sembuf up = { 0, 1, SEM_UNDO };

	set_id = (int)check_call(semget(IPC_PRIVATE, 1, 0600));
	atexit(remove_sysv);
	check_call(semop(set_id, &up, 1));
	if (check_call(syscall(SYS_clone, CLONE_SYSVSEM | SIGCHLD, 0, 0, 0, 0)) == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
}

/* Its owner has taken the permission to read it from himself. */
static void make_unreadable_queue(void)
{
	struct {
		long type;
		char text[4];
	} m = { 1, "abc" };
	struct msqid_ds ds;

	queue_id = (int)check_call(msgget(IPC_PRIVATE, 0600));
	atexit(remove_sysv);
	check_call(msgsnd(queue_id, &m, sizeof(m.text), 0));
	check_call(msgctl(queue_id, IPC_STAT, &ds));
	ds.msg_perm.mode = 0200;
	check_call(msgctl(queue_id, IPC_SET, &ds));
}

static const struct {
	const char *name;
	void (*make)(void);
} things[] = {
	{ "sealed", make_sealed },         { "watched", make_watched },       { "ring", make_ring },
	{ "aio", make_aio },               { "nondumpable", make_nondumpable }, { "own_folder", make_own_folder },
	{ "shared_undo", make_shared_undo }, { "unreadable_queue", make_unreadable_queue },
	{ "own_files", make_own_files },
};

void setup(const char *argument)
{
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(argument && page != MAP_FAILED);
	for (size_t i = 0; i < sizeof(things) / sizeof(things[0]); i++) {
		if (strcmp(argument, things[i].name) == 0) {
			things[i].make();
			return;
		}
	}
	check_failed("refused.c", __LINE__, argument, -1);
}

void verify(void)
{
}
