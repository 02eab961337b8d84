/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Registers: threads that compute in user mode, also the first of a process, and
 * threads inside system calls that wait. All hold known values in every register,
 * and each must go on as if nothing had happened.
 */

#include "common.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { VECTORS = 32, VECTOR_SIZE = 64, X87 = 8, RED_WORDS = 15, LONG = 1000, NAP_NS = 20000000, PATIENCE_MS = 5000 };

/* ---- every register, in user mode ---- */

/* What spin_asm() loads, and what it finds when it is told to stop. The layout is used below. */
struct held {
	uint64_t general[16]; /* rax rbx rcx rdx rsi rdi rbp - r8..r15 */
	uint64_t red[16];     /* below the stack pointer; the first is not used */
	unsigned char vector[VECTORS][VECTOR_SIZE];
	double x87[X87];
	uint64_t flags;
	uint32_t mxcsr;
	uint16_t control, pad;
	uint64_t masks[8];    /* AVX-512 */
};

struct held spin_in, spin_out;
uint32_t spin_stop, spin_width; /* bytes per vector register: 16, 32 or 64 */
uint64_t spin_stack;
void spin_asm(void);

__asm__(".text\n"
	".globl spin_asm\n"
	"spin_asm:\n"
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"	mov %rsp, spin_stack(%rip)\n"
	"	fninit\n"
	"	fldcw spin_in+2380(%rip)\n"
	"	ldmxcsr spin_in+2376(%rip)\n"
	".irp n,7,6,5,4,3,2,1,0\n"
	"	fldl spin_in+2304+8*\\n(%rip)\n"
	".endr\n"
	"	cmpl $32, spin_width(%rip)\n"
	"	je 2f\n"
	"	ja 3f\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"	movdqu spin_in+256+64*\\n(%rip), %xmm\\n\n"
	".endr\n"
	"	jmp 4f\n"
	"2:\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"	vmovdqu spin_in+256+64*\\n(%rip), %ymm\\n\n"
	".endr\n"
	"	jmp 4f\n"
	"3:\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
	"	vmovdqu64 spin_in+256+64*\\n(%rip), %zmm\\n\n"
	".endr\n"
	".irp n,0,1,2,3,4,5,6,7\n"
	"	kmovw spin_in+2384+8*\\n(%rip), %k\\n\n"
	".endr\n"
	"4:\n"
	".irp n,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"	mov spin_in+128+8*\\n(%rip), %rax\n"
	"	mov %rax, -8-8*\\n(%rsp)\n"
	".endr\n"
	"	push spin_in+2368(%rip)\n"
	"	popf\n"
	"	mov spin_in(%rip), %rax; mov spin_in+8(%rip), %rbx; mov spin_in+24(%rip), %rdx\n"
	"	mov spin_in+32(%rip), %rsi; mov spin_in+40(%rip), %rdi; mov spin_in+48(%rip), %rbp\n"
	"	mov spin_in+64(%rip), %r8; mov spin_in+72(%rip), %r9; mov spin_in+80(%rip), %r10\n"
	"	mov spin_in+88(%rip), %r11; mov spin_in+96(%rip), %r12; mov spin_in+104(%rip), %r13\n"
	"	mov spin_in+112(%rip), %r14; mov spin_in+120(%rip), %r15\n"
	/* Nothing here changes a flag. */
	"5:	mov spin_stop(%rip), %ecx\n"
	"	jrcxz 5b\n"
	"	mov %rax, spin_out(%rip); mov %rbx, spin_out+8(%rip); mov %rdx, spin_out+24(%rip)\n"
	"	mov %rsi, spin_out+32(%rip); mov %rdi, spin_out+40(%rip); mov %rbp, spin_out+48(%rip)\n"
	"	mov %rsp, spin_out+56(%rip)\n"
	"	mov %r8, spin_out+64(%rip); mov %r9, spin_out+72(%rip); mov %r10, spin_out+80(%rip)\n"
	"	mov %r11, spin_out+88(%rip); mov %r12, spin_out+96(%rip); mov %r13, spin_out+104(%rip)\n"
	"	mov %r14, spin_out+112(%rip); mov %r15, spin_out+120(%rip)\n"
	".irp n,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"	mov -8-8*\\n(%rsp), %rax\n"
	"	mov %rax, spin_out+128+8*\\n(%rip)\n"
	".endr\n"
	"	mov spin_stack(%rip), %rsp\n"
	"	pushf\n"
	"	pop spin_out+2368(%rip)\n"
	"	cld\n"
	"	fnstcw spin_out+2380(%rip)\n"
	"	stmxcsr spin_out+2376(%rip)\n"
	".irp n,0,1,2,3,4,5,6,7\n"
	"	fstpl spin_out+2304+8*\\n(%rip)\n"
	".endr\n"
	"	cmpl $32, spin_width(%rip)\n"
	"	je 2f\n"
	"	ja 3f\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"	movdqu %xmm\\n, spin_out+256+64*\\n(%rip)\n"
	".endr\n"
	"	jmp 4f\n"
	"2:\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"	vmovdqu %ymm\\n, spin_out+256+64*\\n(%rip)\n"
	".endr\n"
	"	vzeroupper\n"
	"	jmp 4f\n"
	"3:\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
	"	vmovdqu64 %zmm\\n, spin_out+256+64*\\n(%rip)\n"
	".endr\n"
	".irp n,0,1,2,3,4,5,6,7\n"
	"	kmovw %k\\n, spin_out+2384+8*\\n(%rip)\n"
	".endr\n"
	"	vzeroupper\n"
	"4:	fninit\n"
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"	ret\n");

