/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How far a long step has come: a bar on a terminal, once the command takes longer
 * than half a second; a line every few seconds elsewhere; or JSON for programs.
 */

#include "cmd/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cmd/text.h"

enum {
	NS = 1000000000,
	BAR_AFTER_NS = NS / 2,
	BAR_EVERY_NS = NS / 10,
	JSON_EVERY_NS = NS / 2,
	BAR_WIDTH = 20,
	WIDTH = 80,
	WIDTH_FOR_BAR = 70, /* a terminal that is narrower has no room for one */
	LINE_SIZE = 256,
};

#define PLAIN_EVERY_NS (5ull * NS)

static const char *const modes[] = {
	[CMD_PROGRESS_AUTO] = "auto", [CMD_PROGRESS_BAR] = "bar",   [CMD_PROGRESS_PLAIN] = "plain",
	[CMD_PROGRESS_JSON] = "json", [CMD_PROGRESS_NONE] = "none",
};

bool cmd_progress_parse(const char *text, enum cmd_progress_mode *ret)
{
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(text, modes[i]) == 0) {
			*ret = (enum cmd_progress_mode)i;
			return true;
		}
	}
	return false;
}

/* ---- when ---- */

/* The one clock that is the same for torpor and for the tasks it makes in a time namespace (time_namespaces(7)). */
static uint64_t progress_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * NS + (uint64_t)ts.tv_nsec;
}

/* A step begins: its rate is its own. */
static void progress_begin_step(struct cmd_progress *p, const char *what, uint64_t now)
{
	if (strncmp(p->what, what, sizeof(p->what) - 1) == 0)
		return;
	snprintf(p->what, sizeof(p->what), "%s", what);
	p->complete = false;
	p->step_ns = now;
	if (p->mode == CMD_PROGRESS_JSON)
		p->shown_ns = 0; /* each step is told of at least once */
}

static bool progress_is_due(struct cmd_progress *p, const char *what, bool complete)
{
	uint64_t now = progress_now(), since;

	progress_begin_step(p, what, now);
	since = now - p->shown_ns;
	if (p->mode == CMD_PROGRESS_BAR && (now - p->started_ns < BAR_AFTER_NS || since < BAR_EVERY_NS))
		return false;
	if (p->mode == CMD_PROGRESS_PLAIN && since < PLAIN_EVERY_NS)
		return false;
	if (p->mode == CMD_PROGRESS_JSON && (p->complete || (since < JSON_EVERY_NS && !complete)))
		return false;
	p->complete = complete;
	p->shown_ns = now;
	return true;
}

/* ---- what ---- */

struct measure {
	double share, rate; /* of the whole; per second */
	double left;        /* seconds; negative: not known */
};

static struct measure progress_measure(const struct cmd_progress *p, uint64_t done, uint64_t total)
{
	double elapsed = (double)(p->shown_ns - p->step_ns) / NS;
	struct measure m = { .share = total ? (double)done / (double)total : 0, .left = -1 };

	m.rate = elapsed > 0 ? (double)done / elapsed : 0;
	if (m.rate > 0 && done <= total)
		m.left = (double)(total - done) / m.rate;
	return m;
}

static size_t progress_print_left(char *buf, size_t size, double left)
{
	if (left < 0)
		return 0;
	if (left < 90)
		return (size_t)snprintf(buf, size, ", %.0f s left", left);
	return (size_t)snprintf(buf, size, ", %.0f min left", left / 60);
}

static void progress_draw(const struct cmd_progress *p, double share, char buf[LINE_SIZE])
{
	const char *full = text_utf8() ? "█" : "#", *empty = text_utf8() ? "░" : ".";
	struct winsize ws = { .ws_col = WIDTH };
	size_t used = 0;

	buf[0] = '\0';
	if (p->mode != CMD_PROGRESS_BAR || (ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col && ws.ws_col < WIDTH_FOR_BAR))
		return;
	for (int i = 0; i < BAR_WIDTH; i++)
		used += (size_t)snprintf(buf + used, LINE_SIZE - used, "%s", i < (int)(share * BAR_WIDTH + 0.5) ? full : empty);
	snprintf(buf + used, LINE_SIZE - used, " ");
}

static void progress_line(const struct cmd_progress *p, const char *text)
{
	if (p->mode == CMD_PROGRESS_BAR)
		fprintf(stderr, "\r\033[K%s", text);
	else
		fprintf(stderr, "torpor: %s\n", text);
}

static void progress_write_json(const char *what, uint64_t done, uint64_t total, const char *unit, const struct measure *m)
{
	char left[48] = "";

	if (m->left >= 0)
		snprintf(left, sizeof(left), ", \"seconds_left\": %.1f", m->left);
	fprintf(stderr, "{\"step\": \"%s\", \"done\": %" PRIu64 ", \"total\": %" PRIu64 ", \"unit\": \"%s\", \"per_second\": %.0f%s}\n",
		what, done, total, unit, m->rate, left);
}

static void progress_show_bytes(struct cmd_progress *p, const char *what, uint64_t done, uint64_t total)
{
	char of[32], rate[32], bar[LINE_SIZE], line[2 * LINE_SIZE];
	struct measure m;
	size_t used;

	if (!total || !progress_is_due(p, what, done >= total))
		return;
	m = progress_measure(p, done, total);
	if (p->mode == CMD_PROGRESS_JSON) {
		progress_write_json(what, done, total, "bytes", &m);
		return;
	}
	progress_draw(p, m.share, bar);
	used = (size_t)snprintf(line, sizeof(line), "%s %s%.0f %% of %s, %s/s", what, bar, 100 * m.share, cmd_format_bytes(of, total),
				cmd_format_bytes(rate, (unsigned long long)m.rate));
	progress_print_left(line + used, sizeof(line) - used, m.left);
	progress_line(p, line);
}

/* Of something that may be over at any time: no share, and no time that is left. */
static void progress_show_count(struct cmd_progress *p, const char *what, uint64_t done, uint64_t limit)
{
	char line[LINE_SIZE];
	struct measure m;

	if (!progress_is_due(p, what, done >= limit))
		return;
	m = progress_measure(p, done, limit);
	m.left = -1;
	if (p->mode == CMD_PROGRESS_JSON) {
		progress_write_json(what, done, limit, "attempts", &m);
		return;
	}
	snprintf(line, sizeof(line), "%s: %" PRIu64 " of at most %" PRIu64, what, done, limit);
	progress_line(p, line);
}

void cmd_progress_show(void *data, const struct torpor_progress *now)
{
	struct cmd_progress *p = data;

	if (p->mode == CMD_PROGRESS_NONE)
		return;
	if (now->unit == TORPOR_BYTES)
		progress_show_bytes(p, now->step, now->done, now->total);
	else
		progress_show_count(p, now->step, now->done, now->total);
}

/* ---- begin and end ---- */

void cmd_progress_init(struct cmd_progress *p, enum cmd_progress_mode mode)
{
	uint64_t now = progress_now();

	if (mode == CMD_PROGRESS_AUTO)
		mode = isatty(STDERR_FILENO) ? CMD_PROGRESS_BAR : CMD_PROGRESS_PLAIN;
	*p = (struct cmd_progress){ .mode = mode, .started_ns = now, .shown_ns = now };
}

void cmd_progress_done(struct cmd_progress *p)
{
	/* A restored task shows its own progress: the line may be another process' */
	if (p->mode == CMD_PROGRESS_BAR && progress_now() - p->started_ns >= BAR_AFTER_NS)
		fputs("\r\033[K", stderr);
}
