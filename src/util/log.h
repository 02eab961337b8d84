/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the library has to say goes through a callback; only src/cmd prints. */

enum log_level { LOG_NOTE, LOG_INFO, LOG_DEBUG };

struct log {
	void (*say)(void *data, enum log_level level, const char *text);
	void *data;
};

/* A NULL log, or one without a callback, is silent. */
void log_say(const struct log *log, enum log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
