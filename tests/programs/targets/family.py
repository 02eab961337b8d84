# SPDX-License-Identifier: Apache-2.0
"""A tree with everything that parents, groups and sessions can be: nested children, a zombie, a stopped task,
a session whose leader is dead, a group whose leader is dead, orphans that came to a subreaper."""

import ctypes
import os
import signal
import sys
import time

from common import expect, report, stopping


def become_subreaper():
    expect(ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0, "prctl")


def child(work, *arguments):
    pid = os.fork()
    if pid == 0:
        work(*arguments)
        os._exit(0)
    return pid


def place():
    return os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0)


def count(label, status=0):
    """Count until the end, at the same place in the tree."""
    mine = place()
    step = 0
    while not stopping():
        step += 1
        expect(place() == mine, f"place of {label}: {place()}, not {mine}")
        report(f"{label} {step}")
        time.sleep(0.01)
    os._exit(status)


def stop_oneself():
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(5)


def adopted(label, change):
    """Become an orphan: wait until the subreaper is the parent."""
    change()
    while os.getppid() != root:
        time.sleep(0.005)
    count(label)


def die_as_session_leader():
    os.setsid()
    child(adopted, "orphan", lambda: None)
    child(adopted, "orphangroup", lambda: os.setpgid(0, 0))


def die_as_group_leader():
    os.setpgid(0, 0)
    child(adopted, "groupless", lambda: None)


def lead_group(label):
    os.setpgid(0, 0)
    count(label)


def live_as_session_leader():
    os.setsid()
    member = child(lead_group, "member")
    os.setpgid(member, member)
    other = os.fork()
    if other == 0:
        os.setpgid(0, member)
        count("joined")
    mine = place()
    while not stopping():
        expect(place() == mine, f"place of the session leader: {place()}")
        time.sleep(0.02)
    for pid in (member, other):
        os.waitpid(pid, 0)
    os._exit(0)


def nest(depth):
    if depth == 0:
        count("deep", 9)
    below = child(nest, depth - 1)
    _, status = os.waitpid(below, 0)
    os._exit(os.waitstatus_to_exitcode(status))


def main():
    become_subreaper()
    zombie = child(os._exit, 7)
    killed = child(time.sleep, 1000)
    os.kill(killed, signal.SIGTERM)
    stopped = child(stop_oneself)
    os.waitpid(stopped, os.WUNTRACED)
    for work in (die_as_session_leader, die_as_group_leader):
        os.waitpid(child(work), 0)
    sessions = child(live_as_session_leader)
    deep = child(nest, 3)
    mine = place()
    step = 0
    while not stopping():
        step += 1
        # The root's parent is outside the tree: the restoring command at first, then whoever adopts it.
        expect(place()[2:] == mine[2:], f"place of the root: {place()}")
        report(f"root {step}")
        time.sleep(0.01)
    os.kill(stopped, signal.SIGCONT)
    expected = {zombie: 7, killed: -15, stopped: 5, sessions: 0, deep: 9}
    for pid, status in expected.items():
        found = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        expect(found == status, f"status {found} of child {list(expected).index(pid)}, not {status}")
    orphans = 0
    while True:
        try:
            os.wait()
            orphans += 1
        except ChildProcessError:
            break
    expect(orphans == 3, f"{orphans} orphans")
    report("done")


root = os.getpid()
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
main()
sys.exit(0)
