/* SPDX-License-Identifier: Apache-2.0 */

/* The mappings of a stopped task, classified, with what the kernel remembers of its program. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "memory/memory.h"
#include "memory/track.h"
#include "proc/maps.h"
#include "util/fd.h"
#include "util/xxh3.h"

static int memory_refuse(struct memory_collect *c, const struct target *task, const struct vm_area *a, const char *id,
			 const char *what, const char *help)
{
	return obstacle_add(c->obstacles, id, task->pid, task->stat.comm, help, "the mapping %lx-%lx (%s) %s", a->start,
			    a->end, a->name[0] ? a->name : "anonymous", what);
}

static bool starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

const char *memory_obstacle(const struct vm_area *a, const char **ret_what, const char **ret_help)
{
	const char *id = "E-MAP-SPECIAL", *what = NULL, *help = "end the use of it in the program before the dump";

	if (a->flags & VM_FLAG_SHADOW_STACK)
		what = "is a shadow stack", help = "start the program without user shadow stacks (GLIBC_TUNABLES)";
	else if (a->flags & VM_FLAG_UFFD)
		what = "is registered with a userfaultfd", id = "E-MAP-UFFD";
	else if (a->flags & VM_FLAG_SEALED)
		what = "is sealed (mseal) and could not be put back in place", id = "E-MAP-SEALED";
	else if (starts(a->name, "[uprobes"))
		what = "belongs to an active uprobe", help = "remove the probe (perf, bpftrace), restart the program";
	else if (starts(a->name, "/[aio]"))
		what = "is the ring of an asynchronous I/O context (io_setup)", id = "E-MAP-AIO";
	else if (starts(a->name, "anon_inode:") || starts(a->name, "socket:"))
		what = "is shared with a kernel object", id = "E-MAP-KERNEL";
	else if ((a->flags & VM_FLAG_IO) && !vm_area_is_vvar(a))
		what = "is device memory", id = "E-MAP-DEVICE";
	else if ((a->flags & VM_FLAG_HUGETLB) && starts(a->name, "/SYSV"))
		what = "is a System V shared memory segment in hugetlb pages", id = "E-MAP-HUGETLB";
	*ret_what = what;
	*ret_help = help;
	return what ? id : NULL;
}

/* What cannot be saved. Returns 1 when the area was refused, 0 when it is fine. */
static int memory_check(struct memory_collect *c, const struct target *task, const struct vm_area *a)
{
	const char *what, *help, *id = memory_obstacle(a, &what, &help);

	if (!id)
		return 0;
	return memory_refuse(c, task, a, id, what, help) < 0 ? -1 : 1;
}

static bool memory_is_anonymous(const struct vm_area *a)
{
	if (a->name[0] == '/')
		return starts(a->name, "/anon_hugepage") && a->deleted && !(a->flags & VM_FLAG_SHARED);
	return !a->ino;
}

static int memory_add_mapping(struct memory_collect *c, struct target *task, Pb__AddressSpace *space,
			      const struct vm_area *a, struct err *e)
{
	Pb__Mapping *m = pb_new(c->arena, Pb__Mapping, pb__mapping__init);
	uint32_t inode;

	if (!m || !pb_add(c->arena, space, mappings, m))
		return err_nomem(e);
	m->start = a->start;
	m->end = a->end;
	m->prot = a->prot;
	m->name = (char *)a->name;
	pb_set(m, flags, a->flags);
	if (a->flags & VM_FLAG_HUGETLB)
		pb_set(m, page_size, a->page_size);
	task->alone[space->n_mappings - 1] = a->alone;
	if (vm_area_is_vdso(a)) {
		pb_set(m, kind, PB__MAPPING_KIND__VDSO);
		task->vdso = a->start;
		task->vdso_size = a->end - a->start;
	} else if (vm_area_is_vvar(a)) {
		pb_set(m, kind, PB__MAPPING_KIND__VVAR);
	} else if (memory_is_anonymous(a)) {
		pb_set(m, kind, PB__MAPPING_KIND__ANON);
	} else {
		pb_set(m, kind, a->flags & VM_FLAG_SHARED ? PB__MAPPING_KIND__FILE_SHARED
							  : PB__MAPPING_KIND__FILE_PRIVATE);
		pb_set(m, offset, a->offset);
		if (inode_collect_mapping(c->inodes, task, a, &inode, e) < 0)
			return -1;
		pb_set(m, inode, inode);
	}
	return 0;
}

int memory_find_vdso(struct target *task, struct arena *arena, struct err *e)
{
	struct vm_area_list list;
	int r = areas_read_all(task->pid, "maps", arena, NULL, &list, e);

	for (size_t i = 0; r == 0 && i < list.n; i++) {
		if (vm_area_is_vdso(&list.areas[i])) {
			task->vdso = list.areas[i].start;
			task->vdso_size = list.areas[i].end - list.areas[i].start;
		}
	}
	return r;
}

