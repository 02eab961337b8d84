/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The runner: executes a script inside the process that is to become the saved
 * one, while its old address space is taken down around it. Freestanding, one
 * flat piece of position-independent code without data; it sees only abi/ and
 * arch/. What it executes is decided by host code (src/target/script.h).
 *
 * #syscalls whatever the script says, getpid gettid tgkill munmap nanosleep; and for steering PIDs: clone exit wait4 kill futex open
 * #syscalls read write close sched_yield
 */

#include <stdint.h>

#include "abi/script.h"
#include "arch/x86_64/syscall.h"
#include "runner/steer.h"

enum { NR_MUNMAP = 11, NR_SCHED_YIELD = 24, NR_GETPID = 39, NR_EXIT = 60, NR_GETTID = 186, NR_TGKILL = 234, SIGSTOP_NR = 19 };
enum { CLONE_FLAGS = 0, CLONE_STACK = 5, CLONE_STACK_SIZE = 6 }; /* words of struct clone_args */

void runner_main(void *arg);

/* Until a thread has come out with its TID: another process may have snatched the number. */
static int64_t runner_steer_thread(const struct script_op *op, struct steer *steer)
{
	const uint64_t *clone_args = (const uint64_t *)op->args[0];
	struct script *script = (struct script *)op->args[2];
	uint64_t pid = (uint64_t)steer_call(NR_GETPID, 0, 0, 0, 0);
	int64_t tid;

	steer_lock(steer, (int32_t)script->tid);
	do {
		tid = steer_to(steer, (int64_t)script->tid, ~0ull);
		if (tid < 0)
			break;
		tid = arch_clone_thread(clone_args[CLONE_FLAGS], clone_args[CLONE_STACK] + clone_args[CLONE_STACK_SIZE], runner_main,
					script);
		while (tid > 0 && tid != (int64_t)script->tid && steer_call(NR_TGKILL, pid, (uint64_t)tid, 0, 0) == 0)
			steer_call(NR_SCHED_YIELD, 0, 0, 0, 0); /* it leaves the stack that the next one needs */
	} while (tid > 0 && tid != (int64_t)script->tid);
	steer_unlock(steer, (int32_t)script->tid);
	return tid;
}

/*
 * The kernel gives a TID back a moment after the end of its thread has been seen:
 * then nobody has the number, and clone3 refuses it all the same.
 */
static int64_t runner_clone_thread(const struct script_op *op)
{
	const uint64_t pause[2] = { 0, PID_RETURN_PAUSE_NS };
	int64_t tid;

	for (int i = 0; i < PID_RETURN_TRIES; i++) {
		tid = arch_clone3_thread(op->args[0], op->args[1], runner_main, (void *)op->args[2]);
		if (tid != -STEER_EEXIST)
			break;
		steer_call(STEER_NR_NANOSLEEP, (uint64_t)pause, 0, 0, 0);
	}
	return tid;
}

static int64_t runner_execute(const struct script_op *op)
{
	if (op->code == SCRIPT_THREAD && op->args[3])
		return runner_steer_thread(op, (struct steer *)op->args[3]);
	if (op->code == SCRIPT_THREAD)
		return runner_clone_thread(op);
	return arch_syscall(op->nr, op->args);
}

/*
 * Stop for the tracer, which finds out from script->done whether all went well,
 * and gives the thread its final registers, but for those that it has loaded. It never comes back here.
 */
static void runner_park(const struct script *script)
{
	uint64_t args[6] = { 0 };

	args[0] = (uint64_t)arch_syscall(NR_GETPID, args);
	args[1] = (uint64_t)arch_syscall(NR_GETTID, args);
	/* For SIGSTOP the kernel looks at each thread of the process: with many, another signal is quicker. */
	args[2] = script->park && script->done == script->n ? script->park : SIGSTOP_NR;
	for (;;)
		arch_syscall(NR_TGKILL, args);
}

/*
 * Nothing of us is left, and the next instruction is not there any more: the tracer sees the SIGSEGV, and gives the thread its
 * final registers. Comes back if the kernel has refused it, with all that was there.
 */
static void runner_unmap_itself(const struct script *script)
{
	const uint64_t args[6] = { script->unmap_start, script->unmap_size };

	arch_syscall(NR_MUNMAP, args);
}

__attribute__((section(".text.head"))) void runner_main(void *arg)
{
	struct script *script = arg;
	struct script_op *op = (struct script_op *)script->ops;

	if (script->tid && (uint64_t)steer_call(NR_GETTID, 0, 0, 0, 0) != script->tid)
		steer_call(NR_EXIT, PID_STRAY, 0, 0, 0);
	for (; script->done < script->n; script->done++, op++) {
		op->result = runner_execute(op);
		if (op->result < 0 && (op->flags & SCRIPT_MUST))
			break;
	}
	if (script->done == script->n && script->xstate)
		arch_load_xstate(script->xstate, script->xstate_components);
	if (script->done == script->n && script->unmap_size)
		runner_unmap_itself(script);
	runner_park(script);
}
