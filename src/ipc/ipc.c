/* SPDX-License-Identifier: Apache-2.0 */
#include "ipc/ipc.h"

#include <sys/user.h>

static bool thread_stands_in(const struct user_regs_struct *regs, int64_t nr)
{
	return (int64_t)regs->rax == nr || (int64_t)regs->orig_rax == nr;
}

bool ipc_is_waited_for(const struct target_tree *tree, int id, int64_t nr, int64_t other_nr)
{
	for (size_t i = 0; i < tree->n; i++) {
		for (size_t k = 0; k < tree->tasks[i]->n_threads; k++) {
			const struct user_regs_struct *regs = &tree->tasks[i]->threads[k].regs;

			if ((int)regs->rdi == id && (thread_stands_in(regs, nr) || thread_stands_in(regs, other_nr)))
				return true;
		}
	}
	return false;
}
