/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Every fd of the tree, seen from outside. Programs may hold a hundred thousand
 * of them, so everything here is one pass or a sort.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "kinds/kind.h"
#include "kinds/unix/queue.h"
#include "sys/process.h"
#include "util/fd.h"

enum { MQUEUE_MAGIC = 0x19800202 };

/*
 * What two fds must agree in to be looked at as one open file description. Not
 * the position: a process outside the tree may be moving it meanwhile.
 */
struct view_key {
	uint64_t dev, ino, eventfd_id;
	unsigned flags;
	size_t index;
};

struct views_work {
	struct collect *c;
	uint64_t *eventfd_ids; /* of each view; anonymous inodes all have the same number */
	unsigned fd_next; /* of ours: where the next one that is in flight goes */
	bool has_kcmp;
	int failed;
};

/* ---- reading ---- */

static int view_read_info(int dir, const char *name, struct arena *arena, char **ret)
{
	cleanup_close int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	char text[4096];
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, text, sizeof(text));
	if (n < 0)
		return -errno;
	if ((size_t)n == sizeof(text)) { /* there may be more */
		if (lseek(fd, 0, SEEK_SET) < 0)
			return -errno;
		return fd_read_all(fd, arena, ret, NULL);
	}
	*ret = arena_alloc(arena, (size_t)n + 1);
	if (!*ret)
		return -ENOMEM;
	memcpy(*ret, text, (size_t)n);
	return 0;
}

static uint64_t view_eventfd_id(const char *text)
{
	const char *id = strstr(text, "\neventfd-id:");

	return id ? strtoull(id + strlen("\neventfd-id:"), NULL, 10) + 1 : 0;
}

/* Its links look as those of files in the root folder do. */
static bool view_is_message_queue(const struct fd_view *v, int fd_dir, const char *name)
{
	cleanup_close int fd = -1;
	struct statfs fs;

	if (!S_ISREG(v->st.st_mode) || v->link[0] != '/' || strchr(v->link + 1, '/'))
		return false;
	fd = openat(fd_dir, name, O_PATH | O_CLOEXEC);
	return fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == MQUEUE_MAGIC;
}

static int view_read(struct fd_view *v, int fd_dir, int info_dir, struct arena *arena, uint64_t *ret_eventfd_id)
{
	char name[16], link[4096], *text;
	ssize_t n;
	int r;

	snprintf(name, sizeof(name), "%u", v->fd);
	n = readlinkat(fd_dir, name, link, sizeof(link) - 1);
	if (n < 0)
		return -errno;
	link[n] = '\0';
	v->link = arena_strdup(arena, link);
	if (!v->link)
		return -ENOMEM;
	if (fstatat(fd_dir, name, &v->st, 0) < 0)
		return -errno;
	v->message_queue = view_is_message_queue(v, fd_dir, name);
	r = view_read_info(info_dir, name, arena, &text);
	if (r < 0)
		return r;
	*ret_eventfd_id = view_eventfd_id(text);
	return proc_parse_fdinfo(text, arena, &v->info);
}

static int views_add(struct views_work *w, const struct target *task, size_t task_index, unsigned fd, size_t carrier)
{
	struct fd_views *views = &w->c->views;
	struct fd_view *v = arena_grow(w->c->arena, views->v, views->n, sizeof(*v));
	uint64_t *ids = arena_grow(w->c->arena, w->eventfd_ids, views->n, sizeof(*ids));

	if (!v || !ids)
		return -ENOMEM;
	views->v = v;
	w->eventfd_ids = ids;
	v[views->n] = (struct fd_view){
		.task = task,
		.task_index = task_index,
		.fd = fd,
		.object = KIND_NO_OBJECT,
		.stream = -1,
		.carrier = carrier,
	};
	ids[views->n++] = 0;
	return 0;
}

static int view_compare_fd(const void *a, const void *b)
{
	const struct fd_view *x = a, *y = b;

	return (x->fd > y->fd) - (x->fd < y->fd);
}

static int views_list_task(struct views_work *w, size_t task_index, int fd_dir, struct err *e)
{
	const struct target *task = w->c->tree->tasks[task_index];
	size_t first = w->c->views.n;
	struct dirent *entry;
	int number;
	DIR *dir = fdopendir(dup(fd_dir));

	if (!dir)
		return err_sys(e, errno, "task %d (%s): listing its fds", task->pid, task->stat.comm);
	while ((entry = fd_next_entry(dir, &number))) {
		if (views_add(w, task, task_index, (unsigned)strtoul(entry->d_name, NULL, 10),
			      VIEW_IN_TASK) < 0) {
			closedir(dir);
			return err_nomem(e);
		}
	}
	closedir(dir);
	if (number)
		return err_sys(e, number, "task %d (%s): listing its fds", task->pid, task->stat.comm);
	if (w->c->views.n > first)
		qsort(w->c->views.v + first, w->c->views.n - first, sizeof(struct fd_view), view_compare_fd);
	return 0;
}

