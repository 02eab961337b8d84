/* SPDX-License-Identifier: Apache-2.0 */

/*
 * without UID GID COMMAND...: run COMMAND as that user on what looks like an older
 * kernel: a seccomp filter answers as a kernel would that does not know
 * clone3, PAGEMAP_SCAN, userfaultfd, kcmp, PR_TIMER_CREATE_RESTORE_IDS, guard regions,
 * the list of membarrier registrations, PTRACE_GET_RSEQ_CONFIGURATION, PROCMAP_QUERY,
 * process_madvise, openat2, faccessat2, epoll_pwait2, memfd_secret, statmount, listmount. With WITHOUT=CALL:ERRNO
 * in the environment, two numbers, only that system call is answered so. Started by root: with no_new_privs instead,
 * COMMAND would lose its file capability.
 */

#include <errno.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ANY = -1, PAGEMAP_SCAN_LOW = 0xc0606610, RSEQ_CONFIGURATION = 0x420f, TIMER_IDS = 77, GUARD_INSTALL = 102,
       REGISTRATIONS = 512, PROCMAP_QUERY_LOW = 0xc0686611, STATMOUNT = 457, LISTMOUNT = 458 };

static struct {
	unsigned nr;
	int arg; /* which argument decides, or ANY */
	unsigned value, answer;
} rules[] = {
	{ SYS_ioctl, 1, PAGEMAP_SCAN_LOW, ENOTTY },
	{ SYS_clone3, ANY, 0, ENOSYS },
	{ SYS_userfaultfd, ANY, 0, ENOSYS },
	{ SYS_kcmp, ANY, 0, ENOSYS },
	{ SYS_prctl, 0, TIMER_IDS, EINVAL },
	{ SYS_madvise, 2, GUARD_INSTALL, EINVAL },
	{ SYS_membarrier, 0, REGISTRATIONS, EINVAL },
	{ SYS_ptrace, 0, RSEQ_CONFIGURATION, EIO },
	{ SYS_ioctl, 1, PROCMAP_QUERY_LOW, ENOTTY },
	{ SYS_process_madvise, ANY, 0, ENOSYS },
	{ SYS_openat2, ANY, 0, ENOSYS },
	{ SYS_faccessat2, ANY, 0, ENOSYS },
	{ SYS_epoll_pwait2, ANY, 0, ENOSYS },
	{ SYS_memfd_secret, ANY, 0, ENOSYS },
	{ STATMOUNT, ANY, 0, ENOSYS },
	{ LISTMOUNT, ANY, 0, ENOSYS },
};

enum { RULES = sizeof(rules) / sizeof(rules[0]), PER_RULE = 5 };

int main(int argc, char **argv)
{
	struct sock_filter code[RULES * PER_RULE + 1];
	struct sock_fprog program = { .filter = code };

	const char *one = getenv("WITHOUT");
	size_t n = one ? 1 : RULES;

	if (argc < 4)
		return 2;
	if (one) {
		rules[0].arg = ANY;
		if (sscanf(one, "%u:%u", &rules[0].nr, &rules[0].answer) != 2)
			return 2;
	}
	for (size_t i = 0; i < n; i++) {
		unsigned arg = rules[i].arg == ANY ? 0 : (unsigned)rules[i].arg;
		struct sock_filter rule[PER_RULE] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, rules[i].nr, 0, 3),
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) + 8 * arg),
			rules[i].arg == ANY ? (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JA, 0, 0, 0)
					    : (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, rules[i].value, 0, 1),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | rules[i].answer),
		};

		for (int k = 0; k < PER_RULE; k++)
			code[program.len++] = rule[k];
	}
	code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0 || setgroups(0, NULL) < 0 ||
	    initgroups(getenv("USER"), (gid_t)atoi(argv[2])) < 0 || setgid((gid_t)atoi(argv[2])) < 0 ||
	    setuid((uid_t)atoi(argv[1])) < 0) {
		perror("without");
		return 1;
	}
	execvp(argv[3], argv + 3);
	perror(argv[3]);
	return 1;
}
