/* SPDX-License-Identifier: Apache-2.0 */

/*
 * libtorpor: save a running process tree in one file, and make it again later.
 *
 * Everything the torpor(1) command does is a function here. The library prints nothing, never ends the process that
 * calls it, and keeps no state but in the handles that it gives out. Handles are independent of each other; one
 * handle is for one thread at a time. A const pointer that a function returns belongs to the handle it was asked
 * of and lives as long as that.
 *
 * What a program compiled with this header allocates itself is never larger in a later version: options and results
 * are handles, and the structs that the library returns pointers to only grow at their end.
 *
 * torpor(3) is an overview, and there is a page for each function.
 */

#ifndef TORPOR_H
#define TORPOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

/* ---- errors ---- */

/* Why something failed. The values are torpor's exit statuses. */
enum torpor_reason {
	TORPOR_OK = 0,
	TORPOR_STATE = 1,      /* this state cannot be saved or made again */
	TORPOR_USAGE = 2,      /* the call itself is wrong */
	TORPOR_PERMISSION = 3, /* the kernel or the administrator does not permit it */
	TORPOR_IMAGE = 4,      /* the image is damaged or not one of torpor's */
	TORPOR_SYSTEM = 5      /* the kernel or the system failed */
};

/*
 * Functions that can fail return 0 (or what they say), or -reason. Their last argument takes what went wrong: a
 * handle that the caller frees, set only on failure. It may be NULL.
 */
struct torpor_error;

enum torpor_reason torpor_error_reason(const struct torpor_error *error);
int torpor_error_number(const struct torpor_error *error);       /* errno of the cause, or 0 */
const char *torpor_error_text(const struct torpor_error *error); /* what failed, for people */
const char *torpor_error_help(const struct torpor_error *error); /* what would help, or "" */
const char *torpor_error_id(const struct torpor_error *error);   /* "E-PID-TAKEN", for torpor_explain(), or "" */
void torpor_error_free(struct torpor_error *error);              /* NULL is allowed, here and for every handle */

/* What an id means. */
struct torpor_explanation {
	const char *id;
	const char *what; /* what it is */
	const char *why;  /* why it stands in the way */
	const char *act;  /* what to do */
};

const struct torpor_explanation *torpor_explain(const char *id); /* NULL: there is no such id */
const struct torpor_explanation *torpor_explanation(size_t i);   /* all of them, by the alphabet; NULL behind the last */

const char *torpor_version(void); /* of the library, "0.1.0" */

/* ---- options ---- */

/* What the functions below can be told; NULL where an argument is one: the defaults. */
struct torpor_options;

struct torpor_options *torpor_options_new(void); /* NULL: out of memory */
void torpor_options_free(struct torpor_options *o);

/* For dumps: how long to wait for a task that does not stop. For restores: for one that comes no further. 30000. */
void torpor_options_set_timeout_ms(struct torpor_options *o, unsigned ms);

/* For dumps. */
void torpor_options_set_keep_running(struct torpor_options *o, int on); /* let the tree run on; default: it is ended */
void torpor_options_set_sync(struct torpor_options *o, int on);         /* wait for the disk; default: yes */
void torpor_options_set_external(struct torpor_options *o, int on);     /* let go of pipes and sockets that lead outside */
void torpor_options_set_tcp_close(struct torpor_options *o, int on);    /* ... and of TCP connections */

/* With keep_running, how the pause is kept short: "auto" (the default), "track", "clone" or "copy". As torpor_options_set_compress(). */
int torpor_options_set_pause(struct torpor_options *o, const char *way);

/*
 * With keep_running: a small process keeps track of what the program writes from then on, so that the next dump, with this image as
 * its parent, need not read all memory. Until that dump, the end of the program, or torpor_untrack().
 */
void torpor_options_set_track(struct torpor_options *o, int on);

/* Pack the memory: "zstd", "zstd:1" to "zstd:19", "lz4", "none" or "auto" (the default). Returns 0, or negative: it is none of these. */
int torpor_options_set_compress(struct torpor_options *o, const char *how);

/* Store only what differs from this image, which is needed from then on; NULL (the default): all. Returns 0, or negative. */
int torpor_options_set_parent(struct torpor_options *o, const char *path);

/* For dumps and torpor_run(): by which torpor_find() finds the program and its restores. Returns 0, or negative. */
int torpor_options_set_name(struct torpor_options *o, const char *name);

/* Ways of working, by the privilege that they need. */
enum torpor_tier { TORPOR_TIER_AUTO, TORPOR_TIER_CAP, TORPOR_TIER_ROOT, TORPOR_TIER_USERNS, TORPOR_TIER_FORK };

