/* SPDX-License-Identifier: Apache-2.0 */
#include "util/privilege.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "util/err.h"

/*
 * What torpor uses, and for what. `anyone`: also when it is not root but holds
 * this by its file or as an ambient capability. The others would let every user
 * of such a binary at the files and programs of all users.
 */
static const struct {
	unsigned cap;
	bool anyone;
} used[] = {
	{ CAP_CHECKPOINT_RESTORE, true }, /* set_tid, ns_last_pid, map_files, PR_SET_MM_MAP, *_next_id, locked termios */
	{ CAP_NET_ADMIN, true },          /* TCP_REPAIR, socket buffers, filters of TCP sockets */
	{ CAP_NET_RAW, true },            /* packets that a socket is to receive again; with the caller's: raw sockets */
	{ CAP_NET_BIND_SERVICE, true },   /* ports below 1024 */
	{ CAP_SYS_NICE, true },           /* nice values below ours, real-time scheduling and I/O priority */
	{ CAP_SYS_RESOURCE, true },       /* hard limits and oom_score_adj as they were */
	{ CAP_IPC_LOCK, true },           /* locked and huge pages beyond the limit */
	{ CAP_SYS_PTRACE, false },        /* programs of other users, and those that hold capabilities */
	{ CAP_KILL, false },              /* ... ending them, and passing signals on */
	{ CAP_DAC_READ_SEARCH, false },   /* ... their folders and files */
	{ CAP_DAC_OVERRIDE, false },      /* ... files that they write to */
	{ CAP_CHOWN, false },             /* ... files that are made again */
	{ CAP_FOWNER, false },            /* ... and their modes */
	{ CAP_LEASE, false },             /* ... leases on files of others */
	{ CAP_IPC_OWNER, false },         /* ... System V segments of others */
	{ CAP_SETUID, false },            /* ... their user and group ids */
	{ CAP_SETGID, false },
	{ CAP_SETPCAP, false },           /* ... and bounding set */
	{ CAP_SYS_CHROOT, false },        /* ... and root folder */
	{ CAP_SYS_ADMIN, false },         /* namespaces, suspending seccomp */
};

enum { CAP_WORDS = 2 };

/*
 * About the process, like its capabilities, and so not in any handle: written only in processes that are torpor's own
 * (torpor_process_begin(), src/api/helper.c).
 */
static bool begun;
static uint64_t grantable;

struct capability_sets {
	uint64_t effective, permitted, inheritable;
};

static bool sets_get(struct capability_sets *ret)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[CAP_WORDS] = { 0 };

	if (syscall(SYS_capget, &header, data) < 0)
		return false;
	ret->effective = data[0].effective | (uint64_t)data[1].effective << 32;
	ret->permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
	ret->inheritable = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
	return true;
}

/* Not to go on with more than was meant: the one place below src/cmd that ends torpor, and says so itself. */
static _Noreturn void privilege_stuck(void)
{
	static const char text[] = "torpor: the kernel does not let torpor give up capabilities or ids\n";

	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	_exit(ERR_PERMISSION);
}

/* Only ever makes the permitted set smaller, so it can only fail under a security module or a seccomp filter. */
static void sets_put(const struct capability_sets *s)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[CAP_WORDS];

	for (unsigned i = 0; i < CAP_WORDS; i++) {
		data[i].effective = (uint32_t)(s->effective >> 32 * i);
		data[i].permitted = (uint32_t)(s->permitted >> 32 * i);
		data[i].inheritable = (uint32_t)(s->inheritable >> 32 * i);
	}
	if (syscall(SYS_capset, &header, data) < 0)
		privilege_stuck();
}

static uint64_t used_mask(bool root)
{
	uint64_t mask = 0;

	for (size_t i = 0; i < sizeof(used) / sizeof(used[0]); i++)
		if (root || used[i].anyone)
			mask |= PRIVILEGE(used[i].cap);
	return mask;
}

static uint64_t ambient_set(void)
{
	uint64_t mask = 0;

	for (unsigned cap = 0; cap < 64; cap++)
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) == 1)
			mask |= PRIVILEGE(cap);
	return mask;
}

/*
 * Root acts as root: what torpor uses stays effective, but in the reader of
 * images; the rest is kept, unused, for the programs that it may have to be given
 * back to. For everybody else nothing is effective by itself.
 */
