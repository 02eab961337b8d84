/* SPDX-License-Identifier: Apache-2.0 */
#include "inode/build_id.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { START_SIZE = 4096, NOTES_MAX = 4096, PHDRS_MAX = 64, ID_MAX = 64 };

static size_t round4(size_t n)
{
	return (n + 3) & ~(size_t)3;
}

/* Walk one block of notes. */
static size_t build_id_in_notes(const unsigned char *p, size_t size, unsigned char *buf)
{
	while (size >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		size_t name, desc;

		memcpy(&note, p, sizeof(note));
		name = round4(note.n_namesz);
		desc = round4(note.n_descsz);
		if (name > size || desc > size || sizeof(note) + name + desc > size)
			return 0;
		if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && note.n_descsz <= ID_MAX &&
		    memcmp(p + sizeof(note), "GNU", 4) == 0) {
			memcpy(buf, p + sizeof(note) + name, note.n_descsz);
			return note.n_descsz;
		}
		p += sizeof(note) + name + desc;
		size -= sizeof(note) + name + desc;
	}
	return 0;
}

/* As pread(2), or -errno. As a rule it is all in the first page, of which `n` bytes are in `start`. */
static ssize_t build_id_read(int fd, const unsigned char *start, ssize_t n, void *buf, size_t size, uint64_t offset)
{
	ssize_t got;

	if (offset <= (uint64_t)n && size <= (uint64_t)n - offset) {
		memcpy(buf, start + offset, size);
		return (ssize_t)size;
	}
	got = pread(fd, buf, size, (off_t)offset);
	return got < 0 ? -errno : got;
}

int inode_build_id(int fd, unsigned char buf[64])
{
	unsigned char start[START_SIZE], notes[NOTES_MAX];
	Elf64_Ehdr eh;
	ssize_t n = pread(fd, start, sizeof(start), 0), in_start = n;

	if (n < (ssize_t)sizeof(eh))
		return n < 0 ? -errno : 0;
	memcpy(&eh, start, sizeof(eh));
	if (memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 ||
	    eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_phentsize != sizeof(Elf64_Phdr))
		return 0;
	for (unsigned i = 0; i < eh.e_phnum && i < PHDRS_MAX; i++) {
		Elf64_Phdr ph;
		size_t found;

		n = build_id_read(fd, start, in_start, &ph, sizeof(ph), eh.e_phoff + i * sizeof(ph));
		if (n != sizeof(ph))
			return n < 0 ? (int)n : 0;
		if (ph.p_type != PT_NOTE)
			continue;
		n = build_id_read(fd, start, in_start, notes, ph.p_filesz < NOTES_MAX ? ph.p_filesz : NOTES_MAX, ph.p_offset);
		if (n < 0)
			return (int)n;
		found = build_id_in_notes(notes, (size_t)n, buf);
		if (found)
			return (int)found;
	}
	return 0;
}