static int views_read_task(struct views_work *w, size_t task_index, struct err *e)
{
	const struct target *task = w->c->tree->tasks[task_index];
	cleanup_close int fd_dir = fd_open_proc(task->pid, "fd", O_RDONLY | O_DIRECTORY);
	cleanup_close int info_dir = fd_open_proc(task->pid, "fdinfo", O_RDONLY | O_DIRECTORY);
	size_t first = w->c->views.n;

	if (fd_dir < 0 || info_dir < 0)
		return err_sys(e, fd_dir < 0 ? fd_dir : info_dir, "task %d (%s): opening the list of its fds",
			       task->pid, task->stat.comm);
	if (views_list_task(w, task_index, fd_dir, e) < 0)
		return -1;
	for (size_t i = first; i < w->c->views.n; i++) {
		struct fd_view *v = &w->c->views.v[i];
		int r = view_read(v, fd_dir, info_dir, w->c->arena, &w->eventfd_ids[i]);

		if (r < 0)
			return err_sys(e, r, "task %d (%s): reading about fd %u", task->pid, task->stat.comm, v->fd);
	}
	return 0;
}

/* ---- what is in flight ---- */

/* Sockets' queues are read once, however many fds lead to them. */
static bool views_queue_is_read(const struct fd_views *views, size_t n, uint64_t ino)
{
	for (size_t i = 0; i < n; i++)
		if (views->v[i].queue && views->v[i].st.st_ino == ino)
			return true;
	return false;
}

/* Our own process, which has what is in flight open since it peeked. */
static int views_make_self(struct views_work *w, struct err *e)
{
	struct target *self = arena_new(w->c->arena, struct target);

	if (!self)
		return err_nomem(e);
	*self = (struct target){ .pid = getpid(), .parent = SIZE_MAX, .mem_fd = -1, .stat.comm = "torpor" };
	self->pidfd = sys_pidfd_open(self->pid, 0);
	if (self->pidfd < 0)
		return err_sys(e, self->pidfd, "pidfd_open of ourselves");
	w->c->views.self = self;
	return 0;
}

static int views_add_message(struct views_work *w, const struct unix_message *m, size_t carrier, int fd_dir,
			     int info_dir, struct err *e)
{
	struct fd_views *views = &w->c->views;

	for (size_t i = 0; i < m->n_fds; i++) {
		int r = views_add(w, views->self, w->c->tree->n, m->fds[i], carrier);

		if (r == 0)
			r = view_read(&views->v[views->n - 1], fd_dir, info_dir, w->c->arena,
				      &w->eventfd_ids[views->n - 1]);
		if (r < 0)
			return err_sys(e, r, "reading about a file descriptor in flight");
	}
	return 0;
}

/* The queue of the socket with this index carries fds: views of them are added behind all others. */
static int views_read_queue(struct views_work *w, size_t index, struct err *e)
{
	struct fd_views *views = &w->c->views;
	cleanup_close int fd = kind_steal(&views->v[index], e);
	cleanup_close int fd_dir = fd_open_proc(getpid(), "fd", O_RDONLY | O_DIRECTORY);
	cleanup_close int info_dir = fd_open_proc(getpid(), "fdinfo", O_RDONLY | O_DIRECTORY);
	const struct unix_view *socket = unix_view_find(&views->sockets, views->v[index].st.st_ino);
	struct unix_queue *queue = arena_new(w->c->arena, struct unix_queue);

	if (fd < 0)
		return fd;
	if (fd_dir < 0 || info_dir < 0)
		return err_sys(e, fd_dir < 0 ? fd_dir : info_dir, "opening the list of our own fds");
	if (!queue)
		return err_nomem(e);
	if (!socket || socket->state == UNIX_VIEW_LISTEN)
		return 0;
	if (unix_queue_read(w->c->arena, fd, socket, &w->fd_next, queue, e) < 0)
		return err_wrap(e, "fd %u (%s)", views->v[index].fd, views->v[index].link);
	views->v[index].queue = queue;
	for (size_t i = 0; i < queue->n; i++)
		if (views_add_message(w, &queue->v[i], index, fd_dir, info_dir, e) < 0)
			return -1;
	return 0;
}

