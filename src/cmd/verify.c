/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "cmd/cmd.h"
#include "cmd/text.h"
#include "core/core.h"

static int verify_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct arena arena = ARENA_INIT;
	struct err e = ERR_INIT;
	struct image *img;
	Pb__Image *meta;
	char size[32];

	(void)g;
	if (argc != 2 || argv[1][0] == '-')
		return cmd_usage(&cmd_verify, argc < 2 ? "the image is missing" : "one image, and nothing else");
	if (core_open(argv[1], VERIFY_PAGES, &arena, &img, &meta, &e) < 0) {
		arena_done(&arena);
		return cmd_fail(&e);
	}
	printf("%s: whole; %s in %zu extents, all checksums right\n", argv[1], cmd_format_bytes(size, img->size),
	       img->n_extents);
	image_close(img);
	arena_done(&arena);
	return 0;
}

const struct cmd cmd_verify = {
	.name = "verify",
	.usage = "verify FILE",
	.help = "Check the structure of an image and every checksum in it. Says what is damaged;\n"
		"exit status 4 when anything is.\n",
	.run = verify_run,
};
