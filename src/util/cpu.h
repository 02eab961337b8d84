/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <sched.h>

/* On how many CPUs this process may run; 1 where nobody knows. */
static inline unsigned cpu_count(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
}
