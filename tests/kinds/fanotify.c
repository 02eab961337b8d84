/* SPDX-License-Identifier: Apache-2.0 */

/* fanotify as any user may have it: marks on files and folders, ignored events, names of entries. */

#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SKIP = 77 };

static int files, same, names, gone, empty;

static void make(const char *path)
{
	check_call(close((int)check_call(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600))));
}

static int group(unsigned flags)
{
	int fd = fanotify_init(FAN_CLASS_NOTIF | flags, O_RDONLY);

	if (fd < 0 && (errno == EPERM || errno == ENOSYS || errno == EINVAL))
		exit(SKIP);
	return (int)check_call(fd);
}

static void mark(int fd, unsigned flags, uint64_t mask, const char *path)
{
	check_call(fanotify_mark(fd, FAN_MARK_ADD | flags, mask, AT_FDCWD, path));
}

static void check_nothing(int fd)
{
	int bytes = -1;

	check_call(ioctl(fd, FIONREAD, &bytes));
	check(bytes == 0);
}

/* The only event, and the name of the entry that it comes with. */
static void check_event(int fd, uint64_t mask, const char *name)
{
	_Alignas(struct fanotify_event_metadata) char buf[4096];
	const struct fanotify_event_metadata *event = (const void *)buf;
	long size = check_call(read(fd, buf, sizeof(buf)));

	check(size == event->event_len && event->mask == mask);
	check(!name || memmem(buf, (size_t)size, name, strlen(name) + 1));
}

void setup(const char *argument)
{
	int fd;

	(void)argument;
	check_call(mkdir("place", 0700));
	check_call(chdir("place")); /* what the program reports appears elsewhere */
	check_call(mkdir("folder", 0700));
	make("file");
	make("quiet");
	files = group(FAN_REPORT_FID | FAN_NONBLOCK | FAN_CLOEXEC);
	mark(files, 0, FAN_OPEN | FAN_CLOSE, "file");
	mark(files, 0, FAN_OPEN | FAN_MODIFY, "quiet");
	mark(files, FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_OPEN, "quiet");
	mark(files, 0, FAN_MODIFY | FAN_EVENT_ON_CHILD, "folder");
	same = (int)check_call(dup(files));
	names = group(FAN_REPORT_DFID_NAME);
	mark(names, FAN_MARK_ONLYDIR, FAN_CREATE | FAN_DELETE | FAN_ONDIR, "folder");
	gone = group(FAN_REPORT_FID | FAN_NONBLOCK);
	fd = (int)check_call(open("gone", O_RDWR | O_CREAT, 0600));
	mark(gone, 0, FAN_MODIFY, "gone");
	check_call(unlink("gone"));
	check_call(dup2(fd, 90));
	check_call(close(fd));
	empty = group(FAN_REPORT_FID | FAN_NONBLOCK);
	second_task_start();
}

static void verify_in_second(void)
{
	check_nothing(names);
	make("folder/new");
	check_event(names, FAN_CREATE, "new");
}

void verify(void)
{
	int fd;

	check_flags(files, O_NONBLOCK, O_NONBLOCK);
	check_flags(names, O_NONBLOCK, 0);
	check_cloexec(files, true);
	check_cloexec(same, false);
	check_same_description(files, same, true);
	check_nothing(files); /* nobody tells of what torpor did */
	check_nothing(gone);
	check_empty(empty);

	fd = (int)check_call(open("file", O_RDONLY));
	check_event(same, FAN_OPEN, NULL);
	check_call(close(fd));
	check_event(files, FAN_CLOSE_NOWRITE, NULL);
	fd = (int)check_call(open("quiet", O_WRONLY));
	check_nothing(files);
	check_write(fd, "x");
	check_event(files, FAN_MODIFY, NULL);
	check_call(close(fd));

	second_task_run(verify_in_second);
	fd = (int)check_call(open("folder/new", O_WRONLY));
	check_write(fd, "x");
	check_event(files, FAN_MODIFY, NULL);
	check_call(close(fd));
	check_call(unlink("folder/new"));
	check_event(names, FAN_DELETE, "new");
	check_call(mkdir("folder/deep", 0700));
	check_event(names, FAN_CREATE | FAN_ONDIR, "deep");
	check_call(rmdir("folder/deep"));
	check_event(names, FAN_DELETE | FAN_ONDIR, "deep");

	check_write(90, "x");
	check_event(gone, FAN_MODIFY, NULL);
}
