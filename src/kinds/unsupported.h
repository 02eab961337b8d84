/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <sys/stat.h>

/*
 * Can an fd with this link and stat(2) not be saved, as far as these alone tell?
 * Returns an id, with what it is; NULL: it can be, or more than that has to be known.
 */
const char *unsupported_by_link(const char *link, const struct stat *st, const char **ret_what);
