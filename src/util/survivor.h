/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

struct err;

/*
 * Call `function` in a process of its own, which goes on when torpor is killed: for what must be put back
 * when it has been taken apart. Signals are blocked there, and memory is a copy: a result needs a shared
 * mapping. Waits for its end, at most `patience_ms` (0: for ever), after which it goes on alone: -ETIME.
 */
int survivor_run(void (*function)(void *data), void *data, unsigned patience_ms, struct err *e);
