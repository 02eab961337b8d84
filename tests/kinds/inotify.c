/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int watching, same, blocking, empty;
static int wd_here, wd_file, wd_deep, wd_link, wd_once;

static void make(const char *path)
{
	check_call(close((int)check_call(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600))));
}

static void check_nothing(int fd)
{
	int bytes = -1;

	check_call(ioctl(fd, FIONREAD, &bytes));
	check(bytes == 0);
}

/* The next event. */
static void check_event(int fd, int wd, uint32_t mask, const char *name)
{
	_Alignas(struct inotify_event) char buf[sizeof(struct inotify_event) + 16];
	const struct inotify_event *event = (const void *)buf;
	size_t size = sizeof(*event) + (name[0] ? 16 : 0); /* no room for another one */

	check(check_call(read(fd, buf, size)) == (long)size);
	check(event->wd == wd);
	check(event->mask == mask);
	check(strcmp(event->len ? event->name : "", name) == 0);
}

void setup(const char *argument)
{
	(void)argument;
	mkdir("place", 0700);
	check_call(chdir("place")); /* what the program reports appears elsewhere */
	mkdir("deep", 0700), mkdir("deep/er", 0700), mkdir("deep/er/still", 0700);
	make("watched");
	make("deep/er/still/file");
	check_call(symlink("nowhere", "deep/link"));
	watching = (int)check_call(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	check_call(inotify_add_watch(watching, "deep", IN_CREATE)); /* leaves the number 1 unused */
	check_call(inotify_rm_watch(watching, 1));
	check_event(watching, 1, IN_IGNORED, "");
	wd_here = (int)check_call(inotify_add_watch(watching, ".", IN_CREATE | IN_DELETE | IN_ONLYDIR | IN_EXCL_UNLINK));
	wd_file = (int)check_call(inotify_add_watch(watching, "watched", IN_ALL_EVENTS));
	wd_deep = (int)check_call(inotify_add_watch(watching, "deep/er/still/file", IN_MODIFY));
	wd_link = (int)check_call(inotify_add_watch(watching, "deep/link", IN_ALL_EVENTS | IN_DONT_FOLLOW));
	check(wd_here == 2 && wd_link == 5);
	same = (int)check_call(dup(watching));
	blocking = (int)check_call(inotify_init1(0));
	wd_once = (int)check_call(inotify_add_watch(blocking, "deep", IN_CREATE | IN_ONESHOT));
	/* Far from all that the program has to do with. Nobody changes it while tests run. */
	check_call(inotify_add_watch(blocking, "/etc/default", IN_DELETE_SELF));
	empty = (int)check_call(inotify_init1(IN_NONBLOCK));
	second_task_start();
}

static void verify_in_second(void)
{
	make("deep/er/new");
	check_nothing(watching);
	make("new");
	check_event(watching, wd_here, IN_CREATE, "new");
}

static void verify_once(void)
{
	make("deep/new");
	check_event(blocking, wd_once, IN_CREATE, "new");
	check_event(blocking, wd_once, IN_IGNORED, "");
	check_call(unlink("deep/new"));
	wd_once = (int)check_call(inotify_add_watch(blocking, "deep", IN_CREATE | IN_ONESHOT));
}

void verify(void)
{
	int fd;

	check_flags(watching, O_NONBLOCK, O_NONBLOCK);
	check_flags(blocking, O_NONBLOCK, 0);
	check_cloexec(watching, true);
	check_cloexec(same, false);
	check_same_description(watching, same, true);
	check_nothing(watching); /* nobody tells of what torpor did */
	check_nothing(blocking);
	check_empty(empty);

	second_task_run(verify_in_second);
	check_call(unlink("new"));
	check_event(same, wd_here, IN_DELETE, "new");
	fd = (int)check_call(open("watched", O_RDONLY));
	check_event(watching, wd_file, IN_OPEN, "");
	check_call(close(fd));
	check_event(watching, wd_file, IN_CLOSE_NOWRITE, "");
	fd = (int)check_call(open("deep/er/still/file", O_WRONLY));
	check_write(fd, "x");
	check_call(close(fd));
	check_event(watching, wd_deep, IN_MODIFY, "");
	check_call(fchownat(AT_FDCWD, "deep/link", (uid_t)-1, getgid(), AT_SYMLINK_NOFOLLOW));
	check_event(watching, wd_link, IN_ATTRIB, "");
	check_nothing(watching);
	verify_once();

	/* The next number is a new one. */
	check(check_call(inotify_add_watch(watching, "deep/er", IN_CREATE)) > wd_link);
	check_call(inotify_rm_watch(watching, inotify_add_watch(watching, "deep/er", IN_CREATE)));
	check_call(read(watching, (char[64]){ 0 }, 64));
	check_nothing(watching);
}