_Static_assert(offsetof(struct held, x87) == 2304 && offsetof(struct held, flags) == 2368 &&
		       offsetof(struct held, mxcsr) == 2376 && offsetof(struct held, control) == 2380 &&
		       offsetof(struct held, masks) == 2384,
	       "used in spin_asm");

static pthread_t spinner;
static __thread uint64_t local = 0x10ca1; /* found by the FS base */

static void *spin(void *arg)
{
	local = (uint64_t)arg;
	spin_asm();
	return (void *)local;
}

static void spin_fill(void)
{
	unsigned char *bytes = (unsigned char *)&spin_in;

	for (size_t i = 0; i < sizeof(spin_in); i++)
		bytes[i] = (unsigned char)(i * 7 + i / 256 + 1);
	for (int i = 0; i < X87; i++)
		spin_in.x87[i] = 1.5 * i - 3.25;
	for (int i = 0; i < 8; i++)
		spin_in.masks[i] = 0x1111u * (unsigned)(i + 1);
	spin_in.flags = 0xcd5 | 0x202; /* carry, parity, adjust, zero, sign, direction, overflow; and those always set */
	spin_in.mxcsr = 0x1f80 | 0x6000 | 0x8000; /* round towards zero, flush to zero */
	spin_in.control = 0x0c7f;                 /* 24 bits, round towards zero */
	__builtin_cpu_init();
	spin_width = __builtin_cpu_supports("avx512f") ? 64 : __builtin_cpu_supports("avx") ? 32 : 16;
}

static void spin_start(void)
{
	spin_stop = 0;
	memset(&spin_out, 0, sizeof(spin_out));
	check(pthread_create(&spinner, NULL, spin, (void *)0x5ca1ab1e) == 0);
}

static void spin_check(unsigned unused)
{
	static const int fixed[] = { 0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15 };

	(void)unused;
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		check(spin_out.general[fixed[i]] == spin_in.general[fixed[i]]);
	check(spin_out.general[7] == spin_stack);
	check(memcmp(spin_out.red + 1, spin_in.red + 1, RED_WORDS * 8) == 0);
	check(spin_out.flags == spin_in.flags);
	for (unsigned i = 0; i < (spin_width == 64 ? 32 : 16); i++)
		check(memcmp(spin_out.vector[i], spin_in.vector[i], spin_width) == 0);
	check(memcmp(spin_out.x87, spin_in.x87, sizeof(spin_in.x87)) == 0);
	check(spin_out.mxcsr == spin_in.mxcsr);
	check(spin_out.control == spin_in.control);
	for (int i = 0; spin_width == 64 && i < 8; i++)
		check((uint16_t)spin_out.masks[i] == (uint16_t)spin_in.masks[i]);
}

