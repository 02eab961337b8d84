/* SPDX-License-Identifier: Apache-2.0 */
/* page.html, as bytes of the program. PAGE comes from the build. */
	.section .rodata
	.globl page_start
	.globl page_end
page_start:
	.incbin PAGE
page_end:
	.section .note.GNU-stack,"",@progbits
