/* SPDX-License-Identifier: Apache-2.0 */

/* Files in memory, and memory between tasks: private and shared mappings, memfds and their seals, unlinked files. */

#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "maps.h"

enum { PAGE = 4096, PAGES = 16, SIZE = PAGES * PAGE };

#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static char byte_at(size_t i)
{
	return (char)(i * 23 + i / PAGE * 5 + 3);
}

static void fill(char *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		p[i] = byte_at(i);
}

static void verify_filled(const char *p, size_t from, size_t size)
{
	for (size_t i = 0; i < size; i++)
		check(p[i] == byte_at(from + i));
}

static char *map_fd(int fd, size_t size, int prot, int flags, off_t offset)
{
	char *p = mmap(NULL, size, prot, flags, fd, offset);

	check(p != MAP_FAILED);
	return p;
}

static int make_file(const char *path)
{
	static char content[SIZE];
	int fd = (int)check_call(open(path, O_RDWR | O_CREAT | O_TRUNC, 0600));

	fill(content, SIZE);
	check(write(fd, content, SIZE) == SIZE);
	return fd;
}

/* ---- private and shared mappings of a file ---- */

static char *private, *shared, *shared_readonly, *tail;
static char last_written;

static void make_mappings(void)
{
	int fd = make_file("private");

	private = map_fd(fd, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0);
	memset(private + PAGE, 0, PAGE);  /* modified, and all zero */
	private[3 * PAGE] = 'm';
	private[3 * PAGE + 1] = byte_at(3 * PAGE + 1);
	check(private[5 * PAGE] == byte_at(5 * PAGE)); /* read only */
	check_call(mprotect(private + 8 * PAGE, PAGE, PROT_READ));
	close(fd);

	fd = make_file("shared");
	shared = map_fd(fd, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 2 * PAGE);
	shared_readonly = map_fd(fd, 2 * PAGE, PROT_READ, MAP_SHARED, 0);
	close(fd);
	fd = make_file("tail");
	check_call(ftruncate(fd, 5 * PAGE + 100));
	tail = map_fd(fd, 6 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0);
	tail[5 * PAGE + 50] = 't';
	close(fd);
}

static void verify_mappings(void)
{
	char byte;
	int fd;

	for (int i = 0; i < PAGES; i++) {
		if (i == 1) {
			for (int k = 0; k < PAGE; k++)
				check(private[PAGE + k] == 0);
		} else if (i == 3) {
			check(private[3 * PAGE] == 'm');
			verify_filled(private + 3 * PAGE + 1, 3 * PAGE + 1, PAGE - 1);
		} else {
			verify_filled(private + i * PAGE, (size_t)i * PAGE, PAGE);
		}
	}
	check(tail[5 * PAGE + 50] == 't' && tail[5 * PAGE + 51] == byte_at(5 * PAGE + 51) && tail[5 * PAGE + 200] == 0);
	verify_filled(shared + 1, 2 * PAGE + 1, 4 * PAGE - 1);
	verify_filled(shared_readonly, 0, 2 * PAGE);
	check(mprotect(shared_readonly, PAGE, PROT_READ | PROT_WRITE) == 0); /* its file was open for writing */
	check_call(mprotect(shared_readonly, PAGE, PROT_READ));
	last_written++;
	shared[0] = last_written;
	fd = (int)check_call(open("shared", O_RDONLY));
	check(pread(fd, &byte, 1, 2 * PAGE) == 1 && byte == last_written);
	close(fd);
	fd = (int)check_call(open("private", O_RDONLY));
	check(pread(fd, &byte, 1, 3 * PAGE) == 1 && byte == byte_at(3 * PAGE));
	close(fd);
}

/* ---- a shared mapping that can never be written to ---- */

static char *only_read, *device;

static void make_only_read(void)
{
	int fd;

	close(make_file("only_read"));
	fd = (int)check_call(open("only_read", O_RDONLY));
	only_read = map_fd(fd, SIZE, PROT_READ, MAP_SHARED, 0);
	close(fd);
	fd = (int)check_call(open("/dev/zero", O_RDWR));
	device = map_fd(fd, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0);
	device[PAGE] = 'd';
	close(fd);
}

static void verify_only_read(void)
{
	verify_filled(only_read, 0, SIZE);
	check(mprotect(only_read, PAGE, PROT_READ | PROT_WRITE) == -1 && errno == EACCES);
	check(device[0] == 0 && device[PAGE] == 'd' && device[2 * PAGE] == 0);
}

