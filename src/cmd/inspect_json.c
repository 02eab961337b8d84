/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/inspect.h"

#include "cmd/cmd.h"
#include "cmd/json.h"

enum { DEPTH_MAX = 64 };

struct inspect_json {
	struct json json;
	char open[DEPTH_MAX]; /* brackets */
	size_t depth;
	size_t flat_at;       /* depth of the array that is written on one line; 0: none */
};

static void inspect_open_item(struct inspect_json *w, char bracket, bool simple)
{
	json_open(&w->json, bracket);
	if (w->depth < DEPTH_MAX)
		w->open[w->depth] = bracket;
	w->depth++;
	if (simple && !w->json.flat) {
		w->json.flat = true;
		w->flat_at = w->depth;
	}
}

static void inspect_close_item(struct inspect_json *w)
{
	bool flat_ends = w->json.flat && w->flat_at == w->depth;

	w->depth--;
	json_close(&w->json, w->depth < DEPTH_MAX && w->open[w->depth] == '[' ? ']' : '}');
	if (flat_ends)
		w->json.flat = false;
}

static void inspect_write_item(void *data, const struct torpor_item *item)
{
	struct inspect_json *w = data;

	if (item->key)
		json_key(&w->json, item->key);
	switch (item->type) {
	case TORPOR_OBJECT:
		inspect_open_item(w, '{', false);
		break;
	case TORPOR_ARRAY:
		inspect_open_item(w, '[', item->simple);
		break;
	case TORPOR_END:
		inspect_close_item(w);
		break;
	case TORPOR_UNSIGNED:
		json_u64(&w->json, item->number);
		break;
	case TORPOR_SIGNED:
		json_i64(&w->json, item->signed_number);
		break;
	case TORPOR_BOOLEAN:
		json_bool(&w->json, item->number);
		break;
	case TORPOR_STRING:
		json_string(&w->json, item->string);
		break;
	case TORPOR_DATA:
		json_data(&w->json, item->data, item->size);
		break;
	}
}

int inspect_write_json(struct view *v)
{
	struct inspect_json w = { .json = JSON_INIT(stdout) };
	struct torpor_error *error = NULL;

	return torpor_image_walk(v->image, inspect_write_item, &w, &error) < 0 ? cmd_fail(error) : 0;
}
