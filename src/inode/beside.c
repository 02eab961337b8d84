/* SPDX-License-Identifier: Apache-2.0 */
#include "inode/beside.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

enum { BUDGET = 10000 };

static bool entry_is(int folder, const struct dirent *entry, struct stat *st)
{
	struct stat now;

	if (entry->d_ino != st->st_ino || fstatat(folder, entry->d_name, &now, AT_SYMLINK_NOFOLLOW) < 0 ||
	    now.st_ino != st->st_ino || now.st_dev != st->st_dev)
		return false;
	*st = now;
	return true;
}

bool inode_find_beside(const char *name, struct stat *st, char *ret, size_t size)
{
	const char *slash = strrchr(name, '/');
	int length = slash ? (int)(slash - name) : 0;
	struct dirent *entry;
	bool found = false;
	char folder[4096];
	DIR *dir;

	snprintf(folder, sizeof(folder), "%.*s/", length, name);
	dir = slash ? opendir(folder) : NULL;
	for (int i = 0; dir && !found && i < BUDGET && (entry = readdir(dir)); i++) {
		found = entry_is(dirfd(dir), entry, st);
		if (found)
			snprintf(ret, size, "%s%s", folder, entry->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}
