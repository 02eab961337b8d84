/* SPDX-License-Identifier: Apache-2.0 */

/*
 * System V semaphores: ids, keys, values, who operated last, what is undone at the end of a task, a thread that waits. The
 * ids are in the file "semaphores", for whoever has to remove them. With the argument "abandoned", the second task ends.
 */

#include "common.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/sem.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MANY = 300, UNDONE = 7 };

static int keyed, many, waited;
static key_t key;
static pid_t third;
static _Atomic unsigned passed;

static void operate(int id, int number, int op, int flags)
{
	struct sembuf o = { (unsigned short)number, (short)op, (short)(IPC_NOWAIT | flags) };

	check_call(semop(id, &o, 1));
}

static void remove_sets(void)
{
	semctl(keyed, 0, IPC_RMID);
	semctl(many, 0, IPC_RMID);
	semctl(waited, 0, IPC_RMID);
}

static void set_all(int id, int n, int first)
{
	unsigned short values[MANY];

	for (int i = 0; i < n; i++)
		values[i] = (unsigned short)(first + i);
	check_call(semctl(id, 0, SETALL, values));
}

static void *wait_main(void *arg)
{
	struct sembuf o = { 0, -1, 0 };

	for (;;)
		if (semop(waited, &o, 1) == 0)
			passed++;
	return arg;
}

/* A task with much to undo, up and down, that only waits to be killed. */
static void start_third(void)
{
	third = (pid_t)check_call(fork());
	if (third)
		return;
	operate(many, 0, -5, SEM_UNDO);
	operate(many, 1, 32000 - 101, SEM_UNDO);
	operate(many, 2, 1, SEM_UNDO);
	operate(many, MANY - 1, -1, SEM_UNDO);
	operate(keyed, 1, -20, SEM_UNDO);
	for (;;)
		pause();
}

static void undo_in_second(void)
{
	operate(keyed, 0, 3, SEM_UNDO);
	operate(keyed, 1, 0 - UNDONE, SEM_UNDO);
}

void setup(const char *argument)
{
	pthread_t thread;
	FILE *file;

	(void)argument;
	check(getrandom(&key, sizeof(key), 0) == sizeof(key));
	key = (key & 0x7fffffff) | 1;
	keyed = (int)check_call(semget(key, 3, IPC_CREAT | IPC_EXCL | 0640));
	many = (int)check_call(semget(IPC_PRIVATE, MANY, 0600));
	waited = (int)check_call(semget(IPC_PRIVATE, 1, 0600));
	file = fopen("semaphores", "w");
	check(file && fprintf(file, "%d %d\n%d 0\n%d 0\n", keyed, key, many, waited) > 0);
	fclose(file);
	atexit(remove_sets);
	set_all(keyed, 3, 1000);
	set_all(many, MANY, 100);
	start_third();
	while (semctl(keyed, 1, GETVAL) != 981)
		usleep(500);
	second_task_start();
	second_task_run(undo_in_second);
	operate(keyed, 2, 5, 0);
	check(pthread_create(&thread, NULL, wait_main, NULL) == 0);
	while (semctl(waited, 0, GETNCNT) != 1)
		usleep(500);
}

static void verify_values(void)
{
	check(semctl(keyed, 0, GETVAL) == 1003 && semctl(keyed, 1, GETVAL) == 1001 - 20 - UNDONE);
	check(semctl(keyed, 2, GETVAL) == 1007 && semctl(keyed, 2, GETPID) == getpid());
	check(semctl(keyed, 0, GETPID) == second_task_pid());
	check(semctl(many, 0, GETVAL) == 95 && semctl(many, 1, GETVAL) == 32000 && semctl(many, 2, GETVAL) == 103);
	for (int i = 3; i < MANY - 1; i++)
		check(semctl(many, i, GETVAL) == 100 + i);
	check(semctl(many, MANY - 1, GETVAL) == 100 + MANY - 2 && semctl(many, MANY - 1, GETPID) == third);
}

/* What the end of a task undoes, it must have to undo; afterwards another one takes its place. */
static void verify_undo(void)
{
	kill(third, SIGKILL);
	check_call(waitpid(third, NULL, 0));
	check(semctl(many, 0, GETVAL) == 100 && semctl(many, 1, GETVAL) == 101 && semctl(many, 2, GETVAL) == 102);
	check(semctl(many, MANY - 1, GETVAL) == 100 + MANY - 1 && semctl(keyed, 1, GETVAL) == 1001 - UNDONE);
	start_third();
	while (semctl(keyed, 1, GETVAL) != 1001 - 20 - UNDONE)
		usleep(500);
}

void verify(void)
{
	struct semid_ds ds;
	unsigned before = passed;

	check_call(semctl(keyed, 0, IPC_STAT, &ds));
	check(ds.sem_perm.__key == key && (ds.sem_perm.mode & 0777) == 0640 && ds.sem_perm.uid == getuid());
	check(semget(key, 3, 0) == keyed);
	verify_values();
	operate(waited, 0, 1, 0);
	while (passed == before)
		usleep(500);
	while (semctl(waited, 0, GETNCNT) != 1)
		usleep(500);
	verify_undo();
	verify_values();
}
