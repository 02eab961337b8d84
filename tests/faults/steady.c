/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A program that knows when it was harmed. Its threads sit in one wait each, or
 * keep values in registers, in the red zone, in the flags, in memory; whoever
 * finds something that cannot be writes `bad REASON` and ends the program.
 *
 *   steady [TASKS]   that many child processes besides, each with some threads
 *   steady large     so much memory that a restore loads it before it makes the process
 *   steady storm     threads are born and die as fast as they can
 *   steady forks     processes are born and die as fast as they can
 *   steady exec      executes itself again and again
 *   steady brief     ends by itself after a moment
 *
 * SIGUSR1 asks for a check: when every thread has got further, `ok NUMBER EINTR`
 * is appended to the file `steady`, opened anew for each line. EINTR counts the
 * waits that ended with it although no signal was handled: first those of
 * epoll_wait and sigtimedwait, which the kernel ends so at every stop, then those
 * of nanosleep, poll and futex, which it continues.
 */

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	MS = 1000000,
	MEMORY = 2 << 20, MEMORY_LARGE = 32 << 20,
	SPIN = 150000,
	THREADS_MAX = 32,
	CHECK_SECONDS = 20,
	FLAGS = 0xcd5, /* carry, parity, adjust, zero, sign, direction, overflow */
};

static _Atomic uint64_t steps[THREADS_MAX];
static _Atomic unsigned n_steps;
static _Atomic uint64_t interrupted, broken_off;
static pid_t self;
static int n_children;
static size_t memory = MEMORY;