/* ---- anonymous memory that two tasks share, each through other windows ---- */

static char *both, *parent_only, *child_low, *child_high, *handed;
static char step; /* the child sees it in `both` */

static void make_anonymous(void)
{
	both = map_fd(-1, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, 0);
	fill(both, SIZE);
	handed = map_fd(-1, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, 0);
	fill(handed, SIZE);
	parent_only = map_fd(-1, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, 0);
	fill(parent_only, SIZE);
	child_low = handed;
	child_high = handed + 12 * PAGE;
}

/* After the fork: of `handed`, the child keeps the first and the last part, the parent the middle. */
static void parent_windows(void)
{
	check_call(munmap(handed, 4 * PAGE));
	check_call(munmap(handed + 12 * PAGE, 4 * PAGE));
	check_call(mprotect(handed + 6 * PAGE, 2 * PAGE, PROT_READ));
	check_call(mprotect(handed + 8 * PAGE, PAGE, PROT_NONE));
	check_call(mprotect(both + 2 * PAGE, 3 * PAGE, PROT_READ));
}

static void child_windows(void)
{
	check_call(munmap(handed + 4 * PAGE, 8 * PAGE));
	check_call(munmap(parent_only, SIZE));
	check_call(mprotect(both + 8 * PAGE, 3 * PAGE, PROT_NONE));
}

static void child_verifies(void)
{
	verify_filled(child_low, 0, 4 * PAGE);
	verify_filled(child_high, 12 * PAGE, 4 * PAGE);
	verify_filled(both + PAGE, PAGE, 7 * PAGE);
	both[11 * PAGE] = (char)(both[0] + 1);
}

static void verify_anonymous(void)
{
	verify_filled(handed + 4 * PAGE, 4 * PAGE, 4 * PAGE);
	verify_filled(handed + 9 * PAGE, 9 * PAGE, 3 * PAGE);
	verify_filled(parent_only, 0, SIZE);
	verify_filled(both + PAGE, PAGE, 10 * PAGE);
	both[0] = step;
	second_task_run(child_verifies);
	check(both[11 * PAGE] == (char)(step + 1));
	check_call(mprotect(handed + 8 * PAGE, PAGE, PROT_READ));
	verify_filled(handed + 8 * PAGE, 8 * PAGE, PAGE);
	check_call(mprotect(handed + 8 * PAGE, PAGE, PROT_NONE));
}

/* ---- memfds and their seals ---- */

static int open_memfd, future, sealed, shrink, executable, noexec, executable_seals;
static char *open_map, *future_map, *sealed_map, *closed_map, *sealed_private;

static int make_memfd(const char *name)
{
	static char content[SIZE];
	int fd = (int)check_call(memfd_create(name, MFD_ALLOW_SEALING | MFD_CLOEXEC));

	fill(content, SIZE);
	check(write(fd, content, SIZE) == SIZE);
	return fd;
}

