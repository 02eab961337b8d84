/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "image/pb.h"
#include "util/err.h"

/*
 * A new file of the inode's type (regular, directory, FIFO, symbolic link) without a
 * name, open for reading and writing as far as its type permits. Returns an fd,
 * which the caller closes, or negative. Links to it in /proc read as the saved ones, if
 * the folder that it was in lets us make a file by that name.
 */
int inode_unlinked_make(const Pb__Inode *pb, struct err *e);
