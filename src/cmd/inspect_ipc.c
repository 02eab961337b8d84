/* SPDX-License-Identifier: Apache-2.0 */

/* The System V objects of an image: to be found again by ipcs(1). */

#include <stdio.h>

#include "cmd/inspect.h"
#include "cmd/text.h"

static void inspect_print_id(const char *what, long id, unsigned key, unsigned mode)
{
	printf("  %-14s %10ld  key %#010x  mode %03o  ", what, id, key, mode & 0777);
}

static size_t inspect_print_segments(const struct view *v, bool quiet)
{
	const struct torpor_inode *inode;
	size_t n = 0;

	for (size_t i = 0; (inode = torpor_image_inode(v->image, i)); i++) {
		char size[32];

		if (inode->kind != TORPOR_SEGMENT)
			continue;
		n++;
		if (quiet)
			continue;
		inspect_print_id("shared memory", (long)inode->ino, inode->key, inode->mode);
		printf("%s%s%s\n", cmd_format_bytes(size, inode->size), inode->removed ? ", marked for removal" : "",
		       inode->external ? ", also used by others: not stored" : "");
	}
	return n;
}

void inspect_print_ipc(struct view *v)
{
	const struct torpor_ipc *ipc;

	if (!inspect_print_segments(v, true) && !v->info->semaphores && !v->info->queues)
		return;
	puts("\nSystem V objects");
	inspect_print_segments(v, false);
	for (size_t i = 0; (ipc = torpor_image_semaphores(v->image, i)); i++) {
		inspect_print_id("semaphores", ipc->id, ipc->key, ipc->mode);
		printf("%zu, %zu tasks have something to undo\n", ipc->count, ipc->undo);
	}
	for (size_t i = 0; (ipc = torpor_image_queue(v->image, i)); i++) {
		inspect_print_id("message queue", ipc->id, ipc->key, ipc->mode);
		printf("%zu messages\n", ipc->count);
	}
}
