# SPDX-License-Identifier: Apache-2.0
"""Tier fork: no capability and no namespace; PIDs come up by forking."""

import os
import random
import re
import subprocess
import time

from harness import Failure, PYTHON, Skip, Steps, case, finish, read, stat_of, threads_of, tree_of

ROUND = 1 << 16  # PIDs that go by within a minute or so


def go_round():
    """For cases in which all PIDs come up, until it is the wanted one again."""
    pids = int(read("/proc/sys/kernel/pid_max"))
    if pids > ROUND:
        raise Skip(f"it takes too long until a PID comes up again: there are {pids}")


def hold(t, program="plain.py", labels=("step",)):
    t.setup.work_in("fork")
    steps = Steps(t, list(labels))
    root = t.start([PYTHON, "-B", t.target(program), *(["4"] if program == "plain.py" else [])])
    steps.advance(3, seconds=60)
    return root, steps


def woken(t, program, labels):
    go_round()
    root, steps = hold(t, program, labels)
    t.cycle(root, static=True)
    steps.advance(3)
    finish(t, root, steps)


@case("fork-python")
def python(t):
    woken(t, "plain.py", ["step"])


@case("fork-threads")
def threads(t):
    woken(t, "threads.py", [f"thread{k}" for k in range(8)])


@case("fork-pool", limit=300)
def pool(t):
    woken(t, "pool.py", ["step"])


KILLS = 6


@case("fork-killed", limit=240)
def killed(t):
    """A restore that is killed while PIDs go by, leaves nothing, or all of it; the image can be tried again."""
    go_round()
    t.setup.work_in("fork")
    labels = [f"thread{k}" for k in range(8)]
    root, steps = hold(t, "threads.py", labels)
    whole = len(threads_of(root))
    t.dump(root)
    at_dump = read(steps.path)
    for number in range(KILLS):
        t.statuses.clear()
        pid, call = t.torpor_start(["restore", t.image()])
        time.sleep(random.uniform(0.02, 6))
        t.end(pid)
        # All of it, if that was too late; else nothing.
        t.until(lambda: len(threads_of(root)) in (0, whole), 10, f"{root} is half there after kill {number + 1}")
        t.end(root)
        t.until(lambda: not tree_of(os.getpid())[1:], 10, f"kill {number + 1} left {tree_of(os.getpid())[1:]}")
    with open(steps.path, "w", encoding="utf-8") as f:  # one of them may have run for a moment; and the image may have it open
        f.write(at_dump)
    for label in labels:
        steps.base[label] = None
    t.restore(root)
    steps.advance(3)
    finish(t, root, steps)


def refused(t, root, *arguments):
    t.statuses.clear()
    before = set(os.listdir(t.work))
    result = t.torpor("restore", t.image(), "--detach", *arguments, expect=1)
    if set(os.listdir(t.work)) != before:
        raise Failure("the refused restore left files")
    return result.err


@case("fork-limit")
def limit(t):
    """It is said beforehand that it would take too long, and how long."""
    root, steps = hold(t)
    t.dump(root)
    for _ in range(20):
        subprocess.run(["true"], check=True)
    said = refused(t, root, "--fork-limit", 10)
    told = re.search(rf"the PID {root} is about (\d+) forks away, some \d+ s; the limit is 10 forks", said)
    if not told or int(told.group(1)) <= 10 or "--fork-limit" not in said:
        raise Failure(f"not told how far away the PID is: {said!r}")
    if stat_of(root):
        raise Failure("the refused restore left a process")


@case("fork-taken-pid")
def taken(t):
    root, steps = hold(t)
    t.dump(root, keep=True)
    said = refused(t, root)
    if f"the PID {root} is taken by" not in said:
        raise Failure(f"not told that the PID is taken: {said!r}")
    steps.advance(3)
    finish(t, root, steps)


@case("tier-names")
def names(t):
    t.setup.tier = None
    t.torpor("restore", t.image(), "--tier", "none", expect=2)
    t.torpor("restore", t.image(), "--fork-limit", "-1", expect=2)
    root, steps = hold(t)
    t.dump(root)
    t.setup.tier = None
    for tier, words in (("cap", "may not choose PIDs"), ("root", "does not run as root")):
        result = t.torpor("restore", t.image(), "--tier", tier, expect=3)
        if words not in result.err:
            raise Failure(f"--tier {tier}: {result}")


@case("taken-tid")
def taken_tid(t):
    """The TID of a thread is taken by another process: that is said, and nothing is left."""
    t.only_where_pids_are_taken()
    labels = [f"thread{k}" for k in range(8)]
    steps = Steps(t, labels)
    root = t.start([PYTHON, "-B", t.target("threads.py")])
    steps.advance(3, seconds=60)
    tid = threads_of(root)[3]
    t.dump(root)
    holder = occupy(t, tid)
    said = refused(t, root)
    if str(tid) not in said or "taken" not in said:
        raise Failure(f"not told which TID is taken: {said!r}")
    t.end(holder)
    t.restore(root)
    steps.advance(3)
    finish(t, root, steps)


def occupy(t, pid):
    """A process with this PID (root may choose it)."""
    if os.geteuid() != 0:
        raise Skip("only root can choose a PID for the test")
    script = ("import ctypes, os, sys, time\n"
              "class Args(ctypes.Structure): _fields_ = [(n, ctypes.c_uint64) for n in "
              "'flags pidfd ctid ptid signal stack size tls tid ntid cgroup'.split()]\n"
              "tid = ctypes.c_int(int(sys.argv[1]))\n"
              "args = Args(signal=17, tid=ctypes.addressof(tid), ntid=1)\n"
              "if ctypes.CDLL(None).syscall(435, ctypes.byref(args), ctypes.sizeof(args)) == 0: time.sleep(1000)\n")
    t.wait_exit(t.start([PYTHON, "-c", script, str(pid)], user=False), 10)
    t.until(lambda: stat_of(pid), 5, f"a process with the PID {pid}")
    return pid
