/* SPDX-License-Identifier: Apache-2.0 */
#include "core/tracker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memory/memory.h"
#include "memory/track.h"
#include "proc/maps.h"
#include "proc/task.h"
#include "sys/process.h"
#include "util/arena.h"
#include "util/clock.h"
#include "util/err.h"
#include "util/fd.h"
#include "util/interrupt.h"
#include "util/privilege.h"

#define TRACKER_MAGIC "torptrk2"

enum {
	CLIENTS_MAX = 8,
	ANSWER_PATIENCE_S = 2, /* for what it holds */
	END_PATIENCE_S = 20,   /* the kernel takes the marks away, which takes 10 ms per GiB */
	GONE_PATIENCE_NS = 1000000000,
	STATE_MAX = 64 << 20,
	SHED_LEAST = 1 << 20, SHED_SPARE = 1 << 20,
};

/* What stands in the memory file, then for each task a tracker_task, its stretches and its mappings. Read by this very version only. */
struct tracker_head {
	char magic[8];
	struct image_identity image;
	uint64_t n_tasks;
};

struct tracker_task {
	int64_t pid;
	uint64_t starttime, n_stretches, n_areas;
};

struct tracker_area {
	uint64_t start, end, offset, dev, ino, page_size;
	uint32_t prot, flags;
};

/* ---- who is who ---- */

/* The name has the root's PID as it knows itself, and its PID namespace: the same for who looks from outside. */
static int tracker_address(pid_t root, struct sockaddr_un *ret, socklen_t *ret_size)
{
	struct arena arena = ARENA_INIT;
	struct proc_status status;
	struct stat st;
	char path[64], *text;
	int r = fd_read_proc(root, "status", &arena, &text, NULL);

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", root);
	if (r == 0)
		r = proc_parse_status(text, &arena, &status);
	if (r == 0 && (!status.ns_pids || stat(path, &st) < 0))
		r = -ESRCH;
	arena_done(&arena);
	if (r < 0)
		return r;
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	r = snprintf(ret->sun_path + 1, sizeof(ret->sun_path) - 1, "torpor-track/%lu/%d", (unsigned long)st.st_ino,
		     status.ns_pid[status.ns_pids - 1]);
	*ret_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)r);
	return 0;
}

static bool peer_get(int fd, struct ucred *ret)
{
	socklen_t size = sizeof(*ret);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret, &size) == 0;
}

/* Root may follow what the owner of the program has begun: what he could fake is his own. */
static bool tracker_is_trusted(int fd, pid_t root, pid_t *ret_tracker)
{
	struct stat st = { .st_uid = (uid_t)-1 };
	struct ucred peer;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", root);
	if (!peer_get(fd, &peer))
		return false;
	*ret_tracker = peer.pid;
	return peer.uid == geteuid() || peer.uid == 0 || (geteuid() == 0 && stat(path, &st) == 0 && peer.uid == st.st_uid);
}

/* ---- what it holds, as a file ---- */

static int state_write_areas(int fd, const struct vm_area_list *known)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < known->n; i++) {
		const struct vm_area *a = &known->areas[i];
		struct tracker_area area = { a->start, a->end, a->offset, a->dev, a->ino, a->page_size, a->prot, a->flags };

		r = fd_write_full(fd, &area, sizeof(area));
	}
	return r;
}

static int state_write(int fd, const struct tracked *t)
{
	struct tracker_head head = { .image = t->image, .n_tasks = t->n };
	int r;

	memcpy(head.magic, TRACKER_MAGIC, sizeof(head.magic));
	r = fd_write_full(fd, &head, sizeof(head));
	for (size_t i = 0; r == 0 && i < t->n; i++) {
		const struct tracked_task *of = &t->tasks[i];
		struct tracker_task task = { of->pid, of->starttime, of->n, of->known.n };

		r = fd_write_full(fd, &task, sizeof(task));
		if (r == 0)
			r = fd_write_full(fd, of->stretches, of->n * sizeof(*of->stretches));
		if (r == 0)
			r = state_write_areas(fd, &of->known);
	}
	return r;
}

/* Take so many bytes; NULL where they are not there. */
static const void *state_take(const char **at, size_t *left, size_t size)
{
	const void *taken = *at;

	if (size > *left)
		return NULL;
	*at += size;
	*left -= size;
	return taken;
}

