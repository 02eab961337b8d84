/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The file: header, program headers, notes, memory. What the kernel's default
 * filter leaves out (core(5)) has a program header without bytes in the file:
 * pages of files that were not modified, but for the page with an ELF header,
 * by which debuggers recognise a library. Zero pages are holes.
 *
 * A private mapping of a file is cut along its modified pages, so that debuggers
 * look into the file for the others, which the image does not hold.
 */

#include "elf/core.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proc/maps.h"
#include "util/fd.h"
#include "util/xxh3.h"

enum { COPY_SIZE = 1024 * 1024, PAGE = IMAGE_PAGE };

/* A piece of one mapping. */
struct segment {
	uint64_t start, size;
	uint64_t file_size;   /* `size`, or 0: nothing of it is in the file */
	uint64_t offset;      /* in the file */
	uint32_t prot;
	bool stored;          /* the pages are in the image: */
	uint32_t owner;       /* ... of this owner, */
	uint64_t from;        /* ... from this address of it on */
	const void *bytes;    /* not stored: these, if not NULL */
};

struct core {
	const struct image *img;
	struct image_cursor cursor;
	const Pb__Image *meta;
	const Pb__Task *task;
	struct arena arena;
	struct segment *segments;
	size_t n;
	struct elf_buffer notes;
	const char *path;
	int fd;
	char *buffer; /* COPY_SIZE bytes */
	struct elf_core *result;
};

/* ---- which bytes ---- */

static int core_add(struct core *c, const struct segment *s, struct err *e)
{
	struct segment *v = arena_grow(&c->arena, c->segments, c->n, sizeof(*v));

	if (!v)
		return err_nomem(e);
	c->segments = v;
	v[c->n++] = *s;
	return 0;
}

/* The first page of the file, if that is the one that was mapped, and begins with an ELF header; else NULL. */
static const void *core_read_elf_header(struct core *c, const Pb__Inode *n)
{
	cleanup_close int fd = n->kind == PB__INODE_KIND__PATH ?
				       open(n->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK) : -1;
	struct stat st;
	char *page;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_ino != n->ino || (uint64_t)st.st_size != n->size ||
	    st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec != n->mtime_ns)
		return NULL;
	page = arena_alloc(&c->arena, PAGE);
	if (!page || pread(fd, page, PAGE, 0) < (ssize_t)sizeof(Elf64_Ehdr) || memcmp(page, ELFMAG, SELFMAG) != 0)
		return NULL;
	return page;
}

/* A stretch of a file's mapping that was not modified. */
static int core_add_file(struct core *c, const Pb__Mapping *m, uint64_t start, uint64_t end, struct err *e)
{
	const void *page = start == m->start && m->offset == 0 ? core_read_elf_header(c, c->meta->inodes[m->inode]) : NULL;
	struct segment s = { .start = start, .size = page ? PAGE : end - start, .prot = m->prot, .bytes = page };

	s.file_size = page ? PAGE : 0;
	if (start == end)
		return 0;
	if (core_add(c, &s, e) < 0)
		return -1;
	if (!page || start + PAGE == end)
		return 0;
	s = (struct segment){ .start = start + PAGE, .size = end - start - PAGE, .prot = m->prot };
	return core_add(c, &s, e);
}

static int core_add_private_file(struct core *c, const Pb__Mapping *m, uint32_t owner, struct err *e)
{
	uint64_t at = m->start;
	size_t n;
	const struct image_run *runs = image_runs_from(c->img, owner, m->start, &n);

	for (size_t i = 0; i < n && runs[i].addr < m->end;) {
		uint64_t start = runs[i].addr > at ? runs[i].addr : at, end = start;

		for (; i < n && runs[i].addr <= end; i++) /* neighbours are one piece */
			end = runs[i].addr + (uint64_t)runs[i].pages * PAGE;
		if (end > m->end)
			end = m->end;
		if (core_add_file(c, m, at, start, e) < 0 ||
		    core_add(c, &(struct segment){ .start = start, .size = end - start, .file_size = end - start, .prot = m->prot,
						   .stored = true, .owner = owner, .from = start }, e) < 0)
			return -1;
		at = end;
	}
	return core_add_file(c, m, at, m->end, e);
}

