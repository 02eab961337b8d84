/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Credentials: user and group ids, capabilities, no_new_privs. State that already
 * agrees is not set again, so an ordinary user's program needs no privilege here;
 * all that torpor adds of its own (its file capability) is dropped for good.
 */

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "task/task.h"
#include "util/fd.h"
#include "util/privilege.h"

enum { IDS = 4, CAP_WORDS = 2, IDS_STEPS = 7 };

/* ---- dump ---- */

static bool creds_copy(struct arena *arena, size_t *n, uint32_t **field, const uint32_t *ids, size_t count)
{
	*n = count;
	*field = arena_memdup(arena, ids, count * sizeof(*ids));
	return *field != NULL;
}

int creds_collect(struct task_collect *c, struct target *t, const struct proc_status *status, Pb__Task *pb, struct err *e)
{
	Pb__Credentials *cr = pb_new(c->arena, Pb__Credentials, pb__credentials__init);
	/* Inside, the groups have no numbers; but nobody there may change them. */
	const struct proc_status *groups = c->outside ?: status;

	(void)t;
	if (!cr || !creds_copy(c->arena, &cr->n_uids, &cr->uids, status->uid, IDS) ||
	    !creds_copy(c->arena, &cr->n_gids, &cr->gids, status->gid, IDS) ||
	    !creds_copy(c->arena, &cr->n_groups, &cr->groups, groups->groups, groups->n_groups))
		return err_nomem(e);
	pb_set(cr, cap_inheritable, status->cap_inh);
	pb_set(cr, cap_permitted, status->cap_prm);
	pb_set(cr, cap_effective, status->cap_eff);
	pb_set(cr, cap_bounding, status->cap_bnd);
	pb_set(cr, cap_ambient, status->cap_amb);
	pb_set(cr, no_new_privs, status->no_new_privs);
	pb->creds = cr;
	return 0;
}

/* ---- restore ---- */

int creds_read_own(struct arena *arena, struct proc_status *ret, struct err *e)
{
	char *text;
	int r = fd_read_proc(getpid(), "status", arena, &text, NULL);

	if (r == 0)
		r = proc_parse_status(text, arena, ret);
	return r < 0 ? err_sys(e, r, "reading /proc/self/status") : 0;
}

static bool same_ids(const uint32_t *a, size_t n_a, const uint32_t *b, size_t n_b)
{
	return n_a == n_b && (!n_a || memcmp(a, b, n_a * sizeof(*a)) == 0);
}

static bool creds_same_ids(const Pb__Credentials *cr, const struct proc_status *own, bool keeps_groups)
{
	return same_ids(cr->uids, cr->n_uids, own->uid, IDS) && same_ids(cr->gids, cr->n_gids, own->gid, IDS) &&
	       (keeps_groups || same_ids(cr->groups, cr->n_groups, own->groups, own->n_groups));
}

static bool has_cap(const struct proc_status *own, unsigned cap)
{
	return own->cap_eff >> cap & 1;
}

int creds_check(const Pb__Task *pb, const struct proc_status *own, struct err *e)
{
	const Pb__Credentials *cr = pb->creds;
	int r = 0;

	if (!cr || cr->n_uids != IDS || cr->n_gids != IDS) {
		r = err_set(e, ERR_IMAGE, 0, "task %d has no credentials in the image", pb->pid);
	} else if (!creds_same_ids(cr, own, false) && (!has_cap(own, CAP_SETUID) || !has_cap(own, CAP_SETGID))) {
		err_set(e, ERR_PERMISSION, 0, "cannot restore task %d (%s): it ran as user %u and group %u, torpor runs as %u and %u%s",
			pb->pid, pb->comm, cr->uids[0], cr->gids[0], own->uid[0], own->gid[0],
			cr->uids[0] == own->uid[0] && cr->gids[0] == own->gid[0] ? " (supplementary groups or effective ids differ)"
									       : "");
		err_id(e, "E-RESTORE-USER");
		r = err_help(e, "restore as that user, from a login with the same groups, or as root");
	} else if (cr->cap_permitted & ~privilege_grantable()) {
		err_set(e, ERR_PERMISSION, 0, "cannot restore task %d (%s): it held capabilities (%#lx) that you do not have",
			pb->pid, pb->comm, cr->cap_permitted & ~privilege_grantable());
		err_id(e, "E-RESTORE-CAPABILITIES");
		r = err_help(e, "restore as root, or where they are ambient capabilities of yours");
	} else if (cr->cap_inheritable & ~(privilege_grantable() | own->cap_inh)) {
		err_set(e, ERR_PERMISSION, 0, "cannot restore task %d (%s): its inheritable capabilities (%#lx) are not yours to give",
			pb->pid, pb->comm, cr->cap_inheritable);
		err_id(e, "E-RESTORE-CAPABILITIES");
		r = err_help(e, "restore as root");
	}
	return r;
}

