/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* userfaultfd(2) as newer kernels than the installed headers have it. */

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include "sys/process.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1 /* Linux 5.11 */
#endif

/* Faults of write protection are resolved by the kernel itself, which clears the mark (Linux 6.7). */
#define SYS_UFFD_FEATURE_WP_ASYNC (1ull << 15)

/* PAGEMAP_SCAN: mark what matches as not written; fail where that is not possible. */
enum {
	SYS_PM_SCAN_WP_MATCHING = 1 << 0,
	SYS_PM_SCAN_CHECK_WPASYNC = 1 << 1,
};

/* 0, or -EINVAL where the kernel lacks the feature. */
static inline int sys_userfault_begin(int fd, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	return (int)SYS_RESULT(ioctl(fd, UFFDIO_API, &api));
}

static inline int sys_userfault_register(int fd, uint64_t start, uint64_t size)
{
	struct uffdio_register reg = { .range = { start, size }, .mode = UFFDIO_REGISTER_MODE_WP };

	return (int)SYS_RESULT(ioctl(fd, UFFDIO_REGISTER, &reg));
}

/* Does it still have the address space that it was made in? `page` is a page that cannot be registered: nothing happens to it. */
static inline bool sys_userfault_lives(int fd, uint64_t page)
{
	struct uffdio_writeprotect wp = { .range = { page, 4096 } };

	return SYS_RESULT(ioctl(fd, UFFDIO_WRITEPROTECT, &wp)) != -ESRCH;
}
