/* SPDX-License-Identifier: Apache-2.0 */

/*
 * faulty FOLDER STORE [writeback]: a file system (FUSE) whose files lie in the
 * folder STORE, and of which one kind of call can be made to fail with EIO.
 *
 * Writing "CALL N" to FOLDER/.fault lets the N-th CALL (a field of struct
 * fuse_operations) from then on fail, "CALL N on" all from the N-th on, "none"
 * none. Reading the file tells how many such calls there were since then.
 *
 * With writeback, the kernel keeps what is written until it is flushed, as it
 * does for a disk: a write(2) succeeds, and fsync(2) has to tell that it failed.
 */

#define FUSE_USE_VERSION 31

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const char control[] = "/.fault";

static int store;
static bool writeback;
static int created = -1; /* what libfuse will ask about before it answers: a file that is made is there */

static struct {
	char call[32];
	unsigned number, seen;
	bool lasting;
} fault;

/* ---- faults ---- */

static bool fails(const char *call)
{
	if (strcmp(call, fault.call))
		return false;
	fault.seen++;
	return fault.lasting ? fault.seen >= fault.number : fault.seen == fault.number;
}

#define MAY_FAIL(call)               \
	do {                         \
		if (fails(call))     \
			return -EIO; \
	} while (0)

static bool is_control(const char *path)
{
	return path && strcmp(path, control) == 0;
}

static int set_fault(const char *text, size_t size)
{
	char line[64] = "", how[8] = "";

	if (size >= sizeof(line))
		return -EINVAL;
	memcpy(line, text, size);
	memset(&fault, 0, sizeof(fault));
	if (sscanf(line, "%31s %u %7s", fault.call, &fault.number, how) < 1)
		return -EINVAL;
	fault.lasting = strcmp(how, "on") == 0;
	return (int)size;
}

/* ---- the calls ---- */

static const char *below(const char *path)
{
	return path[1] ? path + 1 : ".";
}

static int answer(long r)
{
	return r < 0 ? -errno : (int)r;
}

static void *faulty_init(struct fuse_conn_info *conn, struct fuse_config *config)
{
	if (writeback)
		conn->want |= FUSE_CAP_WRITEBACK_CACHE;
	config->use_ino = 1;
	config->entry_timeout = config->attr_timeout = config->negative_timeout = 0; /* ask each time */
	return NULL;
}

static int faulty_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
	if (is_control(path)) {
		*st = (struct stat){ .st_mode = S_IFREG | 0666, .st_nlink = 1, .st_ino = 1 };
		return 0;
	}
	if (fi && (int)fi->fh == created)
		created = -1;
	else
		MAY_FAIL("getattr");
	return answer(fi ? fstat((int)fi->fh, st) : fstatat(store, below(path), st, AT_SYMLINK_NOFOLLOW));
}

static int faulty_open(const char *path, struct fuse_file_info *fi)
{
	int flags = fi->flags & ~(O_NOFOLLOW | O_APPEND), fd;

	if (is_control(path)) {
		fi->direct_io = 1;
		return 0;
	}
	MAY_FAIL("open");
	if (writeback && (flags & O_ACCMODE) == O_WRONLY)
		flags = (flags & ~O_ACCMODE) | O_RDWR; /* the kernel reads what it writes a part of */
	fd = openat(store, below(path), flags | O_CLOEXEC);
	fi->fh = (uint64_t)fd;
	return fd < 0 ? -errno : 0;
}

static int faulty_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
	const struct fuse_context *caller = fuse_get_context();
	int fd;

	MAY_FAIL("create");
	fd = openat(store, below(path), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd < 0 || fchown(fd, caller->uid, caller->gid) < 0)
		return -errno;
	fi->fh = (uint64_t)fd;
	created = fd;
	return 0;
}

