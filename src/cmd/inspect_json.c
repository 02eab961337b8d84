/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/inspect.h"

#include <string.h>

#include "cmd/json.h"
#include "image/timing.h"

enum { FORMAT = 1 }; /* of the JSON; see doc/inspect.schema.json */

struct inspect_json {
	struct view *v;
	size_t space_at, mapping_at, inode_at, object_at; /* where the writer is */
};

/* An object's body is the message of its kind, not a row of bytes. */
static bool inspect_write_field(void *data, struct json *j, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	struct arena scratch;
	ProtobufCMessage *body;

	(void)data;
	if (m->descriptor != &pb__object__descriptor || strcmp(f->name, "body") != 0)
		return false;
	body = view_unpack((const Pb__Object *)m, &scratch);
	if (body)
		json_message(j, body, NULL);
	arena_done(&scratch);
	return body != NULL;
}

static void inspect_write_object(struct inspect_json *w, struct json *j, const Pb__Object *o)
{
	const struct view *v = w->v;
	size_t at = w->object_at++;

	json_put_string(j, "kind_name", view_kind_name(o));
	json_put_string(j, "description", view_describe(w->v, (uint32_t)at));
	json_key(j, "slots");
	json_open(j, '[');
	for (size_t i = v->first_holder[at]; i < v->first_holder[at + 1]; i++) {
		json_open(j, '{');
		json_put_u64(j, "task", v->holders[i].task);
		json_put_u64(j, "fd", v->holders[i].fd);
		json_close(j, '}');
	}
	json_close(j, ']');
}

/* The writer comes by in the order of the message: spaces with their mappings, inodes, objects. */
static void inspect_write_extra(void *data, struct json *j, const ProtobufCMessage *m)
{
	struct inspect_json *w = data;
	const struct view *v = w->v;

	if (m->descriptor == &pb__mapping__descriptor) {
		json_put_u64(j, "stored_bytes", v->mapping_bytes[w->space_at][w->mapping_at++]);
	} else if (m->descriptor == &pb__address_space__descriptor) {
		json_put_u64(j, "stored_bytes", v->space_bytes[w->space_at++]);
		w->mapping_at = 0;
	} else if (m->descriptor == &pb__inode__descriptor) {
		json_put_u64(j, "stored_bytes", v->inode_bytes[w->inode_at++]);
	} else if (m->descriptor == &pb__object__descriptor) {
		inspect_write_object(w, j, (const Pb__Object *)m);
	}
}

static void inspect_write_last_restore(const struct view *v, struct json *j)
{
	static const char *const keys[] = {
		[IMAGE_PHASE_READ] = "read_ns",
		[IMAGE_PHASE_FILES] = "files_ns",
		[IMAGE_PHASE_TASKS] = "tasks_ns",
		[IMAGE_PHASE_FINISH] = "finish_ns",
	};
	struct image_timing t;

	if (!image_timing_read(v->image->fd, &t))
		return;
	json_key(j, "last_restore");
	json_open(j, '{');
	json_put_u64(j, "realtime_ns", t.realtime_ns);
	for (int i = 0; i < IMAGE_PHASES; i++)
		json_put_u64(j, keys[i], t.phase_ns[i]);
	json_close(j, '}');
}

void inspect_write_json(struct view *v)
{
	struct inspect_json w = { .v = v };
	const struct json_hooks hooks = { &w, inspect_write_field, inspect_write_extra };
	struct json j = JSON_INIT(stdout);

	json_open(&j, '{');
	json_put_u64(&j, "format", FORMAT);
	if (v->damage.reason)
		json_put_string(&j, "damage", v->damage.text);
	json_key(&j, "file");
	json_open(&j, '{');
	json_put_string(&j, "path", v->path);
	json_put_u64(&j, "bytes", v->image->size);
	json_put_u64(&j, "metadata_bytes", v->image->meta_size);
	json_put_u64(&j, "extents", v->image->n_extents);
	json_put_u64(&j, "runs", v->image->n_runs);
	json_close(&j, '}');
	inspect_write_last_restore(v, &j);
	json_key(&j, "image");
	json_message(&j, &v->meta->base, &hooks);
	json_close(&j, '}');
}
