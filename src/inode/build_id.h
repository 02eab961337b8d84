/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>

/*
 * The GNU build id (elf(5), note NT_GNU_BUILD_ID) of an open ELF file. Returns its length
 * in buf[64], 0 when the file has none, or -errno when it cannot be read.
 */
int inode_build_id(int fd, unsigned char buf[64]);
