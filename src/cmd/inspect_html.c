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
#include <sys/mman.h>
#include <unistd.h>

#include "cmd/json.h"
#include "image/timing.h"
#include "proc/maps.h"

enum { NS_PER_MS = 1000000 };

extern const char page_start[], page_end[]; /* page.html: page.S */

static void html_put_ms(struct json *j, const char *key, uint64_t ns)
{
	json_put_u64(j, key, ns / NS_PER_MS);
}

/* ---- about the image ---- */

static void html_head(struct view *v, struct json *j)
{
	const Pb__Machine *m = v->meta->machine;
	const Pb__DumpStats *s = v->meta->stats;

	json_put_string(j, "path", v->path);
	json_put_u64(j, "bytes", v->image->size);
	json_put_string(j, "damage", v->damage.reason ? v->damage.text : NULL);
	json_key(j, "machine");
	json_open(j, '{');
	html_put_ms(j, "realtime_ms", m->realtime_ns > 0 ? (uint64_t)m->realtime_ns : 0);
	json_put_string(j, "hostname", m->hostname);
	json_put_string(j, "kernel", m->kernel_release);
	json_put_string(j, "torpor", m->torpor_version);
	json_close(j, '}');
	json_key(j, "stats");
	json_open(j, '{');
	json_put_u64(j, "total_us", s ? s->total_ns / 1000 : 0);
	json_put_u64(j, "frozen_us", s ? s->frozen_ns / 1000 : 0);
	json_put_u64(j, "collect_us", s ? s->collect_ns / 1000 : 0);
	json_put_u64(j, "memory_us", s ? s->memory_ns / 1000 : 0);
	json_put_u64(j, "zero_bytes", s ? s->pages_zero * IMAGE_PAGE : 0);
	json_close(j, '}');
}

/* When, and [name, microseconds] of each phase; null: it was never restored, or that is not known. */
static void html_last_restore(const struct view *v, struct json *j)
{
	struct image_timing t;

	if (!image_timing_read(v->image->fd, &t)) {
		json_put_string(j, "restore", NULL);
		return;
	}
	json_key(j, "restore");
	json_open(j, '{');
	html_put_ms(j, "realtime_ms", t.realtime_ns);
	json_key(j, "phases");
	json_open(j, '[');
	for (int i = 0; i < IMAGE_PHASES; i++) {
		json_open(j, '[');
		json_string(j, image_phase_name((enum image_phase)i));
		json_u64(j, t.phase_ns[i] / 1000);
		json_close(j, ']');
	}
	json_close(j, ']');
	json_close(j, '}');
}

/* ---- tasks ---- */

static const char *html_state(const Pb__Task *t)
{
	return t->state == PB__TASK_STATE__ZOMBIE ? "zombie" : t->state == PB__TASK_STATE__STOPPED ? "stopped" : "running";
}

static void html_put_optional(struct json *j, const char *key, bool present, uint64_t value)
{
	json_key(j, key);
	if (present)
		json_u64(j, value);
	else
		json_string(j, NULL);
}

/* [TID, name] of each. */
static void html_threads(struct json *j, const Pb__Task *t)
{
	json_open(j, '[');
	for (size_t i = 0; i < t->n_threads; i++) {
		json_open(j, '[');
		json_u64(j, (uint32_t)t->threads[i]->tid);
		json_string(j, t->threads[i]->comm);
		json_close(j, ']');
	}
	json_close(j, ']');
}

/* [fd, object] of each. */
static void html_slots(struct json *j, const Pb__Task *t)
{
	json_open(j, '[');
	for (size_t i = 0; i < t->n_slots; i++) {
		json_open(j, '[');
		json_u64(j, t->slots[i]->fd);
		json_u64(j, t->slots[i]->object);
		json_close(j, ']');
	}
	json_close(j, ']');
}

static void html_task(struct view *v, struct json *j, const Pb__Task *t)
{
	const bool has_space = t->has_space && t->space < v->meta->n_spaces;

	json_open(j, '{');
	json_put_u64(j, "pid", (uint32_t)t->pid);
	json_put_u64(j, "ppid", (uint32_t)t->ppid);
	json_put_string(j, "name", t->comm);
	json_put_string(j, "state", html_state(t));
	json_put_string(j, "cmdline", t->cmdline);
	html_put_optional(j, "space", has_space, t->space);
	html_put_optional(j, "stored", has_space, has_space ? v->space_bytes[t->space] : 0);
	json_key(j, "threads");
	html_threads(j, t);
	json_key(j, "fds");
	html_slots(j, t);
	json_close(j, '}');
}

