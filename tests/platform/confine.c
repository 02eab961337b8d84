/* SPDX-License-Identifier: Apache-2.0 */

/*
 * confine WHAT COMMAND...: run COMMAND where a seccomp filter forbids some of
 * what torpor calls. Started by root it needs no no_new_privs, so that a file
 * capability stays in force.
 *
 *   docker       what Docker's default profile forbids a process without capabilities, among what torpor calls
 *   docker-ptrace  ... and one that was started with --cap-add SYS_PTRACE
 *   ptrace       tracing any process (EPERM), as where Yama's ptrace_scope is 3
 *   clone3       no clone3 (ENOSYS), as before Linux 5.3
 *   namespaces   no new namespaces (EPERM)
 */

#include <errno.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NAMESPACES (CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUSER | CLONE_NEWUTS)

/* All of a call (mask 0), or where its first argument has a bit of the mask. */
struct rule {
	unsigned nr, mask, answer;
};

static const struct rule docker[] = {
	{ SYS_clone3, 0, ENOSYS },       { SYS_clone, NAMESPACES, EPERM }, { SYS_unshare, 0, EPERM },
	{ SYS_setns, 0, EPERM },         { SYS_mount, 0, EPERM },          { SYS_umount2, 0, EPERM },
	{ SYS_userfaultfd, 0, EPERM },   { SYS_open_by_handle_at, 0, EPERM }, { SYS_io_uring_setup, 0, EPERM },
	{ SYS_bpf, 0, EPERM },           { SYS_perf_event_open, 0, EPERM }, { SYS_fanotify_init, 0, EPERM },
	{ 0 },
};
static const struct rule docker_more[] = {
	{ SYS_kcmp, 0, EPERM }, { SYS_pidfd_getfd, 0, EPERM }, { SYS_process_madvise, 0, EPERM }, { 0 },
};
static const struct rule ptrace_rules[] = { { SYS_ptrace, 0, EPERM }, { 0 } };
static const struct rule clone3_rules[] = { { SYS_clone3, 0, ENOSYS }, { 0 } };
static const struct rule namespace_rules[] = {
	{ SYS_clone, NAMESPACES, EPERM }, { SYS_unshare, 0, EPERM }, { SYS_clone3, 0, ENOSYS }, { 0 },
};

static const struct {
	const char *name;
	const struct rule *rules, *more;
} sets[] = {
	{ "docker", docker, docker_more },     { "docker-ptrace", docker, NULL }, { "ptrace", ptrace_rules, NULL },
	{ "clone3", clone3_rules, NULL },      { "namespaces", namespace_rules, NULL },
};

enum { SETS = sizeof(sets) / sizeof(sets[0]), CODE_MAX = 256 };

static int confine(const struct rule *rules)
{
	static struct sock_filter code[CODE_MAX];
	struct sock_fprog program = { .filter = code };

	if (!rules)
		return 0;
	for (const struct rule *r = rules; r->answer; r++) {
		const struct sock_filter rule[] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, r->nr, 0, 3),
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
			r->mask ? (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, r->mask, 0, 1)
				: (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JA, 0, 0, 0),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | r->answer),
		};

		memcpy(code + program.len, rule, sizeof(rule));
		program.len += sizeof(rule) / sizeof(rule[0]);
	}
	code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int main(int argc, char **argv)
{
	for (int i = 0; argc > 2 && i < SETS; i++) {
		if (strcmp(argv[1], sets[i].name) != 0)
			continue;
		if (confine(sets[i].rules) < 0 || confine(sets[i].more) < 0)
			perror("confine");
		else
			execvp(argv[2], argv + 2);
		perror(argv[2]);
		return 1;
	}
	fputs("usage: confine docker|docker-ptrace|ptrace|clone3|namespaces COMMAND...\n", stderr);
	return 2;
}
