/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What probe.c lists, tried. Each runs in a process of its own, which it may spoil.
 * Returns 0 if it works, else -errno; more about the outcome goes into r->detail.
 */

#include "core/probe.h"

int probe_ptrace(const struct probe_run *r);
int probe_proc_mem(const struct probe_run *r);
int probe_pidfd_getfd(const struct probe_run *r);
int probe_tid_address(const struct probe_run *r);
int probe_ptrace_child(const struct probe_run *r);
int probe_vm_readv(const struct probe_run *r);
int probe_mm_map(const struct probe_run *r);
int probe_set_tid(const struct probe_run *r);
int probe_ns_last_pid(const struct probe_run *r);
int probe_user_ns(const struct probe_run *r);
int probe_pid_ns(const struct probe_run *r);
int probe_mount_ns(const struct probe_run *r);
int probe_time_ns(const struct probe_run *r);
int probe_vfork(const struct probe_run *r);
int probe_mm_exe(const struct probe_run *r);
int probe_map_files(const struct probe_run *r);
int probe_children(const struct probe_run *r);
int probe_kcmp(const struct probe_run *r);
int probe_sock_diag(const struct probe_run *r);
int probe_inet_diag(const struct probe_run *r);
int probe_pagemap_scan(const struct probe_run *r);
int probe_timer_ids(const struct probe_run *r);
int probe_userfaultfd(const struct probe_run *r);
int probe_tcp_repair(const struct probe_run *r);
int probe_procmap_query(const struct probe_run *r);
int probe_suspend_seccomp(const struct probe_run *r);
int probe_cgroup_freezer(const struct probe_run *r);