/* ---- reporting ---- */

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *fmt, ...)
{
	int fd = open("steady", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	va_list ap;

	va_start(ap, fmt);
	vdprintf(fd, fmt, ap);
	va_end(ap);
	close(fd);
}

#define expect(condition, ...)                                                                                \
	do {                                                                                                  \
		if (!(condition)) {                                                                           \
			say("bad " __VA_ARGS__);                                                              \
			_exit(1);                                                                             \
		}                                                                                             \
	} while (0)

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A sleep that must neither end early nor be interrupted. */
static void rest(uint64_t ns)
{
	struct timespec ts = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
	uint64_t begun = now_ns();

	while (nanosleep(&ts, &ts) < 0) {
		expect(errno == EINTR, "nanosleep: %s\n", strerror(errno));
		broken_off++;
	}
	expect(now_ns() - begun >= ns, "nanosleep came back after %lu of %lu ns\n", (unsigned long)(now_ns() - begun),
	       (unsigned long)ns);
}

/* ---- registers ---- */

struct registers {
	uint8_t vector[16][32];
	uint64_t red[16];
	uint64_t flags;
	uint64_t general[13]; /* rax rbx rdx rsi rdi rbp r8 ... r14 */
};

_Static_assert(sizeof(struct registers) == 512 + 128 + 8 + 13 * 8, "offsets are used below");

/* Load `in`, turn round `loops` times without touching any of it, and put all into `out`. */
void registers_spin(const struct registers *in, uint64_t loops, struct registers *out);
extern uint8_t registers_wide;

#define EACH_VECTOR(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)
#define LOAD_YMM(n) "vmovdqu 32*" #n "(%rdi), %ymm" #n "\n"
#define LOAD_XMM(n) "movdqu 32*" #n "(%rdi), %xmm" #n "\n"
#define STORE_YMM(n) "vmovdqu %ymm" #n ", 32*" #n "(%rax)\n"
#define STORE_XMM(n) "movdqu %xmm" #n ", 32*" #n "(%rax)\n"
#define LOAD_RED(n) "mov 512+8*" #n "(%rdi), %rax\n mov %rax, -128+8*" #n "(%rsp)\n"
#define STORE_RED(n) "mov -128+8*" #n "(%rsp), %rcx\n mov %rcx, 512+8*" #n "(%rax)\n"

__asm__(".globl registers_spin\n"
	"registers_spin:\n"
	"push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n push %rdx\n"
	"lea -512(%rsp), %rsp\n"
	"cmpb $0, registers_wide(%rip)\n"
	"je 1f\n" EACH_VECTOR(LOAD_YMM) "jmp 2f\n"
	"1:\n" EACH_VECTOR(LOAD_XMM)
	"2:\n"
	"mov %rsi, %rcx\n"
	"pushq 640(%rdi)\n popfq\n" EACH_VECTOR(LOAD_RED)
	"mov 648(%rdi), %rax\n mov 656(%rdi), %rbx\n mov 664(%rdi), %rdx\n mov 672(%rdi), %rsi\n"
	"mov 688(%rdi), %rbp\n mov 696(%rdi), %r8\n mov 704(%rdi), %r9\n mov 712(%rdi), %r10\n"
	"mov 720(%rdi), %r11\n mov 728(%rdi), %r12\n mov 736(%rdi), %r13\n mov 744(%rdi), %r14\n"
	"mov 680(%rdi), %rdi\n"
	"3: jrcxz 4f\n lea -1(%rcx), %rcx\n jmp 3b\n"
	"4: mov %rax, (%rsp)\n mov 512(%rsp), %rax\n"
	"mov %rbx, 656(%rax)\n mov %rdx, 664(%rax)\n mov %rsi, 672(%rax)\n mov %rdi, 680(%rax)\n"
	"mov %rbp, 688(%rax)\n mov %r8, 696(%rax)\n mov %r9, 704(%rax)\n mov %r10, 712(%rax)\n"
	"mov %r11, 720(%rax)\n mov %r12, 728(%rax)\n mov %r13, 736(%rax)\n mov %r14, 744(%rax)\n"
	"mov (%rsp), %rcx\n mov %rcx, 648(%rax)\n" EACH_VECTOR(STORE_RED)
	"pushfq\n popq 640(%rax)\n cld\n"
	"cmpb $0, registers_wide(%rip)\n"
	"je 5f\n" EACH_VECTOR(STORE_YMM) "vzeroupper\n jmp 6f\n"
	"5:\n" EACH_VECTOR(STORE_XMM)
	"6: lea 512(%rsp), %rsp\n"
	"pop %rdx\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n");

uint8_t registers_wide;

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void check_registers(uint64_t *seed)
{
	struct registers in, out;
	uint64_t *words = (uint64_t *)&in;

	for (size_t i = 0; i < sizeof(in) / 8; i++)
		words[i] = next_random(seed);
	in.flags = (in.flags & FLAGS) | 0x202;
	out = in;
	for (size_t i = 0; i < sizeof(out); i++)
		((uint8_t *)&out)[i] ^= 0xff;
	if (!registers_wide)
		for (int i = 0; i < 16; i++)
			memcpy(out.vector[i] + 16, in.vector[i] + 16, 16);
	registers_spin(&in, SPIN, &out);
	expect(!((in.flags ^ out.flags) & FLAGS), "flags %lx became %lx\n", in.flags, out.flags);
	for (int i = 0; i < 13; i++)
		expect(in.general[i] == out.general[i], "register %d: %lx became %lx\n", i, in.general[i], out.general[i]);
	for (int i = 0; i < 16; i++) {
		expect(in.red[i] == out.red[i], "red zone %d: %lx became %lx\n", i, in.red[i], out.red[i]);
		expect(memcmp(in.vector[i], out.vector[i], 32) == 0, "vector register %d\n", i);
	}
}

/* ---- the threads ---- */

static int numbers[2], wakes[2], quiet[2], epoll_fd, event_fd, blocked_futex, pair_futex;
static _Atomic uint64_t alarms;

static void *run_registers(void *arg)
{
	_Atomic uint64_t *step = arg;
	uint64_t seed = (uint64_t)(uintptr_t)arg | 1;

	for (;;) {
		check_registers(&seed);
		(*step)++;
		rest(MS / 2);
	}
	return NULL;
}

static void on_alarm(int signo)
{
	(void)signo;
	alarms++;
}

/* The only thread that takes SIGALRM: a thousand times a second, in the middle of its registers. */
static void *run_alarmed(void *arg)
{
	_Atomic uint64_t *step = arg;
	uint64_t seed = 77, before;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	for (;;) {
		before = alarms;
		while (alarms < before + 2) {
			check_registers(&seed);
			usleep(300); /* is interrupted, rightly */
		}
		(*step)++;
	}
	return NULL;
}

static uint64_t sum(const uint64_t *words, size_t n)
{
	uint64_t s = 0;

	for (size_t i = 0; i < n; i++)
		s = (s << 7 | s >> 57) ^ words[i];
	return s;
}

static void *run_memory(void *arg)
{
	_Atomic uint64_t *step = arg;
	uint64_t *words = malloc(memory), seed = 4711, n = memory / 8, expected;

	for (uint64_t i = 0; i < n; i++)
		words[i] = next_random(&seed);
	for (;;) {
		for (int i = 0; i < 64; i++)
			words[next_random(&seed) % n] = next_random(&seed);
		expected = sum(words, n);
		rest(2 * MS);
		expect(sum(words, n) == expected, "the checksum of the memory\n");
		(*step)++;
	}
}

static void *run_nanosleep(void *arg)
{
	_Atomic uint64_t *step = arg;

	for (;; (*step)++)
		rest(3 * MS);
	return NULL;
}

static void *run_poll(void *arg)
{
	_Atomic uint64_t *step = arg;

	for (;; (*step)++) {
		struct pollfd p = { quiet[0], POLLIN, 0 };
		int r = poll(&p, 1, 4);

		if (r < 0 && errno == EINTR)
			broken_off++;
		else
			expect(r == 0, "poll: %d, %s\n", r, strerror(errno));
	}
}

static void *run_futex(void *arg)
{
	_Atomic uint64_t *step = arg;

	for (;; (*step)++) {
		struct timespec ts = { 0, 5 * MS };
		long r = syscall(SYS_futex, &pair_futex, FUTEX_WAIT_PRIVATE, 0, &ts, NULL, 0);

		if (r < 0 && errno == EINTR)
			broken_off++;
		else
			expect(r < 0 && errno == ETIMEDOUT, "futex: %ld, %s\n", r, strerror(errno));
	}
}

/* Writes consecutive numbers; run_read() gets them all. */
static void *run_write(void *arg)
{
	_Atomic uint64_t *step = arg;

	for (uint64_t n = 1;; n++, (*step)++) {
		ssize_t r = write(numbers[1], &n, sizeof(n));

		expect(r == sizeof(n), "write: %zd, %s\n", r, strerror(errno));
		rest(3 * MS);
	}
}

static void *run_read(void *arg)
{
	_Atomic uint64_t *step = arg;

	for (uint64_t n = 1;; n++, (*step)++) {
		uint64_t got = 0;
		ssize_t r = read(numbers[0], &got, sizeof(got));

		expect(r == sizeof(got), "read: %zd, %s\n", r, strerror(errno));
		expect(got == n, "number %lu came instead of %lu\n", got, n);
	}
}

static void *run_epoll(void *arg)
{
	_Atomic uint64_t *step = arg;

	for (;; (*step)++) {
		struct epoll_event event;
		int r = epoll_wait(epoll_fd, &event, 1, 5);

		if (r < 0 && errno == EINTR)
			interrupted++;
		else
			expect(r == 0, "epoll_wait: %d, %s\n", r, strerror(errno));
	}
}

static void *run_sigtimedwait(void *arg)
{
	_Atomic uint64_t *step = arg;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	for (;; (*step)++) {
		int r = sigtimedwait(&set, NULL, &(struct timespec){ 0, 5 * MS });

		if (r < 0 && errno == EINTR)
			interrupted++;
		else
			expect(r < 0 && errno == EAGAIN, "sigtimedwait: %d, %s\n", r, strerror(errno));
	}
}

/* These three wait for ever, until a check wakes them. */
static void *run_deep_read(void *arg)
{
	_Atomic uint64_t *step = arg;
	char c;

	for (;; (*step)++) {
		ssize_t r = read(wakes[0], &c, 1);

		expect(r == 1 && c == 'w', "deep read: %zd, %s\n", r, strerror(errno));
	}
}

static void *run_deep_poll(void *arg)
{
	_Atomic uint64_t *step = arg;
	uint64_t n;

	for (;; (*step)++) {
		struct pollfd p = { event_fd, POLLIN, 0 };
		int r = poll(&p, 1, -1);

		if (r < 0 && errno == EINTR) {
			broken_off++;
			continue;
		}
		expect(r == 1, "deep poll: %d, %s\n", r, strerror(errno));
		expect(read(event_fd, &n, sizeof(n)) == sizeof(n), "eventfd: %s\n", strerror(errno));
	}
}

static void *run_deep_futex(void *arg)
{
	_Atomic uint64_t *step = arg;
	int seen = 0;

	for (;; (*step)++) {
		while (atomic_load((_Atomic int *)&blocked_futex) == seen) {
			long r = syscall(SYS_futex, &blocked_futex, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);

			if (r < 0 && errno == EINTR)
				broken_off++;
			else
				expect(r == 0 || errno == EAGAIN, "deep futex: %s\n", strerror(errno));
		}
		seen++;
	}
}

static void begin(void *(*run)(void *))
{
	pthread_t thread;
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 128 * 1024);
	expect(pthread_create(&thread, &attr, run, &steps[n_steps++]) == 0, "pthread_create\n");
}