/* For restores. */
void torpor_options_set_stream(struct torpor_options *o, int stream, int fd); /* 0 to 2: what a saved one is joined to; -1: nothing */
void torpor_options_set_tier(struct torpor_options *o, enum torpor_tier tier);
void torpor_options_set_fork_limit(struct torpor_options *o, uint64_t limit); /* tier fork: processes made at most; 1000000 */
void torpor_options_set_pid_wait_ms(struct torpor_options *o, unsigned ms);   /* for PIDs that zombies hold; 10000 */
void torpor_options_set_allow_changed(struct torpor_options *o, int on);      /* accept files that changed since the dump */
void torpor_options_set_allow_foreign(struct torpor_options *o, int on);      /* accept an image others could have written */

struct torpor_program;

/*
 * For restores and torpor_run(): called when the program is complete and about to run. 0: let it; a negative errno
 * calls it off. Only what asks about the program may be called with it.
 */
void torpor_options_set_ready(struct torpor_options *o, int (*ready)(void *data, struct torpor_program *program), void *data);

/* For torpor_run(): called in the process that becomes the program, which has a copy of the caller's memory. */
void torpor_options_set_before(struct torpor_options *o, void (*before)(void *data), void *data);

enum torpor_log_level { TORPOR_LOG_NOTE, TORPOR_LOG_INFO, TORPOR_LOG_DEBUG };

/* What there is to say on the way. */
void torpor_options_set_log(struct torpor_options *o, void (*log)(void *data, enum torpor_log_level level, const char *text),
			    void *data);

enum torpor_unit { TORPOR_BYTES, TORPOR_ATTEMPTS /* may be over at any time */ };

struct torpor_progress {
	const char *step; /* "saving memory" */
	uint64_t done, total;
	enum torpor_unit unit;
};

/* How far a long step has come. */
void torpor_options_set_progress(struct torpor_options *o, void (*progress)(void *data, const struct torpor_progress *progress),
				 void *data);

/*
 * Dumps, restores and torpor_run() are carried out in a process made for it, a child of the calling thread, so that
 * nothing happens to the caller. With `on`, they are carried out in the calling process itself, which must have no
 * other thread and have called torpor_process_begin(): for programs that are there for nothing else.
 */
void torpor_options_set_in_process(struct torpor_options *o, int on);

/* ---- dump ---- */

/* Something that cannot be saved. */
struct torpor_obstacle {
	const char *id;
	const char *text; /* "task 4711 (redis-server): fd 9 is ..." */
	const char *help; /* what would help */
};

struct torpor_result {
	int pid;               /* of the root, as it knows itself */
	const char *comm;      /* its name */
	const char *path;      /* of the image */
	size_t tasks, threads;
	uint64_t bytes;        /* of memory stored; of a check: that would be stored */
	uint64_t frozen_ns;    /* how long the tree stood still, at most */
	const char *leftovers; /* zombies that another parent must reap, in words; or NULL */
	size_t obstacles;      /* how many; 0 on success */
	uint64_t packed_bytes; /* that the memory takes in the file */
	int while_running;     /* 1: it was copied while it ran, but for what it wrote meanwhile; 2: a clone of it was */
	uint64_t parent_bytes; /* not stored: the parent has them */
};

/*
 * Save the process `pid` and all its descendants in a file (NULL: NAME.torpor or COMM-PID.torpor in the current
 * folder), and end them. Whatever fails before the file is complete, they run on untouched. With signals SIGINT, SIGTERM, SIGHUP or SIGQUIT blocked, one that is pending calls it off.
 * *ret (`ret` may be NULL) is freed by torpor_result_free(); it may be set also on failure, and tells of obstacles.
 */
int torpor_dump(int pid, const char *path, const struct torpor_options *o, struct torpor_result **ret, struct torpor_error **error);

/* As far as a dump goes before it writes anything: could they be saved? They stand still for a moment. */
int torpor_check(int pid, const struct torpor_options *o, struct torpor_result **ret, struct torpor_error **error);

/* Keep no more track of what a program writes (torpor_options_set_track()). Returns 1, 0 when nobody did, or negative. */
int torpor_untrack(int pid, struct torpor_error **error);

const struct torpor_obstacle *torpor_result_obstacle(const struct torpor_result *result, size_t i); /* NULL behind the last */
void torpor_result_free(struct torpor_result *result);

/*
 * Join an image and its parents in a new file, which needs none of them. Of the options, those for packing, for waiting
 * for the disk and of progress count. Returns how many files were joined, or negative.
 */
