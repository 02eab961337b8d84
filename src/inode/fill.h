/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "inode/inode.h"

/*
 * All stored content of the inode with this index: into the file `fd` or, where
 * that is -1, into memory at `addr`, which has as many bytes as the inode. What
 * differs from the checksums of the image is refused. Negative, with `e` set.
 */
int inode_fill(struct inode_restore *r, size_t index, int fd, void *addr, struct err *e);
