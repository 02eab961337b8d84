/* SPDX-License-Identifier: Apache-2.0 */

/* The System V objects of an image: to be found again by ipcs(1). */

#include <stdio.h>

#include "cmd/inspect.h"
#include "cmd/text.h"

/* How many tasks have something to undo on this set. */
static size_t inspect_count_undo(const Pb__Image *img, int id)
{
	size_t n = 0;

	for (size_t i = 0; i < img->n_tasks; i++) {
		bool undoes = false;

		for (size_t k = 0; k < img->tasks[i]->n_semaphore_uses; k++)
			undoes |= img->tasks[i]->semaphore_uses[k]->id == id && img->tasks[i]->semaphore_uses[k]->adjust;
		n += undoes;
	}
	return n;
}

static void inspect_print_id(const char *what, long id, uint32_t key, uint32_t mode)
{
	printf("  %-14s %10ld  key %#010x  mode %03o  ", what, id, key, mode & 0777);
}

static size_t inspect_print_segments(const Pb__Image *img, bool quiet)
{
	size_t n = 0;

	for (size_t i = 0; i < img->n_inodes; i++) {
		const Pb__Inode *pb = img->inodes[i];
		char size[32];

		if (pb->kind != PB__INODE_KIND__SYSV_SHM)
			continue;
		n++;
		if (quiet)
			continue;
		inspect_print_id("shared memory", (long)pb->ino, pb->shm_key, pb->mode);
		printf("%s%s%s\n", cmd_format_bytes(size, pb->size), pb->shm_removed ? ", marked for removal" : "",
		       pb->shm_external ? ", also used by others: not stored" : "");
	}
	return n;
}

void inspect_print_ipc(const Pb__Image *img)
{
	if (!inspect_print_segments(img, true) && !img->n_semaphore_sets && !img->n_sysv_queues)
		return;
	puts("\nSystem V objects");
	inspect_print_segments(img, false);
	for (size_t i = 0; i < img->n_semaphore_sets; i++) {
		const Pb__SemaphoreSet *pb = img->semaphore_sets[i];

		inspect_print_id("semaphores", pb->id, pb->key, pb->mode);
		printf("%zu, %zu tasks have something to undo\n", pb->n_values, inspect_count_undo(img, pb->id));
	}
	for (size_t i = 0; i < img->n_sysv_queues; i++) {
		const Pb__SysvQueue *pb = img->sysv_queues[i];

		inspect_print_id("message queue", pb->id, pb->key, pb->mode);
		printf("%zu messages\n", pb->n_messages);
	}
}
