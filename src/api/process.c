/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "api/api.h"
#include "util/privilege.h"

/* Fds 0 to 2 exist, or what is opened would be taken for a standard stream. */
static void process_fill_standard_fds(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd > STDERR_FILENO)
		close(fd);
}

int torpor_process_begin(void)
{
	bool plain = privilege_begin();

	process_fill_standard_fds();
	signal(SIGCHLD, SIG_DFL); /* where a caller has left it ignored, nobody would be told of what becomes of a tree */
	signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error, not our end */
	/* A program with a file capability is born undumpable and does not own its /proc files. */
	prctl(PR_SET_DUMPABLE, 1);
	return plain ? 0 : -TORPOR_PERMISSION;
}

void torpor_process_end(void)
{
	privilege_end();
}
