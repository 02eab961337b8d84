/* SPDX-License-Identifier: Apache-2.0 */
#include "api/image.h"

#include <stdlib.h>

#include "core/objects.h"
#include "elf/core.h"
#include "kinds/kind.h"
#include "util/cpu.h"

enum { DESCRIPTION_SIZE = 256 };

/* ---- open and close ---- */

int torpor_image_open(const char *path, unsigned flags, struct torpor_image **ret, struct torpor_error **error)
{
	struct err e = ERR_INIT;

	return api_image_open(path, flags, ret, &e) < 0 ? api_fail(error, &e) : 0;
}

void torpor_image_close(struct torpor_image *image)
{
	if (!image)
		return;
	image_close(image->image);
	arena_done(&image->arena);
	torpor_error_free(image->damage);
	free(image);
}

const struct torpor_error *torpor_image_damage(const struct torpor_image *image)
{
	return image->damage;
}

int torpor_verify(const char *path, struct torpor_error **error)
{
	struct torpor_image *image;
	int r = torpor_image_open(path, TORPOR_OPEN_VERIFY, &image, error);

	if (r == 0)
		torpor_image_close(image);
	return r;
}

/* ---- what is in it ---- */

const struct torpor_image_info *torpor_image_info(const struct torpor_image *image)
{
	return &image->info;
}

const struct torpor_phase *torpor_image_phase(const struct torpor_image *image, size_t i)
{
	return image->info.restored_ns && i < IMAGE_PHASES ? &image->phases[i] : NULL;
}

const struct torpor_task *torpor_image_task(const struct torpor_image *image, size_t i)
{
	return i < image->info.tasks ? &image->tasks[i] : NULL;
}

const struct torpor_thread *torpor_image_thread(const struct torpor_image *image, size_t task, size_t i)
{
	return task < image->info.tasks && i < image->tasks[task].threads ? &image->threads[task][i] : NULL;
}

const struct torpor_slot *torpor_image_slot(const struct torpor_image *image, size_t task, size_t i)
{
	return task < image->info.tasks && i < image->tasks[task].slots ? &image->slots[task][i] : NULL;
}

const struct torpor_space *torpor_image_space(const struct torpor_image *image, size_t i)
{
	return i < image->info.spaces ? &image->spaces[i] : NULL;
}

const struct torpor_mapping *torpor_image_mapping(const struct torpor_image *image, size_t space, size_t i)
{
	return space < image->info.spaces && i < image->spaces[space].mappings ? &image->mappings[space][i] : NULL;
}

const struct torpor_inode *torpor_image_inode(const struct torpor_image *image, size_t i)
{
	return i < image->info.inodes ? &image->inodes[i] : NULL;
}

const struct torpor_ipc *torpor_image_semaphores(const struct torpor_image *image, size_t i)
{
	return i < image->info.semaphores ? &image->semaphores[i] : NULL;
}

const struct torpor_ipc *torpor_image_queue(const struct torpor_image *image, size_t i)
{
	return i < image->info.queues ? &image->queues[i] : NULL;
}

const struct torpor_object *torpor_image_object(const struct torpor_image *image, size_t i)
{
	return i < image->info.objects ? &image->objects[i] : NULL;
}

const struct torpor_holder *torpor_image_holder(const struct torpor_image *image, size_t object, size_t i)
{
	if (object >= image->info.objects || i >= image->objects[object].holders)
		return NULL;
	return &image->holders[image->first_holder[object] + i];
}

/* ---- objects ---- */

ProtobufCMessage *api_image_unpack(const Pb__Object *o, struct arena *scratch)
{
	struct err e = ERR_INIT;

	*scratch = ARENA_INIT;
	scratch->limit = 64 * (o->body.len + 4096);
	return object_unpack(scratch, o, &e);
}

const char *api_image_kind(const Pb__Object *o)
{
	const struct kind *kind = kind_by_tag(o->kind);

	return kind ? kind->name : "?";
}

/* A message that refers to an inode of the image has a uint32 field of that name. */
static const char *image_inode_path(const struct torpor_image *v, const ProtobufCMessage *m)
{
	const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(m->descriptor, "inode");
	uint32_t index;

	if (!f || f->type != PROTOBUF_C_TYPE_UINT32 || f->label == PROTOBUF_C_LABEL_REPEATED)
		return NULL;
	if (f->label == PROTOBUF_C_LABEL_OPTIONAL && !*(const protobuf_c_boolean *)((const char *)m + f->quantifier_offset))
		return NULL;
	index = *(const uint32_t *)((const char *)m + f->offset);
	return index < v->info.inodes ? v->inodes[index].path : NULL;
}

const char *torpor_image_describe(struct torpor_image *image, size_t object)
{
	const Pb__Object *o = object < image->info.objects ? image->meta->objects[object] : NULL;
	const struct kind *kind = o ? kind_by_tag(o->kind) : NULL;
	char text[DESCRIPTION_SIZE] = "";
	struct arena scratch;
	ProtobufCMessage *m;
	const char *path;

	if (!o || image->descriptions[object])
		return o ? image->descriptions[object] : "";
	m = api_image_unpack(o, &scratch);
	if (m && kind->describe)
		kind->describe(m, text, sizeof(text));
	path = m ? image_inode_path(image, m) : NULL;
	if (!m)
		image->descriptions[object] = "(damaged)";
	else if (path)
		image->descriptions[object] = arena_printf(&image->arena, text[0] ? "%s (%s)" : "%s", path, text);
	else
		image->descriptions[object] = arena_strdup(&image->arena, text);
	arena_done(&scratch);
	return image->descriptions[object] ?: "";
}

/* ---- core files ---- */

/* The index of the task with this PID, or of the one that a thread with this TID belongs to; 0: the first. */
static int core_find_task(const Pb__Image *meta, pid_t pid, size_t *ret, struct err *e)
{
	for (size_t i = 0; i < meta->n_tasks; i++) {
		const Pb__Task *t = meta->tasks[i];
		bool found = !pid || t->pid == pid;

		for (size_t k = 0; !found && k < t->n_threads; k++)
			found = t->threads[k]->tid == pid;
		if (!found)
			continue;
		*ret = i;
		if (t->state != PB__TASK_STATE__ZOMBIE)
			return 0;
		return err_set(e, ERR_USAGE, 0, "task %d had ended already: it has no memory", pid);
	}
	err_set(e, ERR_USAGE, 0, "there is no task %d in the image", pid);
	return err_help(e, "torpor inspect shows those that there are");
}

int torpor_core(const struct torpor_image *image, int pid, const char *path, struct torpor_core_info **ret,
		struct torpor_error **error)
{
	struct torpor_core_info *info = calloc(1, sizeof(*info));
	struct err e = ERR_INIT;
	struct elf_core core;
	size_t task = 0;
	int r = info ? 0 : err_nomem(&e);

	if (r == 0 && image->damage)
		r = err_set(&e, ERR_IMAGE, 0, "%s is damaged", image->info.path);
	if (r == 0)
		r = core_find_task(image->meta, pid, &task, &e);
	if (r == 0 && !image->verified)
		r = image_verify_extents(image->image, NULL, cpu_count(), &e);
	if (r == 0)
		r = elf_core_write(image->image, image->meta, task, path, &core, &e);
	if (r < 0) {
		free(info);
		return api_fail(error, &e);
	}
	*info = (struct torpor_core_info){ image->tasks[task].pid, core.n_threads, core.stored, core.memory_size };
	if (ret)
		*ret = info;
	else
		free(info);
	return 0;
}

void torpor_core_info_free(struct torpor_core_info *info)
{
	free(info);
}
