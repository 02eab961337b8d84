/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/fresh.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "memory/memory.h"
#include "sys/memory.h"
#include "util/fd.h"

/* "never" in the kernel's setting: then what is moved would be small pages. */
static bool huge_forbidden(void)
{
	cleanup_close int fd = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
	char text[128] = { 0 };

	return fd < 0 || read(fd, text, sizeof(text) - 1) <= 0 || strstr(text, "[never]");
}

/* A userfaultfd with these features; -1 where the kernel has not got them. */
static int fresh_userfaultfd(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = (int)SYS_RESULT(syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
		close(fd);
		fd = -1;
	}
	return fd < 0 ? -1 : fd;
}

void fresh_open(struct fresh *f)
{
	*f = (struct fresh){ .fd = fresh_userfaultfd(SYS_UFFD_FEATURE_MOVE) };
	f->moves = f->fd >= 0;
	if (f->fd < 0)
		f->fd = fresh_userfaultfd(0);
}

bool fresh_moves_huge(struct fresh *f)
{
	if (!f->asked)
		f->huge = f->moves && !huge_forbidden();
	f->asked = true;
	return f->huge;
}

void fresh_close(struct fresh *f)
{
	fd_closep(&f->fd);
	*f = (struct fresh){ .fd = -1 };
}

bool fresh_add(const struct fresh *f, uint64_t start, uint64_t size)
{
	struct uffdio_register reg = { .range = { start, size }, .mode = UFFDIO_REGISTER_MODE_MISSING };

	return f->fd >= 0 && ioctl(f->fd, UFFDIO_REGISTER, &reg) == 0;
}

/* Into a page that is there already: without a signal where it may not be written to. */
static int fresh_overwrite(pid_t pid, uint64_t to, const void *from)
{
	struct iovec local = { (void *)from, MEMORY_PAGE }, remote = { (void *)to, MEMORY_PAGE };
	ssize_t n = process_vm_writev(pid ?: getpid(), &local, 1, &remote, 1, 0);

	return n == MEMORY_PAGE ? 0 : n < 0 ? -errno : -EFAULT;
}

int fresh_copy(const struct fresh *f, uint64_t to, const void *from, uint64_t size)
{
	for (uint64_t done = 0; done < size;) {
		struct uffdio_copy copy = { .dst = to + done, .src = (uint64_t)from + done, .len = size - done };
		int r = (int)SYS_RESULT(ioctl(f->fd, UFFDIO_COPY, &copy));

		if (copy.copy > 0)
			done += (uint64_t)copy.copy;
		if (r == -EEXIST && done < size) { /* somebody was here before: then touching it is safe */
			r = fresh_overwrite(f->pid, to + done, (const char *)from + done);
			if (r < 0)
				return r;
			done += MEMORY_PAGE;
		} else if (r < 0 && r != -EAGAIN && r != -EEXIST) {
			return r;
		}
	}
	return 0;
}

int fresh_move(const struct fresh *f, uint64_t to, void *from, uint64_t size)
{
	uint64_t done = 0;

	while (done < size) {
		struct sys_uffdio_move move = { .dst = to + done, .src = (uint64_t)from + done, .len = size - done };
		int r = (int)SYS_RESULT(ioctl(f->fd, SYS_UFFDIO_MOVE, &move));

		if (move.move > 0)
			done += (uint64_t)move.move;
		if (r < 0 && r != -EAGAIN && done < size) { /* a page that is shared or pinned, say */
			uint64_t left = size - done, part = HUGE_PAGE_SIZE - (to + done) % HUGE_PAGE_SIZE;

			part = part < left ? part : left;
			r = fresh_copy(f, to + done, (char *)from + done, part);
			if (r < 0)
				return r;
			done += part;
		}
	}
	return 0;
}
