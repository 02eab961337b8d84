/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "torpor/torpor.h"

enum cmd_progress_mode {
	CMD_PROGRESS_AUTO, /* a bar on a terminal, else plain lines */
	CMD_PROGRESS_BAR,
	CMD_PROGRESS_PLAIN,
	CMD_PROGRESS_JSON,
	CMD_PROGRESS_NONE,
};

/* Shows on standard error how far a command has come. */
struct cmd_progress {
	enum cmd_progress_mode mode;
	char what[64];                           /* the step that is going on */
	bool complete;                           /* ... and its end has been told of */
	uint64_t started_ns, step_ns, shown_ns;  /* CLOCK_MONOTONIC */
};

/* "auto", "bar", "plain", "json" or "none"; false: none of these. */
bool cmd_progress_parse(const char *text, enum cmd_progress_mode *ret);

void cmd_progress_init(struct cmd_progress *p, enum cmd_progress_mode mode);

/* For torpor_options_set_progress(); `data` is the struct cmd_progress. */
void cmd_progress_show(void *data, const struct torpor_progress *now);

void cmd_progress_done(struct cmd_progress *p);