int torpor_squash(const char *path, const char *output, const struct torpor_options *o, struct torpor_error **error);

/*
 * Save the calling process and all its descendants. Returns 0 in the process that called, which runs on
 * (torpor_options_set_keep_running() makes no difference), and 1 in one that was restored; or negative.
 */
int torpor_dump_self(const char *path, const struct torpor_options *o, struct torpor_error **error);

/* ---- restore, and run ---- */

/* Make a saved tree again; it runs when this returns 0. On failure nothing of it is left. */
int torpor_restore(const char *path, const struct torpor_options *o, struct torpor_program **ret, struct torpor_error **error);

/* Run a program, as execvp(3) takes it, in a user and PID namespace of its own. */
int torpor_run(char *const argv[], const struct torpor_options *o, struct torpor_program **ret, struct torpor_error **error);

/* The PID of its first process, as the caller sees it. */
int torpor_program_pid(const struct torpor_program *program);

/*
 * What has become of its first process: 1 and *status, as waitpid(2) has it, when it has stopped or ended; 0: nothing
 * new; negative: nobody knows any more. Each change is told once.
 */
int torpor_program_poll(struct torpor_program *program, int *status);

/* To be waited for by poll(2): readable when torpor_program_poll() has something to tell. -1: SIGCHLD tells that. */
int torpor_program_fd(const struct torpor_program *program);

/* Until it has ended. */
int torpor_program_wait(struct torpor_program *program, int *status, struct torpor_error **error);

/* Let it run on without us, and free the handle; also after its end. */
void torpor_program_detach(struct torpor_program *program);

/* Does it have a process group of its own in our session, to which a shell would give the terminal? */
int torpor_program_leads_group(const struct torpor_program *program);

/* The modes that it had set on a terminal outside the tree; NULL: none. */
struct termios;
const struct termios *torpor_program_terminal_modes(const struct torpor_program *program);

/* The first process of the program of this name. Negative: there is none. */
int torpor_find(const char *name, struct torpor_error **error);

/* Letters, digits and "._-", at most 64, beginning with a letter. */
int torpor_name_is_valid(const char *name);

/* Tell what a restore would do, step by step, and make nothing. The lines hold names from the image as they are. */
int torpor_restore_explain(const char *path, void (*line)(void *data, const char *text), void *data, struct torpor_error **error);

/* ---- images ---- */

struct torpor_image;

enum torpor_open {
	TORPOR_OPEN_VERIFY = 1, /* compare every checksum */
	TORPOR_OPEN_SALVAGE = 2 /* a damaged image is opened, too, as far as it can be read: torpor_image_damage() */
};

/* Open an image and check its structure. `flags`: TORPOR_OPEN_*, or 0. */
int torpor_image_open(const char *path, unsigned flags, struct torpor_image **ret, struct torpor_error **error);
void torpor_image_close(struct torpor_image *image);

/* What is wrong with it; NULL: nothing was found. */
const struct torpor_error *torpor_image_damage(const struct torpor_image *image);

/* Compare every checksum of an image. */
int torpor_verify(const char *path, struct torpor_error **error);

/* Strings of an image may hold anything, or be NULL where it says nothing. Indices that lead nowhere are -1. */
struct torpor_image_info {
	const char *path;
	uint64_t bytes, metadata_bytes;
	size_t extents, runs;
	size_t tasks, threads, spaces, objects, inodes, semaphores, queues;
	const char *torpor_version, *arch, *kernel, *hostname, *boot_id, *name;
	int64_t uid;          /* who took it; -1: not known */
	int64_t realtime_ns;  /* when; 0: not known */
	int64_t monotonic_ns;
	uint64_t total_ns, frozen_ns, collect_ns, memory_ns; /* of the dump; 0: not known */
	uint64_t stored_bytes, zero_bytes; /* of pages; those that are zero are left out */
	int has_stats;        /* are these known? */
	uint64_t counted_bytes; /* of all pages, as often as they are referred to: what tasks share is stored once */
	int64_t restored_ns;  /* when it was last restored; 0: never, or that is not known */
	uint64_t own_bytes, packed_bytes; /* of the pages in this very file; that they take in it */
	uint64_t parent_bytes; /* of the pages in its parents, as often as they are referred to */
	const char *parent;   /* the image that it was taken against, as it is named in this one; NULL: it needs no other */
	size_t chain;         /* how many files it needs, with itself; 1 where its parent could not be opened */
	const char *pause;    /* it ran on after the dump: "copy", "track" or "clone"; NULL: it did not */
	uint64_t before_bytes, paused_bytes, after_bytes; /* then: of memory, copied before the pause, in it, after it */
	uint64_t dead_bytes;  /* ... and in the file, of older copies, which nothing refers to */
	uint64_t unread_bytes; /* of parent_bytes: not even read, as the program had been tracked */
};

