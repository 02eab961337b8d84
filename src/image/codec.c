/* SPDX-License-Identifier: Apache-2.0 */

#include "image/codec.h"

#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "image/layout.h"

enum { ZSTD_LEVEL_DEFAULT = 1 }; /* higher ones take several times as long, for some percent */

struct image_packer {
	ZSTD_CCtx *zstd;
	void *lz4;
	uint8_t out[IMAGE_EXTENT_MAX];
};

struct image_packer *image_packer_new(void)
{
	struct image_packer *p = malloc(sizeof(*p));

	if (!p)
		return NULL;
	p->zstd = ZSTD_createCCtx();
	p->lz4 = malloc((size_t)LZ4_sizeofState());
	return p->zstd && p->lz4 ? p : image_packer_free(p);
}

struct image_packer *image_packer_free(struct image_packer *p)
{
	if (!p)
		return NULL;
	ZSTD_freeCCtx(p->zstd);
	free(p->lz4);
	free(p);
	return NULL;
}

bool image_packing_parse(const char *text, struct image_packing *ret)
{
	char *end;
	long level;

	*ret = (struct image_packing){ .codec = IMAGE_CODEC_RAW };
	ret->automatic = strcmp(text, "auto") == 0;
	if (ret->automatic || strcmp(text, "none") == 0)
		return true;
	ret->codec = strcmp(text, "lz4") == 0 ? IMAGE_CODEC_LZ4 : IMAGE_CODEC_ZSTD;
	if (strcmp(text, "lz4") == 0 || strcmp(text, "zstd") == 0)
		return true;
	if (strncmp(text, "zstd:", 5) != 0)
		return false;
	level = strtol(text + 5, &end, 10);
	ret->level = (int)level;
	return end > text + 5 && !*end && level >= 1 && level <= IMAGE_LEVEL_MAX;
}

/* What libzstd's tables take for 1 MiB of input, measured. */
size_t image_packer_size(const struct image_packing *packing)
{
	const size_t mib = 1024 * 1024;

	if (packing->codec == IMAGE_CODEC_RAW && !packing->automatic)
		return 0;
	if (packing->codec != IMAGE_CODEC_ZSTD || packing->level <= 2)
		return 2 * mib;
	return packing->level <= 6 ? 5 * mib : packing->level <= 8 ? 8 * mib : 19 * mib;
}

/* 0: it does not fit into `room`. */
static size_t packer_run(struct image_packer *p, const struct image_packing *packing, const void *data, uint32_t size,
			 uint32_t room)
{
	size_t n;

	switch (packing->codec) {
	case IMAGE_CODEC_ZSTD:
		n = ZSTD_compressCCtx(p->zstd, p->out, room, data, size, packing->level ?: ZSTD_LEVEL_DEFAULT);
		return ZSTD_isError(n) ? 0 : n;
	case IMAGE_CODEC_LZ4:
		return (size_t)LZ4_compress_fast_extState(p->lz4, data, (char *)p->out, (int)size, (int)room, 1);
	default:
		return 0;
	}
}

void image_pack(struct image_packer *p, const struct image_packing *packing, const void *data, uint32_t size,
		struct image_packed *x)
{
	uint32_t n = 0;

	if (packing->codec != IMAGE_CODEC_RAW && size > IMAGE_PAGE)
		n = (uint32_t)packer_run(p, packing, data, size, size - IMAGE_PAGE);
	x->size = size;
	x->codec = n ? packing->codec : IMAGE_CODEC_RAW;
	x->data = n ? p->out : data;
	x->stored = n ?: size;
	if (n)
		memset(p->out + n, 0, image_align(n) - n);
}

static bool unpack_zstd(const void *data, uint32_t stored, void *buf, uint32_t size)
{
	/* More than one frame, or something behind it, would be unpacked too. */
	if (ZSTD_findFrameCompressedSize(data, stored) != stored)
		return false;
	return ZSTD_decompress(buf, size, data, stored) == size;
}

bool image_unpack(enum image_codec codec, const void *data, uint32_t stored, void *buf, uint32_t size)
{
	switch (codec) {
	case IMAGE_CODEC_ZSTD:
		return unpack_zstd(data, stored, buf, size);
	case IMAGE_CODEC_LZ4:
		return LZ4_decompress_safe(data, buf, (int)stored, (int)size) == (int)size;
	default:
		return false;
	}
}

const char *image_codec_name(enum image_codec codec)
{
	switch (codec) {
	case IMAGE_CODEC_RAW:
		return "none";
	case IMAGE_CODEC_ZSTD:
		return "zstd";
	case IMAGE_CODEC_LZ4:
		return "lz4";
	default:
		return "?";
	}
}
