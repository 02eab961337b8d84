/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A script: an array of system calls, built by ordinary host code and executed
 * either by the runner inside the process it is for (restore), or one by one by
 * the stage under the tracer's hand (dump, see target/remote.h).
 *
 * Shared by host and runner: fixed width, no pointers.
 */

#include <stdint.h>

enum script_op_code {
	SCRIPT_SYSCALL = 0,
	SCRIPT_THREAD = 1, /* clone3(args[0], args[1]); the child executes the script at args[2]; args[3]: struct steer, or 0 */
};

enum script_flag {
	SCRIPT_MUST = 1 << 0, /* a negative result ends the script */
};

struct script_op {
	uint32_t code; /* enum script_op_code */
	uint32_t flags; /* enum script_flag */
	int64_t nr;
	uint64_t args[6];
	int64_t result; /* set when executed */
	uint64_t note;  /* for the host: what this step is, 0 when it needs no words */
};

struct script {
	uint64_t ops; /* address of the array in the executing process */
	uint32_t n;
	uint32_t done; /* how many have been executed; n: all went well */
	uint64_t stack; /* SCRIPT_THREAD: top of the stack for the new thread's runner */
	uint64_t tid;   /* of the thread that is to execute it; 0: whoever does */
	uint64_t park;  /* the signal by which it stops at its end, which is not blocked then; 0: SIGSTOP */
	uint64_t unmap_start, unmap_size; /* instead of that, it unmaps this, itself and the runner included, and crashes; 0: it does not */
	uint64_t xstate, xstate_components; /* before either, it loads these of the area there, by XRSTOR; 0: it does not */
};

_Static_assert(sizeof(struct script_op) == 80, "layout is shared with the runner");
_Static_assert(sizeof(struct script) == 72, "layout is shared with the runner");
