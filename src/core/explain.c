/* SPDX-License-Identifier: Apache-2.0 */
#include "core/explain.h"

#include <sys/mman.h>

#include "core/build.h"
#include "task/task.h"

/* Neither a program nor its libraries nor a stack are ever there; so the addresses are always the same. */
#define EXPLAIN_AT 0x200000000000ull

int explain_begin(struct explain *x, const struct plan *plan, size_t task, struct arena *arena, struct err *e)
{
	const Pb__Task *pb = plan->tasks[task].pb;
	const struct build b = { .plan = plan, .way = PID_SET_TID };
	struct task_restore tr = { .arena = arena, .region = &x->region, .pb = pb, .space = plan->image->spaces[pb->space],
				   .xstate = &b.xstate };
	struct script_builder s;

	*x = (struct explain){ 0 };
	if (creds_read_own(tr.arena, &tr.own, e) < 0 ||
	    region_map(&x->region, EXPLAIN_AT, build_steps_ops(&tr), build_steps_bytes(&tr), 0, e) < 0)
		return -1;
	script_begin(&s, &x->region);
	if (build_steps(&b, &tr, &s, e) < 0)
		return -1;
	x->script = s.script;
	return script_finish(&s, e);
}

void explain_end(struct explain *x)
{
	if (x->region.size)
		munmap((void *)x->region.start, x->region.size);
	*x = (struct explain){ 0 };
}