const struct torpor_image_info *torpor_image_info(const struct torpor_image *image);

/* A phase of the last restore. */
struct torpor_phase {
	const char *key;  /* "tasks_ns" */
	const char *name; /* for people */
	uint64_t ns;
};

const struct torpor_phase *torpor_image_phase(const struct torpor_image *image, size_t i); /* NULL behind the last */

enum torpor_task_state { TORPOR_RUNNING, TORPOR_STOPPED, TORPOR_ZOMBIE };

struct torpor_task {
	int pid, ppid, pgid, sid; /* ppid 0: the root's parent is not in the tree */
	enum torpor_task_state state;
	int exit_status;          /* of a zombie, as waitpid(2) has it */
	int stop_signal;
	const char *comm, *cmdline, *cwd;
	size_t threads, slots;
	long space;               /* -1: none */
	uint64_t stored_bytes;    /* of its memory */
};

struct torpor_thread {
	int tid;
	const char *comm;
};

/* A file descriptor, and the object that it refers to. */
struct torpor_slot {
	int fd;
	long object;
	int cloexec;
};

/* These return NULL behind the last. The first task is the root; parents stand before their children. */
const struct torpor_task *torpor_image_task(const struct torpor_image *image, size_t i);
const struct torpor_thread *torpor_image_thread(const struct torpor_image *image, size_t task, size_t i);
const struct torpor_slot *torpor_image_slot(const struct torpor_image *image, size_t task, size_t i);

/* An open file description. */
struct torpor_object {
	const char *kind;  /* "pipe" */
	size_t holders;    /* file descriptors that refer to it */
	const void *state; /* all that is known of it; equal where nothing has changed */
	size_t state_size;
};

struct torpor_holder {
	size_t task;
	int fd;
};

const struct torpor_object *torpor_image_object(const struct torpor_image *image, size_t i);
const struct torpor_holder *torpor_image_holder(const struct torpor_image *image, size_t object, size_t i);
long torpor_image_other(struct torpor_image *image, size_t object, size_t i); /* at the other end of a pipe, connection or terminal */
const char *torpor_image_describe(struct torpor_image *image, size_t object); /* what it is, for people */

enum torpor_memory { TORPOR_ANONYMOUS, TORPOR_PRIVATE_FILE, TORPOR_SHARED, TORPOR_RESERVED, TORPOR_KERNEL };

struct torpor_space {
	size_t mappings;
	uint64_t stored_bytes;
};

struct torpor_mapping {
	uint64_t start, end;
	unsigned prot; /* PROT_* */
	int shared;    /* MAP_SHARED */
	enum torpor_memory memory;
	long inode;
	uint64_t flags; /* whose meaning may change; equal where nothing has changed */
	uint64_t offset;
	const char *name;
	uint64_t stored_bytes;
};

const struct torpor_space *torpor_image_space(const struct torpor_image *image, size_t i);
const struct torpor_mapping *torpor_image_mapping(const struct torpor_image *image, size_t space, size_t i);

enum torpor_inode_kind { TORPOR_FILE, TORPOR_UNLINKED, TORPOR_MEMFD, TORPOR_SHARED_ANONYMOUS, TORPOR_SEGMENT };

/* A file that objects and mappings refer to. */
struct torpor_inode {
	enum torpor_inode_kind kind;
	const char *path;
	uint64_t dev, ino, size; /* ino of a System V segment: its id */
	unsigned mode;
	int has_content;         /* its content is in the image */
	uint64_t stored_bytes;
	unsigned key;            /* of a System V segment */
	int removed, external;   /* ... it is marked for removal; others use it, too, and it is not stored */
};

const struct torpor_inode *torpor_image_inode(const struct torpor_image *image, size_t i);

/* A System V semaphore set, or message queue. */
struct torpor_ipc {
	int id;
	unsigned key, mode;
	size_t count; /* of semaphores or messages */
	size_t undo;  /* tasks that have something to undo on the semaphores */
};

const struct torpor_ipc *torpor_image_semaphores(const struct torpor_image *image, size_t i);
const struct torpor_ipc *torpor_image_queue(const struct torpor_image *image, size_t i);