static void spin_verify(void)
{
	void *result;

	__atomic_store_n(&spin_stop, 1, __ATOMIC_SEQ_CST);
	check(pthread_join(spinner, &result) == 0);
	check(result == (void *)0x5ca1ab1e);
	spin_check(0);
	spin_start();
}

/* ---- the same in the first thread of a process: of one that has no other, and of one that has ---- */

static struct leader {
	pid_t pid;
	_Atomic unsigned begun, done;
	char failure[512];
} *leaders;

enum { LEADERS = 2 };

static void leader_stop(int signo)
{
	(void)signo;
	__atomic_store_n(&spin_stop, 1, __ATOMIC_SEQ_CST);
}

static void *leader_other(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static _Noreturn void leader_main(struct leader *l, bool alone)
{
	pthread_t other;
	sigset_t set;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGUSR2, leader_stop);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (!alone && pthread_create(&other, NULL, leader_other, NULL) != 0)
		_exit(1);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	for (;;) {
		spin_stop = 0;
		memset(&spin_out, 0, sizeof(spin_out));
		l->begun++;
		spin_asm();
		check_here(l->failure, sizeof(l->failure), spin_check, 0);
		l->done++;
	}
}

static void leader_wait(const struct leader *l, const _Atomic unsigned *count, unsigned wanted)
{
	for (int ms = 0; *count < wanted; ms++) {
		check(ms < PATIENCE_MS && waitpid(l->pid, NULL, WNOHANG) == 0);
		usleep(1000);
	}
}

