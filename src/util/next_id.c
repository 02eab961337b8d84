/* SPDX-License-Identifier: Apache-2.0 */
#include "util/next_id.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "util/err.h"
#include "util/fd.h"
#include "util/privilege.h"

int next_id_choose(enum next_id type, int id, struct err *e)
{
	static const char *const paths[] = {
		[NEXT_ID_SHM] = "/proc/sys/kernel/shm_next_id",
		[NEXT_ID_SEM] = "/proc/sys/kernel/sem_next_id",
		[NEXT_ID_MSG] = "/proc/sys/kernel/msg_next_id",
	};
	cleanup_privilege struct privilege p = privilege_raise(PRIVILEGE_CHECKPOINT);
	cleanup_close int fd = open(paths[type], O_WRONLY | O_CLOEXEC);
	char text[16];
	int r;

	snprintf(text, sizeof(text), "%d", id);
	r = fd < 0 ? -errno : fd_write_full(fd, text, strlen(text));
	if (r == 0)
		return 0;
	if (r != -EACCES && r != -EPERM && r != -EROFS)
		return err_sys(e, r, "writing %d to %s", id, paths[type]);
	err_set(e, ERR_PERMISSION, -r, "torpor may not choose its id (%s)", paths[type]);
	return err_help(e, "%s", privilege_why_not() ?: "give it the capability: setcap cap_checkpoint_restore=ep torpor");
}
