/* SPDX-License-Identifier: Apache-2.0 */

/*
 * System V shared memory: ids, keys, modes, sizes, attachments of two tasks. The ids are in the file "segments", for
 * whoever has to remove them.
 */

#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/shm.h>
#include <unistd.h>

#include "maps.h"

enum { PAGE = 4096, SMALL = 10000, LARGE = 64 << 20, PARTS = 8 * PAGE };

enum { KEYED, SPARSE, REMOVED, CUT, SEGMENTS };

static struct segment {
	int id;
	key_t key;
	size_t size;
	unsigned mode;  /* as IPC_STAT tells it, SHM_DEST and SHM_LOCKED included */
	unsigned attached;
} segments[SEGMENTS];

static char *keyed, *readonly, *sparse, *removed, *cut, *end_of_cut;
static char written;

static void make(int which, key_t key, size_t size, unsigned mode)
{
	struct segment *s = &segments[which];

	*s = (struct segment){ .key = key, .size = size, .mode = mode };
	s->id = (int)check_call(shmget(key, size, IPC_CREAT | IPC_EXCL | (int)mode));
}

static char *attach(int which, const void *at, int flags)
{
	char *p = shmat(segments[which].id, at, flags);

	check(p != (void *)-1);
	segments[which].attached += 2; /* this task and the second one */
	return p;
}

static void tell_segments(void)
{
	FILE *file = fopen("segments", "w");

	check(file != NULL);
	for (int i = 0; i < SEGMENTS; i++)
		fprintf(file, "%d %d\n", segments[i].id, segments[i].key);
	fclose(file);
}

static void remove_segments(void)
{
	for (int i = 0; i < SEGMENTS; i++)
		shmctl(segments[i].id, IPC_RMID, NULL);
}

static void set_mode(int which, unsigned mode)
{
	struct shmid_ds ds;

	check_call(shmctl(segments[which].id, IPC_STAT, &ds));
	ds.shm_perm.mode = (unsigned short)mode;
	check_call(shmctl(segments[which].id, IPC_SET, &ds));
	segments[which].mode = mode;
}

static key_t random_key(void)
{
	key_t key;

	check(getrandom(&key, sizeof(key), 0) == sizeof(key));
	return (key & 0x7fffffff) | 1;
}

/* With the argument "staying", nothing is marked for removal. */
void setup(const char *argument)
{
	bool staying = argument && strcmp(argument, "staying") == 0;

	make(KEYED, random_key(), SMALL, 0640);
	make(SPARSE, IPC_PRIVATE, LARGE, 0600);
	make(REMOVED, random_key(), PAGE, 0600);
	make(CUT, IPC_PRIVATE, PARTS, 0600);
	tell_segments();
	atexit(remove_segments);
	keyed = attach(KEYED, NULL, 0);
	readonly = attach(KEYED, NULL, SHM_RDONLY);
	strcpy(keyed + 5000, "in the second page");
	keyed[SMALL - 1] = 'e';
	sparse = attach(SPARSE, (void *)0x200000000000, 0);
	sparse[LARGE - 1] = 's';
	check_call(shmctl(segments[CUT].id, SHM_LOCK, NULL));
	segments[CUT].mode |= SHM_LOCKED;
	removed = attach(REMOVED, NULL, 0);
	strcpy(removed, "removed");
	cut = attach(CUT, NULL, 0);
	for (int i = 0; i < PARTS; i++)
		cut[i] = (char)(i / PAGE + i * 7);
	end_of_cut = cut + 4 * PAGE;
	check_call(munmap(cut + PAGE, 2 * PAGE));
	check_call(mprotect(end_of_cut, PAGE, PROT_READ));
	segments[CUT].attached = 2 * 4; /* the hole and the border cut it into four */
	maps_make_heap();
	second_task_start();
	if (!staying) {
		check_call(shmctl(segments[REMOVED].id, IPC_RMID, NULL));
		segments[REMOVED].mode |= SHM_DEST;
		segments[REMOVED].key = IPC_PRIVATE;
	}
	set_mode(KEYED, 0440);
	maps_remember();
}

static void verify_segment(const struct segment *s)
{
	struct shmid_ds ds;

	check_call(shmctl(s->id, IPC_STAT, &ds));
	check(ds.shm_perm.__key == s->key && ds.shm_segsz == s->size);
	check(ds.shm_perm.mode == s->mode);
	check(ds.shm_perm.uid == getuid() && ds.shm_perm.gid == getgid());
	check(ds.shm_nattch == s->attached);
}

static void write_in_second(void)
{
	written++;
	keyed[0] = removed[100] = sparse[PAGE] = end_of_cut[PAGE] = written;
}

static void verify_cut(void)
{
	for (int i = 0; i < PARTS; i++)
		if (i / PAGE != 1 && i / PAGE != 2 && i != 5 * PAGE)
			check(cut[i] == (char)(i / PAGE + i * 7));
}

void verify(void)
{
	char *again;

	maps_verify();
	for (int i = 0; i < SEGMENTS; i++)
		verify_segment(&segments[i]);
	check(shmget(segments[KEYED].key, SMALL, 0) == segments[KEYED].id);
	check(strcmp(keyed + 5000, "in the second page") == 0 && keyed[SMALL - 1] == 'e' && keyed[SMALL] == 0);
	check(mprotect(readonly, PAGE, PROT_READ | PROT_WRITE) == -1 && errno == EACCES);
	check(sparse[LARGE - 1] == 's' && sparse[LARGE / 2] == 0);
	check(strcmp(removed, "removed") == 0);
	verify_cut();
	second_task_run(write_in_second);
	check(keyed[0] == readonly[0] && removed[100] == keyed[0] && sparse[PAGE] == keyed[0] && end_of_cut[PAGE] == keyed[0]);
	again = shmat(segments[SPARSE].id, NULL, 0);
	check(again != (void *)-1 && again[LARGE - 1] == 's');
	check_call(shmdt(again));
}
