/* SPDX-License-Identifier: Apache-2.0 */

/* Directories, FIFOs, symbolic links and files that were removed while they were open, or worked in, or watched. */

#include "common.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

static int folder, same_folder, folder_handle, reader, writer, link_, file_handle, watching, watched, temporary;
static int linked, linked_again, sparse;
static int deep, replaced;
static struct timespec written; /* when the sparse file was */
static char work[PATH_MAX]; /* where all this happens */

enum { TERABYTE_SHIFT = 40, MARKS = 5 };

static const char *path(const char *name)
{
	static char text[2][PATH_MAX + 64]; /* for calls with two paths */
	static int turn;

	turn = !turn;
	snprintf(text[turn], sizeof(text[turn]), "%s/%s", work, name);
	return text[turn];
}

static void make(const char *name, const char *content)
{
	int fd = (int)check_call(open(path(name), O_WRONLY | O_CREAT | O_EXCL, 0600));

	check_write(fd, content);
	check_call(close(fd));
}

static void check_link(const char *proc, const char *name)
{
	char text[PATH_MAX] = "", expected[PATH_MAX + 80];

	check_call(readlink(proc, text, sizeof(text) - 1));
	snprintf(expected, sizeof(expected), "%s (deleted)", path(name));
	check(strcmp(text, expected) == 0);
}

static void check_fd_link(int fd, const char *name)
{
	char proc[64];

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	check_link(proc, name);
}

