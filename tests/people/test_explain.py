# SPDX-License-Identifier: Apache-2.0
"""torpor restore --explain: the plan, without making anything."""

import re

from harness import PYTHON, Failure, case, stat_of
from test_inspect import expect, family

SHELL = """
import os, signal, sys, time
def child(first):
    done, tell = os.pipe()
    if os.fork() == 0:
        first()
        os.write(tell, b'.')
        os.close(done), os.close(tell)
        time.sleep(1000)
    os.read(done, 1)
    os.close(done), os.close(tell)
child(os.setsid)
child(lambda: os.setpgid(0, 0))
pid = os.fork()
if pid == 0:
    os._exit(7)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
signal.setitimer(signal.ITIMER_REAL, 500)
signal.signal(signal.SIGUSR1, lambda *_: None)
print('ready', flush=True)
time.sleep(1000)
"""


def explain(t):
    once, twice = (t.torpor("restore", t.image(), "--explain").out for _ in range(2))
    if once != twice:
        raise Failure("the second time it says something else")
    return once


@case("explain")
def plan(t):
    root, (one, two), port, reader, writer = family(t)
    t.dump(root)
    text = explain(t)
    expect(text, r": 3 processes, 4 threads, \d+ files, \d+ objects$", rf"^  {root} python3: made by torpor; then makes 1 thread$",
           rf"^  {one} python3: made by {root}$", rf"^  {root} leads the session {root}$",
           rf"^  {two} joins the process group {root} \(barrier \"members\"\)$",
           r"^  open and check /.*libc\.so", r"^  make .*gone.*, 9\.8 KiB, and fill it with 12\.0 KiB$",
           rf"tcp_socket +.*{port}.*: made by torpor", rf"^in {one} python3$", r"^  map \d+ mappings, .* of them of files; load ",
           r"^ +\d+ close_range\(\d+, 0xffffffff, 0\)    closing torpor's own file descriptors$",
           r"^ +\d+ rt_sigaction\(2, data\+0x[0-9a-f]+, 0, 8\)    setting a signal action$",
           r"^ +\d+ clone3\(data\+0x[0-9a-f]+, 88\)    making a thread with its TID$", r"^  thread \d+, from step \d+ on$",
           r"^at last$")
    if re.search(r"syscall \d+", text):
        raise Failure(f"a system call has no name: {re.search(r'.*syscall .*', text)[0]!r}")
    if stat_of(root):
        raise Failure("it made a process")
    t.torpor("verify", t.image())


@case("explain-sessions")
def sessions(t):
    root = t.start([PYTHON, "-c", SHELL])
    t.until(lambda: "ready" in open(f"{t.logs}/stdout").read(), 10, "it is ready")
    t.dump(root)
    text = explain(t)
    leads = re.findall(r"^  (\d+) leads the session \1$", text, re.M)
    groups = re.findall(r"^  (\d+) leads the process group \1 \(barrier \"leaders\"\)$", text, re.M)
    zombies = re.findall(r"^  (\d+) ends, and waits for its parent as a zombie$", text, re.M)
    if len(leads) != 2 or len(groups) != 3 or len(zombies) != 1:
        raise Failure(f"sessions {leads}, groups {groups}, zombies {zombies}: {text!r}")
    expect(text, r"^ +\d+ setitimer\(0, data\+0x[0-9a-f]+, 0\)    setitimer$")