/* ---- memory ---- */

/* Addresses, size, access, class, bytes stored, name, and of shared memory the inode. */
static void html_mapping(struct json *j, const Pb__Mapping *m, uint64_t stored)
{
	char text[48];

	json_open(j, '[');
	snprintf(text, sizeof(text), "%lx-%lx", m->start, m->end);
	json_string(j, text);
	json_u64(j, m->end > m->start ? m->end - m->start : 0);
	snprintf(text, sizeof(text), "%c%c%c%c", m->prot & PROT_READ ? 'r' : '-', m->prot & PROT_WRITE ? 'w' : '-',
		 m->prot & PROT_EXEC ? 'x' : '-', m->flags & VM_FLAG_SHARED ? 's' : 'p');
	json_string(j, text);
	json_u64(j, view_class(m));
	json_u64(j, stored);
	json_string(j, m->name);
	if (m->kind == PB__MAPPING_KIND__FILE_SHARED)
		json_u64(j, m->inode);
	json_close(j, ']');
}

/* What is stored of shared memory belongs to its inode: each mapping shows its share. */
static uint64_t html_stored(const struct view *v, const Pb__Mapping *m, uint64_t own)
{
	uint64_t size = m->end > m->start ? m->end - m->start : 0;

	if (m->kind != PB__MAPPING_KIND__FILE_SHARED || m->inode >= v->meta->n_inodes)
		return own;
	return v->inode_bytes[m->inode] < size ? v->inode_bytes[m->inode] : size;
}

static void html_space(const struct view *v, struct json *j, size_t space)
{
	const Pb__AddressSpace *s = v->meta->spaces[space];

	json_open(j, '[');
	for (size_t i = 0; i < s->n_mappings; i++)
		html_mapping(j, s->mappings[i], html_stored(v, s->mappings[i], v->mapping_bytes[space][i]));
	json_close(j, ']');
}

/* ---- objects ---- */

static void html_object(struct view *v, struct json *j, uint32_t object)
{
	const struct view_end *end = view_end_of(v, object);
	size_t n = 0;
	const struct view_end *others = end ? view_other_ends(v, end, &n) : NULL;

	json_open(j, '{');
	json_put_string(j, "kind", view_kind_name(v->meta->objects[object]));
	json_put_string(j, "text", view_describe(v, object));
	json_key(j, "others");
	json_open(j, '[');
	for (size_t i = 0; others && i < n; i++)
		json_u64(j, others[i].object);
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
	for (size_t i = 0; i < v->meta->n_tasks; i++)
		html_task(v, &j, v->meta->tasks[i]);
	json_close(&j, ']');
	json_key(&j, "spaces");
	json_open(&j, '[');
	for (size_t i = 0; i < v->meta->n_spaces; i++)
		html_space(v, &j, i);
	json_close(&j, ']');
	json_key(&j, "objects");
	json_open(&j, '[');
	for (uint32_t i = 0; i < v->meta->n_objects; i++)
		html_object(v, &j, i);
	json_close(&j, ']');
	json_close(&j, '}');
}

int inspect_write_html(struct view *v, const char *path, struct err *e)
{
	int fd = view_find_ends(v) < 0 ? -ENOMEM : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	FILE *out;
	bool bad;

	if (fd == -ENOMEM)
		return err_nomem(e);
	out = fd < 0 ? NULL : fdopen(fd, "w");
	if (!out)
		return err_sys(e, errno, "cannot create %s", path);
	fwrite(page_start, 1, (size_t)(page_end - page_start), out);
	fputs("<script type=\"application/json\" id=\"data\">\n", out);
	html_data(v, out);
	fputs("</script>\n</body>\n</html>\n", out);
	bad = ferror(out);
	if (fclose(out) != 0 || bad) {
		unlink(path);
		return err_sys(e, errno, "writing %s", path);
	}
	return 0;
}