/* The kernel's own code is not in the image; it is that of this kernel, if the program ran on the same one. */
static const void *core_vdso(const struct core *c, const Pb__Mapping *m)
{
	const char *own = (const char *)getauxval(AT_SYSINFO_EHDR);
	const Elf64_Ehdr *head = (const Elf64_Ehdr *)own;
	uint64_t size = own ? head->e_shoff + (uint64_t)head->e_shnum * head->e_shentsize : 0;

	size = (size + PAGE - 1) & ~(uint64_t)(PAGE - 1);
	return size && size == m->end - m->start && xxh3_sum(own, size, 0) == c->meta->machine->vdso_hash ? own : NULL;
}

static int core_add_mapping(struct core *c, const Pb__Mapping *m, struct err *e)
{
	const uint32_t space = IMAGE_OWNER_SPACE(c->task->space), inode = IMAGE_OWNER_INODE(m->inode);
	struct segment s = { .start = m->start, .size = m->end - m->start, .prot = m->prot, .owner = space, .from = m->start };
	size_t n;
	const struct image_run *runs;

	if (m->flags & VM_FLAG_DONTDUMP)
		return core_add(c, &s, e);
	switch (m->kind) {
	case PB__MAPPING_KIND__FILE_PRIVATE:
		return core_add_private_file(c, m, space, e);
	case PB__MAPPING_KIND__FILE_SHARED:
		if (c->meta->inodes[m->inode]->kind == PB__INODE_KIND__PATH)
			return core_add_file(c, m, m->start, m->end, e);
		s.owner = inode;
		s.from = m->offset;
		break;
	case PB__MAPPING_KIND__VDSO:
		s.bytes = core_vdso(c, m);
		s.file_size = s.bytes ? s.size : 0;
		return core_add(c, &s, e);
	default:
		break;
	}
	runs = image_runs_from(c->img, s.owner, s.from, &n);
	s.stored = n && runs->addr < s.from + s.size;
	s.file_size = s.stored ? s.size : 0; /* nobody has touched the rest */
	return core_add(c, &s, e);
}

/* ---- the file ---- */

static int core_write(struct core *c, const void *data, size_t size, uint64_t offset, struct err *e)
{
	int r = fd_pwrite_full(c->fd, data, size, (off_t)offset);

	return r < 0 ? err_sys(e, r, "writing %s", c->path) : 0;
}

/* Where everything is; returns the size of the file. */
static uint64_t core_lay_out(struct core *c)
{
	uint64_t at = sizeof(Elf64_Ehdr) + (c->n + 1) * sizeof(Elf64_Phdr) + sizeof(Elf64_Shdr) + c->notes.size;

	at = (at + PAGE - 1) & ~(uint64_t)(PAGE - 1);
	for (size_t i = 0; i < c->n; i++) {
		c->segments[i].offset = at;
		at += c->segments[i].file_size;
	}
	return at;
}

/* More program headers than its field can count: the number is in the first section header, elf(5). */
static int core_write_header(struct core *c, struct err *e)
{
	const uint64_t phdrs = sizeof(Elf64_Ehdr), n = c->n + 1, after = phdrs + n * sizeof(Elf64_Phdr);
	const bool many = n >= PN_XNUM;
	const Elf64_Shdr count = { .sh_info = (Elf64_Word)n };
	const Elf64_Ehdr head = {
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_CORE,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_phoff = phdrs,
		.e_shoff = many ? after : 0,
		.e_ehsize = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = many ? PN_XNUM : (Elf64_Half)n,
		.e_shentsize = many ? sizeof(Elf64_Shdr) : 0,
		.e_shnum = many,
	};

	if (core_write(c, &head, sizeof(head), 0, e) < 0)
		return -1;
	return core_write(c, &count, sizeof(count), after, e);
}

