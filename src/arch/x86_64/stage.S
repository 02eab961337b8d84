/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The stages (see stage.h and target/remote.c): one for the leader of a task, one
 * for any other thread. Position independent, no stack, no vector registers, and
 * no memory writes but to the scratch page: they run from the read-only zero tail
 * of the target's vdso page, and the stack pointer stays the program's own, so
 * that a signal can be delivered at any instruction.
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
 *
 * Several calls in one go, without a stop between them: the leader's stage reads
 * them from its scratch page, where nobody else could take them away. The scratch
 * page goes when the leader's tracer is gone; so the other stage reads nothing from
 * there, but has its four calls in its code. Both knock at the end: by a signal that means nothing
 * to the program, which only a tracer notices. Without one, they put everything back.
 */

	.section .rodata

	.macro stage name
	.balign 16
\name\()_begin:
.Lidle\@:
	mov	$110, %eax		/* getppid: does nothing when it is not replaced */
	syscall
	test	%r12, %r12
	jz	.Lnumber\@
	mov	%rax, %rbx
	xor	%r12d, %r12d
	cmp	$61, %r13d		/* wait4: the call made a process ... */
	jne	.Lnumber\@
	test	%rax, %rax
	jnz	.Lnumber\@
	mov	$231, %eax		/* ... which is this one, and whose tracer is gone: exit_group(0) */
	xor	%edi, %edi
	syscall
.Lnumber\@:
	cmp	%r14, %r15
	je	.Lalone\@
	mov	%r15, %r14
	jmp	.Lidle\@

	.ifc \name, stage
	/* r12 walks over struct stage_call, to one with a negative number: its arguments are those of the knock. */
\name\()_batch:
	mov	(%r12), %rax
	mov	8(%r12), %rdi
	mov	16(%r12), %rsi
	mov	24(%r12), %rdx
	mov	32(%r12), %r10
	test	%rax, %rax
	js	.Lknock\@
	syscall
	mov	%rax, 40(%r12)
	add	$48, %r12
	jmp	\name\()_batch

	/* Remove the scratch page, and knock with r8, r9, r10. */
\name\()_finish:
	mov	$11, %eax		/* munmap */
	mov	%rbx, %rdi
	mov	%rbp, %rsi
	syscall
	or	$-1, %rbx
	.else
	/* r12: where in the scratch page the answers go. It has the last one itself, then. Knocks with r8, r9, r10. */
\name\()_batch:
	mov	$131, %eax		/* sigaltstack(NULL, r12) */
	xor	%edi, %edi
	mov	%r12, %rsi
	syscall
	mov	$157, %eax		/* prctl(PR_GET_TID_ADDRESS, r12 + 32) */
	mov	$40, %edi
	lea	32(%r12), %rsi
	syscall
	mov	$157, %eax		/* prctl(PR_GET_PDEATHSIG, r12 + 40) */
	mov	$2, %edi
	lea	40(%r12), %rsi
	syscall
	mov	$157, %eax		/* prctl(PR_GET_TIMERSLACK) */
	mov	$30, %edi
	syscall
	mov	%rax, %r12
	.endif
	mov	%r8, %rdi
	mov	%r9, %rsi
	mov	%r10, %rdx
.Lknock\@:
	mov	$234, %eax		/* tgkill */
	syscall
\name\()_knocked:

.Lalone\@:
	test	%rbx, %rbx
	js	.Lmask\@			/* never made, or -errno */
	mov	%r13d, %eax
	mov	%rbx, %rdi
	mov	%rbp, %rsi
	mov	$0x40000000, %edx	/* __WALL */
	xor	%r10d, %r10d
	syscall
.Lmask\@:
	mov	$14, %eax		/* rt_sigprocmask(SIG_SETMASK, &sigmask, NULL, 8) */
	mov	$2, %edi
	lea	.Lsigmask\@(%rip), %rsi
	xor	%edx, %edx
	mov	$8, %r10d
	syscall
\name\()_masked:

	/* The arithmetic flags without popf, which would need a stack. */
	mov	.Lflags\@(%rip), %rcx
	cld
	bt	$10, %ecx
	jnc	.Lforward\@
	std
.Lforward\@:
	mov	%ecx, %eax
	shr	$11, %eax
	and	$1, %eax
	mov	%cl, %ah
	add	$0x7f, %al		/* overflows when OF was set */
	sahf

	mov	.Lrax\@(%rip), %rax
	mov	.Lrbx\@(%rip), %rbx
	mov	.Lrcx\@(%rip), %rcx
	mov	.Lrdx\@(%rip), %rdx
	mov	.Lrsi\@(%rip), %rsi
	mov	.Lrdi\@(%rip), %rdi
	mov	.Lrbp\@(%rip), %rbp
	mov	.Lr8\@(%rip), %r8
	mov	.Lr9\@(%rip), %r9
	mov	.Lr10\@(%rip), %r10
	mov	.Lr11\@(%rip), %r11
	mov	.Lr12\@(%rip), %r12
	mov	.Lr13\@(%rip), %r13
	mov	.Lr14\@(%rip), %r14
	mov	.Lr15\@(%rip), %r15
	jmp	*.Lrip\@(%rip)

	.balign 8			/* struct stage_data */
.Lsigmask\@:	.quad 0
.Lflags\@:	.quad 0
.Lrax\@:		.quad 0
.Lrbx\@:		.quad 0
.Lrcx\@:		.quad 0
.Lrdx\@:		.quad 0
.Lrsi\@:		.quad 0
.Lrdi\@:		.quad 0
.Lrbp\@:		.quad 0
.Lr8\@:		.quad 0
.Lr9\@:		.quad 0
.Lr10\@:		.quad 0
.Lr11\@:		.quad 0
.Lr12\@:		.quad 0
.Lr13\@:		.quad 0
.Lr14\@:		.quad 0
.Lr15\@:		.quad 0
.Lrip\@:		.quad 0
.Lstopped\@:	.quad 0, 0, 0		/* for torpor alone: rip, rax, orig_rax of the plain stop */
\name\()_end:
	.org \name\()_begin + 496	/* STAGE_ROOM: an error if it is larger */
	.globl \name\()_begin, \name\()_batch, \name\()_knocked, \name\()_masked, \name\()_end
	.hidden \name\()_begin, \name\()_batch, \name\()_knocked, \name\()_masked, \name\()_end
	.endm

	stage stage
	stage thread_stage
	.globl stage_finish
	.hidden stage_finish
	.section .note.GNU-stack,"",@progbits
