/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The stage (see stage.h and target/remote.c). Position independent, no stack,
 * no memory writes, no vector registers: it runs from the read-only zero tail of
 * the target's vdso page, and the stack pointer stays the program's own, so that
 * a signal can be delivered at any instruction.
 *
 *   rbx  what an earlier call made and the stage must undo: the first argument of that call; negative: nothing
 *   rbp  its second argument
 *   r13  its number: munmap of a scratch mapping, close of an fd, wait4 of a child
 *   r12  1: the result of this call is such a thing
 *   r14  number of the last request, r15 number of this one
 *
 * The tracer replaces the idle call at its syscall-entry stop by the one it
 * wants, and steps r15 at the exit stop. When nobody does, the numbers are
 * equal: the tracer is gone, and the stage puts everything back by itself.
 */

	.section .rodata
	.globl stage_begin
	.globl stage_end
	.balign 16
stage_begin:
.Lidle:
	mov	$110, %eax		/* getppid: does nothing when it is not replaced */
	syscall
	test	%r12, %r12
	jz	.Lnumber
	mov	%rax, %rbx
	xor	%r12d, %r12d
	cmp	$61, %r13d		/* wait4: the call made a process ... */
	jne	.Lnumber
	test	%rax, %rax
	jnz	.Lnumber
	mov	$231, %eax		/* ... which is this one, and whose tracer is gone: exit_group(0) */
	xor	%edi, %edi
	syscall
.Lnumber:
	cmp	%r14, %r15
	je	.Lalone
	mov	%r15, %r14
	jmp	.Lidle

.Lalone:
	test	%rbx, %rbx
	js	.Lmask			/* never made, or -errno */
	mov	%r13d, %eax
	mov	%rbx, %rdi
	mov	%rbp, %rsi
	mov	$0x40000000, %edx	/* __WALL */
	xor	%r10d, %r10d
	syscall
.Lmask:
	mov	$14, %eax		/* rt_sigprocmask(SIG_SETMASK, &sigmask, NULL, 8) */
	mov	$2, %edi
	lea	.Lsigmask(%rip), %rsi
	xor	%edx, %edx
	mov	$8, %r10d
	syscall
	.globl stage_masked
	.hidden stage_begin, stage_end, stage_masked
stage_masked:

	/* The arithmetic flags without popf, which would need a stack. */
	mov	.Lflags(%rip), %rcx
	cld
	bt	$10, %ecx
	jnc	.Lforward
	std
.Lforward:
	mov	%ecx, %eax
	shr	$11, %eax
	and	$1, %eax
	mov	%cl, %ah
	add	$0x7f, %al		/* overflows when OF was set */
	sahf

	mov	.Lrax(%rip), %rax
	mov	.Lrbx(%rip), %rbx
	mov	.Lrcx(%rip), %rcx
	mov	.Lrdx(%rip), %rdx
	mov	.Lrsi(%rip), %rsi
	mov	.Lrdi(%rip), %rdi
	mov	.Lrbp(%rip), %rbp
	mov	.Lr8(%rip), %r8
	mov	.Lr9(%rip), %r9
	mov	.Lr10(%rip), %r10
	mov	.Lr11(%rip), %r11
	mov	.Lr12(%rip), %r12
	mov	.Lr13(%rip), %r13
	mov	.Lr14(%rip), %r14
	mov	.Lr15(%rip), %r15
	jmp	*.Lrip(%rip)

	.balign 8			/* struct stage_data */
.Lsigmask:	.quad 0
.Lflags:	.quad 0
.Lrax:		.quad 0
.Lrbx:		.quad 0
.Lrcx:		.quad 0
.Lrdx:		.quad 0
.Lrsi:		.quad 0
.Lrdi:		.quad 0
.Lrbp:		.quad 0
.Lr8:		.quad 0
.Lr9:		.quad 0
.Lr10:		.quad 0
.Lr11:		.quad 0
.Lr12:		.quad 0
.Lr13:		.quad 0
.Lr14:		.quad 0
.Lr15:		.quad 0
.Lrip:		.quad 0
.Lstopped:	.quad 0, 0, 0		/* for torpor alone: rip, rax, orig_rax of the plain stop */
stage_end:
	.org stage_begin + 448		/* STAGE_ROOM: an error if it is larger */
	.section .note.GNU-stack,"",@progbits
