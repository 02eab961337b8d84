/* SPDX-License-Identifier: Apache-2.0 */

/* torpor_untrack(). Nothing of it needs a process of its own: it only tells the tracker. */

#include "api/api.h"
#include "core/tracker.h"

int torpor_untrack(int pid, struct torpor_error **error)
{
	struct err e = ERR_INIT;
	int r = tracker_stop(pid, &e);

	return r < 0 ? api_fail(error, &e) : r;
}
