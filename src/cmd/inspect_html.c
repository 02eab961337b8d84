/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor inspect --html: page.html with the data behind it. The data are JSON
 * in which <, > and & are escaped, so that no name can end the element that
 * they stand in; the page shows them as text only.
 */

#include "cmd/inspect.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/json.h"

enum { NS_PER_MS = 1000000 };

extern const char page_start[], page_end[]; /* page.html: page.S */

static void html_put_ms(struct json *j, const char *key, uint64_t ns)
{
	json_put_u64(j, key, ns / NS_PER_MS);
}

/* ---- about the image ---- */

static void html_head(struct view *v, struct json *j)
{
	const struct torpor_error *damage = torpor_image_damage(v->image);
	const struct torpor_image_info *info = v->info;

	json_put_string(j, "path", v->path);
	json_put_u64(j, "bytes", info->bytes);
	json_put_string(j, "damage", damage ? torpor_error_text(damage) : NULL);
	json_key(j, "machine");
	json_open(j, '{');
	html_put_ms(j, "realtime_ms", info->realtime_ns > 0 ? (uint64_t)info->realtime_ns : 0);
	json_put_string(j, "hostname", info->hostname);
	json_put_string(j, "kernel", info->kernel);
	json_put_string(j, "torpor", info->torpor_version);
	json_close(j, '}');
	json_key(j, "stats");
	json_open(j, '{');
	json_put_u64(j, "total_us", info->total_ns / 1000);
	json_put_u64(j, "frozen_us", info->frozen_ns / 1000);
	json_put_u64(j, "collect_us", info->collect_ns / 1000);
	json_put_u64(j, "memory_us", info->memory_ns / 1000);
	json_put_u64(j, "zero_bytes", info->zero_bytes);
	json_close(j, '}');
}

/* When, and [name, microseconds] of each phase; null: it was never restored, or that is not known. */
static void html_last_restore(const struct view *v, struct json *j)
{
	const struct torpor_phase *phase;

	if (!v->info->restored_ns) {
		json_put_string(j, "restore", NULL);
		return;
	}
	json_key(j, "restore");
	json_open(j, '{');
	html_put_ms(j, "realtime_ms", (uint64_t)v->info->restored_ns);
	json_key(j, "phases");
	json_open(j, '[');
	for (size_t i = 0; (phase = torpor_image_phase(v->image, i)); i++) {
		json_open(j, '[');
		json_string(j, phase->name);
		json_u64(j, phase->ns / 1000);
		json_close(j, ']');
	}
	json_close(j, ']');
	json_close(j, '}');
}

/* ---- tasks ---- */

static void html_put_optional(struct json *j, const char *key, bool present, uint64_t value)
{
	json_key(j, key);
	if (present)
		json_u64(j, value);
	else
		json_string(j, NULL);
}

/* [TID, name] of each. */
static void html_threads(const struct view *v, struct json *j, size_t task)
{
	const struct torpor_thread *thread;

	json_open(j, '[');
	for (size_t i = 0; (thread = torpor_image_thread(v->image, task, i)); i++) {
		json_open(j, '[');
		json_u64(j, (uint32_t)thread->tid);
		json_string(j, thread->comm);
		json_close(j, ']');
	}
	json_close(j, ']');
}

/* [fd, object] of each. */
static void html_slots(const struct view *v, struct json *j, size_t task)
{
	const struct torpor_slot *slot;

	json_open(j, '[');
	for (size_t i = 0; (slot = torpor_image_slot(v->image, task, i)); i++) {
		if (slot->object < 0)
			continue;
		json_open(j, '[');
		json_u64(j, (uint32_t)slot->fd);
		json_u64(j, (uint64_t)slot->object);
		json_close(j, ']');
	}
	json_close(j, ']');
}

static void html_task(const struct view *v, struct json *j, size_t task)
{
	static const char *const states[] = { [TORPOR_RUNNING] = "running", [TORPOR_STOPPED] = "stopped", [TORPOR_ZOMBIE] = "zombie" };
	const struct torpor_task *t = view_task(v, task);

	json_open(j, '{');
	json_put_u64(j, "pid", (uint32_t)t->pid);
	json_put_u64(j, "ppid", (uint32_t)t->ppid);
	json_put_string(j, "name", t->comm);
	json_put_string(j, "state", states[t->state]);
	json_put_string(j, "cmdline", t->cmdline);
	html_put_optional(j, "space", t->space >= 0, (uint64_t)t->space);
	html_put_optional(j, "stored", t->space >= 0, t->stored_bytes);
	json_key(j, "threads");
	html_threads(v, j, task);
	json_key(j, "fds");
	html_slots(v, j, task);
	json_close(j, '}');
}

