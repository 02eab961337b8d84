/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

/*
 * A file that is mapped has lost its name `name`. Has it another one in the same folder? sem_open(3), for one, makes
 * a semaphore under a name for the moment, and links it to its own. `st` tells device and inode number, and
 * becomes what stat(2) says of it. Folders of many thousand files are not looked through.
 */
bool inode_find_beside(const char *name, struct stat *st, char *ret, size_t size);
