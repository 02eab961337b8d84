/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"

enum { TIMEOUT_MS = 30000, PID_WAIT_MS = 10000 };

void api_options_default(struct torpor_options *o)
{
	*o = (struct torpor_options){
		.dump = { .timeout_ms = TIMEOUT_MS, .packing = { .automatic = true } },
		.restore = { .streams = { 0, 1, 2 }, .fork_limit = FORK_LIMIT_DEFAULT, .timeout_ms = TIMEOUT_MS,
			     .pid_wait_ms = PID_WAIT_MS },
	};
}

struct torpor_options *torpor_options_new(void)
{
	struct torpor_options *o = malloc(sizeof(*o));

	if (o)
		api_options_default(o);
	return o;
}

void torpor_options_free(struct torpor_options *o)
{
	if (!o)
		return;
	free(o->name);
	free(o->parent);
	free(o);
}

/* ---- both ---- */

void torpor_options_set_timeout_ms(struct torpor_options *o, unsigned ms)
{
	o->dump.timeout_ms = ms;
	o->restore.timeout_ms = ms;
}

/* ---- dumps ---- */

void torpor_options_set_keep_running(struct torpor_options *o, int on)
{
	o->dump.keep_running = on;
}

void torpor_options_set_sync(struct torpor_options *o, int on)
{
	o->dump.no_sync = !on;
}

void torpor_options_set_external(struct torpor_options *o, int on)
{
	o->dump.choice.external = on;
}

void torpor_options_set_tcp_close(struct torpor_options *o, int on)
{
	o->dump.choice.tcp_close = on;
}

int torpor_options_set_pause(struct torpor_options *o, const char *way)
{
	static const char *const ways[] = { [PAUSE_AUTO] = "auto", [PAUSE_TRACK] = "track", [PAUSE_CLONE] = "clone",
					   [PAUSE_COPY] = "copy" };

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		if (ways[i] && strcmp(way, ways[i]) == 0) {
			o->dump.pause = (enum pause_way)i;
			return 0;
		}
	}
	return -TORPOR_USAGE;
}

void torpor_options_set_track(struct torpor_options *o, int on)
{
	o->dump.track = on;
}

int torpor_options_set_compress(struct torpor_options *o, const char *how)
{
	o->packs = true;
	return image_packing_parse(how, &o->dump.packing) ? 0 : -TORPOR_USAGE;
}

int torpor_options_set_parent(struct torpor_options *o, const char *path)
{
	char *copy = path ? strdup(path) : NULL;

	if (path && !copy)
		return -TORPOR_SYSTEM;
	free(o->parent);
	o->parent = copy;
	o->dump.parent = copy;
	return 0;
}

int torpor_options_set_name(struct torpor_options *o, const char *name)
{
	char *copy = NULL;

	if (name && !torpor_name_is_valid(name))
		return -TORPOR_USAGE;
	if (name && !(copy = strdup(name)))
		return -TORPOR_SYSTEM;
	free(o->name);
	o->name = copy;
	return 0;
}

/* ---- restores ---- */

void torpor_options_set_stream(struct torpor_options *o, int stream, int fd)
{
	if (stream >= 0 && stream < (int)(sizeof(o->restore.streams) / sizeof(o->restore.streams[0])))
		o->restore.streams[stream] = fd;
}

void torpor_options_set_tier(struct torpor_options *o, enum torpor_tier tier)
{
	static const enum tier tiers[] = {
		[TORPOR_TIER_AUTO] = TIER_AUTO, [TORPOR_TIER_CAP] = TIER_CAP, [TORPOR_TIER_ROOT] = TIER_ROOT,
		[TORPOR_TIER_USERNS] = TIER_USERNS, [TORPOR_TIER_FORK] = TIER_FORK,
	};

	o->restore.tier = (unsigned)tier < sizeof(tiers) / sizeof(tiers[0]) ? tiers[tier] : (enum tier)tier;
}

void torpor_options_set_fork_limit(struct torpor_options *o, uint64_t limit)
{
	o->restore.fork_limit = limit;
}

void torpor_options_set_pid_wait_ms(struct torpor_options *o, unsigned ms)
{
	o->restore.pid_wait_ms = ms;
}

void torpor_options_set_allow_changed(struct torpor_options *o, int on)
{
	o->restore.allow_changed = on;
}

void torpor_options_set_allow_foreign(struct torpor_options *o, int on)
{
	o->restore.allow_foreign = on;
}

void torpor_options_set_ready(struct torpor_options *o, int (*ready)(void *data, struct torpor_program *program), void *data)
{
	o->ready = ready;
	o->ready_data = data;
}

void torpor_options_set_before(struct torpor_options *o, void (*before)(void *data), void *data)
{
	o->before = before;
	o->before_data = data;
}

/* ---- all ---- */

void torpor_options_set_log(struct torpor_options *o, void (*log)(void *data, enum torpor_log_level level, const char *text),
			    void *data)
{
	o->log = log;
	o->log_data = data;
}

void torpor_options_set_progress(struct torpor_options *o, void (*progress)(void *data, const struct torpor_progress *progress),
				 void *data)
{
	o->progress = progress;
	o->progress_data = data;
}

void torpor_options_set_in_process(struct torpor_options *o, int on)
{
	o->in_process = on;
}

/* ---- telling ---- */

void api_tell_log(const struct torpor_options *o, enum log_level level, const char *text)
{
	if (o->log)
		o->log(o->log_data, (enum torpor_log_level)level, text);
}

void api_tell_progress(const struct torpor_options *o, const char *step, uint64_t done, uint64_t total, enum torpor_unit unit)
{
	const struct torpor_progress p = { step, done, total, unit };

	if (o->progress)
		o->progress(o->progress_data, &p);
}

static void options_say(void *data, enum log_level level, const char *text)
{
	api_tell_log(data, level, text);
}

static void options_step(void *data, const char *what, uint64_t done, uint64_t total)
{
	api_tell_progress(data, what, done, total, TORPOR_BYTES);
}

static void options_count(void *data, const char *what, uint64_t done, uint64_t limit)
{
	api_tell_progress(data, what, done, limit, TORPOR_ATTEMPTS);
}

struct api_callbacks api_callbacks(const struct torpor_options *o)
{
	void *data = (void *)(uintptr_t)o;
	struct api_callbacks c = { 0 };

	if (o->log)
		c.log = (struct log){ options_say, data };
	if (o->progress)
		c.progress = (struct progress){ options_step, options_count, data };
	return c;
}