static void leaders_start(void)
{
	leaders = mmap(NULL, LEADERS * sizeof(*leaders), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(leaders != MAP_FAILED);
	for (int i = 0; i < LEADERS; i++) {
		pid_t pid = (pid_t)check_call(fork());

		if (pid == 0)
			leader_main(&leaders[i], i == 0);
		leaders[i].pid = pid;
		leader_wait(&leaders[i], &leaders[i].begun, 1);
	}
}

static void leaders_verify(void)
{
	for (int i = 0; i < LEADERS; i++) {
		struct leader *l = &leaders[i];
		unsigned begun = l->begun;

		check_call(kill(l->pid, SIGUSR2));
		leader_wait(l, &l->done, begun);
		if (l->failure[0])
			check_failed("leader", i, l->failure, -1);
		leader_wait(l, &l->begun, begun + 1);
	}
}

/* ---- in a restartable sequence ---- */

/*
 * A thread that is interrupted within such a sequence must find itself in the
 * abort handler. It measures the time from each of its steps to the next: where
 * that is long, it was interrupted and does not know it. The limit is far above
 * what a virtual machine loses now and then, and below what sleeping takes.
 */
uint32_t sequence_stop, sequence_broken, sequence_aborts;
void sequence_asm(void *area_cs);

__asm__(".data\n"
	".balign 32\n"
	"sequence_cs: .long 0, 0\n"
	"	.quad 1f, 3f - 1f, 4f\n"
	".text\n"
	"sequence_asm:\n"
	"	push %rbx\n"
	"0:	rdtsc\n"
	"	shl $32, %rdx\n"
	"	lea (%rax, %rdx), %r8\n"
	"	lea sequence_cs(%rip), %rax\n"
	"	mov %rax, (%rdi)\n"
	"1:	rdtsc\n"
	"	shl $32, %rdx\n"
	"	add %rdx, %rax\n"
	"	mov %rax, %rbx\n"
	"	sub %r8, %rbx\n"
	"	cmp $100000000, %rbx\n"
	"	ja 2f\n"
	"	mov %rax, %r8\n"
	"	cmpl $0, sequence_stop(%rip)\n"
	"	je 1b\n"
	"	jmp 3f\n"
	"2:	incl sequence_broken(%rip)\n"
	"3:	movq $0, (%rdi)\n"
	"	pop %rbx\n"
	"	ret\n"
	"	.long 0x53053053\n"
	"4:	incl sequence_aborts(%rip)\n"
	"	jmp 0b\n");

static pthread_t sequencer;

static void *sequence_main(void *arg)
{
	sequence_asm((char *)__builtin_thread_pointer() + __rseq_offset + offsetof(struct rseq, rseq_cs));
	return arg;
}

static void sequence_start(void)
{
	sequence_stop = sequence_broken = 0;
	if (__rseq_size)
		check(pthread_create(&sequencer, NULL, sequence_main, NULL) == 0);
}

static void sequence_verify(void)
{
	if (!__rseq_size)
		return;
	__atomic_store_n(&sequence_stop, 1, __ATOMIC_SEQ_CST);
	check(pthread_join(sequencer, NULL) == 0);
	check(sequence_broken == 0);
	sequence_start();
}

/* ---- inside system calls ---- */

struct waiter {
	const char *name;
	int (*wait)(struct waiter *); /* 0: as it must be */
	void (*release)(struct waiter *);
	pthread_t thread;
	pid_t tid;
	_Atomic unsigned done, failed;
	long result;
	int error;
	int fds[2];
	int epoll, semaphore;
	_Atomic uint32_t word;
	_Atomic pid_t child;
	int signo;
	bool endless; /* goes on by itself */
	unsigned before;
};

static bool compared; /* then SIGSTOP and SIGCONT, which are not torpor's, interrupt some calls */

/*
 * A system call with known values in all other registers, which the kernel must
 * leave alone. Returns the raw result, or -1000 when a register has changed.
 */
static long held_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	char bytes[64] = "these bytes must not be changed"; /* and what they are afterwards */
	const long before[] = { a, b, c };
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ok, result;

	__asm__ volatile("mov %%rbp, %%r15\n\t"
			 "movdqu (%%rbx), %%xmm15\n\t"
			 "movdqu 16(%%rbx), %%xmm7\n\t"
			 "mov $0x1234567890abcdef, %%r12\n\t"
			 "lea 1(%%r12), %%r13\n\t"
			 "lea 2(%%r12), %%r14\n\t"
			 "lea 3(%%r12), %%rbp\n\t"
			 "std\n\t"
			 "syscall\n\t"
			 "cld\n\t"
			 "mov %%rax, %%r11\n\t"
			 "lea -1(%%r13), %%r13\n\t"
			 "lea -2(%%r14), %%r14\n\t"
			 "lea -3(%%rbp), %%rbp\n\t"
			 "xor %%ecx, %%ecx\n\t"
			 "cmp %%r12, %%r13\n\t"
			 "jne 1f\n\t"
			 "cmp %%r12, %%r14\n\t"
			 "jne 1f\n\t"
			 "cmp %%r12, %%rbp\n\t"
			 "jne 1f\n\t"
			 "mov $1, %%ecx\n"
			 "1:\n\t"
			 "mov %%r11, %%rax\n\t"
			 "mov %%r15, %%rbp\n\t"
			 "movdqu %%xmm15, 32(%%rbx)\n\t"
			 "movdqu %%xmm7, 48(%%rbx)\n"
			 : "=a"(result), "=&c"(ok), "+D"(a), "+S"(b), "+d"(c), "+r"(r10), "+r"(r8), "+r"(r9)
			 : "a"(nr), "b"(bytes)
			 : "r11", "r12", "r13", "r14", "r15", "xmm7", "xmm15", "memory", "cc");
	ok = ok && a == before[0] && b == before[1] && c == before[2] && r10 == d && r8 == e && r9 == f;
	return ok && memcmp(bytes, bytes + 32, 32) == 0 ? result : -LONG;
}

static long now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static struct timespec after_ns(long ns)
{
	return (struct timespec){ ns / 1000000000, ns % 1000000000 };
}