/* Everything that an image says, in the order and with the names of doc/inspect.schema.json. */
enum torpor_item_type {
	TORPOR_OBJECT, /* begins */
	TORPOR_ARRAY,
	TORPOR_END, /* of either */
	TORPOR_UNSIGNED,
	TORPOR_SIGNED,
	TORPOR_BOOLEAN,
	TORPOR_STRING,
	TORPOR_DATA
};

struct torpor_item {
	enum torpor_item_type type;
	const char *key;      /* NULL in an array */
	int simple;           /* an array of numbers or strings */
	uint64_t number;      /* unsigned and boolean */
	int64_t signed_number;
	const char *string;
	const void *data;
	size_t size;
};

int torpor_image_walk(struct torpor_image *image, void (*visit)(void *data, const struct torpor_item *item), void *data,
		      struct torpor_error **error);

/* Numbers of pages; 4096 bytes each. The struct will not change. */
struct torpor_pages {
	uint64_t changed, added, gone, same;
};

/* Compare the stored pages from `start` to `end` of two address spaces, or all those of two files. Adds to *pages. */
int torpor_compare_spaces(const struct torpor_image *a, size_t space_a, const struct torpor_image *b, size_t space_b, uint64_t start,
			  uint64_t end, struct torpor_pages *pages, struct torpor_error **error);
int torpor_compare_inodes(const struct torpor_image *a, size_t inode_a, const struct torpor_image *b, size_t inode_b,
			  struct torpor_pages *pages, struct torpor_error **error);

/* Write a task, by its PID or the TID of one of its threads (0: the root), as a core file, which must not exist. */
struct torpor_core_info {
	int pid;
	size_t threads;
	uint64_t stored_bytes, memory_bytes;
};

int torpor_core(const struct torpor_image *image, int pid, const char *path, struct torpor_core_info **ret,
		struct torpor_error **error);
void torpor_core_info_free(struct torpor_core_info *info);

/* ---- this machine ---- */

/* What it permits, tried for real. */
struct torpor_machine {
	const char *kernel, *arch;
	unsigned uid;
	const char *capability;   /* why the capability of the program's file is not in force; or NULL */
	size_t probes, tiers;
	int dump;                 /* does it work? */
	const char *restore_tier; /* the best that works; NULL: no restore works */
};

struct torpor_probe {
	const char *id, *what, *purpose;
	const char *needed_by; /* "dump", "restore", "tier", "optional" or "planned" */
	const char *tiers;     /* those that need it; "": all, or none */
	int number;            /* 0: it works; else an errno value */
	const char *detail;
	const char *help;      /* what would make it work */
};

struct torpor_tier_state {
	const char *name, *about;
	int implemented, works;
	const struct torpor_probe *missing; /* what it would need first; or NULL */
	const char *why_not;                /* another reason; or NULL */
};

int torpor_machine_try(struct torpor_machine **ret, struct torpor_error **error);
const struct torpor_probe *torpor_machine_probe(const struct torpor_machine *machine, size_t i);
const struct torpor_tier_state *torpor_machine_tier(const struct torpor_machine *machine, size_t i); /* best first */
void torpor_machine_free(struct torpor_machine *machine);

/* Running processes, as they are seen from outside: none is stopped. */
struct torpor_processes;

struct torpor_process {
	int pid, ppid;
	unsigned uid;
	char state; /* as in /proc/PID/stat */
	const char *comm, *cmdline;
	size_t threads;
	uint64_t bytes;     /* of memory in use */
	size_t obstacles;   /* what a dump would be refused for, as far as one sees from outside */
	int in_the_way;     /* PID of a descendant that has obstacles, or its own; 0: none */
};

/* Those of the caller, or of all users; but not the caller itself. */
int torpor_processes_list(int all, struct torpor_processes **ret, struct torpor_error **error);
const struct torpor_process *torpor_processes_at(const struct torpor_processes *list, size_t i); /* ascending by PID */
const struct torpor_obstacle *torpor_processes_obstacle(const struct torpor_processes *list, size_t process, size_t i);
void torpor_processes_free(struct torpor_processes *list);

/* ---- programs that are there for nothing else ---- */

/*
 * The first thing that such a program does: of its capabilities only what torpor uses is kept, and not in force; a
 * limit of file sizes becomes an error; SIGCHLD is not ignored; fds 0 to 2 are there. Returns 0, or -TORPOR_PERMISSION: it is set-user-ID, and
 * has given that up.
 */
int torpor_process_begin(void);

/* Nothing is to be done any more but to wait, or to execute another program: capabilities are given up. */
void torpor_process_end(void);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif
