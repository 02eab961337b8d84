/* SPDX-License-Identifier: Apache-2.0 */
#include "core/watches.h"

#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "proc/fdinfo.h"
#include "util/arena.h"
#include "util/fd.h"

/* The folder of the image; zero when there is none. */
static void watches_folder(const char *image, struct stat *ret)
{
	char *path = strdup(image);

	*ret = (struct stat){ 0 };
	if (path && stat(dirname(path), ret) < 0)
		*ret = (struct stat){ 0 };
	free(path);
}

/*
 * Whoever reads a file around the page cache (O_DIRECT) has the disk write into
 * its memory, perhaps after the page has been marked as not written. No other way
 * past the marks is open to a program that can be saved at all.
 */
static void watches_look_at_fd(struct watches *w, const struct fdinfo *info, const struct stat *folder)
{
	if (info->flags & O_DIRECT)
		w->direct = true;
	for (size_t i = 0; i < info->n_inotify; i++)
		if (info->inotify[i].file.ino == folder->st_ino)
			w->folder = true;
	for (size_t i = 0; i < info->n_fanotify; i++)
		if (info->fanotify[i].other || info->fanotify[i].file.ino == folder->st_ino)
			w->folder = true;
}

void watches_look(struct watches *w, pid_t pid, const char *image)
{
	struct arena scratch = ARENA_INIT;
	struct dirent *entry;
	struct stat folder;
	char path[64], *text;
	int number;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo", pid);
	dir = opendir(path);
	if (!dir)
		return;
	watches_folder(image, &folder);
	while ((entry = fd_next_entry(dir, &number))) {
		struct fdinfo info = { 0 };

		snprintf(path, sizeof(path), "fdinfo/%d", atoi(entry->d_name));
		if (fd_read_proc(pid, path, &scratch, &text, NULL) == 0 && proc_parse_fdinfo(text, &scratch, &info) == 0)
			watches_look_at_fd(w, &info, &folder);
		arena_done(&scratch);
	}
	closedir(dir);
}
