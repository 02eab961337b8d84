/* SPDX-License-Identifier: Apache-2.0 */

/*
 * floor PID FILE cache|disk|small|huge|end [THREADS [KIB]]: how fast the large anonymous mappings of a stopped program
 * can be copied into a new file at all, or that file into fresh memory: no state is collected, nothing is checksummed.
 * The program may be gone when the file is loaded, as it is when a tool restores it.
 *
 *     cache   into the page cache (process_vm_readv, pwrite into a file whose place was allocated)
 *     disk    onto the disk (process_vm_readv, pwrite with O_DIRECT, fdatasync)
 *     small   from the file into memory of small pages (pread; UFFDIO_COPY where the kernel lets us, which is faster)
 *     huge    ... of huge pages
 *     end     no copy: the program is killed, and its memory given back
 *
 * Prints bytes and nanoseconds, without what it takes to start and to give the memory back. It is the measure of what a
 * dump or a restore costs beyond that.
 */

#include <err.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MAPPINGS_MAX = 65536, THREADS_MAX = 16, LARGE = 32 << 10, CACHED = 128 << 10, ALLOCATED = 64 << 20 };

struct stretch {
	uint64_t from, to;
};

static struct stretch stretches[MAPPINGS_MAX];
static size_t n_stretches, at_stretch;
static uint64_t at_address, at_file, allocated, piece = 1 << 20;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pid_t pid;
static int fd, uffd = -1;
static bool disk;
static char *loaded;

static void find_stretches(void)
{
	char path[64], line[4096], name[4096];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "r");
	if (!f)
		err(1, "%s", path);
	while (fgets(line, sizeof(line), f) && n_stretches < MAPPINGS_MAX) {
		struct stretch *last = n_stretches ? &stretches[n_stretches - 1] : NULL;
		uint64_t from, to;
		char read;

		if (sscanf(line, "%lx-%lx %c%*s %*s %*s %*s %s", &from, &to, &read, name) != 3 || read != 'r')
			continue;
		if (last && last->to == from)
			last->to = to;
		else if (to - from >= LARGE)
			stretches[n_stretches++] = (struct stretch){ from, to };
	}
	fclose(f);
}

/* As if it were one mapping at address 0. */
static void find_file(void)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		err(1, "fstat");
	stretches[n_stretches++] = (struct stretch){ 0, (uint64_t)st.st_size };
}

static bool take(struct iovec *ret, uint64_t *ret_offset)
{
	bool any;

	pthread_mutex_lock(&lock);
	while (at_stretch < n_stretches && at_address == stretches[at_stretch].to)
		at_address = ++at_stretch < n_stretches ? stretches[at_stretch].from : 0;
	any = at_stretch < n_stretches;
	if (any) {
		uint64_t left = stretches[at_stretch].to - at_address, n = left < piece ? left : piece;

		*ret = (struct iovec){ (void *)at_address, n };
		*ret_offset = at_file;
		at_address += n;
		at_file += n;
		if (!loaded && !disk && at_file > allocated) /* with what is behind it, which the last one cuts off */
			fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)allocated, ALLOCATED), allocated += ALLOCATED;
	}
	pthread_mutex_unlock(&lock);
	return any;
}

static void *copy(void *unused)
{
	char *buf = mmap(NULL, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec from;
	uint64_t offset;

	while (take(&from, &offset)) {
		struct iovec to = { buf, from.iov_len };

		if (process_vm_readv(pid, &to, 1, &from, 1, 0) != (ssize_t)from.iov_len)
			err(1, "process_vm_readv");
		if (pwrite(fd, buf, from.iov_len, (off_t)offset) != (ssize_t)from.iov_len)
			err(1, "pwrite");
	}
	return unused;
}

/* In pieces that stay in the CPU's cache between the two copies. */
static void place(char *buf, uint64_t offset, uint64_t size)
{
	for (uint64_t n; size; offset += n, size -= n) {
		struct uffdio_copy c = { .dst = (uint64_t)loaded + offset, .src = (uint64_t)buf };

		n = size < CACHED ? size : CACHED;
		c.len = n;
		if (pread(fd, buf, n, (off_t)offset) != (ssize_t)n)
			err(1, "pread");
		if (ioctl(uffd, UFFDIO_COPY, &c) < 0)
			err(1, "UFFDIO_COPY");
	}
}

static void *load(void *unused)
{
	char *buf = mmap(NULL, CACHED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec what;
	uint64_t offset;

	while (take(&what, &offset))
		if (uffd >= 0)
			place(buf, offset, what.iov_len);
		else if (pread(fd, loaded + offset, what.iov_len, (off_t)offset) != (ssize_t)what.iov_len)
			err(1, "pread");
	return unused;
}

static void watch_room(uint64_t size)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .range = { (uint64_t)loaded, size }, .mode = UFFDIO_REGISTER_MODE_MISSING };

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (uffd >= 0 && (ioctl(uffd, UFFDIO_API, &api) < 0 || ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)) {
		close(uffd);
		uffd = -1;
	}
}

/* Where the file is to go, on the boundary of a huge page. */
static void make_room(bool huge)
{
	uint64_t size = (2 << 20) + stretches[0].to;

	loaded = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (loaded == MAP_FAILED)
		err(1, "mmap");
	if (madvise(loaded, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0)
		err(1, "madvise");
	if (!huge)
		watch_room(size);
	loaded += -(uintptr_t)loaded & ((2 << 20) - 1);
}

/* Its last thread frees its memory; we help. */
static void end_program(void)
{
	struct pollfd gone = { .fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN };

	if (gone.fd < 0 || kill(pid, SIGKILL) < 0)
		err(1, "process %d", pid);
	syscall(SYS_process_mrelease, gone.fd, 0);
	poll(&gone, 1, -1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
	unsigned n = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t threads[THREADS_MAX];
	bool loads;
	uint64_t began = now_ns();

	if (argc < 4)
		errx(2, "usage: floor PID FILE cache|disk|small|huge|end [THREADS [KIB]]");
	pid = atoi(argv[1]);
	if (!strcmp(argv[3], "end")) {
		end_program();
		printf("0 %lu\n", now_ns() - began);
		return 0;
	}
	disk = !strcmp(argv[3], "disk");
	loads = !disk && strcmp(argv[3], "cache") != 0;
	if (argc > 4)
		n = (unsigned)atoi(argv[4]);
	if (argc > 5)
		piece = (uint64_t)atoi(argv[5]) << 10;
	fd = open(argv[2], loads ? O_RDONLY : O_WRONLY | O_CREAT | O_TRUNC | (disk ? O_DIRECT : 0), 0600);
	if (fd < 0)
		err(1, "%s", argv[2]);
	if (loads) {
		find_file();
		make_room(!strcmp(argv[3], "huge"));
	} else {
		find_stretches();
	}
	at_address = n_stretches ? stretches[0].from : 0;
	for (unsigned i = 0; i < n && i < THREADS_MAX; i++)
		if (pthread_create(&threads[i], NULL, loads ? load : copy, NULL))
			errx(1, "pthread_create");
	for (unsigned i = 0; i < n && i < THREADS_MAX; i++)
		pthread_join(threads[i], NULL);
	if (disk && fdatasync(fd) < 0)
		err(1, "fdatasync");
	printf("%lu %lu\n", at_file, now_ns() - began);
	return 0;
}
