# SPDX-License-Identifier: Apache-2.0
"""The portrait of a tree that stands still: all that /proc shows of it, and what differs between two."""

import os
import re
import signal

from procfs import proc, read, stat_of, threads_of, tree_of

STATUS_KEYS = """Name Umask Tgid Pid TracerPid Uid Gid Groups Threads SigPnd ShdPnd SigBlk SigIgn SigCgt CapInh CapPrm
CapEff CapBnd CapAmb NoNewPrivs Seccomp Seccomp_filters Cpus_allowed THP_enabled""".split()
# Of VmFlags, those that a program set, not those that the kernel derives.
VM_FLAGS = set("gd lo io sr rr dc de nr ht wf dd hg nh mg mt".split())
# Within these system calls (rt_sigsuspend, pselect6, ppoll, epoll_pwait, epoll_pwait2) the signal mask is another.
MASKING_CALLS = "130 270 271 281 441".split()
TEMPORARY = "a temporary mask"
SIGCHLD_BIT = 1 << (signal.SIGCHLD - 1)
PROC_FILES = "cmdline environ auxv limits personality oom_score_adj coredump_filter".split()


def parse_smaps(text):
    """[start, end, perms, offset, dev, inode, name, flags] of each mapping, neighbours that are alike merged."""
    rows = []
    for line in text.splitlines():
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) (\S+) (\d+) *(.*)$", line)
        if head:
            start, end, perms, offset, dev, inode, name = head.groups()
            rows.append([int(start, 16), int(end, 16), perms, int(offset, 16), dev, inode, name, ""])
        elif line.startswith("VmFlags:"):
            rows[-1][7] = " ".join(sorted(set(line.split()[1:]) & VM_FLAGS))
    merged = []
    for row in rows:
        normalize_mapping(row)
        last = merged[-1] if merged else None
        if (last and last[1] == row[0] and last[2] == row[2] and last[4:] == row[4:]
                and (row[5] == "0" or last[3] + (last[1] - last[0]) == row[3])):
            last[1] = row[1]
        else:
            merged.append(row)
    for row in merged:
        if row[6] == "[stack]":
            row[0] = 0  # it may have grown
    return [describe_mapping(r) for r in merged]


def normalize_mapping(row):
    if row[6].endswith(" (deleted)"):
        row[4] = row[5] = "-"
        if not row[6].startswith(("/memfd:", "/dev/zero")):
            row[6] = "(deleted)"


def describe_mapping(row):
    return "%x-%x %s %x %s %s %s [%s]" % tuple(row)


class Names:
    """Gives the inode numbers of pipes and sockets small names: they may differ, who shares them may not."""

    def __init__(self):
        self.known = {}

    def plain(self, link):
        numbered = re.match(r"(pipe|socket):\[\d+\]$", link)
        if numbered:
            return f"{numbered.group(1)} {self.known.setdefault(link, len(self.known))}"
        if link.endswith(" (deleted)") and not link.startswith("/memfd:"):
            return "(deleted)"
        return link


SHOWN = "pos flags eventfd-count eventfd-semaphore sigmask Pid clockid it_interval".split() + ["settime flags"]


def portrait_fds(pid, names):
    fds = {}
    for fd in sorted(os.listdir(proc(f"{pid}/fd")), key=int):
        link = names.plain(os.readlink(proc(f"{pid}/fd/{fd}")))
        info = []
        for line in read(proc(f"{pid}/fdinfo/{fd}")).splitlines():
            key = line.split(":")[0].strip()
            if key in SHOWN or key.startswith("inotify"):
                info.append(" ".join(line.split()))
            elif key == "tfd":
                info.append(" ".join(line.split(" pos:")[0].split()))
            elif key == "lock":  # without its number, holder and inode
                info.append(" ".join(["lock", *line.split()[2:5], *line.split()[-2:]]))
        fds[f"fd {fd}"] = link + " | " + ", ".join(sorted(info))
    return fds


def portrait_task(pid, root, names):
    stat = stat_of(pid)
    about = {"group": stat.pgrp, "session": stat.session, "state": stat.state, "nice": stat.nice,
             "policy": stat.policy}
    if pid != root:
        about["parent"] = stat.ppid
    if stat.state == "Z":
        return {**about, "wait status": stat.exit_code}
    about["owner of /proc/PID"] = os.stat(proc(f"{pid}/environ")).st_uid
    for name in PROC_FILES:
        about[name] = read(proc(f"{pid}/{name}"))
    for name in ("exe", "cwd", "root"):
        about[name] = os.readlink(proc(f"{pid}/{name}"))
    for mapping in parse_smaps(read(proc(f"{pid}/smaps"))):
        about["map " + mapping] = True
    about.update(portrait_fds(pid, names))
    for tid in threads_of(pid):
        about.update(portrait_thread(pid, tid))
    return about


def portrait_thread(pid, tid):
    status = {}
    for line in read(proc(f"{pid}/task/{tid}/status")).splitlines():
        key, _, value = line.partition(":")
        if key in STATUS_KEYS:
            status[key] = " ".join(value.split())
    call = read(proc(f"{pid}/task/{tid}/syscall"), "").split(" ")[0]
    pending = int(status["ShdPnd"], 16)
    # Stopping its children sent it a SIGCHLD: it is pending, or the handler is about to run with a mask of its own.
    if call in MASKING_CALLS or pending & SIGCHLD_BIT:
        status["SigBlk"] = TEMPORARY
    status["ShdPnd"] = f"{pending & ~SIGCHLD_BIT:016x}"
    return {f"thread {tid} {key}": value for key, value in status.items()}


def portrait(root):
    names = Names()
    return {pid: portrait_task(pid, root, names) for pid in tree_of(root)}


def differences(before, after):
    found = []
    for pid in sorted(set(before) | set(after)):
        a, b = before.get(pid), after.get(pid)
        if a is None or b is None:
            found.append(f"task {pid}: " + ("is new" if a is None else "is missing"))
            continue
        for key in sorted(set(a) | set(b)):
            if a.get(key) != b.get(key) and a.get(key) != TEMPORARY:
                found.append(f"task {pid}: {key}: before {a.get(key)!r}, after {b.get(key)!r}")
    return found