static int faulty_read(const char *path, char *buf, size_t size, off_t offset, struct fuse_file_info *fi)
{
	if (is_control(path)) {
		char text[16];
		int n = snprintf(text, sizeof(text), "%u\n", fault.seen);

		if (offset >= n)
			return 0;
		memcpy(buf, text + offset, (size_t)(n - offset));
		return n - (int)offset;
	}
	MAY_FAIL("read");
	return answer(pread((int)fi->fh, buf, size, offset));
}

static int faulty_write(const char *path, const char *buf, size_t size, off_t offset, struct fuse_file_info *fi)
{
	if (is_control(path))
		return set_fault(buf, size);
	MAY_FAIL("write");
	return answer(pwrite((int)fi->fh, buf, size, offset));
}

static int faulty_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
	int fd, r;

	if (is_control(path))
		return 0;
	MAY_FAIL("truncate");
	fd = fi ? (int)fi->fh : openat(store, below(path), O_WRONLY | O_CLOEXEC);
	r = answer(fd < 0 ? -1 : ftruncate(fd, size));
	if (!fi && fd >= 0)
		close(fd);
	return r;
}

static int faulty_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *fi)
{
	if (is_control(path))
		return 0;
	return answer(fi ? futimens((int)fi->fh, times) : utimensat(store, below(path), times, AT_SYMLINK_NOFOLLOW));
}

static int faulty_fallocate(const char *path, int mode, off_t offset, off_t length, struct fuse_file_info *fi)
{
	(void)path;
	MAY_FAIL("fallocate");
	return answer(fallocate((int)fi->fh, mode, offset, length));
}

/* The answer is that of close(2). */
static int faulty_flush(const char *path, struct fuse_file_info *fi)
{
	(void)fi;
	if (is_control(path))
		return 0;
	MAY_FAIL("flush");
	return 0;
}

static int faulty_release(const char *path, struct fuse_file_info *fi)
{
	return is_control(path) ? 0 : answer(close((int)fi->fh));
}

static int faulty_fsync(const char *path, int data, struct fuse_file_info *fi)
{
	(void)path;
	MAY_FAIL("fsync");
	return answer(data ? fdatasync((int)fi->fh) : fsync((int)fi->fh));
}

static int faulty_fsyncdir(const char *path, int data, struct fuse_file_info *fi)
{
	(void)path, (void)data, (void)fi;
	MAY_FAIL("fsyncdir");
	return answer(fsync(store));
}

static int faulty_rename(const char *from, const char *to, unsigned flags)
{
	MAY_FAIL("rename");
	return answer(renameat2(store, below(from), store, below(to), flags));
}

static int faulty_unlink(const char *path)
{
	MAY_FAIL("unlink");
	return answer(unlinkat(store, below(path), 0));
}

static int faulty_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *fi,
			  enum fuse_readdir_flags flags)
{
	int fd = openat(store, below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *folder = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	(void)offset, (void)fi, (void)flags;
	if (!folder)
		return -errno;
	while ((entry = readdir(folder)))
		fill(buf, entry->d_name, NULL, 0, (enum fuse_fill_dir_flags)0);
	closedir(folder);
	return 0;
}

static int faulty_statfs(const char *path, struct statvfs *st)
{
	(void)path;
	return answer(fstatvfs(store, st));
}

static const struct fuse_operations operations = {
	.init = faulty_init, .getattr = faulty_getattr, .open = faulty_open, .create = faulty_create, .read = faulty_read,
	.write = faulty_write, .truncate = faulty_truncate, .utimens = faulty_utimens, .fallocate = faulty_fallocate,
	.flush = faulty_flush, .release = faulty_release, .fsync = faulty_fsync, .fsyncdir = faulty_fsyncdir, .rename = faulty_rename,
	.unlink = faulty_unlink, .readdir = faulty_readdir, .statfs = faulty_statfs,
};

int main(int argc, char **argv)
{
	char *arguments[] = { argv[0], argv[1], "-f", "-s", "-o", "allow_other", NULL };

	if (argc < 3)
		return 2;
	store = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	writeback = argc > 3;
	umask(0);
	return store < 0 ? 1 : fuse_main(6, arguments, &operations, NULL);
}