static int nap(struct waiter *w)
{
	struct timespec ts = { 0, NAP_NS }, left = { 0 };
	long begun = now_ns();

	w->result = held_syscall(SYS_nanosleep, (long)&ts, (long)&left, 0, 0, 0, 0);
	return w->result != 0 || now_ns() - begun < NAP_NS;
}

static int nap_until(struct waiter *w)
{
	long end = now_ns() + NAP_NS;
	struct timespec ts = after_ns(end);

	w->result = held_syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, (long)&ts, 0, 0, 0);
	return w->result != 0 || now_ns() < end;
}

static int short_poll(struct waiter *w)
{
	long begun = now_ns();

	w->result = held_syscall(SYS_poll, 0, 0, NAP_NS / 1000000, 0, 0, 0);
	return w->result != 0 || now_ns() - begun < NAP_NS;
}

static int short_futex(struct waiter *w)
{
	struct timespec ts = { 0, NAP_NS };
	long begun = now_ns();

	w->result = held_syscall(SYS_futex, (long)&w->word, FUTEX_WAIT_PRIVATE, 0, (long)&ts, 0, 0);
	return w->result != -ETIMEDOUT || now_ns() - begun < NAP_NS;
}

static void write_byte(struct waiter *w)
{
	check(write(w->fds[1], "x", 1) == 1);
}

static int take_byte(struct waiter *w, bool as_expected)
{
	char byte;

	return !as_expected || read(w->fds[0], &byte, 1) != 1;
}

static int in_read(struct waiter *w)
{
	char byte = 0;

	w->result = held_syscall(SYS_read, w->fds[0], (long)&byte, 1, 0, 0, 0);
	return w->result != 1 || byte != 'x';
}

static int in_poll(struct waiter *w)
{
	struct pollfd p = { .fd = w->fds[0], .events = POLLIN };

	w->result = held_syscall(SYS_poll, (long)&p, 1, -1, 0, 0, 0);
	return take_byte(w, w->result == 1 && p.revents == POLLIN);
}

static int in_ppoll(struct waiter *w)
{
	struct pollfd p = { .fd = w->fds[0], .events = POLLIN };
	struct timespec ts = { LONG, 0 };
	uint64_t mask = ~0ull;

	w->result = held_syscall(SYS_ppoll, (long)&p, 1, (long)&ts, (long)&mask, sizeof(mask), 0);
	return take_byte(w, w->result == 1 && p.revents == POLLIN);
}

static int in_select(struct waiter *w)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(w->fds[0], &set);
	w->result = held_syscall(SYS_select, w->fds[0] + 1, (long)&set, 0, 0, 0, 0);
	return take_byte(w, w->result == 1 && FD_ISSET(w->fds[0], &set));
}

static int in_pselect(struct waiter *w)
{
	struct timespec ts = { LONG, 0 };
	fd_set set;

	FD_ZERO(&set);
	FD_SET(w->fds[0], &set);
	w->result = held_syscall(SYS_pselect6, w->fds[0] + 1, (long)&set, 0, 0, (long)&ts, 0);
	return take_byte(w, w->result == 1 && FD_ISSET(w->fds[0], &set) && ts.tv_sec < LONG);
}

static int in_epoll(struct waiter *w)
{
	struct epoll_event e = { 0 };

	do
		w->result = held_syscall(SYS_epoll_wait, w->epoll, (long)&e, 1, LONG * LONG, 0, 0);
	while (w->result == -EINTR && compared);
	return take_byte(w, w->result == 1 && e.data.u64 == 42);
}

static int in_epoll_pwait(struct waiter *w)
{
	struct epoll_event e = { 0 };
	uint64_t mask = ~0ull;

	do
		w->result = held_syscall(SYS_epoll_pwait, w->epoll, (long)&e, 1, -1, (long)&mask, sizeof(mask));
	while (w->result == -EINTR && compared);
	return take_byte(w, w->result == 1 && e.data.u64 == 42);
}