static bool stretches_are_sound(const struct track_stretch *v, size_t n)
{
	uint64_t before = 0;

	for (size_t i = 0; i < n; i++) {
		if (v[i].start < before || v[i].end <= v[i].start || (v[i].start | v[i].end) % MEMORY_PAGE)
			return false;
		before = v[i].end;
	}
	return true;
}

static bool state_take_areas(const char **at, size_t *left, size_t n, struct arena *arena, struct vm_area_list *ret)
{
	const struct tracker_area *from = n <= *left / sizeof(*from) ? state_take(at, left, n * sizeof(*from)) : NULL;

	ret->areas = from ? arena_alloc(arena, (n + 1) * sizeof(*ret->areas)) : NULL;
	if (!ret->areas)
		return false;
	for (size_t i = 0; i < n; i++)
		ret->areas[i] = (struct vm_area){ .start = from[i].start, .end = from[i].end, .offset = from[i].offset,
						  .dev = from[i].dev, .ino = from[i].ino, .page_size = from[i].page_size,
						  .prot = from[i].prot, .flags = from[i].flags, .name = "" };
	ret->n = n;
	return true;
}

static bool state_take_task(const char **at, size_t *left, struct arena *arena, struct tracked_task *ret)
{
	const struct tracker_task *task = state_take(at, left, sizeof(*task));

	if (!task || task->pid <= 0 || task->pid > INT32_MAX || task->n_stretches > *left / sizeof(*ret->stretches))
		return false;
	*ret = (struct tracked_task){ .pid = (pid_t)task->pid, .starttime = task->starttime, .uffd = -1, .n = task->n_stretches };
	ret->stretches = state_take(at, left, ret->n * sizeof(*ret->stretches));
	return stretches_are_sound(ret->stretches, ret->n) && state_take_areas(at, left, task->n_areas, arena, &ret->known);
}

/* 1 when it is understood. */
static int state_read(int fd, size_t n_uffds, struct arena *arena, struct tracked *ret, struct err *e)
{
	const struct tracker_head *head;
	struct stat st;
	const char *at;
	char *bytes;
	size_t left;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > STATE_MAX)
		return 0;
	left = (size_t)st.st_size;
	at = bytes = arena_alloc(arena, left + 1);
	if (!bytes)
		return err_nomem(e);
	if (fd_pread_full(fd, bytes, left, 0) < 0)
		return 0;
	head = state_take(&at, &left, sizeof(*head));
	if (!head || memcmp(head->magic, TRACKER_MAGIC, sizeof(head->magic)) != 0 || head->n_tasks != n_uffds)
		return 0;
	ret->image = head->image;
	ret->tasks = arena_alloc(arena, (n_uffds + 1) * sizeof(*ret->tasks));
	if (!ret->tasks)
		return err_nomem(e);
	for (size_t i = 0; i < n_uffds; i++)
		if (!state_take_task(&at, &left, arena, &ret->tasks[i]))
			return 0;
	return left == 0;
}

/* ---- asking it ---- */

/* Its fds: first the memory file. Returns how many. */
static size_t tracker_receive(int link, int fds[TRACKER_TASKS_MAX + 1])
{
	union {
		char buf[CMSG_SPACE((TRACKER_TASKS_MAX + 1) * sizeof(int))];
		struct cmsghdr align;
	} control;
	char magic[8];
	struct iovec part = { magic, sizeof(magic) };
	struct msghdr h = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf) };
	const struct cmsghdr *c;
	ssize_t got;
	size_t n;

	do
		got = recvmsg(link, &h, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	c = got > 0 ? CMSG_FIRSTHDR(&h) : NULL;
	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
		return 0;
	n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	memcpy(fds, CMSG_DATA(c), n * sizeof(int));
	return n;
}

static int tracker_connect(pid_t root, pid_t *ret_tracker)
{
	struct timeval patience = { .tv_sec = ANSWER_PATIENCE_S };
	struct sockaddr_un address;
	socklen_t size;
	int fd;

	if (tracker_address(root, &address, &size) < 0)
		return -1;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0 &&
	    connect(fd, (struct sockaddr *)&address, size) == 0 && tracker_is_trusted(fd, root, ret_tracker))
		return fd;
	close(fd);
	return -1;
}