static int memory_collect_mappings(struct memory_collect *c, struct target *task, Pb__AddressSpace *space, struct err *e)
{
	struct vm_area_list list;
	int r = 0;

	if (c->now)
		list = *c->now;
	else
		r = areas_read_all(task->pid, c->known ? "maps" : "smaps", c->arena, c->told, &list, e);
	if (r < 0)
		return r;
	if (c->known && !memory_take_flags(&list, c->known))
		return 1;
	if (c->track)
		track_hide(c->track, &list, true);
	c->areas = list;
	task->alone = arena_alloc(c->arena, (list.n + 1) * sizeof(*task->alone));
	if (!task->alone)
		return err_nomem(e);
	for (size_t i = 0; r == 0 && i < list.n; i++) {
		const struct vm_area *a = &list.areas[i];

		if (strcmp(a->name, "[vsyscall]") == 0)
			continue;
		r = memory_check(c, task, a);
		if (r == 0)
			r = memory_add_mapping(c, task, space, a, e);
		else if (r == 1)
			r = 0; /* reported; go on, so that all obstacles are listed */
		else
			r = err_nomem(e);
	}
	return r;
}

static int memory_collect_exe(struct memory_collect *c, struct target *task, Pb__AddressSpace *space, struct err *e)
{
	struct vm_area area = { .prot = PROT_EXEC };
	char *link;
	size_t n;
	struct stat st;
	uint32_t inode;
	char path[64];
	int r = fd_readlink_proc(task->pid, "exe", c->arena, &link);

	if (r < 0)
		return err_sys(e, r, "reading /proc/%d/exe", task->pid);
	snprintf(path, sizeof(path), "/proc/%d/exe", task->pid);
	if (stat(path, &st) < 0)
		return err_sys(e, errno, "examining %s", path);
	n = strlen(link);
	area.deleted = n > 10 && strcmp(link + n - 10, " (deleted)") == 0;
	if (area.deleted)
		link[n - 10] = '\0';
	area.name = link;
	area.dev = st.st_dev;
	area.ino = st.st_ino;
	/* A mapping of the executable has the same inode; this finds or adds it. */
	if (inode_collect_mapping(c->inodes, task, &area, &inode, e) < 0)
		return -1;
	if (c->inodes->v[inode].pb->kind != PB__INODE_KIND__PATH && c->inodes->v[inode].fd < 0)
		c->inodes->v[inode].fd = open(path, O_RDONLY | O_CLOEXEC);
	pb_set(space, exe, inode);
	return 0;
}

static int memory_collect_auxv(struct memory_collect *c, struct target *task, Pb__AddressSpace *space, struct err *e)
{
	char *auxv;
	size_t size;
	int r = fd_read_proc(task->pid, "auxv", c->arena, &auxv, &size);

	if (r < 0)
		return err_sys(e, r, "reading /proc/%d/auxv", task->pid);
	return pb_set_bytes(c->arena, space, auxv, auxv, size) ? 0 : err_nomem(e);
}

int memory_collect(struct memory_collect *c, struct target *task, Pb__AddressSpace **ret, struct err *e)
{
	Pb__AddressSpace *space = pb_new(c->arena, Pb__AddressSpace, pb__address_space__init);
	const struct proc_stat *st = &task->stat;
	char *text;
	int r;

	if (!space)
		return err_nomem(e);
	pb_set(space, start_code, st->start_code);
	pb_set(space, end_code, st->end_code);
	pb_set(space, start_data, st->start_data);
	pb_set(space, end_data, st->end_data);
	pb_set(space, start_brk, st->start_brk);
	pb_set(space, start_stack, st->start_stack);
	pb_set(space, arg_start, st->arg_start);
	pb_set(space, arg_end, st->arg_end);
	pb_set(space, env_start, st->env_start);
	pb_set(space, env_end, st->env_end);
	r = fd_read_proc_if_any(task->pid, "coredump_filter", c->arena, &text);
	if (r < 0)
		return err_sys(e, r, "reading /proc/%d/coredump_filter", task->pid);
	if (text)
		pb_set(space, coredump_filter, strtoull(text, NULL, 16));
	r = memory_collect_mappings(c, task, space, e);
	if (r)
		return r;
	if (memory_collect_auxv(c, task, space, e) < 0 || memory_collect_exe(c, task, space, e) < 0)
		return -1;
	*ret = space;
	return 0;
}

int memory_vdso_hash(uint64_t *ret, struct err *e)
{
	struct arena arena = ARENA_INIT;
	struct vm_area_list list;
	int r = areas_read_all(getpid(), "maps", &arena, NULL, &list, e);

	*ret = 0;
	for (size_t i = 0; r == 0 && i < list.n; i++)
		if (vm_area_is_vdso(&list.areas[i]))
			*ret = xxh3_sum((void *)list.areas[i].start, list.areas[i].end - list.areas[i].start, 0);
	arena_done(&arena);
	return r;
}