/* The ids, where they differ: as root, keeping the capabilities until capset drops them. */
static int creds_restore_ids(const struct task_restore *r, struct script_builder *b, struct err *e)
{
	const Pb__Credentials *cr = r->pb->creds;
	void *groups = region_put(r->region, cr->groups, cr->n_groups * sizeof(*cr->groups));

	if (!groups)
		return err_set(e, ERR_SYSTEM, 0, "the region for the switch is full");
	script_call(b, SCRIPT_MUST, "PR_SET_KEEPCAPS", SYS_prctl, PR_SET_KEEPCAPS, 1);
	script_call(b, SCRIPT_MUST, "setgroups", SYS_setgroups, cr->n_groups, (uint64_t)groups);
	script_call(b, SCRIPT_MUST, "setresgid", SYS_setresgid, cr->gids[0], cr->gids[1], cr->gids[2]);
	script_call(b, SCRIPT_MUST, "setresuid", SYS_setresuid, cr->uids[0], cr->uids[1], cr->uids[2]);
	script_call(b, SCRIPT_MUST, "setfsgid", SYS_setfsgid, cr->gids[3]);
	script_call(b, SCRIPT_MUST, "setfsuid", SYS_setfsuid, cr->uids[3]);
	script_call(b, SCRIPT_MUST, "PR_SET_KEEPCAPS", SYS_prctl, PR_SET_KEEPCAPS, 0);
	return 0;
}

static int creds_restore_caps(const struct task_restore *r, struct script_builder *b, struct err *e)
{
	const Pb__Credentials *cr = r->pb->creds;
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[CAP_WORDS];
	void *header_at, *data_at;

	for (unsigned i = 0; i < CAP_WORDS; i++) {
		data[i].inheritable = (uint32_t)(cr->cap_inheritable >> 32 * i);
		data[i].permitted = (uint32_t)(cr->cap_permitted >> 32 * i);
		data[i].effective = (uint32_t)(cr->cap_effective >> 32 * i);
	}
	header_at = region_put(r->region, &header, sizeof(header));
	data_at = region_put(r->region, data, sizeof(data));
	if (!header_at || !data_at)
		return err_set(e, ERR_SYSTEM, 0, "the region for the switch is full");
	script_call(b, SCRIPT_MUST, "capset", SYS_capset, (uint64_t)header_at, (uint64_t)data_at);
	return 0;
}

bool creds_change_ids(const struct task_restore *r)
{
	return !creds_same_ids(r->pb->creds, &r->own, r->keeps_groups);
}

/* Those of the bounding set that it must lose, and may. */
static uint64_t creds_to_drop(const struct task_restore *r)
{
	return has_cap(&r->own, CAP_SETPCAP) ? r->own.cap_bnd & ~r->pb->creds->cap_bounding : 0;
}

static size_t count_caps(uint64_t set)
{
	size_t n = 0;

	for (; set; set &= set - 1)
		n++;
	return n;
}

size_t creds_script_ops(const struct task_restore *r)
{
	const Pb__Credentials *cr = r->pb->creds;

	return count_caps(creds_to_drop(r)) + (creds_change_ids(r) ? IDS_STEPS : 0) + 1 + count_caps(cr->cap_ambient) +
	       (cr->no_new_privs ? 1 : 0);
}

int creds_restore(const struct task_restore *r, struct script_builder *b, struct err *e)
{
	const Pb__Credentials *cr = r->pb->creds;
	const uint64_t drop = creds_to_drop(r);
	int ret = 0;

	/* First what needs capabilities: a change of user takes the effective ones away. */
	for (unsigned cap = 0; cap < 64; cap++)
		if (drop >> cap & 1)
			script_call(b, SCRIPT_MUST, "PR_CAPBSET_DROP", SYS_prctl, PR_CAPBSET_DROP, cap);
	if (creds_change_ids(r))
		ret = creds_restore_ids(r, b, e);
	if (ret == 0)
		ret = creds_restore_caps(r, b, e);
	for (unsigned cap = 0; ret == 0 && cap < 64; cap++)
		if (cr->cap_ambient >> cap & 1)
			script_call(b, SCRIPT_MUST, "PR_CAP_AMBIENT_RAISE", SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap);
	if (ret == 0 && cr->no_new_privs)
		script_call(b, SCRIPT_MUST, "PR_SET_NO_NEW_PRIVS", SYS_prctl, PR_SET_NO_NEW_PRIVS, 1);
	return ret;
}