/* ---- memory ---- */

/* What is stored of shared memory belongs to its inode: each mapping shows its share. */
static uint64_t html_stored(const struct view *v, const struct torpor_mapping *m)
{
	uint64_t size = m->end > m->start ? m->end - m->start : 0, all;

	if (m->memory != TORPOR_SHARED || m->inode < 0)
		return m->stored_bytes;
	all = torpor_image_inode(v->image, (size_t)m->inode)->stored_bytes;
	return all < size ? all : size;
}

/* Addresses, size, access, class, bytes stored, name, and of shared memory the inode. */
static void html_mapping(const struct view *v, struct json *j, const struct torpor_mapping *m)
{
	char text[48];

	json_open(j, '[');
	snprintf(text, sizeof(text), "%lx-%lx", m->start, m->end);
	json_string(j, text);
	json_u64(j, m->end > m->start ? m->end - m->start : 0);
	json_string(j, view_access(m, text));
	json_u64(j, m->memory);
	json_u64(j, html_stored(v, m));
	json_string(j, m->name);
	if (m->memory == TORPOR_SHARED)
		json_u64(j, m->inode < 0 ? 0 : (uint64_t)m->inode);
	json_close(j, ']');
}

static void html_space(const struct view *v, struct json *j, size_t space)
{
	const struct torpor_mapping *m;

	json_open(j, '[');
	for (size_t i = 0; (m = torpor_image_mapping(v->image, space, i)); i++)
		html_mapping(v, j, m);
	json_close(j, ']');
}

/* ---- objects ---- */

static void html_object(const struct view *v, struct json *j, size_t object)
{
	long other;

	json_open(j, '{');
	json_put_string(j, "kind", torpor_image_object(v->image, object)->kind);
	json_put_string(j, "text", torpor_image_describe(v->image, object));
	json_key(j, "others");
	json_open(j, '[');
	for (size_t i = 0; (other = torpor_image_other(v->image, object, i)) >= 0; i++)
		json_u64(j, (uint64_t)other);
	json_close(j, ']');
	json_close(j, '}');
}

/* ---- the page ---- */

static void html_data(struct view *v, FILE *out)
{
	struct json j = JSON_INIT(out);

	j.flat = j.markup = true;
	json_open(&j, '{');
	html_head(v, &j);
	html_last_restore(v, &j);
	json_key(&j, "tasks");
	json_open(&j, '[');
	for (size_t i = 0; i < v->info->tasks; i++)
		html_task(v, &j, i);
	json_close(&j, ']');
	json_key(&j, "spaces");
	json_open(&j, '[');
	for (size_t i = 0; i < v->info->spaces; i++)
		html_space(v, &j, i);
	json_close(&j, ']');
	json_key(&j, "objects");
	json_open(&j, '[');
	for (size_t i = 0; i < v->info->objects; i++)
		html_object(v, &j, i);
	json_close(&j, ']');
	json_close(&j, '}');
}

static int html_failed(const char *what, const char *path)
{
	return cmd_complain(errno == EACCES || errno == EPERM ? TORPOR_PERMISSION : TORPOR_SYSTEM, NULL, "%s %s: %s", what, path,
			    strerror(errno));
}

int inspect_write_html(struct view *v, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	FILE *out = fd < 0 ? NULL : fdopen(fd, "w");
	bool bad;

	if (!out)
		return html_failed("cannot create", path);
	fwrite(page_start, 1, (size_t)(page_end - page_start), out);
	fputs("<script type=\"application/json\" id=\"data\">\n", out);
	html_data(v, out);
	fputs("</script>\n</body>\n</html>\n", out);
	bad = ferror(out);
	if (fclose(out) != 0 || bad) {
		unlink(path);
		return html_failed("writing", path);
	}
	return 0;
}
