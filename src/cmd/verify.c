/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "cmd/cmd.h"
#include "cmd/text.h"

static int verify_run(const struct cmd_globals *g, int argc, char **argv)
{
	struct torpor_error *error = NULL;
	struct torpor_image *image;
	const struct torpor_image_info *info;
	char size[32];

	(void)g;
	if (argc != 2 || argv[1][0] == '-')
		return cmd_usage(&cmd_verify, argc < 2 ? "the image is missing" : "one image, and nothing else");
	if (torpor_image_open(argv[1], TORPOR_OPEN_VERIFY, &image, &error) < 0)
		return cmd_fail(error);
	info = torpor_image_info(image);
	printf("%s: whole; %s in %zu extents, all checksums right\n", argv[1], cmd_format_bytes(size, info->bytes), info->extents);
	torpor_image_close(image);
	return 0;
}

const struct cmd cmd_verify = {
	.name = "verify",
	.usage = "verify FILE",
	.help = "Check the structure of an image and every checksum in it. Says what is damaged;\n"
		"exit status 4 when anything is.\n",
	.run = verify_run,
};
