/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A command whose system calls are seen by a supervisor: a seccomp filter hands them to a process outside of the
 * command's tree, which ends with the last process that the filter is on.
 */

#include <linux/seccomp.h>
#include <stddef.h>

/*
 * What is to become of a call. The answer is prepared so that the call goes on. Returns after how many milliseconds
 * it is to be given; meanwhile, other threads' calls go on.
 */
typedef unsigned supervised_handler(const struct seccomp_notif *call, struct seccomp_notif_resp *answer);

/*
 * Become that user, and execute argv with a filter for these system calls. Started by root: with no_new_privs
 * instead, the command would lose its file capability. The supervisor keeps the fd `report`, as the number 3.
 */
_Noreturn void supervised_run(const int *calls, size_t n, supervised_handler *handler, int report, const char *uid,
			      const char *gid, char **argv);

_Noreturn void supervised_die(const char *what);
