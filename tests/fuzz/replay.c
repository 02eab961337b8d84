/* SPDX-License-Identifier: Apache-2.0 */

/* Feed files to a fuzz target without a fuzzer, so that the corpus is a test with any compiler. */

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/arena.h"
#include "util/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_data(const void *data, size_t size)
{
	uint8_t *exact = malloc(size ? size : 1); /* no room behind it for a reader that runs over */

	if (!exact)
		return -1;
	memcpy(exact, data, size);
	LLVMFuzzerTestOneInput(exact, size);
	free(exact);
	return 0;
}

static int replay_file(const char *path)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct arena arena = ARENA_INIT;
	size_t size = 0;
	char *data = NULL;
	int r = -1;

	if (fd >= 0 && fd_read_all(fd, &arena, &data, &size) == 0)
		r = replay_data(data, size);
	arena_done(&arena);
	return r;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (replay_file(argv[i])) {
			fprintf(stderr, "%s: cannot be read\n", argv[i]);
			return 1;
		}
	}
	printf("ok %d inputs\n", argc - 1);
	return 0;
}
