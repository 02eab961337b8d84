/* SPDX-License-Identifier: Apache-2.0 */

/* Which objects are the two ends of one pipe, connection or terminal. All of them are looked at, when somebody asks. */

#include <fcntl.h>
#include <stdlib.h>

#include "api/image.h"

/* Which end of what is it? The ids of the two ends of a pipe or terminal are made up. */
static bool end_ids(const ProtobufCMessage *m, struct image_end *end)
{
	if (m->descriptor == &pb__pipe__descriptor) {
		const Pb__Pipe *p = (const Pb__Pipe *)m;
		bool writes = (p->flags & O_ACCMODE) == O_WRONLY;

		end->kind = 1;
		end->id = p->pipe_id * 2 + writes;
		end->other = p->pipe_id * 2 + !writes;
	} else if (m->descriptor == &pb__unix_socket__descriptor) {
		end->kind = 2;
		end->id = ((const Pb__UnixSocket *)m)->inode;
		end->other = ((const Pb__UnixSocket *)m)->peer;
	} else if (m->descriptor == &pb__tcp_connection__descriptor) {
		end->kind = 3;
		end->id = ((const Pb__TcpConnection *)m)->inode;
		end->other = ((const Pb__TcpConnection *)m)->peer;
	} else if (m->descriptor == &pb__pty_master__descriptor) {
		end->kind = 4;
		end->id = ((const Pb__PtyMaster *)m)->index * 2ull + 2;
		end->other = end->id + 1;
	} else if (m->descriptor == &pb__pty_slave__descriptor) {
		end->kind = 4;
		end->id = ((const Pb__PtySlave *)m)->index * 2ull + 3;
		end->other = end->id - 1;
	} else {
		return false;
	}
	return true;
}

static int compare_ends(const void *a, const void *b)
{
	const struct image_end *x = a, *y = b;

	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

static bool find_ends(struct torpor_image *v)
{
	v->end_at = arena_alloc(&v->arena, (v->meta->n_objects + 1) * sizeof(*v->end_at));
	v->ends = v->end_at ? arena_alloc(&v->arena, (v->meta->n_objects + 1) * sizeof(*v->ends)) : NULL;
	if (!v->ends)
		return false;
	for (uint32_t i = 0; i < v->meta->n_objects; i++) {
		struct arena scratch;
		ProtobufCMessage *m = api_image_unpack(v->meta->objects[i], &scratch);
		struct image_end end = { .object = i };

		if (m && end_ids(m, &end))
			v->ends[v->n_ends++] = end;
		arena_done(&scratch);
	}
	qsort(v->ends, v->n_ends, sizeof(*v->ends), compare_ends);
	for (uint32_t i = 0; i < v->n_ends; i++)
		v->end_at[v->ends[i].object] = i + 1;
	return true;
}

/* The ends that the end of an object leads to: *ret_n of them. */
static const struct image_end *other_ends(const struct torpor_image *v, size_t object, size_t *ret_n)
{
	const struct image_end *end = v->end_at[object] ? &v->ends[v->end_at[object] - 1] : NULL;
	const struct image_end key = { .kind = end ? end->kind : 0, .id = end ? end->other : 0 };
	const struct image_end *first = key.id ? bsearch(&key, v->ends, v->n_ends, sizeof(key), compare_ends) : NULL;
	const struct image_end *last = first;

	*ret_n = 0;
	if (!first)
		return NULL;
	while (first > v->ends && compare_ends(first - 1, &key) == 0)
		first--;
	while (last < v->ends + v->n_ends && compare_ends(last, &key) == 0)
		last++;
	*ret_n = (size_t)(last - first);
	return first;
}

long torpor_image_other(struct torpor_image *image, size_t object, size_t i)
{
	const struct image_end *ends;
	size_t n = 0;

	if (object >= image->info.objects || (!image->ends && !find_ends(image)))
		return -1;
	ends = other_ends(image, object, &n);
	return i < n ? (long)ends[i].object : -1;
}
