/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The flags of mappings without smaps. smaps looks at every page, which takes longer
 * than all else that a dump must do while the program stands still. So it is read
 * while the program runs, once before and once after, and what it told both times
 * alike of a mapping was so in between.
 *
 * Mappings grow, shrink, are split and joined; all parts of one mapping have the
 * same flags. So a mapping is compared with whatever of its like was at a part of its
 * addresses.
 */

#include "memory/memory.h"
#include "proc/maps.h"

/* Anonymous mappings of all names are alike: the kernel gives and takes some of them as it likes ("[heap]"). */
static bool is_alike(const struct vm_area *a, const struct vm_area *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->prot == b->prot &&
	       (a->flags & VM_FLAG_SHARED) == (b->flags & VM_FLAG_SHARED) &&
	       (!a->ino || a->offset - a->start == b->offset - b->start);
}

/* What is known of a mapping; NULL: nothing, or not one thing. *at: where to begin to look, for areas in ascending order. */
static const struct vm_area *known_of(const struct vm_area *a, const struct vm_area_list *known, size_t *at)
{
	const struct vm_area *found = NULL;

	while (*at < known->n && known->areas[*at].end <= a->start)
		++*at;
	for (size_t i = *at; i < known->n && known->areas[i].start < a->end; i++) {
		const struct vm_area *k = &known->areas[i];

		if (!is_alike(a, k) || (found && (k->flags != found->flags || k->page_size != found->page_size)))
			return NULL;
		found = k;
	}
	return found;
}

bool memory_take_flags(struct vm_area_list *areas, const struct vm_area_list *known)
{
	size_t at = 0;

	for (size_t i = 0; i < areas->n; i++) {
		struct vm_area *a = &areas->areas[i];
		const struct vm_area *k = known_of(a, known, &at);

		if (!k)
			return false;
		a->flags = k->flags;
		a->page_size = k->page_size;
	}
	return true;
}

bool memory_same_flags(const struct vm_area_list *areas, const struct vm_area_list *known)
{
	size_t at = 0;

	for (size_t i = 0; i < areas->n; i++) {
		const struct vm_area *k = known_of(&areas->areas[i], known, &at);

		if (!k || k->flags != areas->areas[i].flags)
			return false;
	}
	return true;
}
