/* SPDX-License-Identifier: Apache-2.0 */

/* The planner: what it decides, and that hostile metadata is refused and never harms. */

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/user.h>

#include "arch/x86_64/regs.h"
#include "core/objects.h"
#include "core/plan.h"
#include "unit.h"

static struct arena arena;

static Pb__Inode *an_inode(void)
{
	Pb__Inode *n = pb_new(&arena, Pb__Inode, pb__inode__init);

	n->path = arena_strdup(&arena, "/bin/true");
	return n;
}

static Pb__Mapping *a_mapping(uint64_t start, uint64_t end)
{
	Pb__Mapping *m = pb_new(&arena, Pb__Mapping, pb__mapping__init);

	m->start = start;
	m->end = end;
	m->prot = PROT_READ | PROT_WRITE;
	m->name = arena_strdup(&arena, "");
	return m;
}

static Pb__Path *a_path(void)
{
	Pb__Path *p = pb_new(&arena, Pb__Path, pb__path__init);

	p->path = arena_strdup(&arena, "/");
	return p;
}

static Pb__Task *a_task(Pb__Image *img, int pid, int ppid, int pgid, int sid)
{
	Pb__Task *t = pb_new(&arena, Pb__Task, pb__task__init);
	Pb__Thread *th = pb_new(&arena, Pb__Thread, pb__thread__init);
	Pb__AddressSpace *s = pb_new(&arena, Pb__AddressSpace, pb__address_space__init);
	const struct user_regs_struct regs = { 0 };

	th->tid = pid;
	(void)!pb_set_bytes(&arena, th, regs, &regs, sizeof(regs));
	t->pid = pid, t->ppid = ppid, t->pgid = pgid, t->sid = sid;
	t->comm = arena_strdup(&arena, "test");
	t->cwd = a_path();
	t->root = a_path();
	t->creds = pb_new(&arena, Pb__Credentials, pb__credentials__init);
	t->creds->n_uids = t->creds->n_gids = 4;
	t->creds->uids = t->creds->gids = arena_memdup(&arena, (uint32_t[4]){ 1000, 1000, 1000, 1000 }, 16);
	pb_set(t, space, (uint32_t)img->n_spaces);
	(void)!pb_add(&arena, t, threads, th);
	(void)!pb_add(&arena, s, mappings, a_mapping(0x10000, 0x20000));
	(void)!pb_add(&arena, s, mappings, a_mapping(0x20000, 0x30000));
	(void)!pb_add(&arena, img, spaces, s);
	(void)!pb_add(&arena, img, tasks, t);
	return t;
}

/* A session leader with a child in a session whose leader is dead. */
static Pb__Image *an_image(void)
{
	Pb__Image *img = pb_new(&arena, Pb__Image, pb__image__init);

	img->machine = pb_new(&arena, Pb__Machine, pb__machine__init);
	img->machine->arch = arena_strdup(&arena, ARCH_NAME);
	pb_set(img->machine, page_size, 4096);
	(void)!pb_add(&arena, img, inodes, an_inode());
	a_task(img, 100, 0, 100, 100);
	a_task(img, 101, 100, 101, 100);
	a_task(img, 102, 100, 99, 99);
	return img;
}

static int planned(const Pb__Image *img, struct plan *plan, struct err *e)
{
	static const struct image empty;

	*e = ERR_INIT;
	return plan_make(plan, img, &empty, &arena, e);
}

static void test_decides(void)
{
	struct plan plan;
	struct err e;

	UNIT_CHECK_EQ(planned(an_image(), &plan, &e), 0);
	UNIT_CHECK_EQ(plan.n_tasks, 3);
	UNIT_CHECK_EQ(plan.n_threads, 3);
	UNIT_CHECK_EQ(plan.tasks[0].birth, BIRTH_ROOT);
	UNIT_CHECK_EQ(plan.tasks[1].birth, BIRTH_CHILD);
	UNIT_CHECK_EQ(plan.tasks[2].birth, BIRTH_BY_STANDIN);
	UNIT_CHECK_EQ(plan.tasks[2].parent, 0);
	UNIT_CHECK(!plan.tasks[2].makes_group); /* the stand-in for the session leads the group too */
	UNIT_CHECK(plan_first_of_session(&plan, 2));
}

static void pend(Pb__Task *t, int signo)
{
	Pb__Siginfo *pb = pb_new(&arena, Pb__Siginfo, pb__siginfo__init);
	const struct { int signo, rest[31]; } info = { .signo = signo };

	pb->info.len = sizeof(info);
	pb->info.data = arena_memdup(&arena, &info, sizeof(info));
	(void)!pb_add(&arena, t, pending, pb);
}

