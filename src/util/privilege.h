/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Capabilities that torpor was started with. What it never uses is dropped at
 * once; what it uses is effective only where it is needed; and nothing is handed
 * on but what the caller could hand on without torpor. All of it works with less,
 * or nothing: raising what is not held does nothing.
 */

#include <linux/capability.h>
#include <stdbool.h>
#include <stdint.h>

#define PRIVILEGE(cap) (1ull << (cap))

/* The one that an ordinary user's torpor is given: PIDs, /proc/PID/map_files, the link of /proc/PID/exe. */
#define PRIVILEGE_CHECKPOINT PRIVILEGE(CAP_CHECKPOINT_RESTORE)

/* The very first thing that torpor does; later calls do nothing. False: it is set-user-ID, and has given that up. */
bool privilege_begin(void);

/* What torpor keeps of the capabilities of root or of its file, other than PRIVILEGE_CHECKPOINT. */
uint64_t privilege_extra(void);

/* What the caller holds itself, and may thus give to a restored program. */
uint64_t privilege_grantable(void);

/* Can torpor do more than its caller could without it? */
bool privilege_exceeds_caller(void);

/* A change of the calling thread's effective capabilities; taken back when it goes out of scope. */
struct privilege {
	uint64_t before;
	bool changed;
};

/* Could these be raised? */
bool privilege_can(uint64_t capabilities);

struct privilege privilege_raise(uint64_t capabilities);
struct privilege privilege_none(void);
void privilege_lower(struct privilege *p);

#define cleanup_privilege __attribute__((cleanup(privilege_lower), unused))

/* For good: all is done but ending, or waiting for a child and passing signals on to it. */
void privilege_end(void);

/*
 * In a user namespace that was just made or entered, which gives all capabilities
 * over itself: what a dump or a restore inside it uses is kept, the rest dropped.
 */
void privilege_enter_namespace(void);

/* The bounding set. */
uint64_t privilege_bounding(void);

/* For good, before somebody else's program is executed: nothing is left, and the bounding set is this one. */
void privilege_renounce(uint64_t bounding);

/* Why the file capability of this very binary is not in force, in words; NULL when it has none or holds it. */
const char *privilege_why_not(void);