static void make_memfds(void)
{
	int fd;

	open_memfd = make_memfd("open one");
	open_map = map_fd(open_memfd, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 4 * PAGE);
	future = make_memfd("no writers to come");
	future_map = map_fd(future, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	check_call(fcntl(future, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
	sealed = make_memfd("no writers");
	check_call(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	sealed_map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, sealed, 0); /* since Linux 6.7 */
	sealed_map = sealed_map == MAP_FAILED ? NULL : sealed_map;
	sealed_private = map_fd(sealed, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0);
	sealed_private[PAGE] = 'p';
	shrink = make_memfd("");
	check_call(fcntl(shrink, F_ADD_SEALS, F_SEAL_SHRINK));
	executable = make_memfd("executable for ever");
	fcntl(executable, F_ADD_SEALS, F_SEAL_EXEC); /* since Linux 6.3 */
	executable_seals = (int)check_call(fcntl(executable, F_GET_SEALS));
	noexec = memfd_create("never executable", MFD_NOEXEC_SEAL | MFD_CLOEXEC);
	fd = make_memfd("closed one");
	closed_map = map_fd(fd, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	close(fd);
}

static void verify_exec_seals(void)
{
	struct stat st;

	check(fcntl(executable, F_GET_SEALS) == executable_seals);
	check_call(fstat(executable, &st));
	check((st.st_mode & 0777) == 0777 && st.st_size == SIZE);
	if (executable_seals)
		check(fchmod(executable, 0600) == -1 && errno == EPERM);
	if (noexec < 0)
		return;
	check((fcntl(noexec, F_GET_SEALS) & F_SEAL_EXEC) && fchmod(noexec, 0700) == -1 && errno == EPERM);
	check_call(fstat(noexec, &st));
	check((st.st_mode & 0777) == 0666);
}

static void verify_memfds(void)
{
	char byte;

	check(fcntl(open_memfd, F_GET_SEALS) == 0);
	verify_filled(open_map, 4 * PAGE, 4 * PAGE);
	open_map[0] = '!';
	check(pread(open_memfd, &byte, 1, 4 * PAGE) == 1 && byte == '!');
	open_map[0] = byte_at(4 * PAGE);
	check(fcntl(future, F_GET_SEALS) == F_SEAL_FUTURE_WRITE);
	check(write(future, "x", 1) == -1 && errno == EPERM);
	check(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, future, 0) == MAP_FAILED && errno == EPERM);
	verify_filled(future_map + 1, 1, SIZE - 1);
	future_map[0]++;
	check(pread(future, &byte, 1, 0) == 1 && byte == future_map[0]);
	check(fcntl(sealed, F_GET_SEALS) == (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	check(pwrite(sealed, "x", 1, 0) == -1 && errno == EPERM);
	if (sealed_map) {
		verify_filled(sealed_map, 0, SIZE);
		check(mprotect(sealed_map, PAGE, PROT_READ | PROT_WRITE) == -1);
	}
	verify_filled(sealed_private, 0, PAGE);
	check(sealed_private[PAGE] == 'p');
	check(fcntl(shrink, F_GET_SEALS) == F_SEAL_SHRINK);
	check(ftruncate(shrink, 0) == -1 && errno == EPERM);
	check(ftruncate(shrink, 2 * SIZE) == 0);
	verify_filled(closed_map, 0, SIZE);
	verify_exec_seals();
}

/* ---- files that are gone, and one in /dev/shm ---- */

static char *unlinked, *unlinked_high, *in_shm;
static char shm_name[32];

static void make_unlinked(void)
{
	int fd = make_file("unlinked");

	unlinked = map_fd(fd, SIZE / 2, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	unlinked_high = map_fd(fd, SIZE / 2, PROT_READ, MAP_SHARED, SIZE / 2);
	close(fd);
	check_call(unlink("unlinked"));
	snprintf(shm_name, sizeof(shm_name), "/torpor-%d", getpid());
	shm_unlink(shm_name); /* of a program with this PID that was killed */
	fd = (int)check_call(shm_open(shm_name, O_RDWR | O_CREAT | O_EXCL, 0600));
	check_call(ftruncate(fd, SIZE));
	in_shm = map_fd(fd, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	fill(in_shm, SIZE);
	close(fd);
}

static void remove_shm(void)
{
	if (getpid() == atoi(shm_name + 8))
		shm_unlink(shm_name);
}

static void child_writes(void)
{
	verify_filled(unlinked, 0, 7 * PAGE);
	verify_filled(unlinked_high, SIZE / 2, SIZE / 2);
	unlinked[7 * PAGE] = both[0];
	in_shm[7 * PAGE] = both[0];
}

static void verify_unlinked(void)
{
	int fd = (int)check_call(shm_open(shm_name, O_RDWR, 0));
	char byte;

	verify_filled(unlinked, 0, 7 * PAGE);
	verify_filled(unlinked_high, SIZE / 2, SIZE / 2);
	verify_filled(in_shm, 0, 7 * PAGE);
	second_task_run(child_writes);
	check(unlinked[7 * PAGE] == step && in_shm[7 * PAGE] == step);
	check(pread(fd, &byte, 1, 7 * PAGE) == 1 && byte == step);
	close(fd);
}

/* ---- */

void setup(const char *argument)
{
	(void)argument;
	make_mappings();
	make_only_read();
	make_anonymous();
	make_memfds();
	make_unlinked();
	atexit(remove_shm);
	second_task_start();
	parent_windows();
	second_task_run(child_windows);
	maps_make_heap();
	maps_remember();
	second_task_run(maps_remember);
}

void verify(void)
{
	step++;
	maps_verify();
	second_task_run(maps_verify);
	verify_mappings();
	verify_only_read();
	verify_anonymous();
	verify_memfds();
	verify_unlinked();
	maps_remember();
	second_task_run(maps_remember);
}
