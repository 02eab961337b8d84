/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A kind: everything torpor knows of one type of kernel object that a file
 * descriptor can refer to. One file per kind, one line in kinds.def, one message
 * in image/torpor.proto; doc/HOWTO_ADD_KIND.md shows how.
 *
 * The message is the kind's state: the engine packs, unpacks and frees it.
 */

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "image/pb.h"
#include "inode/inode.h"
#include "kinds/choice.h"
#include "kinds/pty/terminal_view.h"
#include "kinds/socket/inet_group.h"
#include "kinds/socket/inet_view.h"
#include "kinds/unix/view.h"
#include "proc/fdinfo.h"
#include "target/target.h"
#include "util/err.h"
#include "util/fd.h"
#include "util/obstacle.h"

enum { KIND_NO_OBJECT = UINT32_MAX };
#define VIEW_IN_TASK SIZE_MAX
enum { KIND_AS_IT_IS = INT_MAX }; /* of remake(): keep what restore() made */

/* ---- dump ---- */

/* One fd of one task, as /proc shows it. */
struct fd_view {
	const struct target *task;
	size_t task_index;
	unsigned fd;
	const char *link;  /* text of /proc/PID/fd/N */
	struct stat st;
	struct fdinfo info;
	uint32_t object;   /* index of its object; equal for fds that share an open file description */
	bool shared;       /* more than one task refers to the object */
	bool first_end;    /* pipe: no earlier view is an end of it */
	bool terminal;     /* a terminal, but not the master of one */
	bool message_queue; /* a POSIX message queue: a regular file in a file system of its own */
	bool peer_outside; /* pipe, socket, terminal: something outside the tree holds the other side; a file out of reach */
	const struct pty_view *pty; /* pseudo-terminal of the tree: which; NULL: none, or its master is outside */
	int stream;        /* peer_outside: the standard stream (0, 1, 2) it can be joined to; -1: none */
	const struct unix_view *socket; /* unix socket: itself */
	const struct unix_view *peer;   /* ... and what it is connected to; NULL: nothing, or it is closed */
	const struct inet_view *inet;   /* TCP socket that has a port: itself */
	struct socket_sort sort;        /* socket that is neither a unix nor a TCP one */
	bool waits;                     /* ... it is connected, and waits to be accepted in the tree */
	const struct unix_queue *queue; /* ... what it has received, where that was read already */
	size_t carrier;    /* VIEW_IN_TASK, or: in flight, in the queue of the socket with this index */
};

/*
 * What is in flight comes last: as fds of torpor itself, which peeking has made,
 * in a task behind those of the tree.
 */
struct fd_views {
	struct fd_view *v; /* ascending by task, then fd */
	size_t n;
	size_t *first;     /* of each object: its first view */
	size_t n_objects;
	struct target *self; /* stands for torpor as the task that has it open; NULL: nothing is in flight */
	struct unix_view_table sockets; /* every unix socket of the machine, if the tree has any */
};

struct collect {
	struct arena *arena;
	const struct target_tree *tree;
	struct obstacle_list *obstacles;
	struct inode_table *inodes;
	struct fd_views views; /* every fd of the tree */
	struct collect_choice choice;
	struct inet_view_table inet; /* every TCP socket of the machine, if the tree has any */
	struct socket_defaults *socket_defaults; /* see socket_options.c */
	struct inet_groups groups;   /* of multicast; see inet_group.c */
	struct inet_view_table udp;  /* every UDP and UDP-Lite socket; see udp_socket.c */
	bool look_only;        /* nothing will be saved */
	char **other_names;    /* of each view, where its file has lost the name it was opened by; NULL: not sought yet */
	struct tcp_lock *tcp_lock;   /* of connections that are kept alive; NULL: none yet */
	struct kind_kept {     /* fds that must outlive the tree; see kind_keep() */
		int fd;
		void (*end)(int fd, void *data);
		void *data;
	} *kept;
	size_t n_kept;
};

/*
 * Fill c->views with every fd of every task: links, stat, fdinfo; number the
 * open file descriptions (`object`, by kcmp(2)), and find out who has a peer
 * outside the tree (views.c).
 */
int views_collect(struct collect *c, struct err *e);

/* Close what was duplicated out of queues. */
void views_done(struct collect *c);

static inline bool view_is_in_flight(const struct fd_view *v)
{
	return v->carrier != VIEW_IN_TASK;
}

/* The fd of a task in whose queue it is, or in the queue of what is there; itself, when it is one. */
static inline const struct fd_view *view_holder(const struct collect *c, const struct fd_view *v)
{
	while (view_is_in_flight(v))
		v = &c->views.v[v->carrier];
	return v;
}

/* The first fd of the tree that refers to the object with this number; NULL when none does. */
const struct fd_view *views_find_object(const struct fd_views *views, uint32_t object);

/* This fd of this task; NULL when it is not open. */
const struct fd_view *views_find_fd(const struct fd_views *views, size_t task_index, unsigned fd);

/* ---- restore ---- */

/* What a kind may use while the coordinator makes the objects. */
struct restore_objects {
	struct arena *arena;
	const Pb__Image *image;
	uint32_t object;      /* index of the one that is being made */
	const struct inode_restore *inodes;
	struct restore_object {
		const struct kind *kind;
		ProtobufCMessage *m;
		int fd;           /* -1: not made yet */
	} *objects;               /* as in the image */
	size_t n_objects;
	struct place_change *changes; /* see place_make_room() */
	size_t n_changes;
	struct obstacle_list *notes; /* see kind_note() */
	int fd_base;          /* objects live at fds at or above this number */
	int streams[3];       /* what the saved standard streams are joined to */
	struct kind_stash {   /* second ends waiting for their object */
		uint32_t tag;
		uint64_t id;
		int fd;
		uint32_t next; /* in its chain: index + 1 */
	} *stash;
	size_t n_stash;
	uint32_t *stash_chains; /* by hash of tag and id: index + 1 of the newest */
	size_t n_stash_chains;
	bool allow_changed;
};

