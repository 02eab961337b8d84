/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a program has set that cannot be set again: words to follow "is a TCP socket"; NULL: nothing. */
const char *tcp_options_obstacle(int fd);
