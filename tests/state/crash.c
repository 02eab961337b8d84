/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A program of one thread, and what it has set up for its own crash (SIGSEGV): to ignore it, to catch it on an alternate
 * stack, to have it blocked, or even pending.
 */

#include "common.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct { /* as the kernel knows it */
	uint64_t handler, flags, restorer, mask;
} action, now;

static char altstack[65536], *volatile nothing;
static sigjmp_buf back;
static void *volatile crashed_at;
static bool catches, blocks, pends;

static void on_crash(int signo, siginfo_t *info, void *context)
{
	char here;

	(void)signo;
	(void)context;
	crashed_at = &here >= altstack && &here < altstack + sizeof(altstack) ? info->si_addr : NULL;
	siglongjmp(back, 1);
}

static void set_action(void (*function)(int, siginfo_t *, void *), int flags)
{
	struct sigaction sa = { .sa_sigaction = function, .sa_flags = flags };

	sigaddset(&sa.sa_mask, SIGUSR2);
	check_call(sigaction(SIGSEGV, &sa, NULL));
}

void setup(const char *argument)
{
	stack_t ss = { .ss_sp = altstack, .ss_size = sizeof(altstack) };
	sigset_t set;

	catches = strcmp(argument, "caught") == 0;
	pends = strcmp(argument, "pending") == 0;
	blocks = pends || strcmp(argument, "blocked") == 0;
	if (strcmp(argument, "ignored") == 0)
		set_action((void (*)(int, siginfo_t *, void *))(void *)SIG_IGN, SA_RESTART);
	if (catches) {
		check_call(sigaltstack(&ss, NULL));
		set_action(on_crash, SA_SIGINFO | SA_ONSTACK);
		nothing = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	}
	sigemptyset(&set);
	sigaddset(&set, SIGSEGV);
	check_call(sigprocmask(blocks ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL));
	if (pends)
		check_call(kill(getpid(), SIGSEGV));
	check_call(syscall(SYS_rt_sigaction, SIGSEGV, NULL, &action, 8));
}

static void verify_caught(void)
{
	if (sigsetjmp(back, 1) == 0) {
		*nothing = 1;
		check_failed(__FILE__, __LINE__, "a write to nothing does not crash", -1);
	}
	check(crashed_at == nothing);
}

void verify(void)
{
	siginfo_t info;
	sigset_t set;

	check_call(syscall(SYS_rt_sigaction, SIGSEGV, NULL, &now, 8));
	check(memcmp(&action, &now, sizeof(now)) == 0);
	check_call(sigprocmask(SIG_BLOCK, NULL, &set));
	check(sigismember(&set, SIGSEGV) == blocks);
	if (catches)
		verify_caught();
	sigemptyset(&set);
	sigaddset(&set, SIGSEGV);
	if (pends) {
		check(sigtimedwait(&set, &info, &(struct timespec){ 0 }) == SIGSEGV && info.si_code == SI_USER && info.si_pid == getpid());
		check_call(kill(getpid(), SIGSEGV));
	} else if (blocks) {
		check(sigtimedwait(&set, NULL, &(struct timespec){ 0 }) == -1 && errno == EAGAIN);
	}
}