/* Each change makes the metadata disagree with itself. */
static void test_refuses(void)
{
	for (int i = 0; i < 22; i++) {
		Pb__Image *img = an_image();
		Pb__Task *t = img->tasks[1];
		struct plan plan;
		struct err e;

		switch (i) {
		case 0: t->pid = 100; break;
		case 1: t->pid = 1; break;
		case 2: t->ppid = 4000; break;
		case 3: t->threads[0]->tid = 7; break;
		case 4: t->n_threads = 0; break;
		case 5: t->space = 17; break;
		case 6: t->threads[0]->regs.len = 8; break;
		case 7: img->spaces[0]->mappings[1]->start = 0x1f000; break;
		case 8: img->spaces[0]->mappings[1]->end = 0x30001; break;
		case 9: img->spaces[0]->mappings[1]->end = 0xffff800000000000; break;
		case 10: img->spaces[0]->mappings[0]->start = 0; break;
		case 11: img->spaces[0]->mappings[0]->prot = 64; break;
		case 12: pb_set(img->spaces[0]->mappings[0], kind, PB__MAPPING_KIND__FILE_SHARED);
			 img->spaces[0]->mappings[0]->inode = 9; break;
		case 13: img->spaces[0]->exe = 3; break;
		case 14: img->inodes[0]->size = UINT64_MAX; break;
		case 15: img->n_tasks = 0; break;
		case 16: (void)!pb_add(&arena, t, threads, img->tasks[2]->threads[0]); break; /* one TID twice */
		case 17: pb_set(t, state, PB__TASK_STATE__ZOMBIE); break; /* one that still has threads and memory */
		case 18: pb_set(img->spaces[0]->mappings[1], kind, PB__MAPPING_KIND__VDSO); break; /* of another name */
		case 19: pb_set(img->spaces[0]->mappings[1], kind, PB__MAPPING_KIND__VVAR); break;
		case 20: pend(t, SIGKILL); break;
		case 21: pend(t, SIGSTOP); break;
		}
		UNIT_CHECK(planned(img, &plan, &e) < 0);
		UNIT_CHECK_EQ(e.reason, ERR_IMAGE);
	}
}

static void test_other_machine(void)
{
	Pb__Image *img = an_image();
	struct plan plan;
	struct err e;

	img->machine->arch = arena_strdup(&arena, "pdp11");
	UNIT_CHECK(planned(img, &plan, &e) < 0);
	UNIT_CHECK_EQ(e.reason, ERR_STATE);
}

/* Whatever the bytes are: an answer, bounded memory, no crash (run this under the sanitizers). */
static void test_hostile(void)
{
	Pb__Image *img = an_image();
	Pb__Object *o = pb_new(&arena, Pb__Object, pb__object__init);
	size_t size;
	uint8_t *bytes, *copy;

	o->kind = 7;
	(void)!pb_add(&arena, img, objects, o);
	bytes = pb_pack(&arena, &img->base, &size);
	copy = malloc(size);
	srand(1);
	for (int round = 0; round < 20000; round++) {
		struct arena own = { .limit = 64 * (size + 4096) };
		static const struct image empty;
		struct err e = ERR_INIT;
		struct plan plan;
		Pb__Image *parsed;

		memcpy(copy, bytes, size);
		for (int k = rand() % 4; k >= 0; k--)
			copy[rand() % (int)size] = (uint8_t)rand();
		parsed = (Pb__Image *)pb_unpack(&own, &pb__image__descriptor, copy, size);
		if (parsed && plan_make(&plan, parsed, &empty, &own, &e) == 0)
			for (size_t i = 0; i < parsed->n_objects; i++)
				object_unpack(&own, parsed->objects[i], &e);
		arena_done(&own);
	}
	free(copy);
	UNIT_CHECK(true);
}

static void test_machine_fits(void)
{
	Pb__Machine m = PB__MACHINE__INIT;
	struct err e = ERR_INIT;

	UNIT_CHECK_EQ(plan_check_here(&m, 1, 2, &e), 0); /* an image that does not say */
	pb_set(&m, vdso_hash, 1);
	pb_set(&m, xfeatures, arch_xfeatures());
	UNIT_CHECK_EQ(plan_check_here(&m, 1, arch_xfeatures(), &e), 0);
	UNIT_CHECK(plan_check_here(&m, 2, arch_xfeatures(), &e) < 0);
	UNIT_CHECK_STR(e.id, "E-KERNEL-VDSO");
	UNIT_CHECK(plan_check_here(&m, 1, arch_xfeatures() ^ 4, &e) < 0);
	UNIT_CHECK_STR(e.id, "E-CPU");
}

/* With the sanitizers: nothing is compared that is at no address. */
static void test_same_bytes(void)
{
	const ProtobufCBinaryData empty = { 0 }, some = { 2, (uint8_t *)"ab" };

	UNIT_CHECK(pb_same_bytes(&empty, NULL, 0) && pb_same_bytes(&empty, "ab", 0));
	UNIT_CHECK(pb_same_bytes(&some, "ab", 2) && !pb_same_bytes(&some, "ac", 2));
	UNIT_CHECK(!pb_same_bytes(&some, NULL, 0) && !pb_same_bytes(&empty, "ab", 2));
}

UNIT_MAIN(UNIT_CASE(test_decides), UNIT_CASE(test_refuses), UNIT_CASE(test_other_machine), UNIT_CASE(test_machine_fits),
	  UNIT_CASE(test_hostile), UNIT_CASE(test_same_bytes))
