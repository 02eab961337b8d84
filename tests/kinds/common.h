/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A test of one kind: a program that sets some state up, is saved and restored
 * by somebody else, and then verifies the state from inside, as often as it is
 * asked to. common.c has the main function.
 *
 *     PROGRAM PIDFILE RESULT [ARGUMENT]
 *
 * PIDFILE appears when the state is set up. On SIGUSR1 the program verifies it,
 * and RESULT appears with "ok" or "not ok: WHAT". On SIGTERM it exits with 0.
 */

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What a program consists of. verify() leaves the state as it found it. */
void setup(const char *argument);
void verify(void);

/* What must hold; otherwise the verification ends here. Errors of system calls show errno. */
#define check(condition)                                                                                      \
	((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition, -1))
#define check_call(call)                                                                                      \
	({                                                                                                    \
		long check_r = (long)(call);                                                                  \
		if (check_r < 0)                                                                              \
			check_failed(__FILE__, __LINE__, #call, check_r);                                     \
		check_r;                                                                                      \
	})
_Noreturn void check_failed(const char *file, int line, const char *what, long result);

/* In a process of its own: call a function, and leave "" or what failed. */
void check_here(char *ret, size_t size, void (*function)(unsigned), unsigned argument);

/* So much time on a machine that is as fast as expected: longer by TORPOR_TEST_SLOWER, which may be a fraction. */
long slower(long time);

/* The bytes that come next are these, and no others when `all`. */
void check_read(int fd, const char *expected);
void check_write(int fd, const char *text);

/* Nothing to read now, on an fd that does not block. */
void check_empty(int fd);

/* The flags of F_GETFL among `mask`, and close-on-exec. */
void check_flags(int fd, int mask, int expected);
void check_cloexec(int fd, bool expected);

/* Two fds of this process refer to one open file description, or not. */
void check_same_description(int a, int b, bool expected);

/* Socket options that are an int. */
void set_option(int fd, int level, int name, int value);
int get_option(int fd, int level, int name);

/*
 * A second task: a child that was forked here and that calls a function on
 * demand. A check that fails there, fails here.
 */
void second_task_start(void);
void second_task_run(void (*function)(void));
pid_t second_task_pid(void);
