/* SPDX-License-Identifier: Apache-2.0 */
/* The flat runner, as bytes of the host program. RUNNER_BIN comes from the build. */
	.section .rodata
	.globl runner_blob
	.globl runner_blob_end
	.hidden runner_blob, runner_blob_end
	.balign 16
runner_blob:
	.incbin RUNNER_BIN
runner_blob_end:
	.section .note.GNU-stack,"",@progbits
