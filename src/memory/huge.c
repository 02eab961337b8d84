/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/huge.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sys/memory.h"
#include "util/fd.h"

/* "never" in the kernel's setting: then the staging would consist of small pages. */
static bool huge_forbidden(void)
{
	cleanup_close int fd = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
	char text[128] = { 0 };

	return fd < 0 || read(fd, text, sizeof(text) - 1) <= 0 || strstr(text, "[never]");
}

static int huge_userfaultfd(void)
{
	struct uffdio_api api = { .api = UFFD_API, .features = SYS_UFFD_FEATURE_MOVE };
	int fd = (int)SYS_RESULT(syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

void huge_open(struct huge *h, uint64_t staging)
{
	*h = (struct huge){ .uffd = -1, .staging = staging };
	if (!staging || huge_forbidden())
		return;
	if (mmap((void *)staging, HUGE_STAGING_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		 0) == MAP_FAILED ||
	    madvise((void *)staging, HUGE_STAGING_SIZE, MADV_HUGEPAGE) < 0)
		return;
	h->uffd = huge_userfaultfd();
}

void huge_close(struct huge *h)
{
	huge_leave(h);
	fd_closep(&h->uffd);
	h->uffd = -1;
}

bool huge_enter(struct huge *h, uint64_t start, uint64_t size)
{
	struct uffdio_register reg = { .range = { start, size }, .mode = UFFDIO_REGISTER_MODE_MISSING };

	if (h->size && h->start == start)
		return true;
	huge_leave(h);
	if (!huge_works(h) || ioctl(h->uffd, UFFDIO_REGISTER, &reg) < 0)
		return false;
	h->start = start;
	h->size = size;
	return true;
}

void huge_leave(struct huge *h)
{
	struct uffdio_range range = { h->start, h->size };

	if (h->size)
		ioctl(h->uffd, UFFDIO_UNREGISTER, &range);
	h->size = 0;
}

void huge_move(struct huge *h, uint64_t to, uint64_t size)
{
	uint64_t done = 0;

	while (done < size) {
		struct sys_uffdio_move move = { .dst = to + done, .src = h->staging + done, .len = size - done };
		int r = ioctl(h->uffd, SYS_UFFDIO_MOVE, &move);

		if (move.move > 0)
			done += (uint64_t)move.move;
		if (r < 0 && errno != EAGAIN)
			break;
	}
	if (done == size)
		return;
	/* Not moved: a page that is shared or pinned, say. Registered memory must not be touched: leave first. */
	huge_leave(h);
	memcpy((void *)(to + done), (const void *)(h->staging + done), size - done);
}