/* ---- the check ---- */

static void wake_the_deep(void)
{
	expect(write(wakes[1], "w", 1) == 1, "waking the reader\n");
	expect(write(event_fd, &(uint64_t){ 1 }, 8) == 8, "waking the poller\n");
	atomic_fetch_add((_Atomic int *)&blocked_futex, 1);
	syscall(SYS_futex, &blocked_futex, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void check(unsigned number)
{
	uint64_t before[THREADS_MAX], begun = now_ns();
	sigset_t mask;

	for (unsigned i = 0; i < n_steps; i++)
		before[i] = steps[i];
	wake_the_deep();
	for (unsigned i = 0; i < n_steps; i++) {
		while (steps[i] == before[i]) {
			expect(now_ns() - begun < CHECK_SECONDS * 1000000000ull, "thread %u does not go on\n", i);
			usleep(200);
		}
	}
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	expect(sigismember(&mask, SIGUSR1) && sigismember(&mask, SIGALRM) && !sigismember(&mask, SIGTERM), "signal mask\n");
	expect(getpid() == self, "PID\n");
	expect(!n_children || waitpid(-1, NULL, WNOHANG) == 0, "a child has ended\n");
	say("ok %u %lu %lu\n", number, (unsigned long)interrupted, (unsigned long)broken_off);
}

static void steady_begin(void)
{
	struct itimerval timer = { { 0, 1000 }, { 0, 1000 } };
	struct epoll_event event = { .events = EPOLLIN };
	unsigned a, b, c, d;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGALRM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	/* AVX, and the system saves its registers. */
	if (__get_cpuid(1, &a, &b, &c, &d) && (c >> 27 & 1) && (c >> 28 & 1))
		registers_wide = 1;
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	event_fd = eventfd(0, EFD_CLOEXEC);
	expect(pipe(numbers) == 0 && pipe(wakes) == 0, "pipe\n");
	event.data.fd = quiet[0];
	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, quiet[0], &event);
	signal(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &timer, NULL);
}

/* ---- child processes ---- */

static _Noreturn void child(pid_t parent)
{
	static void *(*const runs[])(void *) = { run_nanosleep, run_poll, run_futex };

	n_steps = 0;
	for (unsigned i = 0; i < 3; i++)
		begin(runs[i]);
	for (;;) {
		uint64_t before = steps[0];

		rest(200 * MS);
		expect(getppid() == parent, "the parent has ended\n");
		for (int i = 0; i < 5000 && steps[0] == before; i++)
			rest(MS);
		expect(steps[0] > before, "a thread of a child does not go on\n");
	}
}

static void begin_children(int n)
{
	pid_t parent = getpid();

	for (int i = 0; i < n; i++) {
		pid_t pid = fork();

		expect(pid >= 0, "fork\n");
		if (pid == 0)
			child(parent);
	}
}

/* ---- unrest ---- */

static void *storm_once(void *arg)
{
	return arg;
}

/* For ever: births and deaths of threads. */
static void *run_storm(void *arg)
{
	_Atomic uint64_t *step = arg;

	for (;; (*step)++) {
		pthread_t thread[4];

		for (int i = 0; i < 4; i++)
			expect(pthread_create(&thread[i], NULL, storm_once, arg) == 0, "pthread_create\n");
		for (int i = 0; i < 4; i++) {
			void *ret = NULL;

			expect(pthread_join(thread[i], &ret) == 0 && ret == arg, "pthread_join\n");
		}
	}
}

static void *run_forks(void *arg)
{
	_Atomic uint64_t *step = arg;

	for (;; (*step)++) {
		pid_t pid = *step % 3 ? fork() : vfork();
		int status = 0;

		if (pid == 0)
			_exit(7);
		expect(pid > 0, "fork: %s\n", strerror(errno));
		expect(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7,
		       "the status of a child is %x\n", status);
	}
}

static _Noreturn void serve(void)
{
	unsigned number = 0;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	for (;;) {
		int r = sigtimedwait(&set, NULL, &(struct timespec){ 1, 0 });

		if (r == SIGUSR1)
			check(++number);
		else if (errno == EINTR)
			interrupted++;
		else
			expect(errno == EAGAIN, "sigtimedwait: %s\n", strerror(errno));
	}
}

int main(int argc, char **argv)
{
	static void *(*const runs[])(void *) = {
		run_registers, run_alarmed, run_memory, run_nanosleep,	  run_poll,	 run_futex,	run_write,
		run_read,      run_epoll,   run_sigtimedwait, run_deep_read, run_deep_poll, run_deep_futex,
	};
	const char *mode = argc > 1 ? argv[1] : "0";

	self = getpid();
	if (strcmp(mode, "exec") == 0) {
		rest(MS);
		execv("/proc/self/exe", argv);
	}
	if (strcmp(mode, "brief") == 0) {
		rest((uint64_t)(argc > 2 ? atoi(argv[2]) : 10) * MS / 10);
		return 9;
	}
	if (strcmp(mode, "large") == 0)
		memory = MEMORY_LARGE;
	expect(pipe(quiet) == 0, "pipe\n");
	n_children = atoi(mode);
	begin_children(n_children);
	steady_begin();
	if (strcmp(mode, "storm") == 0 || strcmp(mode, "forks") == 0) {
		for (int i = 0; i < 2; i++)
			begin(mode[0] == 's' ? run_storm : run_forks);
		begin(run_deep_read), begin(run_deep_poll), begin(run_deep_futex);
	} else {
		for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++)
			begin(runs[i]);
	}
	say("ready\n");
	serve();
}
