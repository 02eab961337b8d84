/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The notes of a core file: what a debugger asks of threads, process and mapped
 * files. Layouts: sys/procfs.h, and the kernel's fs/binfmt_elf.c for NT_FILE and
 * for the order.
 */

#include <assert.h>
#include <elf.h>
#include <string.h>
#include <sys/procfs.h>
#include <sys/user.h>

#include "arch/x86_64/regs.h"
#include "elf/core.h"

enum { NOTE_ALIGN = 4, PAGE = IMAGE_PAGE, SIGINFO_SIZE = 128 };

bool elf_buffer_add(struct elf_buffer *b, const void *data, size_t size)
{
	if (b->size + size > b->room) {
		size_t room = (b->size + size) * 2;
		char *grown = arena_alloc(b->arena, room);

		if (!grown)
			return false;
		if (b->size)
			memcpy(grown, b->data, b->size);
		b->data = grown;
		b->room = room;
	}
	if (data && size)
		memcpy(b->data + b->size, data, size);
	else if (size)
		memset(b->data + b->size, 0, size);
	b->size += size;
	return true;
}

static bool notes_align(struct elf_buffer *b)
{
	return elf_buffer_add(b, NULL, -b->size % NOTE_ALIGN);
}

/* The kernel's own notes are of "CORE"; what came later is of "LINUX". */
static bool notes_add(struct elf_buffer *b, const char *owner, uint32_t type, const void *data, size_t size)
{
	const Elf64_Nhdr head = { .n_namesz = (Elf64_Word)strlen(owner) + 1, .n_descsz = (Elf64_Word)size, .n_type = type };

	return elf_buffer_add(b, &head, sizeof(head)) && elf_buffer_add(b, owner, head.n_namesz) && notes_align(b) &&
	       elf_buffer_add(b, data, size) && notes_align(b);
}

/* ---- threads ---- */

static bool notes_add_status(struct elf_buffer *b, const Pb__Task *t, const Pb__Thread *th)
{
	struct elf_prstatus s = {
		.pr_info.si_signo = (int)t->stop_signal,
		.pr_cursig = (short)t->stop_signal,
		.pr_sighold = th->sigmask,
		.pr_pid = th->tid,
		.pr_ppid = t->ppid,
		.pr_pgrp = t->pgid,
		.pr_sid = t->sid,
		.pr_fpvalid = th->xstate_size >= sizeof(struct user_fpregs_struct) || th->xstate.len >= sizeof(struct user_fpregs_struct),
	};

	static_assert(sizeof(s.pr_reg) == sizeof(struct user_regs_struct), "a core file holds the registers of ptrace(2)");
	memcpy(&s.pr_reg, th->regs.data, sizeof(s.pr_reg)); /* its length has been checked */
	return notes_add(b, "CORE", NT_PRSTATUS, &s, sizeof(s));
}

/* The extended state begins with what older debuggers know: the area of fxsave. */
static bool notes_add_extended(struct elf_buffer *b, const Pb__Thread *th)
{
	unsigned char xstate[ARCH_XSTATE_MAX];
	size_t size = pb_xstate(th, xstate, sizeof(xstate));

	if (size < sizeof(struct user_fpregs_struct))
		return true;
	return notes_add(b, "CORE", NT_FPREGSET, xstate, sizeof(struct user_fpregs_struct)) &&
	       notes_add(b, "LINUX", NT_X86_XSTATE, xstate, size);
}

/* ---- the process ---- */

static bool notes_add_info(struct elf_buffer *b, const Pb__Task *t)
{
	struct elf_prpsinfo p = {
		.pr_state = t->state == PB__TASK_STATE__STOPPED ? 3 : 0, /* index into the letters of states, "RSDTZW" */
		.pr_sname = t->state == PB__TASK_STATE__STOPPED ? 'T' : 'R',
		.pr_pid = t->pid,
		.pr_ppid = t->ppid,
		.pr_pgrp = t->pgid,
		.pr_sid = t->sid,
	};

	if (t->creds && t->creds->n_uids)
		p.pr_uid = t->creds->uids[0];
	if (t->creds && t->creds->n_gids)
		p.pr_gid = t->creds->gids[0];
	memcpy(p.pr_fname, t->comm, strnlen(t->comm, sizeof(p.pr_fname) - 1));
	if (t->cmdline)
		memcpy(p.pr_psargs, t->cmdline, strnlen(t->cmdline, sizeof(p.pr_psargs) - 1));
	return notes_add(b, "CORE", NT_PRPSINFO, &p, sizeof(p));
}

static bool notes_add_signal(struct elf_buffer *b, const Pb__Task *t)
{
	unsigned char info[SIGINFO_SIZE] = { 0 };
	int signo = (int)t->stop_signal;

	memcpy(info, &signo, sizeof(signo));
	return notes_add(b, "CORE", NT_SIGINFO, info, sizeof(info));
}

static bool notes_is_file(const Pb__Mapping *m)
{
	return (m->kind == PB__MAPPING_KIND__FILE_PRIVATE || m->kind == PB__MAPPING_KIND__FILE_SHARED) && m->name && m->name[0];
}

/* Count, page size; start, end and page offset of each mapping; then all the names. */
static bool notes_add_files(struct elf_buffer *b, const Pb__AddressSpace *s)
{
	struct elf_buffer note = { .arena = b->arena };
	uint64_t head[2] = { 0, PAGE };
	bool ok = true;

	for (size_t i = 0; i < s->n_mappings; i++)
		head[0] += notes_is_file(s->mappings[i]);
	ok = elf_buffer_add(&note, head, sizeof(head));
	for (size_t i = 0; ok && i < s->n_mappings; i++) {
		const Pb__Mapping *m = s->mappings[i];
		const uint64_t place[3] = { m->start, m->end, m->offset / PAGE };

		if (notes_is_file(m))
			ok = elf_buffer_add(&note, place, sizeof(place));
	}
	for (size_t i = 0; ok && i < s->n_mappings; i++)
		if (notes_is_file(s->mappings[i]))
			ok = elf_buffer_add(&note, s->mappings[i]->name, strlen(s->mappings[i]->name) + 1);
	return ok && notes_add(b, "CORE", NT_FILE, note.data, note.size);
}

/* The first thread, the process, and the other threads: as the kernel orders them. */
int elf_core_notes(const Pb__Image *meta, const Pb__Task *t, struct elf_buffer *b, struct err *e)
{
	const Pb__AddressSpace *s = meta->spaces[t->space];
	bool ok = notes_add_status(b, t, t->threads[0]) && notes_add_info(b, t) && notes_add_signal(b, t) &&
		  notes_add(b, "CORE", NT_AUXV, s->auxv.data, s->auxv.len) && notes_add_files(b, s) &&
		  notes_add_extended(b, t->threads[0]);

	for (size_t i = 1; ok && i < t->n_threads; i++)
		ok = notes_add_status(b, t, t->threads[i]) && notes_add_extended(b, t->threads[i]);
	return ok ? 0 : err_nomem(e);
}
