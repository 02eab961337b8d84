/* SPDX-License-Identifier: Apache-2.0 */
#include "target/script.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "util/err.h"

extern const unsigned char runner_blob[], runner_blob_end[];

enum { PAGE = 4096, ALIGN = 16, STACK_SIZE = 14 * 1024 };

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) & ~(to - 1);
}

static size_t region_code(void)
{
	return (size_t)(runner_blob_end - runner_blob);
}

/* What lies in front of the leader's script, the runner included. */
static uint64_t region_front(uint64_t data_size)
{
	return round_up(region_code(), PAGE) + STACK_SIZE + round_up(data_size, ALIGN);
}

uint64_t region_size(size_t steps, uint64_t data_size)
{
	return round_up(region_front(data_size) + sizeof(struct script) + steps * sizeof(struct script_op), PAGE);
}

int region_map(struct region *r, uint64_t start, size_t steps, uint64_t data_size, uint64_t parking_size, struct err *e)
{
	const size_t code = region_code(), code_size = round_up(code, PAGE);
	const uint64_t used = region_size(steps, data_size);
	void *p;

	parking_size = round_up(parking_size, PAGE);
	*r = (struct region){
		.start = start,
		.size = used + parking_size,
		.script = start + region_front(data_size),
		.steps = steps,
		.limit = round_up(data_size, ALIGN),
		.parking = start + used,
		.parking_size = parking_size,
	};
	p = mmap((void *)start, r->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1,
		 0);
	if (p == MAP_FAILED)
		return err_sys(e, errno, "reserving %#lx bytes at %#lx for the switch", r->size, start);
	if (mprotect((void *)start, used, PROT_READ | PROT_WRITE) < 0)
		return err_sys(e, errno, "preparing the region for the switch");
	memcpy((void *)start, runner_blob, code);
	if (mprotect((void *)start, code_size, PROT_READ | PROT_EXEC) < 0)
		return err_sys(e, errno, "making the runner executable");
	return 0;
}

void *region_alloc(struct region *r, size_t size)
{
	size = round_up(size, ALIGN);
	if (size > r->limit - r->used)
		return NULL;
	r->used += size;
	return (void *)(r->script - r->used);
}

void *region_alloc_aligned(struct region *r, size_t size, size_t align)
{
	char *p = region_alloc(r, size + align);

	return p ? p + (-(uintptr_t)p & (align - 1)) : NULL;
}

void *region_put(struct region *r, const void *data, size_t size)
{
	void *p = region_alloc(r, size);

	return p && size ? memcpy(p, data, size) : p; /* of nothing, `data` may be NULL */
}

uint64_t region_park(struct region *r, uint64_t size, uint64_t like, uint64_t align)
{
	uint64_t at = r->parking + r->parking_used;
	uint64_t skip = (like - at) & (align - 1);

	if (skip > r->parking_size - r->parking_used || size > r->parking_size - r->parking_used - skip)
		return 0;
	r->parking_used += skip + size;
	return at + skip;
}

static void script_begin_at(struct script_builder *b, struct region *region, void *at, size_t steps)
{
	*b = (struct script_builder){ .region = region, .script = at, .room = steps };
	b->script->ops = (uint64_t)(b->script + 1);
}

void script_begin(struct script_builder *b, struct region *region)
{
	script_begin_at(b, region, (void *)region->script, region->steps);
}

int script_begin_thread(struct script_builder *b, struct region *region, size_t steps, struct err *e)
{
	void *p = region_alloc(region, sizeof(struct script) + steps * sizeof(struct script_op));

	if (!p)
		return err_set(e, ERR_SYSTEM, 0, "the region for the switch is full");
	script_begin_at(b, region, p, steps);
	return 0;
}

static struct script_op *script_append(struct script_builder *b)
{
	struct script_op *ops = (struct script_op *)b->script->ops;

	if (b->script->n == b->room)
		b->failed = 1;
	return b->failed ? NULL : &ops[b->script->n++];
}

void script_syscall(struct script_builder *b, unsigned flags, const char *note, long nr, const uint64_t args[6])
{
	struct script_op *op = script_append(b);

	if (!op)
		return;
	*op = (struct script_op){ .code = SCRIPT_SYSCALL, .flags = flags, .nr = nr, .note = (uint64_t)note };
	memcpy(op->args, args, sizeof(op->args));
}

void script_thread(struct script_builder *b, const char *note, const void *clone_args, size_t size,
		   const struct script *thread, const void *steer)
{
	struct script_op *op = script_append(b);

	if (op)
		*op = (struct script_op){ .code = SCRIPT_THREAD,
					  .flags = SCRIPT_MUST,
					  .args = { (uint64_t)clone_args, size, (uint64_t)thread, (uint64_t)steer },
					  .note = (uint64_t)note };
}

int script_finish(struct script_builder *b, struct err *e)
{
	return b->failed ? err_set(e, ERR_SYSTEM, 0, "the script for the switch has no room left") : 0;
}

_Noreturn void script_enter(const struct region *r)
{
	__asm__ volatile("mov %0, %%rsp\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "call *%1\n\t"
			 "ud2"
			 :
			 : "r"(r->script - r->used), "r"(r->start), "D"(r->script)
			 : "memory");
	__builtin_unreachable();
}
