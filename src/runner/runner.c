/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The runner: executes a script inside the process that is to become the saved
 * one, while its old address space is taken down around it. Freestanding, one
 * flat piece of position-independent code without data; it sees only abi/ and
 * arch/. What it executes is decided by host code (src/target/script.h).
 *
 * #syscalls whatever the script says, getpid gettid tgkill
 */

#include <stdint.h>

#include "abi/script.h"
#include "arch/x86_64/syscall.h"

enum { NR_GETPID = 39, NR_GETTID = 186, NR_TGKILL = 234, SIGSTOP_NR = 19 };

void runner_main(void *arg);

static int64_t runner_execute(const struct script_op *op)
{
	if (op->code == SCRIPT_THREAD)
		return arch_clone3_thread(op->args[0], op->args[1], runner_main, (void *)op->args[2]);
	return arch_syscall(op->nr, op->args);
}

/*
 * Stop for the tracer, which finds out from script->done whether all went well,
 * and gives the thread its final registers. It never comes back here.
 */
static void runner_park(void)
{
	uint64_t args[6] = { 0 };

	args[0] = (uint64_t)arch_syscall(NR_GETPID, args);
	args[1] = (uint64_t)arch_syscall(NR_GETTID, args);
	args[2] = SIGSTOP_NR;
	for (;;)
		arch_syscall(NR_TGKILL, args);
}

__attribute__((section(".text.head"))) void runner_main(void *arg)
{
	struct script *script = arg;
	struct script_op *op = (struct script_op *)script->ops;

	for (; script->done < script->n; script->done++, op++) {
		op->result = runner_execute(op);
		if (op->result < 0 && (op->flags & SCRIPT_MUST))
			break;
	}
	runner_park();
}