static void set_up_folder(void)
{
	check_call(mkdir(path("folder"), 0750));
	folder = (int)check_call(open(path("folder"), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	same_folder = (int)check_call(dup(folder));
	folder_handle = (int)check_call(open(path("folder"), O_PATH | O_DIRECTORY));
	check_call(chdir(path("folder")));
}

static void set_up_fifo(void)
{
	check_call(mkfifo(path("fifo"), 0640));
	reader = (int)check_call(open(path("fifo"), O_RDONLY | O_NONBLOCK));
	writer = (int)check_call(open(path("fifo"), O_WRONLY));
	check_call(unlink(path("fifo")));
	check_write(writer, "in the FIFO");
}

static void set_up_handles(void)
{
	check_call(symlink("to nowhere", path("link")));
	link_ = (int)check_call(open(path("link"), O_PATH | O_NOFOLLOW));
	check_call(unlink(path("link")));
	make("file", "behind a handle");
	file_handle = (int)check_call(open(path("file"), O_PATH));
	check_call(unlink(path("file")));
}

static void set_up_watch(void)
{
	make("watched", "");
	watched = (int)check_call(open(path("watched"), O_RDWR));
	watching = (int)check_call(inotify_init1(IN_NONBLOCK));
	check(check_call(inotify_add_watch(watching, path("watched"), IN_MODIFY)) == 1);
	check_call(unlink(path("watched")));
}

/* A file that can be given a name at last. */
static void set_up_temporary(void)
{
	temporary = (int)check_call(open(work, O_TMPFILE | O_RDWR, 0600));
	check_write(temporary, "temporary");
}

/* The name by which it was opened is gone, another one is not. */
static void set_up_linked(void)
{
	check_call(mkdir(path("other"), 0700));
	make("one name", "several names");
	check_call(link(path("one name"), path("other/name")));
	linked = (int)check_call(open(path("one name"), O_RDWR));
	linked_again = (int)check_call(open(path("one name"), O_RDONLY));
	check_call(unlink(path("one name")));
}

static off_t mark_at(int number)
{
	return ((off_t)1 << TERABYTE_SHIFT) / MARKS * number;
}

static void set_up_sparse(void)
{
	struct stat st;
	char text[32];

	sparse = (int)check_call(open(path("sparse"), O_RDWR | O_CREAT, 0600));
	check_call(ftruncate(sparse, (off_t)1 << TERABYTE_SHIFT));
	for (int i = 0; i < MARKS; i++) {
		snprintf(text, sizeof(text), "mark %d", i);
		check(pwrite(sparse, text, 7, mark_at(i)) == 7);
	}
	check_call(unlink(path("sparse")));
	check_call(fstat(sparse, &st));
	written = st.st_mtim;
}

/* Another file has its name. */
static void set_up_replaced(void)
{
	make("name", "the old one");
	make("new", "the new one");
	replaced = (int)check_call(open(path("name"), O_RDWR));
	check_call(rename(path("new"), path("name")));
}

/* The folder that it was in is gone as well. */
static void set_up_deep(void)
{
	check_call(mkdir(path("deep"), 0700));
	check_call(mkdir(path("deep/er"), 0700));
	deep = (int)check_call(open(path("deep/er"), O_RDONLY | O_DIRECTORY));
	check_call(rmdir(path("deep/er")));
	check_call(rmdir(path("deep")));
}

void setup(const char *argument)
{
	check(getcwd(work, sizeof(work)));
	set_up_folder();
	set_up_fifo();
	set_up_handles();
	set_up_sparse();
	if (!argument) { /* what is not shown as it was: O_TMPFILE, an inode's number, names that were lost */
		set_up_watch();
		set_up_deep();
		set_up_replaced();
		set_up_temporary();
		set_up_linked();
	}
	second_task_start(); /* works in the folder, too */
	check_call(rmdir(path("folder")));
}

static void verify_folder(void)
{
	struct stat a, b;
	char text[PATH_MAX];

	check_call(fstat(folder, &a));
	check_call(stat(".", &b));
	check(a.st_ino == b.st_ino && a.st_dev == b.st_dev && (a.st_mode & 07777) == 0750);
	check(!getcwd(text, sizeof(text)) && errno == ENOENT);
	check(open("new", O_WRONLY | O_CREAT, 0600) == -1 && errno == ENOENT);
	check_link("/proc/self/cwd", "folder");
}

static void verify_folders(void)
{
	struct stat a, b;

	verify_folder();
	second_task_run(verify_folder);
	check_same_description(folder, same_folder, true);
	check_cloexec(folder, true);
	check_cloexec(same_folder, false);
	check_flags(folder, O_DIRECTORY | O_ACCMODE, O_DIRECTORY | O_RDONLY);
	check_flags(folder_handle, O_PATH | O_DIRECTORY, O_PATH | O_DIRECTORY);
	check_call(fstat(folder, &a));
	check_call(fstat(folder_handle, &b));
	check(a.st_ino == b.st_ino);
	check_fd_link(folder, "folder");
	check(access(path("folder"), F_OK) == -1 && errno == ENOENT);
}

static void verify_fifo(void)
{
	struct stat st;

	check_read(reader, "in the FIFO");
	check_empty(reader);
	check_write(writer, "in the FIFO");
	check_call(fstat(writer, &st));
	check((st.st_mode & 07777) == 0640);
	check_fd_link(reader, "fifo");
	check(access(path("fifo"), F_OK) == -1);
}

static void verify_handles(void)
{
	char text[64] = "", proc[64];
	int fd;

	check(check_call(readlinkat(link_, "", text, sizeof(text))) == 10 && strcmp(text, "to nowhere") == 0);
	check_flags(link_, O_PATH | O_NOFOLLOW, O_PATH | O_NOFOLLOW);
	check_fd_link(link_, "link");
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", file_handle);
	fd = (int)check_call(open(proc, O_RDONLY));
	check_read(fd, "behind a handle");
	check_call(close(fd));
	check_fd_link(file_handle, "file");
}

static void verify_watch(void)
{
	struct inotify_event event;

	check_empty(watching);
	check_write(watched, "x");
	check(check_call(read(watching, &event, sizeof(event))) == sizeof(event));
	check(event.wd == 1 && event.mask == IN_MODIFY);
	check_empty(watching);
}

static void verify_temporary(void)
{
	char text[64] = "", proc[64];
	struct stat st;

	check(pread(temporary, text, sizeof(text), 0) == 9 && strcmp(text, "temporary") == 0);
	check_call(fstat(temporary, &st));
	check(st.st_nlink == 0);
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", temporary);
	check_call(linkat(AT_FDCWD, proc, AT_FDCWD, path("named at last"), AT_SYMLINK_FOLLOW));
	check_call(unlink(path("named at last")));
	/* It had a name, and can have no other: a new one for the next time. */
	check_call(close(temporary));
	set_up_temporary();
}

static void verify_linked(void)
{
	struct stat a, b;

	check_call(fstat(linked, &a));
	check_call(stat(path("other/name"), &b));
	check(a.st_ino == b.st_ino && a.st_nlink);
	check_read(linked_again, "several names");
	check_call(lseek(linked_again, 0, SEEK_SET));
	check(pwrite(linked, "S", 1, 0) == 1 && pread(linked_again, &(char){ 0 }, 1, 0) == 1);
	check(pwrite(linked, "s", 1, 0) == 1);
}

static void verify_sparse(void)
{
	char text[32], expected[32];
	struct stat st;

	check_call(fstat(sparse, &st));
	check(st.st_size == (off_t)1 << TERABYTE_SHIFT && st.st_blocks < 1000 && st.st_nlink == 0);
	check(st.st_mtim.tv_sec == written.tv_sec && st.st_mtim.tv_nsec == written.tv_nsec);
	for (int i = 0; i < MARKS; i++) {
		snprintf(expected, sizeof(expected), "mark %d", i);
		check(pread(sparse, text, 7, mark_at(i)) == 7 && strcmp(text, expected) == 0);
		check(lseek(sparse, mark_at(i) + 4096, SEEK_DATA) == (i + 1 < MARKS ? mark_at(i + 1) & -4096 : -1));
	}
	check_call(lseek(sparse, 0, SEEK_SET));
}

static void verify_deep(void)
{
	struct stat st;

	check_call(fstat(deep, &st));
	check(S_ISDIR(st.st_mode) && (st.st_mode & 07777) == 0700 && st.st_nlink == 0);
	check(openat(deep, "new", O_WRONLY | O_CREAT, 0600) == -1 && errno == ENOENT);
}

static void verify_replaced(void)
{
	int fd = (int)check_call(open(path("name"), O_RDONLY));

	check_read(replaced, "the old one");
	check_call(lseek(replaced, 0, SEEK_SET));
	check_read(fd, "the new one");
	check_call(close(fd));
}

void verify(void)
{
	verify_folders();
	verify_fifo();
	verify_handles();
	verify_sparse();
	if (temporary) {
		verify_watch();
		verify_deep();
		verify_replaced();
		verify_temporary();
		verify_linked();
	}
}