static int in_futex(struct waiter *w)
{
	w->result = held_syscall(SYS_futex, (long)&w->word, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0);
	if (w->result == -EAGAIN && w->word)
		w->result = 0; /* woken before it waited */
	w->word = 0;
	return w->result != 0;
}

static int in_futex_timed(struct waiter *w)
{
	struct timespec ts = { LONG, 0 };

	w->result = held_syscall(SYS_futex, (long)&w->word, FUTEX_WAIT, 0, (long)&ts, 0, 0);
	if (w->result == -EAGAIN && w->word)
		w->result = 0;
	w->word = 0;
	return w->result != 0;
}

static int in_futex_until(struct waiter *w)
{
	struct timespec ts = after_ns(now_ns() + LONG * 1000000000l);

	w->result = held_syscall(SYS_futex, (long)&w->word, FUTEX_WAIT_BITSET_PRIVATE, 0, (long)&ts, 0, ~0u);
	if (w->result == -EAGAIN && w->word)
		w->result = 0;
	w->word = 0;
	return w->result != 0;
}

static void wake_futex(struct waiter *w)
{
	w->word = 1;
	syscall(SYS_futex, &w->word, w->wait == in_futex_timed ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static int in_sigtimedwait(struct waiter *w)
{
	struct timespec ts = { LONG, 0 };
	uint64_t set = 1ull << (w->signo - 1);

	do
		w->result = held_syscall(SYS_rt_sigtimedwait, (long)&set, 0, (long)&ts, sizeof(set), 0, 0);
	while (w->result == -EINTR && compared);
	return w->result != w->signo;
}

static __thread volatile sig_atomic_t handled;

static void handler(int signo)
{
	handled = signo;
}

static void send_signal(struct waiter *w)
{
	check_call(syscall(SYS_tgkill, getpid(), w->tid, w->signo));
}

static int in_pause(struct waiter *w)
{
	sigset_t set;

	handled = 0;
	sigemptyset(&set);
	sigaddset(&set, w->signo);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	w->result = held_syscall(SYS_pause, 0, 0, 0, 0, 0, 0);
	return w->result != -EINTR || handled != w->signo;
}

static int in_sigsuspend(struct waiter *w)
{
	uint64_t mask = ~(1ull << (w->signo - 1)), now;

	handled = 0;
	w->result = held_syscall(SYS_rt_sigsuspend, (long)&mask, sizeof(mask), 0, 0, 0, 0);
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &now, sizeof(now));
	return w->result != -EINTR || handled != w->signo || !(now >> (w->signo - 1) & 1);
}

static int in_wait(struct waiter *w)
{
	int status = 0;
	pid_t child = fork();

	if (child == 0) {
		char byte;

		_exit(read(w->fds[0], &byte, 1) == 1 ? 7 : 8);
	}
	w->child = child;
	w->result = held_syscall(SYS_wait4, child, (long)&status, 0, 0, 0, 0);
	return w->result != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7;
}

static int in_semop(struct waiter *w)
{
	struct sembuf down = { 0, -1, 0 };

	do
		w->result = held_syscall(SYS_semop, w->semaphore, (long)&down, 1, 0, 0, 0);
	while (w->result == -EINTR && compared);
	return w->result != 0;
}

static void raise_semaphore(struct waiter *w)
{
	struct sembuf up = { 0, 1, 0 };

	check_call(semop(w->semaphore, &up, 1));
}

static struct waiter waiters[] = {
	{ .name = "nanosleep", .wait = nap, .endless = true },
	{ .name = "clock_nanosleep until", .wait = nap_until, .endless = true },
	{ .name = "poll for a time", .wait = short_poll, .endless = true },
	{ .name = "futex for a time", .wait = short_futex, .endless = true },
	{ .name = "read", .wait = in_read, .release = write_byte },
	{ .name = "poll", .wait = in_poll, .release = write_byte },
	{ .name = "ppoll", .wait = in_ppoll, .release = write_byte },
	{ .name = "select", .wait = in_select, .release = write_byte },
	{ .name = "pselect", .wait = in_pselect, .release = write_byte },
	{ .name = "epoll_wait", .wait = in_epoll, .release = write_byte },
	{ .name = "epoll_pwait", .wait = in_epoll_pwait, .release = write_byte },
	{ .name = "futex", .wait = in_futex, .release = wake_futex },
	{ .name = "shared futex with timeout", .wait = in_futex_timed, .release = wake_futex },
	{ .name = "futex until", .wait = in_futex_until, .release = wake_futex },
	{ .name = "sigtimedwait", .wait = in_sigtimedwait, .release = send_signal, .signo = 40 },
	{ .name = "pause", .wait = in_pause, .release = send_signal, .signo = 41 },
	{ .name = "sigsuspend", .wait = in_sigsuspend, .release = send_signal, .signo = 42 },
	{ .name = "wait4", .wait = in_wait, .release = write_byte },
	{ .name = "semop", .wait = in_semop, .release = raise_semaphore },
};
enum { WAITERS = sizeof(waiters) / sizeof(waiters[0]) };

static void *wait_main(void *arg)
{
	struct waiter *w = arg;

	local = (uint64_t)w;
	w->tid = (pid_t)syscall(SYS_gettid);
	for (;;) {
		int failed = w->wait(w);

		if (failed || local != (uint64_t)w)
			w->failed++;
		w->done++;
	}
	return NULL;
}

static void wait_prepare(struct waiter *w)
{
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = 42 };

	check_call(pipe(w->fds));
	if (w->wait == in_epoll || w->wait == in_epoll_pwait) {
		w->epoll = (int)check_call(epoll_create1(0));
		check_call(epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->fds[0], &e));
	}
	if (w->wait == in_semop)
		w->semaphore = (int)check_call(semget(IPC_PRIVATE, 1, 0600));
	if (w->signo)
		signal(w->signo, handler);
	check(pthread_create(&w->thread, NULL, wait_main, w) == 0);
}

