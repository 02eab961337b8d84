/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * XXH3 as fast as this CPU can: where libxxhash chooses at run time which vector
 * instructions it uses, the header redirects its functions to those that do.
 */

#include <xxhash.h>
#if HAVE_XXH3_DISPATCH
#include <xxh_x86dispatch.h>
#endif
