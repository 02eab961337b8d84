/* SPDX-License-Identifier: Apache-2.0 */

/* Thousands of small mappings, and neighbours that differ in this or that. */

#include "common.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "maps.h"

enum { PAGE = 4096, MAPPINGS = 5000, STRIPES = 400, STRIPE_PAGES = 13 };

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

static char *many;

/* Mappings side by side, of one that was written to as a whole. */
static struct neighbour {
	size_t pages;
	int prot;
	int advice; /* -1: none */
	bool locked;
	char *at;
} neighbours[] = {
	{ 3, PROT_READ, -1, false, NULL },
	{ 1300, PROT_READ | PROT_WRITE, -1, false, NULL }, /* holds a huge page, whatever its alignment */
	{ 3, PROT_READ, -1, false, NULL },
	{ 3, PROT_READ | PROT_EXEC, -1, false, NULL },
	{ 3, PROT_NONE, -1, false, NULL },
	{ 1, PROT_READ | PROT_WRITE, MADV_GUARD_INSTALL, false, NULL },
	{ 20, PROT_READ | PROT_WRITE, MADV_NOHUGEPAGE, false, NULL },
	{ 20, PROT_READ, MADV_NOHUGEPAGE, false, NULL },
	{ 1, PROT_READ, MADV_DONTFORK, false, NULL },
	{ 3, PROT_READ | PROT_WRITE, -1, true, NULL },
	{ 3, PROT_READ, -1, true, NULL },
	{ 3, PROT_NONE, -1, true, NULL },
	{ 3, PROT_READ | PROT_WRITE, -1, false, NULL },
};
enum { NEIGHBOURS = sizeof(neighbours) / sizeof(neighbours[0]) };

static void make_neighbours(void)
{
	size_t pages = 0;
	char *at;

	for (int i = 0; i < NEIGHBOURS; i++)
		pages += neighbours[i].pages;
	at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(at != MAP_FAILED);
	for (size_t k = 0; k < pages; k++)
		memcpy(at + k * PAGE, &k, sizeof(k));
	for (int i = 0; i < NEIGHBOURS; i++) {
		struct neighbour *n = &neighbours[i];

		n->at = at;
		if (n->advice >= 0 && n->advice != MADV_GUARD_INSTALL)
			check_call(madvise(at, n->pages * PAGE, n->advice));
		check_call(mprotect(at, n->pages * PAGE, n->prot));
		if (n->locked) /* all of it: what may not be read is locked nevertheless */
			check(mlock(at, n->pages * PAGE) == 0 || n->prot == PROT_NONE);
		at += n->pages * PAGE;
	}
	/* When they are cut: the kernel notes it of a mapping as a whole. Before Linux 6.13 there is no such advice. */
	for (int i = 0; i < NEIGHBOURS; i++)
		if (neighbours[i].advice == MADV_GUARD_INSTALL)
			(void)!madvise(neighbours[i].at, neighbours[i].pages * PAGE, MADV_GUARD_INSTALL);
}

/* What may be read holds what was written. maps_verify() has compared protections and flags. */
static void verify_neighbours(void)
{
	for (int i = 0; i < NEIGHBOURS; i++) {
		struct neighbour *n = &neighbours[i];
		size_t first = (size_t)(n->at - neighbours[0].at) / PAGE;

		if (n->advice == MADV_GUARD_INSTALL)
			continue;
		if (n->prot == PROT_NONE)
			check_call(mprotect(n->at, n->pages * PAGE, PROT_READ));
		for (size_t k = first; k < first + n->pages; k++)
			check(memcmp(neighbours[0].at + k * PAGE, &k, sizeof(k)) == 0);
		check_call(mprotect(n->at, n->pages * PAGE, n->prot));
	}
}

static char *stripes;

static int stripe_prot(int i)
{
	static const int prots[] = { PROT_READ | PROT_WRITE, PROT_READ, PROT_READ | PROT_WRITE, PROT_NONE, PROT_READ | PROT_EXEC };

	return prots[i % 5];
}

static void protect_stripes(bool readable)
{
	for (int i = 0; i < STRIPES; i++)
		check_call(mprotect(stripes + (size_t)i * STRIPE_PAGES * PAGE, STRIPE_PAGES * PAGE,
				    readable ? PROT_READ : stripe_prot(i)));
}

/* So much that several threads load it, which meet in the same mappings. */
static void make_stripes(void)
{
	const size_t pages = (size_t)STRIPES * STRIPE_PAGES;

	stripes = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(stripes != MAP_FAILED);
	for (size_t k = 0; k < pages; k++)
		if (k % 17)
			memcpy(stripes + k * PAGE, &k, sizeof(k));
	protect_stripes(false);
}

static void verify_stripes(void)
{
	protect_stripes(true);
	for (size_t k = 0; k < (size_t)STRIPES * STRIPE_PAGES; k++) {
		size_t value = 0;

		memcpy(&value, stripes + k * PAGE, sizeof(value));
		check(value == (k % 17 ? k : 0));
	}
	protect_stripes(false);
}

/* Every second page may not be read; some were written, some hold nothing. */
void setup(const char *argument)
{
	(void)argument;
	make_neighbours();
	make_stripes();
	many = mmap(NULL, (size_t)MAPPINGS * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(many != MAP_FAILED);
	for (int i = 0; i < MAPPINGS; i++) {
		if (i % 3)
			memcpy(many + (size_t)i * PAGE, &i, sizeof(i));
		if (i % 2)
			check_call(mprotect(many + (size_t)i * PAGE, PAGE, i % 4 == 1 ? PROT_NONE : PROT_READ));
	}
	maps_make_heap();
	maps_remember();
}

void verify(void)
{
	maps_verify();
	verify_neighbours();
	verify_stripes();
	for (int i = 0; i < MAPPINGS; i++) {
		char *p = many + (size_t)i * PAGE;
		int value = 0;

		if (i % 2)
			check_call(mprotect(p, PAGE, PROT_READ));
		memcpy(&value, p, sizeof(value));
		check(value == (i % 3 ? i : 0));
		if (i % 4 == 1)
			check_call(mprotect(p, PAGE, PROT_NONE));
	}
	maps_remember();
}
