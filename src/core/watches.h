/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a program has open that keeps a dump from copying its memory in the order that is the quickest. */

#include <stdbool.h>
#include <sys/types.h>

struct watches {
	bool folder; /* it would notice (inotify, fanotify) that the image's file is made */
	bool direct; /* something reads files around the page cache: while it runs, written pages may be missed */
};

/* Look at the descriptors of a task, and add what they are to *w; `image` is the path that the image will have. Never fails. */
void watches_look(struct watches *w, pid_t pid, const char *image);