int tracker_find(pid_t root, struct arena *arena, struct tracked *ret, struct err *e)
{
	int fds[TRACKER_TASKS_MAX + 1], r = 0;
	size_t n;

	*ret = (struct tracked){ .link = -1 };
	ret->link = tracker_connect(root, &ret->tracker);
	if (ret->link < 0)
		return 0;
	n = tracker_receive(ret->link, fds);
	if (n)
		r = state_read(fds[0], n - 1, arena, ret, e);
	for (size_t i = 1; i < n; i++) {
		if (r == 1)
			ret->tasks[i - 1].uffd = fds[i];
		else
			close(fds[i]);
	}
	if (n)
		close(fds[0]);
	ret->n = r == 1 ? n - 1 : 0;
	return r;
}

int tracker_end(struct tracked *t, struct err *e)
{
	struct timeval patience = { .tv_sec = END_PATIENCE_S };
	ssize_t n;
	char byte;

	if (t->link < 0)
		return 0;
	setsockopt(t->link, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	(void)!send(t->link, "", 1, MSG_NOSIGNAL); /* whoever has gone already does not hear it */
	do
		n = recv(t->link, &byte, 1, 0);
	while (n > 0 || (n < 0 && errno == EINTR));
	if (n < 0 && errno != ECONNRESET)
		return err_sys(e, errno, "ending process %d, which keeps track of the program", t->tracker);
	fd_closep(&t->link);
	t->link = -1;
	return 0;
}

/* What was killed closes its userfaultfds when the kernel gets to it, which may be after the name of its socket has gone. */
int tracker_await_end(pid_t root, struct err *e)
{
	uint64_t until = clock_now_ns(CLOCK_MONOTONIC) + GONE_PATIENCE_NS;

	while (track_is_watched(root) && clock_now_ns(CLOCK_MONOTONIC) < until) {
		if (interrupt_check(e) < 0)
			return -1;
		usleep(1000);
	}
	return 0;
}

int tracker_stop(pid_t root, struct err *e)
{
	struct tracked t = { .link = -1 };
	int r;

	t.link = tracker_connect(root, &t.tracker);
	if (t.link < 0)
		return 0;
	r = tracker_end(&t, e);
	tracked_done(&t);
	return r < 0 ? r : 1;
}

void tracked_done(struct tracked *t)
{
	for (size_t i = 0; i < t->n; i++)
		fd_closep(&t->tasks[i].uffd);
	t->n = 0;
	fd_closep(&t->link);
	t->link = -1;
}

/* ---- the tracker ---- */

/* All that it needs, on its stack. */
struct tracker {
	int fds[TRACKER_TASKS_MAX + 1]; /* the memory file, and the userfaultfds */
	size_t n;
	int listener, program; /* a pidfd */
	int clients[CLIENTS_MAX];
	size_t n_clients;
};

static bool tracker_send(const struct tracker *t, int fd)
{
	union {
		char buf[CMSG_SPACE((TRACKER_TASKS_MAX + 1) * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	char magic[] = TRACKER_MAGIC;
	struct iovec part = { magic, sizeof(magic) - 1 };
	struct msghdr h = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.buf,
			    .msg_controllen = CMSG_SPACE(t->n * sizeof(int)) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&h);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(t->n * sizeof(int));
	memcpy(CMSG_DATA(c), t->fds, t->n * sizeof(int));
	return sendmsg(fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
}

static void tracker_accept(struct tracker *t)
{
	int fd = accept4(t->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred peer;

	if (fd < 0)
		return;
	if (t->n_clients < CLIENTS_MAX && peer_get(fd, &peer) && (peer.uid == geteuid() || peer.uid == 0) && tracker_send(t, fd))
		t->clients[t->n_clients++] = fd;
	else
		close(fd);
}

/*
 * The marks go before it is told by the end of the connection. One after the other: of all that one close_range(2) closes, the
 * kernel (6.18) lets the last one go first.
 */
static void tracker_let_go(const struct tracker *t)
{
	for (size_t i = 0; i < t->n; i++)
		close(t->fds[i]);
}

/* One of them has something to say, or has gone. */
static void tracker_hear(struct tracker *t, size_t client)
{
	char byte;
	ssize_t n = recv(t->clients[client], &byte, 1, MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n > 0) {
		tracker_let_go(t);
		_exit(0);
	}
	close(t->clients[client]);
	t->clients[client] = t->clients[--t->n_clients];
}

static _Noreturn void tracker_serve(struct tracker *t)
{
	for (;;) {
		struct pollfd fds[CLIENTS_MAX + 2] = { { .fd = t->program, .events = POLLIN }, { .fd = t->listener, .events = POLLIN } };
		size_t n = t->n_clients;

		for (size_t i = 0; i < n; i++)
			fds[i + 2] = (struct pollfd){ .fd = t->clients[i], .events = POLLIN };
		if (poll(fds, n + 2, -1) < 0)
			continue;
		if (fds[0].revents)
			_exit(0);
		for (size_t i = n; i--;)
			if (fds[i + 2].revents)
				tracker_hear(t, i);
		if (fds[1].revents)
			tracker_accept(t);
	}
}

/*
 * It is a fork of a process that may have gigabytes, and lives long. What it will not need is given back: large memory, but for
 * where it runs and where the C library has what belongs to the thread.
 */
static void tracker_shed_memory(void)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	struct arena arena = ARENA_INIT;
	struct vm_area_list list;
	struct err unheard = ERR_INIT;
	uintptr_t here = (uintptr_t)&arena, self = (uintptr_t)__builtin_thread_pointer();
	struct track_stretch *drop;
	size_t n = 0, size;

	if (areas_read_all(getpid(), "maps", &arena, NULL, &list, &unheard) < 0)
		return;
	size = (list.n + 1) * sizeof(*drop);
	drop = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (size_t i = 0; drop != MAP_FAILED && i < list.n; i++) {
		const struct vm_area *a = &list.areas[i];

		if (a->ino || a->name[0] || a->end - a->start < SHED_LEAST || (a->start <= here && here < a->end) ||
		    (a->start < self + SHED_SPARE && self < a->end + SHED_SPARE))
			continue;
		drop[n++] = (struct track_stretch){ a->start, a->end };
	}
	arena_done(&arena);
	for (size_t i = 0; i < n; i++)
		madvise((void *)drop[i].start, drop[i].end - drop[i].start, MADV_DONTNEED);
	munmap(drop, size);
#endif
}

/* Nothing else is to be kept open by it. */
static void tracker_close_others(const struct tracker *t)
{
	int keep[TRACKER_TASKS_MAX + 3];
	size_t n = t->n;

	memcpy(keep, t->fds, n * sizeof(*keep));
	keep[n++] = t->listener;
	keep[n++] = t->program;
	fd_close_others(0, keep, n);
	fd_fill_standard(O_CLOEXEC);
}

static _Noreturn void tracker_main(struct tracker *t)
{
	sigset_t none;

	for (int signo = 1; signo < NSIG; signo++)
		signal(signo, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* Once more, so that who connects sees us. */
	if (chdir("/") < 0 || listen(t->listener, CLIENTS_MAX) < 0)
		_exit(ERR_SYSTEM);
	tracker_close_others(t);
	privilege_renounce(~0ull);
	tracker_shed_memory();
	tracker_serve(t);
}

/* ---- making it ---- */

/* An orphan in a session of its own. */
static int tracker_fork(struct tracker *t, struct err *e)
{
	pid_t pid = fork();

	if (pid == 0) {
		setsid();
		prctl(PR_SET_NAME, "torpor-track"); /* as it is called from its birth */
		pid = fork();
		if (pid == 0)
			tracker_main(t);
		_exit(pid < 0);
	}
	if (pid < 0)
		return err_sys(e, errno, "fork");
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}

static int tracker_listen(pid_t root)
{
	struct sockaddr_un address;
	socklen_t size;
	int fd, r = tracker_address(root, &address, &size);

	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&address, size) == 0 && listen(fd, CLIENTS_MAX) == 0)
		return fd;
	r = -errno;
	close(fd);
	return r;
}

int tracker_begin(pid_t root, const struct tracked *tracked, const char **ret_why, struct err *e)
{
	cleanup_close int state = memfd_create("torpor-track", MFD_CLOEXEC);
	cleanup_close int program = sys_pidfd_open(root, 0);
	cleanup_close int listener = -1;
	struct tracker t = { .fds = { state }, .n = 1, .program = program };
	int r;

	*ret_why = "there are too many processes";
	if (tracked->n > TRACKER_TASKS_MAX)
		return 1;
	if (state < 0 || (r = state_write(state, tracked)) < 0)
		return err_sys(e, state < 0 ? errno : r, "writing down what is tracked");
	if (program < 0)
		return err_sys(e, program, "pidfd_open");
	*ret_why = "somebody else has the name of the socket";
	listener = t.listener = tracker_listen(root);
	if (listener == -EADDRINUSE)
		return 1;
	if (listener < 0)
		return err_sys(e, listener, "making the socket by which the next dump finds what is tracked");
	for (size_t i = 0; i < tracked->n; i++)
		t.fds[t.n++] = tracked->tasks[i].uffd;
	return tracker_fork(&t, e);
}