/* Sockets in flight may carry others, or themselves. */
static int views_in_flight(struct views_work *w, struct err *e)
{
	struct fd_views *views = &w->c->views;
	bool any = false;

	for (size_t i = 0; i < views->n && !any; i++)
		any = S_ISSOCK(views->v[i].st.st_mode);
	if (!any)
		return 0;
	if (unix_view_dump(w->c->arena, &views->sockets, e) < 0)
		return -1;
	for (size_t i = 0; i < views->n; i++) {
		const struct fd_view *v = &views->v[i];

		if (!v->info.scm_fds || views_queue_is_read(views, views->n, v->st.st_ino))
			continue;
		if (!views->self && views_make_self(w, e) < 0)
			return -1;
		if (views_read_queue(w, i, e) < 0)
			return -1;
	}
	return 0;
}

void views_done(struct collect *c)
{
	for (size_t i = 0; i < c->views.n; i++)
		if (view_is_in_flight(&c->views.v[i]))
			close((int)c->views.v[i].fd);
	if (c->views.self)
		close(c->views.self->pidfd);
	c->views = (struct fd_views){ 0 };
}

/* ---- open file descriptions ---- */

#define VIEW_ORDER(a, b)                                                                                      \
	do {                                                                                                  \
		if ((a) != (b))                                                                               \
			return (a) < (b) ? -1 : 1;                                                            \
	} while (0)

static int view_key_compare(const struct view_key *a, const struct view_key *b)
{
	VIEW_ORDER(a->ino, b->ino);
	VIEW_ORDER(a->dev, b->dev);
	VIEW_ORDER(a->flags, b->flags);
	VIEW_ORDER(a->eventfd_id, b->eventfd_id);
	return 0;
}

/* 0: one open file description. Without kcmp(2), the same number in two tasks counts as inherited. */
static int view_key_compare_file(struct views_work *w, const struct view_key *a, const struct view_key *b)
{
	const struct fd_view *x = &w->c->views.v[a->index], *y = &w->c->views.v[b->index];
	int r;

	if (!w->has_kcmp) {
		VIEW_ORDER(x->fd, y->fd);
		return 0;
	}
	r = sys_kcmp(x->task->pid, y->task->pid, SYS_KCMP_FILE, x->fd, y->fd);
	if (r < 0)
		w->failed = r;
	return r == 1 ? -1 : r == 2;
}

static int view_key_order(const void *a, const void *b, void *work)
{
	const struct view_key *x = a, *y = b;
	int r = view_key_compare(x, y);

	if (!r && x->index != y->index)
		r = view_key_compare_file(work, x, y);
	if (!r)
		VIEW_ORDER(x->index, y->index);
	return r;
}

static bool views_probe_kcmp(const struct fd_views *views)
{
	const struct fd_view *v = views->v;

	return sys_kcmp(v->task->pid, v->task->pid, SYS_KCMP_FILE, v->fd, v->fd) >= 0;
}

static struct view_key *views_sorted_keys(struct views_work *w)
{
	const struct fd_views *views = &w->c->views;
	struct view_key *keys = arena_alloc(w->c->arena, views->n * sizeof(*keys));

	if (!keys)
		return NULL;
	for (size_t i = 0; i < views->n; i++) {
		const struct fd_view *v = &views->v[i];

		keys[i] = (struct view_key){
			.dev = v->st.st_dev,
			.ino = v->st.st_ino,
			.eventfd_id = w->eventfd_ids[i],
			.flags = v->info.flags & ~O_CLOEXEC,
			.index = i,
		};
	}
	qsort_r(keys, views->n, sizeof(*keys), view_key_order, w);
	return keys;
}

/* The description of each view is named after its first view, which the sort has put in front. */
static size_t *views_owners(struct views_work *w, const struct view_key *keys)
{
	size_t n = w->c->views.n, *owners = arena_alloc(w->c->arena, n * sizeof(*owners));

	for (size_t i = 0; owners && i < n; i++) {
		bool same = i && view_key_compare(&keys[i - 1], &keys[i]) == 0 &&
			    view_key_compare_file(w, &keys[i - 1], &keys[i]) == 0;

		owners[keys[i].index] = same ? owners[keys[i - 1].index] : keys[i].index;
	}
	return owners;
}

