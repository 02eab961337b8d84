/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Terminal modes as the kernel has them: <asm/termbits.h> clashes with libc's
 * <termios.h>, whose struct has no room for a free input and output speed.
 */

#include <stdint.h>
#include <sys/ioctl.h>

#include "sys/process.h"

/* Without its last two fields: struct termios of the kernel, which locked modes are told in. */
struct sys_termios2 {
	uint32_t iflag, oflag, cflag, lflag;
	uint8_t line, cc[19];
	uint32_t ispeed, ospeed;
};

enum { SYS_TERMIOS_SIZE = 36 };

_Static_assert(sizeof(struct sys_termios2) == 44, "struct termios2 of the kernel");

#define SYS_TCGETS2 _IOR('T', 0x2a, struct sys_termios2)
#define SYS_TCSETS2 _IOW('T', 0x2b, struct sys_termios2)

/* Through a master, the modes of its slave. */
static inline int sys_tty_modes(int fd, struct sys_termios2 *ret)
{
	return (int)SYS_RESULT(ioctl(fd, SYS_TCGETS2, ret));
}

static inline int sys_tty_set_modes(int fd, const struct sys_termios2 *t)
{
	return (int)SYS_RESULT(ioctl(fd, SYS_TCSETS2, t));
}

/* Which bits nobody may change (SYS_TERMIOS_SIZE bytes); setting them takes CAP_CHECKPOINT_RESTORE. */
static inline int sys_tty_locked_modes(int fd, void *ret)
{
	return (int)SYS_RESULT(ioctl(fd, TIOCGLCKTRMIOS, ret));
}

static inline int sys_tty_lock_modes(int fd, const void *modes)
{
	return (int)SYS_RESULT(ioctl(fd, TIOCSLCKTRMIOS, modes));
}

/* The answer of an ioctl that yields one number, or -errno. */
static inline int sys_tty_number(int fd, unsigned long request)
{
	int value = 0, r = (int)SYS_RESULT(ioctl(fd, request, &value));

	return r < 0 ? r : value;
}
