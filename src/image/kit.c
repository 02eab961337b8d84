/* SPDX-License-Identifier: Apache-2.0 */
#include "image/kit.h"

#include <stdlib.h>
#include <sys/mman.h>

static struct kit *kit_free(struct kit *kit)
{
	if (kit->room != MAP_FAILED)
		munmap(kit->room, kit->size);
	image_packer_free(kit->packer);
	free(kit);
	return NULL;
}

static struct kit *kit_new(size_t size)
{
	struct kit *kit = calloc(1, sizeof(*kit));

	if (!kit)
		return NULL;
	kit->size = size;
	kit->room = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	return kit->room != MAP_FAILED ? kit : kit_free(kit);
}

void kits_init(struct kits *k)
{
	*k = (struct kits){ .lock = PTHREAD_MUTEX_INITIALIZER };
}

void kits_done(struct kits *k)
{
	for (struct kit *kit = k->first, *next; kit; kit = next) {
		next = kit->next;
		kit_free(kit);
	}
	pthread_mutex_destroy(&k->lock);
}

struct kit *kits_take(struct kits *k, size_t size)
{
	struct kit **at = &k->first, *kit;

	pthread_mutex_lock(&k->lock);
	while (*at && (*at)->size != size)
		at = &(*at)->next;
	kit = *at;
	if (kit)
		*at = kit->next;
	pthread_mutex_unlock(&k->lock);
	return kit ?: kit_new(size);
}

void kits_give(struct kits *k, struct kit *kit)
{
	pthread_mutex_lock(&k->lock);
	kit->next = k->first;
	k->first = kit;
	pthread_mutex_unlock(&k->lock);
}