/* Objects are numbered in the order of their first views. */
static void views_number(struct fd_views *views, const size_t *owners)
{
	for (size_t i = 0; i < views->n; i++) {
		struct fd_view *v = &views->v[i], *owner = &views->v[owners[i]];

		if (owner == v) {
			views->first[views->n_objects] = i;
			v->object = (uint32_t)views->n_objects++;
		} else {
			v->object = owner->object;
			owner->shared |= owner->task != v->task;
		}
	}
	for (size_t i = 0; i < views->n; i++)
		views->v[i].shared = views->v[owners[i]].shared;
}

static int views_group(struct views_work *w, struct err *e)
{
	struct fd_views *views = &w->c->views;
	struct view_key *keys;
	size_t *owners;

	w->has_kcmp = views_probe_kcmp(views);
	keys = views_sorted_keys(w);
	views->first = arena_alloc(w->c->arena, views->n * sizeof(*views->first));
	if (!keys || !views->first)
		return err_nomem(e);
	owners = views_owners(w, keys);
	if (!owners)
		return err_nomem(e);
	if (w->failed)
		return err_sys(e, w->failed, "comparing open files with kcmp");
	views_number(views, owners);
	return 0;
}

/* ---- who holds the other side ---- */

static bool view_is_handle(const struct fd_view *v)
{
	return v->info.flags & O_PATH;
}

static bool view_reads(const struct fd_view *v)
{
	return (v->info.flags & O_ACCMODE) != O_WRONLY;
}

static bool view_writes(const struct fd_view *v)
{
	return (v->info.flags & O_ACCMODE) != O_RDONLY;
}

static int views_compare_inode(const void *a, const void *b, void *views)
{
	const struct fd_view *v = views, *x = &v[*(const size_t *)a], *y = &v[*(const size_t *)b];

	VIEW_ORDER(x->st.st_ino, y->st.st_ino);
	VIEW_ORDER(x->st.st_dev, y->st.st_dev);
	VIEW_ORDER(x, y);
	return 0;
}

/* The views that `choose` takes, ascending by inode, then by place. */
static size_t *views_by_inode(struct collect *c, bool (*choose)(const struct fd_view *), size_t *ret_n)
{
	size_t *chosen = arena_alloc(c->arena, (c->views.n + 1) * sizeof(*chosen));
	size_t n = 0;

	if (!chosen)
		return NULL;
	for (size_t i = 0; i < c->views.n; i++)
		if (choose(&c->views.v[i]))
			chosen[n++] = i;
	qsort_r(chosen, n, sizeof(*chosen), views_compare_inode, c->views.v);
	*ret_n = n;
	return chosen;
}

static bool view_is_pipe(const struct fd_view *v)
{
	return S_ISFIFO(v->st.st_mode) && !view_is_handle(v);
}

/* Of a pipe of which the tree holds one side: is the other one open? */
static int view_pipe_is_open(const struct fd_view *v, struct err *e)
{
	cleanup_close int fd = kind_steal(v, e);
	struct pollfd p = { .fd = fd };

	if (fd < 0)
		return fd;
	if (poll(&p, 1, 0) < 0)
		return err_sys(e, errno, "poll of %s", v->link);
	return !(p.revents & (view_reads(v) ? POLLHUP : POLLERR));
}

/* Does it have a name? */
static bool view_is_named(const struct fd_view *v)
{
	return v->link[0] == '/' && v->st.st_nlink;
}

/* The ends of one pipe. A FIFO can be opened again by its name, whoever else has it open. */
static int views_pipe_ends(struct fd_views *views, const size_t *ends, size_t n, struct err *e)
{
	bool reader = false, writer = false;
	int open = 0;

	views->v[ends[0]].first_end = true;
	for (size_t i = 0; i < n; i++) {
		reader |= view_reads(&views->v[ends[i]]);
		writer |= view_writes(&views->v[ends[i]]);
	}
	if ((!reader || !writer) && !view_is_named(&views->v[ends[0]]))
		open = view_pipe_is_open(&views->v[ends[0]], e);
	if (open < 0)
		return open;
	for (size_t i = 0; i < n; i++)
		views->v[ends[i]].peer_outside = open;
	return 0;
}