/* Until each is where it will wait. */
static void settle(void)
{
	for (int i = 0; i < WAITERS; i++)
		while (!waiters[i].tid || (waiters[i].wait == in_wait && !waiters[i].child))
			usleep(500);
	usleep(20000);
}

/* The IPC object would outlive the program. */
static void remove_semaphore(void)
{
	for (int i = 0; i < WAITERS; i++)
		if (waiters[i].wait == in_semop && waiters[i].tid)
			semctl(waiters[i].semaphore, 0, IPC_RMID);
}

void setup(const char *argument)
{
	sigset_t set;

	compared = argument != NULL;
	sigemptyset(&set);
	for (int signo = 40; signo <= 42; signo++)
		sigaddset(&set, signo);
	sigprocmask(SIG_BLOCK, &set, NULL);
	spin_fill();
	leaders_start();
	for (int i = 0; i < WAITERS; i++)
		wait_prepare(&waiters[i]);
	atexit(remove_semaphore);
	spin_start();
	sequence_start();
	settle();
}

static _Noreturn void waiter_failed(const struct waiter *w, const char *how)
{
	errno = 0;
	fprintf(stderr, "%s: %s, result %ld\n", w->name, how, w->result);
	check_failed(w->name, __LINE__, how, w->result);
}

void verify(void)
{
	spin_verify();
	leaders_verify();
	sequence_verify();
	for (int i = 0; i < WAITERS; i++) {
		struct waiter *w = &waiters[i];

		if (w->failed)
			waiter_failed(w, "was disturbed");
		w->child = w->wait == in_wait ? w->child : 0;
		if (!w->endless && w->done != w->before)
			waiter_failed(w, "returned early");
		w->before = w->done;
		if (w->release)
			w->release(w);
	}
	for (int i = 0; i < WAITERS; i++) {
		struct waiter *w = &waiters[i];

		for (int ms = 0; w->done == w->before; ms++) {
			if (ms > PATIENCE_MS)
				waiter_failed(w, "does not return");
			usleep(1000);
		}
		if (w->failed)
			waiter_failed(w, "returned something else");
		w->before = w->endless ? w->before : w->before + 1;
	}
	settle();
}