bool privilege_begin(void)
{
	bool root = geteuid() == 0, foreign = getuid() != geteuid() || getgid() != getegid();
	struct capability_sets s;

	if (begun)
		return true;
	begun = true;
	if (foreign && (setresgid(getgid(), getgid(), getgid()) < 0 || setresuid(getuid(), getuid(), getuid()) < 0))
		privilege_stuck();
	if (!sets_get(&s))
		return !foreign;
	grantable = foreign ? 0 : root ? s.permitted : ambient_set() & s.permitted;
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	s.permitted &= foreign ? 0 : used_mask(root) | grantable;
	s.effective = root && !foreign ? s.permitted & used_mask(root) : 0;
	sets_put(&s);
	return !foreign;
}

uint64_t privilege_extra(void)
{
	return used_mask(geteuid() == 0) & ~PRIVILEGE_CHECKPOINT;
}

uint64_t privilege_grantable(void)
{
	return grantable;
}

bool privilege_exceeds_caller(void)
{
	struct capability_sets s;

	return geteuid() == 0 || (sets_get(&s) && (s.permitted & ~grantable));
}

bool privilege_can(uint64_t capabilities)
{
	struct capability_sets s;

	return sets_get(&s) && !(capabilities & ~s.permitted);
}

static struct privilege privilege_set(struct capability_sets *s, uint64_t effective)
{
	struct privilege p = { .before = s->effective, .changed = effective != s->effective };

	s->effective = effective;
	if (p.changed)
		sets_put(s);
	return p;
}

struct privilege privilege_raise(uint64_t capabilities)
{
	struct capability_sets s;

	return sets_get(&s) ? privilege_set(&s, s.effective | (s.permitted & capabilities)) : (struct privilege){ 0 };
}

struct privilege privilege_none(void)
{
	struct capability_sets s;

	return sets_get(&s) ? privilege_set(&s, 0) : (struct privilege){ 0 };
}

void privilege_lower(struct privilege *p)
{
	struct capability_sets s;

	if (p->changed && sets_get(&s))
		privilege_set(&s, p->before & s.permitted);
}

void privilege_end(void)
{
	struct capability_sets s;

	if (!sets_get(&s))
		return;
	s.permitted &= PRIVILEGE(CAP_KILL);
	s.effective &= s.permitted;
	s.inheritable = 0;
	sets_put(&s);
}

/*
 * CAP_SETPCAP stays effective: a new user namespace begins with the whole bounding
 * set, which each task makes as small as it was.
 */
void privilege_enter_namespace(void)
{
	struct capability_sets s;

	grantable = 0;
	if (!sets_get(&s))
		return;
	s.permitted &= PRIVILEGE_CHECKPOINT | PRIVILEGE(CAP_SETPCAP);
	s.effective = s.permitted & PRIVILEGE(CAP_SETPCAP);
	s.inheritable = 0;
	sets_put(&s);
}

uint64_t privilege_bounding(void)
{
	uint64_t mask = 0;

	for (unsigned cap = 0; cap < 64; cap++)
		if (prctl(PR_CAPBSET_READ, cap) == 1)
			mask |= PRIVILEGE(cap);
	return mask;
}

void privilege_renounce(uint64_t bounding)
{
	for (unsigned cap = 0; cap < 64; cap++)
		if (!(bounding >> cap & 1))
			prctl(PR_CAPBSET_DROP, cap);
	sets_put(&(struct capability_sets){ 0 });
}

const char *privilege_why_not(void)
{
	struct capability_sets s;

	if (!sets_get(&s) || (s.permitted & PRIVILEGE_CHECKPOINT) ||
	    getxattr("/proc/self/exe", "security.capability", NULL, 0) <= 0)
		return NULL;
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
		return "the capability of torpor's file is not in force: no_new_privs is set for this process";
	if (prctl(PR_CAPBSET_READ, CAP_CHECKPOINT_RESTORE) == 0)
		return "the capability of torpor's file is not in force: the bounding set of this process lacks it";
	return "the capability of torpor's file is not in force: it lies on a file system mounted nosuid, is for another user "
	       "namespace, or is not cap_checkpoint_restore";
}