static int core_write_tables(struct core *c, struct err *e)
{
	const uint64_t notes = sizeof(Elf64_Ehdr) + (c->n + 1) * sizeof(Elf64_Phdr) + sizeof(Elf64_Shdr);
	Elf64_Phdr *v = arena_alloc(&c->arena, (c->n + 1) * sizeof(*v));

	if (!v)
		return err_nomem(e);
	v[0] = (Elf64_Phdr){ .p_type = PT_NOTE, .p_offset = notes, .p_filesz = c->notes.size, .p_align = 4 };
	for (size_t i = 0; i < c->n; i++) {
		const struct segment *s = &c->segments[i];

		v[i + 1] = (Elf64_Phdr){ .p_type = PT_LOAD, .p_offset = s->offset, .p_vaddr = s->start,
					 .p_filesz = s->file_size, .p_memsz = s->size, .p_align = PAGE,
					 .p_flags = (s->prot & PROT_READ ? PF_R : 0u) | (s->prot & PROT_WRITE ? PF_W : 0u) |
						    (s->prot & PROT_EXEC ? PF_X : 0u) };
	}
	if (core_write(c, v, (c->n + 1) * sizeof(*v), sizeof(Elf64_Ehdr), e) < 0)
		return -1;
	return core_write(c, c->notes.data, c->notes.size, notes, e);
}

/* Pages of one run, from the image into the file. */
static int core_copy(struct core *c, const struct image_run *run, uint64_t skip, uint64_t size, uint64_t to, struct err *e)
{
	c->result->stored += size;
	while (size) {
		size_t n = size < COPY_SIZE ? size : COPY_SIZE;

		if (image_cursor_read(&c->cursor, run, skip, c->buffer, n, e) < 0 || core_write(c, c->buffer, n, to, e) < 0)
			return -1;
		skip += n, to += n, size -= n;
	}
	return 0;
}

static int core_write_segment(struct core *c, const struct segment *s, struct err *e)
{
	size_t n;
	const struct image_run *runs;

	if (!s->stored)
		return s->bytes ? core_write(c, s->bytes, s->file_size, s->offset, e) : 0;
	runs = image_runs_from(c->img, s->owner, s->from, &n);
	for (size_t i = 0; i < n && runs[i].addr < s->from + s->size; i++) {
		uint64_t start = runs[i].addr, end = start + (uint64_t)runs[i].pages * PAGE;
		uint64_t skip = start < s->from ? s->from - start : 0;

		if (end > s->from + s->size)
			end = s->from + s->size;
		if (core_copy(c, &runs[i], skip, end - start - skip, s->offset + start + skip - s->from, e) < 0)
			return -1;
	}
	return 0;
}

static int core_write_file(struct core *c, struct err *e)
{
	c->result->file_size = core_lay_out(c);
	if (ftruncate(c->fd, (off_t)c->result->file_size) < 0)
		return err_sys(e, errno, "giving %s its size of %lu bytes, most of which may be holes", c->path,
			       c->result->file_size);
	if (core_write_header(c, e) < 0 || core_write_tables(c, e) < 0)
		return -1;
	for (size_t i = 0; i < c->n; i++)
		if (core_write_segment(c, &c->segments[i], e) < 0)
			return -1;
	return 0;
}

static int core_prepare(struct core *c, struct err *e)
{
	const Pb__AddressSpace *s = c->meta->spaces[c->task->space];

	c->notes.arena = &c->arena;
	c->buffer = arena_alloc(&c->arena, COPY_SIZE);
	if (!c->buffer)
		return err_nomem(e);
	for (size_t i = 0; i < s->n_mappings; i++) {
		c->result->memory_size += s->mappings[i]->end - s->mappings[i]->start;
		if (core_add_mapping(c, s->mappings[i], e) < 0)
			return -1;
	}
	return elf_core_notes(c->meta, c->task, &c->notes, e);
}

int elf_core_write(const struct image *img, const Pb__Image *meta, size_t task, const char *path, struct elf_core *ret,
		   struct err *e)
{
	struct core c = { .img = img, .cursor = { .img = img }, .meta = meta, .task = meta->tasks[task], .path = path, .fd = -1, .result = ret };
	int r;

	*ret = (struct elf_core){ .n_threads = c.task->n_threads };
	r = core_prepare(&c, e);
	if (r == 0) {
		c.fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		r = c.fd < 0 ? err_sys(e, errno, "cannot create %s", path) : 0;
	}
	if (r == 0)
		r = core_write_file(&c, e);
	if (c.fd >= 0 && close(c.fd) < 0 && r == 0)
		r = err_sys(e, errno, "writing %s", path);
	if (c.fd >= 0 && r < 0)
		unlink(path);
	image_cursor_done(&c.cursor);
	arena_done(&c.arena);
	return r;
}
