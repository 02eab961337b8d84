/* SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>
#include <sys/prctl.h>

#include "api/api.h"
#include "util/fd.h"
#include "util/privilege.h"

int torpor_process_begin(void)
{
	bool plain = privilege_begin();

	fd_fill_standard(0);
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
