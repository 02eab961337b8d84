# SPDX-License-Identifier: Apache-2.0
"""What /proc shows of processes, here or in the PID namespace of a tree of tier userns."""

import os
import re


class Stat:
    """The fields of /proc/PID/stat that matter here."""

    def __init__(self, text):
        self.comm = text[text.index("(") + 1:text.rindex(")")]
        rest = text[text.rindex(")") + 2:].split()
        self.state = rest[0]
        self.ppid, self.pgrp, self.session = int(rest[1]), int(rest[2]), int(rest[3])
        self.tpgid = int(rest[5])
        self.flags = int(rest[6])
        self.nice = int(rest[16])
        self.policy = int(rest[38])
        self.exit_code = int(rest[49])


def read(path, default=None):
    try:
        with open(path, "rb") as f:
            return f.read().decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return default


class View:
    """Whose /proc we look at: ours, or that of the PID namespace in which a tree of tier userns lives.

    Its tasks have the same PIDs there as before, so that what is compared need not know of it."""
    init = root = None  # PID of its init, out here, and of the tree's root, in there


def proc(path=""):
    return f"/proc/{View.init}/root/proc/{path}" if View.init else f"/proc/{path}"


def outside(pid):
    """The PID out here of a task that has this one where we look."""
    if not View.init:
        return pid
    for folder in os.listdir("/proc"):
        if not folder.isdigit() or not re.search(rf"^NSpid:.*\t{pid}$", read(f"/proc/{folder}/status", ""), re.M):
            continue
        try:
            if os.stat(f"/proc/{folder}/ns/pid").st_ino == os.stat(f"/proc/{View.init}/ns/pid").st_ino:
                return int(folder)
        except (FileNotFoundError, ProcessLookupError):
            pass
    raise ProcessLookupError(f"{pid} is not in the namespace of {View.init}")


def kill(pid, signo):
    os.kill(outside(pid), signo)


def inside(pid):
    """The PID that a process has in its own namespace."""
    return int(re.search(r"^NSpid:.*?(\d+)$", read(f"/proc/{pid}/status", ""), re.M).group(1))


def stat_of(pid):
    text = read(proc(f"{pid}/stat"))
    return Stat(text) if text else None


def comm_of(pid):
    """Its name, or "": it may end at any time."""
    stat = stat_of(pid)
    return stat.comm if stat else ""


def state_of(pid):
    """The letter of its state, or ""."""
    stat = stat_of(pid)
    return stat.state if stat else ""


def in_foreground(root, name):
    """Does a task of this name below root run and have the terminal? Shells announce a job before they give it that."""
    return any(s.comm == name and s.tpgid == s.pgrp and s.state not in "TZ" for s in map(stat_of, tree_of(root)) if s)


def all_stats():
    try:
        stats = {int(p): stat_of(p) for p in os.listdir(proc()) if p.isdigit()}
    except FileNotFoundError:  # it is gone, and all in it
        return {}
    return {p: s for p, s in stats.items() if s}


def tree_of(root, stats=None):
    """The PIDs of root and all that descend from it, parents first."""
    stats = stats or all_stats()
    found = [root] if root in stats else []
    for pid in found:
        found += sorted(p for p, s in stats.items() if s.ppid == pid)
    return found


def trackers_of(root):
    """The processes that keep track of what the program writes (dump --track)."""
    def holds(pid):
        try:
            return any(re.search(rf"^Pid:\t{root}$", read(proc(f"{pid}/fdinfo/{fd}"), ""), re.M) for fd in os.listdir(proc(f"{pid}/fdinfo")))
        except (FileNotFoundError, ProcessLookupError):
            return False
    return [pid for pid, stat in all_stats().items() if stat.comm == "torpor-track" and stat.state != "Z" and holds(pid)]


def kib(pid, field):
    """Of a process, one of the sums over all its mappings."""
    fields = dict(line.split(":", 1) for line in read(proc(f"{pid}/smaps_rollup")).splitlines()[1:])
    return int(fields[field].split()[0])


def threads_of(pid):
    try:
        return sorted(int(t) for t in os.listdir(proc(f"{pid}/task")))
    except (FileNotFoundError, ProcessLookupError):
        return []