static int views_pipes(struct collect *c, struct err *e)
{
	size_t n, *ends = views_by_inode(c, view_is_pipe, &n);

	if (!ends)
		return err_nomem(e);
	for (size_t i = 0, next; i < n; i = next) {
		const struct stat *st = &c->views.v[ends[i]].st;

		for (next = i + 1; next < n; next++) {
			const struct stat *other = &c->views.v[ends[next]].st;

			if (other->st_ino != st->st_ino || other->st_dev != st->st_dev)
				break;
		}
		if (views_pipe_ends(&c->views, ends + i, next - i, e) < 0)
			return -1;
	}
	return 0;
}

static bool view_is_socket(const struct fd_view *v)
{
	return S_ISSOCK(v->st.st_mode) && !view_is_handle(v);
}

static bool views_hold_socket(const struct collect *c, const size_t *sockets, size_t n, uint64_t ino)
{
	size_t low = 0, high = n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (c->views.v[sockets[middle]].st.st_ino < ino)
			low = middle + 1;
		else
			high = middle;
	}
	return low < n && c->views.v[sockets[low]].st.st_ino == ino;
}

/* Does this connected socket wait in the queue of a listening socket of the tree? */
static bool views_hold_waiting(const struct collect *c, const size_t *sockets, size_t n, const struct unix_view *s)
{
	for (size_t i = 0; i < n; i++) {
		const struct unix_view *listening = c->views.v[sockets[i]].socket;

		for (size_t k = 0; listening && k < listening->n_waiting; k++)
			if (listening->waiting[k] == s->ino)
				return true;
	}
	return false;
}

/*
 * A peer without an inode number is closed, or waits to be accepted: then,
 * unlike after a close, a connection is not shut down.
 */
static bool view_may_wait(const struct unix_view *s)
{
	return s->connected && !s->peer && s->type != SOCK_DGRAM;
}

static bool view_is_tcp(const struct fd_view *v)
{
	return (v->sort.domain == AF_INET || v->sort.domain == AF_INET6) && v->sort.protocol == IPPROTO_TCP;
}

/* The kernel does not list TCP sockets that neither listen nor are connected. */
static int view_other_socket(struct collect *c, struct fd_view *v, struct err *e)
{
	cleanup_close int fd = -1;
	struct inet_view *own;

	v->inet = inet_view_hold(&c->inet, v->st.st_ino, v->object);
	if (v->inet && v->inet->state <= INET_VIEW_CLOSING && v->inet->state != INET_VIEW_CLOSE)
		return 0;
	fd = kind_steal(v, e);
	if (fd < 0 || socket_sort_read(fd, &v->sort, e) < 0)
		return -1;
	v->inet = NULL;
	if (!view_is_tcp(v))
		return 0;
	own = arena_new(c->arena, struct inet_view);
	v->inet = own;
	v->sort = (struct socket_sort){ 0 };
	return own ? inet_view_read(fd, v->st.st_ino, own, e) : err_nomem(e);
}

static int views_other_sockets(struct collect *c, const size_t *sockets, size_t n, struct err *e)
{
	bool any = false;

	for (size_t i = 0; i < n; i++)
		any |= !c->views.v[sockets[i]].socket;
	if (any && inet_view_dump(c->arena, inet_view_tcp, &c->inet, e) < 0)
		return -1;
	for (size_t i = 0; any && i < n; i++)
		if (!c->views.v[sockets[i]].socket && view_other_socket(c, &c->views.v[sockets[i]], e) < 0)
			return -1;
	return 0;
}

static int views_sockets(struct collect *c, struct err *e)
{
	size_t n, *sockets = views_by_inode(c, view_is_socket, &n);

	if (!sockets)
		return err_nomem(e);
	for (size_t i = 0; i < n; i++) {
		struct fd_view *v = &c->views.v[sockets[i]];

		v->socket = unix_view_find(&c->views.sockets, v->st.st_ino);
		v->peer = v->socket ? unix_view_find(&c->views.sockets, v->socket->peer) : NULL;
	}
	for (size_t i = 0; i < n; i++) {
		struct fd_view *v = &c->views.v[sockets[i]];

		if (!v->socket)
			continue;
		v->waits = view_may_wait(v->socket) && views_hold_waiting(c, sockets, n, v->socket);
		v->peer_outside = v->peer ? !views_hold_socket(c, sockets, n, v->socket->peer) :
					    view_may_wait(v->socket) && !v->waits && v->socket->shutdown != 3;
	}
	return views_other_sockets(c, sockets, n, e);
}

/* ---- standard streams ---- */

/* A file in a folder that we may not enter, as where root has redirected the output of a user's program. */
static bool view_is_hidden(const struct fd_view *v)
{
	struct stat st;

	return S_ISREG(v->st.st_mode) && v->link[0] == '/' && stat(v->link, &st) < 0 && errno == EACCES;
}