/* What a kind may use inside a task that has all its fds. */
struct restore_task {
	struct arena *arena;
	const Pb__Image *image;
	const Pb__Task *task;
	const int *object_fds; /* every object's fd, still open at its high number */
	uint32_t object;       /* remake(): index of the one that is being made */
};

struct kind {
	const char *name;
	uint32_t tag;     /* on the wire; never reused */
	const ProtobufCMessageDescriptor *message;

	/* Is this fd of this kind? Exactly one kind says yes. Pure. */
	bool (*match)(const struct fd_view *v);

	/*
	 * Fill the message from the first fd that refers to the object. What cannot
	 * be saved is added to c->obstacles; a negative return means that the dump
	 * itself failed.
	 */
	int (*collect)(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e);

	/* Refer to other objects, once all are known. NULL: it refers to none. */
	int (*link)(struct collect *c, const struct fd_view *v, ProtobufCMessage *m, struct err *e);

	/* Make the object; returns an fd at or above r->fd_base, or negative. NULL: restore_all() does. */
	int (*restore)(struct restore_objects *r, const ProtobufCMessage *m, struct err *e);

	/*
	 * Make all objects of this kind, whose making depends on one another or on all
	 * the others, which have been made. NULL: restore() has.
	 */
	int (*restore_all)(struct restore_objects *r, struct err *e);

	/*
	 * It can only be made once the tasks exist: restore() made a placeholder, and
	 * this is called in every task before the slots are filled. Returns an fd,
	 * KIND_AS_IT_IS, or negative. NULL: restore() has made it.
	 */
	int (*remake)(struct restore_task *r, const ProtobufCMessage *m, struct err *e);

	/*
	 * In every task that has just become the leader of its session, which has no
	 * other members yet. NULL: nothing.
	 */
	int (*lead)(struct restore_task *r, int fd, const ProtobufCMessage *m, struct err *e);

	/* In every leader of a session, when everybody is in their process group. NULL: nothing. */
	int (*group)(struct restore_task *r, int fd, const ProtobufCMessage *m, struct err *e);

	/*
	 * Complete it inside its home task, where fd numbers mean what they did. One
	 * that is only in flight is completed in the coordinator before it is sent; then
	 * the task has no slots. NULL: it is complete.
	 */
	int (*finish)(struct restore_task *r, int fd, const ProtobufCMessage *m, struct err *e);

	/*
	 * What must come last: in the coordinator, when every task stands complete and
	 * no file is open any more but theirs; kind by kind, in the order of kinds.def.
	 * NULL: nothing.
	 */
	int (*last)(struct restore_objects *r, int fd, const ProtobufCMessage *m, struct err *e);

	/*
	 * Nothing can fail any more, and the tree runs as soon as all objects are
	 * released; their fds are closed, but what last() stashed is there. NULL: nothing.
	 */
	void (*release)(struct restore_objects *r, const ProtobufCMessage *m);

	/* One line for people ("listening on ...", a path); into buf. NULL: only the name is shown. */
	void (*describe)(const ProtobufCMessage *m, char *buf, size_t size);
};

#define KIND(name, tag) extern const struct kind kind_##name;
#include "kinds/kinds.def"
#undef KIND

/* NULL-terminated, in the order of kinds.def: the first that matches wins. */
extern const struct kind *const kinds[];

const struct kind *kind_by_tag(uint32_t tag);

/* The kind that this fd is of. */
const struct kind *kind_of(const struct fd_view *v);

/* Report that an fd cannot be saved: "fd 9 (LINK) WHY". */
int kind_refuse(struct collect *c, const struct fd_view *v, const char *id, const char *help, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

/* Something about the object that is being made is not as it was: told to the user when the tree runs. */
int kind_note(struct restore_objects *r, const char *id, const char *help, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* The fd of another process as one of ours; negative on failure. The caller closes it. */
int kind_steal(const struct fd_view *v, struct err *e);

/*
 * Some things are not to end in the way that the end of their program ends them.
 * A duplicate of such an fd (it is ours from now on, also on failure) is kept
 * until the tree is gone; then `end` is called, and when it has been called for
 * all, the last one is closed first. If the tree is not ended, they are only closed.
 */
int kind_keep(struct collect *c, int fd, void (*end)(int fd, void *data), void *data, struct err *e);

/* Close what is kept; `ended`: the tree is gone. */
void kind_release_kept(struct collect *c, bool ended);

/* Open /proc/PID/fd/N anew with these flags; negative on failure. */
int kind_reopen(const struct fd_view *v, int flags, struct err *e);

/* Move an fd where objects live; see fd_raise(). */
static inline int kind_raise_fd(int fd, int base, struct err *e)
{
	return fd_raise(fd, base, e);
}

/* F_SETFL the flags that open(2) leaves changeable (O_APPEND, O_NONBLOCK, O_DIRECT, O_NOATIME, O_ASYNC). */
int kind_set_status_flags(int fd, unsigned flags, struct err *e);

/* Call finish() for what is only in flight; every object has been made. */
int kind_finish_flying(struct restore_objects *r, struct err *e);

/* Second ends: keep an fd for the object that will ask for it. stash_take returns -1 when there is none. */
int kind_stash_put(struct restore_objects *r, uint32_t tag, uint64_t id, int fd, struct err *e);
int kind_stash_take(struct restore_objects *r, uint32_t tag, uint64_t id);
