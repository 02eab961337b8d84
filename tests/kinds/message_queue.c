/* SPDX-License-Identifier: Apache-2.0 */

/* POSIX message queues. The names of those that have one are in the file "queues", for whoever has to remove them. */

#include "common.h"

#include <errno.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SIZE = 100, MESSAGES = 8 };

static const struct message {
	unsigned priority;
	const char *text;
} sent[] = { { 3, "third" }, { 7, "first" }, { 3, "third, too" }, { 0, "" }, { 7, "first, too" }, { 31000, "urgent" } },
  received[] = { { 31000, "urgent" }, { 7, "first" }, { 7, "first, too" }, { 3, "third" }, { 3, "third, too" }, { 0, "" } };

enum { N = sizeof(sent) / sizeof(*sent) };

static char name[64], full_name[64];
static mqd_t queue, same, readonly, writeonly, unlinked, unlinked_again, full, empty;

static mqd_t make(const char *path, int flags, long messages)
{
	struct mq_attr attr = { .mq_maxmsg = messages, .mq_msgsize = SIZE };
	mqd_t q = mq_open(path, flags | O_CREAT | O_EXCL, 0600, &attr);

	check_call(q);
	return q;
}

static void send_all(mqd_t q)
{
	for (int i = 0; i < N; i++)
		check_call(mq_send(q, sent[i].text, strlen(sent[i].text), sent[i].priority));
}

static void tell_names(void)
{
	FILE *file = fopen("queues", "w");

	check(file && fprintf(file, "%s\n%s\n", name, full_name) > 0);
	fclose(file);
}

static void remove_queues(void)
{
	mq_unlink(name);
	mq_unlink(full_name);
}

void setup(const char *argument)
{
	char gone[64];

	(void)argument;
	snprintf(name, sizeof(name), "/torpor-test-%d", getpid());
	snprintf(full_name, sizeof(full_name), "/torpor-test-full-%d", getpid());
	snprintf(gone, sizeof(gone), "/torpor-test-gone-%d", getpid());
	tell_names();
	atexit(remove_queues);
	queue = make(name, O_RDWR | O_NONBLOCK, MESSAGES);
	same = (mqd_t)check_call(dup((int)queue));
	readonly = mq_open(name, O_RDONLY);
	writeonly = mq_open(name, O_WRONLY | O_NONBLOCK);
	check(readonly >= 0 && writeonly >= 0);
	check_call(fcntl((int)writeonly, F_SETFD, 0));
	check_call(fchmod((int)queue, 0640));
	send_all(queue);
	unlinked = make(gone, O_RDWR | O_NONBLOCK, MESSAGES);
	unlinked_again = mq_open(gone, O_RDONLY | O_NONBLOCK);
	check(unlinked_again >= 0);
	send_all(unlinked);
	empty = make(full_name, O_RDWR | O_NONBLOCK, 1);
	mq_unlink(full_name);
	full = make(full_name, O_RDWR | O_NONBLOCK, 2);
	check_call(mq_send(full, "one", 3, 1));
	check_call(mq_send(full, "two", 3, 1));
	mq_unlink(gone);
	second_task_start();
}

/* Taken by `from`, and put back through `to`. */
static void verify_all(mqd_t from, mqd_t to)
{
	struct mq_attr attr;
	char text[SIZE];
	unsigned priority;

	check_call(mq_getattr(from, &attr));
	check(attr.mq_maxmsg == MESSAGES && attr.mq_msgsize == SIZE && attr.mq_curmsgs == N);
	for (int i = 0; i < N; i++) {
		long size = check_call(mq_receive(from, text, SIZE, &priority));

		check((size_t)size == strlen(received[i].text) && memcmp(text, received[i].text, (size_t)size) == 0);
		check(priority == received[i].priority);
	}
	send_all(to);
}

static void verify_in_second(void)
{
	verify_all(unlinked, unlinked);
}

static void verify_full(void)
{
	char text[SIZE];

	check(mq_send(full, "x", 1, 0) == -1 && errno == EAGAIN);
	check(mq_receive(full, text, SIZE, NULL) == 3 && memcmp(text, "one", 3) == 0);
	check(mq_receive(full, text, SIZE, NULL) == 3 && memcmp(text, "two", 3) == 0);
	check_call(mq_send(full, "one", 3, 1));
	check_call(mq_send(full, "two", 3, 1));
	check(mq_receive(empty, text, SIZE, NULL) == -1 && errno == EAGAIN);
	check_call(mq_send(empty, "x", 1, 0));
	check(mq_send(empty, "x", 1, 0) == -1 && errno == EAGAIN);
	check(mq_receive(empty, text, SIZE, NULL) == 1);
}

void verify(void)
{
	struct stat st;
	char text[SIZE];
	mqd_t anew;

	check_flags((int)queue, O_ACCMODE | O_NONBLOCK, O_RDWR | O_NONBLOCK);
	check_flags((int)readonly, O_ACCMODE | O_NONBLOCK, O_RDONLY);
	check_flags((int)writeonly, O_ACCMODE | O_NONBLOCK, O_WRONLY | O_NONBLOCK);
	check_cloexec((int)queue, true);
	check_cloexec((int)writeonly, false);
	check_same_description((int)queue, (int)same, true);
	check_same_description((int)queue, (int)readonly, false);
	verify_all(queue, writeonly);
	verify_all(readonly, same);
	verify_all(unlinked_again, unlinked);
	second_task_run(verify_in_second);
	verify_full();
	check(mq_receive(writeonly, text, SIZE, NULL) == -1 && errno == EBADF);
	check_call(fstat((int)queue, &st));
	check((st.st_mode & 07777) == 0640 && st.st_uid == getuid());
	anew = mq_open(name, O_RDWR);
	check_call(anew);
	verify_all(anew, anew);
	check_call(mq_close(anew));
}
