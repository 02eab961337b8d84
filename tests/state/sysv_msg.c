/* SPDX-License-Identifier: Apache-2.0 */

/*
 * System V message queues: ids, keys, sizes, messages of all types, a thread that waits. The ids are in the file
 * "messages", for whoever has to remove them.
 */

#include "common.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/random.h>
#include <unistd.h>

enum { SIZE = 2000, QUEUE_BYTES = 5000 };

struct message {
	long type;
	char text[SIZE];
};

static const struct sent {
	long type;
	const char *text;
} sent[] = { { 5, "five" }, { 1, "one" }, { 0x123456789a, "" }, { 1, "one, too" } };

enum { N = sizeof(sent) / sizeof(*sent) };

static int keyed, empty, full;
static key_t key;
static _Atomic unsigned passed;

static void put(int id, long type, const char *text, size_t size)
{
	struct message m = { .type = type };

	memcpy(m.text, text, size);
	check_call(msgsnd(id, &m, size, IPC_NOWAIT));
}

static void expect(int id, long which, long type, const char *text, size_t size)
{
	struct message m = { 0 };

	check(check_call(msgrcv(id, &m, SIZE, which, IPC_NOWAIT)) == (long)size);
	check(m.type == type && memcmp(m.text, text, size) == 0);
}

static void put_all(void)
{
	for (int i = 0; i < N; i++)
		put(keyed, sent[i].type, sent[i].text, strlen(sent[i].text));
}

static char large[SIZE];

static void put_full(void)
{
	for (int i = 0; i < QUEUE_BYTES / SIZE; i++)
		put(full, i + 1, large, SIZE);
}

static void *wait_main(void *arg)
{
	struct message m;

	for (;;)
		if (msgrcv(empty, &m, SIZE, 77, 0) == 3 && memcmp(m.text, "you", 3) == 0)
			passed++;
	return arg;
}

static void remove_queues(void)
{
	msgctl(keyed, IPC_RMID, NULL);
	msgctl(empty, IPC_RMID, NULL);
	msgctl(full, IPC_RMID, NULL);
}

void setup(const char *argument)
{
	struct msqid_ds ds;
	pthread_t thread;
	FILE *file;

	(void)argument;
	check(getrandom(&key, sizeof(key), 0) == sizeof(key));
	key = (key & 0x7fffffff) | 1;
	keyed = (int)check_call(msgget(key, IPC_CREAT | IPC_EXCL | 0640));
	empty = (int)check_call(msgget(IPC_PRIVATE, 0600));
	full = (int)check_call(msgget(IPC_PRIVATE, 0600));
	file = fopen("messages", "w");
	check(file && fprintf(file, "%d %d\n%d 0\n%d 0\n", keyed, key, empty, full) > 0);
	fclose(file);
	atexit(remove_queues);
	check_call(msgctl(full, IPC_STAT, &ds));
	ds.msg_qbytes = QUEUE_BYTES;
	check_call(msgctl(full, IPC_SET, &ds));
	memset(large, 'l', SIZE);
	put_all();
	put_full();
	second_task_start();
	check(pthread_create(&thread, NULL, wait_main, NULL) == 0);
}

static void put_in_second(void)
{
	put(empty, 77, "you", 3);
}

void verify(void)
{
	struct message m = { .type = 1 };
	unsigned before = passed;
	struct msqid_ds ds;

	check_call(msgctl(keyed, IPC_STAT, &ds));
	check(ds.msg_perm.__key == key && (ds.msg_perm.mode & 0777) == 0640 && ds.msg_perm.uid == getuid());
	check(ds.msg_qnum == N && ds.msg_lspid == getpid());
	check(msgget(key, 0) == keyed);
	expect(keyed, 1, 1, "one", 3);
	expect(keyed, 0, 5, "five", 4);
	expect(keyed, 0, 0x123456789a, "", 0);
	expect(keyed, 0, 1, "one, too", 8);
	check(msgrcv(keyed, &m, SIZE, 0, IPC_NOWAIT) == -1 && errno == ENOMSG);
	put_all();
	check_call(msgctl(full, IPC_STAT, &ds));
	check(ds.msg_qbytes == QUEUE_BYTES);
	check(msgsnd(full, &m, SIZE, IPC_NOWAIT) == -1 && errno == EAGAIN);
	for (int i = QUEUE_BYTES / SIZE; i > 0; i--)
		expect(full, i, i, large, SIZE);
	put_full();
	second_task_run(put_in_second);
	while (passed == before)
		usleep(500);
}
