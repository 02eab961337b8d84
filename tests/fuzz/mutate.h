/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Metadata that parses and means something else: one field of one message at a time. */

#include <stdbool.h>
#include <stdint.h>

#include "image/pb.h"

/*
 * Change some fields (`times`) of the message or of what is in it, the messages
 * of its objects as well. What is new lives in the arena. The same seed makes
 * the same changes.
 */
void mutate_image(Pb__Image *image, struct arena *arena, unsigned times, uint64_t seed);

/* Likewise the field with this number, from 0. False: there are not so many. */
bool mutate_field(Pb__Image *image, struct arena *arena, uint64_t field, uint64_t seed);
