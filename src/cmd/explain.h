/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* torpor restore --explain: the plan in words, and the scripts. No process is made. Returns the exit status. */
int explain_print(const char *path);
