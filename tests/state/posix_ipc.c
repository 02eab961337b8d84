/* SPDX-License-Identifier: Apache-2.0 */

/*
 * POSIX semaphores and shared memory: with a name, without one any more, and unnamed ones in memory of two tasks. The file
 * "names" tells what is in /dev/shm, for whoever has to remove it.
 */

#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

enum { SIZE = 16384 };

struct room {
	sem_t there, back; /* from one task to the other */
	pthread_mutex_t lock;
	unsigned passed;
};

static char sem_name[64], gone_name[64], shm_name[64], gone_shm_name[64];
static sem_t *named, *gone;
static char *memory, *gone_memory;
static struct room *room;

static void remove_names(void)
{
	sem_unlink(sem_name);
	shm_unlink(shm_name);
}

static char *make_memory(const char *name)
{
	int fd = (int)check_call(shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600));
	char *p;

	check_call(ftruncate(fd, SIZE));
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(p != MAP_FAILED);
	close(fd);
	return p;
}

static void make_room(void)
{
	pthread_mutexattr_t attr;

	room = mmap(NULL, sizeof(*room), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(room != MAP_FAILED);
	check_call(sem_init(&room->there, 1, 0));
	check_call(sem_init(&room->back, 1, 0));
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	check(pthread_mutex_init(&room->lock, &attr) == 0);
}

static void pass_in_second(void)
{
	check_call(sem_wait(&room->there));
	pthread_mutex_lock(&room->lock);
	room->passed++;
	pthread_mutex_unlock(&room->lock);
	check_call(sem_post(&room->back));
	check_call(sem_post(named));
	memory[100]++;
	gone_memory[100]++;
}

void setup(const char *argument)
{
	unsigned number;
	FILE *names = fopen("names", "w");

	(void)argument;
	check(getrandom(&number, sizeof(number), 0) == sizeof(number));
	snprintf(sem_name, sizeof(sem_name), "/torpor-test-%u", number);
	snprintf(gone_name, sizeof(gone_name), "/torpor-gone-%u", number);
	snprintf(shm_name, sizeof(shm_name), "/torpor-shm-%u", number);
	snprintf(gone_shm_name, sizeof(gone_shm_name), "/torpor-gone-shm-%u", number);
	check(names && fprintf(names, "sem.%s\n%s\n", sem_name + 1, shm_name + 1) > 0);
	fclose(names);
	atexit(remove_names);
	named = sem_open(sem_name, O_CREAT | O_EXCL, 0600, 3);
	gone = sem_open(gone_name, O_CREAT | O_EXCL, 0600, 5);
	check(named != SEM_FAILED && gone != SEM_FAILED);
	check_call(sem_unlink(gone_name));
	memory = make_memory(shm_name);
	gone_memory = make_memory(gone_shm_name);
	check_call(shm_unlink(gone_shm_name));
	strcpy(memory, "named");
	strcpy(gone_memory, "unlinked");
	make_room();
	second_task_start();
}

static void check_value(sem_t *sem, int expected)
{
	int value;

	check_call(sem_getvalue(sem, &value));
	check(value == expected);
}

void verify(void)
{
	unsigned before = room->passed;
	char byte = memory[100], gone_byte = gone_memory[100]; /* the first is in a file, which no image takes back */
	sem_t *again = sem_open(sem_name, 0);

	check(again != SEM_FAILED);
	check_value(again, 3);
	check_value(gone, 5);
	check(strcmp(memory, "named") == 0 && strcmp(gone_memory, "unlinked") == 0);
	check_call(sem_post(&room->there));
	second_task_run(pass_in_second);
	check_call(sem_wait(&room->back));
	check(room->passed == before + 1 && memory[100] == (char)(byte + 1) && gone_memory[100] == (char)(gone_byte + 1));
	check_value(again, 4);
	check_call(sem_wait(named));
	check_call(sem_close(again));
	check(sem_open(gone_name, 0) == SEM_FAILED && errno == ENOENT);
}