/* It cannot be opened again, but it can be joined, as a terminal is. */
static void views_hidden_streams(struct collect *c)
{
	for (size_t i = 0; i < c->views.n; i++) {
		const struct fd_view *s = &c->views.v[i];

		if (s->fd > 2 || s->peer_outside || !view_is_hidden(s))
			continue;
		for (size_t k = 0; k < c->views.n; k++)
			if (c->views.v[k].st.st_ino == s->st.st_ino && c->views.v[k].st.st_dev == s->st.st_dev)
				c->views.v[k].peer_outside = true;
	}
}

/* The views on 0, 1 and 2 that lead outside, one of each description and number. */
static size_t *views_streams(const struct collect *c, size_t *ret_n)
{
	size_t *streams = NULL, n = 0;

	for (size_t i = 0; i < c->views.n; i++) {
		const struct fd_view *v = &c->views.v[i];
		bool known = v->fd > 2 || !v->peer_outside || view_is_in_flight(v);

		for (size_t k = 0; k < n && !known; k++) {
			const struct fd_view *s = &c->views.v[streams[k]];

			known = s->object == v->object && s->fd == v->fd;
		}
		if (known)
			continue;
		streams = arena_grow(c->arena, streams, n, sizeof(*streams));
		if (!streams)
			return NULL;
		streams[n++] = i;
	}
	*ret_n = n;
	return streams;
}

/* How well a view goes with a stream; 0: not at all. */
static int view_stream_rank(const struct fd_view *v, const struct fd_view *s)
{
	bool same_inode = v->st.st_ino == s->st.st_ino && v->st.st_dev == s->st.st_dev;

	if (v->object == s->object)
		return 4;
	if (same_inode && (v->info.flags & O_ACCMODE) == (s->info.flags & O_ACCMODE))
		return v->task == s->task ? 3 : 2;
	if (same_inode && (S_ISSOCK(v->st.st_mode) || v->terminal))
		return 1;
	return 0;
}

static int view_choose_stream(const struct collect *c, const struct fd_view *v, const size_t *streams, size_t n)
{
	int best = -1, best_rank = 0;

	if (v->fd <= 2 && !view_is_in_flight(v))
		return (int)v->fd;
	for (size_t i = 0; i < n; i++) {
		const struct fd_view *s = &c->views.v[streams[i]];
		int rank = view_stream_rank(v, s);

		if (rank > best_rank) {
			best_rank = rank;
			best = (int)s->fd;
		}
	}
	if (best < 0 && v->terminal)
		best = view_reads(v) ? 0 : 1;
	return best;
}

static int views_join(struct collect *c, struct err *e)
{
	size_t n = 0, *streams = views_streams(c, &n);
	bool any = false;

	for (size_t i = 0; i < c->views.n; i++)
		any |= c->views.v[i].peer_outside && c->views.v[i].fd <= 2;
	if (any && !streams)
		return err_nomem(e);
	for (size_t i = 0; i < c->views.n; i++)
		if (c->views.v[i].peer_outside)
			c->views.v[i].stream = view_choose_stream(c, &c->views.v[i], streams, n);
	return 0;
}

/* ---- */

int views_collect(struct collect *c, struct err *e)
{
	struct views_work w = { .c = c, .fd_next = 3 };

	for (size_t i = 0; i < c->tree->n; i++)
		if (!c->tree->tasks[i]->zombie && views_read_task(&w, i, e) < 0)
			return -1;
	if (!c->views.n)
		return 0;
	if (views_in_flight(&w, e) < 0)
		return -1;
	if (views_group(&w, e) < 0 || views_pipes(c, e) < 0 || views_sockets(c, e) < 0 || terminal_views(c, e) < 0)
		return -1;
	views_hidden_streams(c);
	return views_join(c, e);
}

const struct fd_view *views_find_object(const struct fd_views *views, uint32_t object)
{
	return object < views->n_objects ? &views->v[views->first[object]] : NULL;
}

const struct fd_view *views_find_fd(const struct fd_views *views, size_t task_index, unsigned fd)
{
	size_t low = 0, high = views->n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct fd_view *v = &views->v[middle];

		if (v->task_index < task_index || (v->task_index == task_index && v->fd < fd))
			low = middle + 1;
		else
			high = middle;
	}
	if (low == views->n || views->v[low].task_index != task_index || views->v[low].fd != fd)
		return NULL;
	return &views->v[low];
}
