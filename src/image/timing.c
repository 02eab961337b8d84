/* SPDX-License-Identifier: Apache-2.0 */
#include "image/timing.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/xattr.h>

enum {
	TIMING_VERSION = 1,
	TIMING_SIZE = 128, /* of the text */
	US = 1000,
	LONGEST_S = 1000000, /* who has more in it did not get that from us */
};

static const char *const phase_names[] = {
	[IMAGE_PHASE_READ] = "reading and checking",
	[IMAGE_PHASE_FILES] = "files and sockets",
	[IMAGE_PHASE_TASKS] = "processes and memory",
	[IMAGE_PHASE_FINISH] = "the last touch",
};

const char *image_phase_name(enum image_phase phase)
{
	return phase_names[phase];
}

/* "1 REALTIME-NS US US US US" */
void image_timing_write(int fd, const struct image_timing *t)
{
	char text[TIMING_SIZE];
	int n = snprintf(text, sizeof(text), "%d %" PRIu64, TIMING_VERSION, t->realtime_ns);

	for (int i = 0; i < IMAGE_PHASES; i++)
		n += snprintf(text + n, sizeof(text) - (size_t)n, " %" PRIu64, t->phase_ns[i] / US);
	fsetxattr(fd, IMAGE_TIMING_XATTR, text, (size_t)n, 0);
}

bool image_timing_read(int fd, struct image_timing *ret)
{
	char text[TIMING_SIZE];
	ssize_t size = fgetxattr(fd, IMAGE_TIMING_XATTR, text, sizeof(text) - 1);
	int version, used = 0;
	const char *at = text;

	if (size <= 0)
		return false;
	text[size] = '\0';
	if (sscanf(at, "%d %" SCNu64 "%n", &version, &ret->realtime_ns, &used) != 2 || version != TIMING_VERSION)
		return false;
	for (int i = 0; i < IMAGE_PHASES; i++) {
		uint64_t us;

		at += used;
		if (sscanf(at, " %" SCNu64 "%n", &us, &used) != 1 || us > LONGEST_S * 1000000ull)
			return false;
		ret->phase_ns[i] = us * US;
	}
	return true;
}
