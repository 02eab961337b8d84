# SPDX-License-Identifier: Apache-2.0
"""Programs that watch files and copy them: tail -F, a watcher on inotify, rsync; and viewers in tmux."""

import filecmp
import os
import random
import re

import harness
from harness import PYTHON, Failure, case, job, read
from terminals import Tmux


def settled(t, root):
    """Wait until it has read all events, of which some may come after what was looked for."""
    t.until(lambda: t.torpor("check", root, expect=None).status == 0, 20, "events stay unread", pause=0.05)


@case("tail", needs=["tail"])
def tail(t):
    """A log that grows, and is renamed and begun anew, as logrotate does."""
    log, expected = t.write("log", "first\n"), "first\n"
    root = t.start(["tail", "-n", "+1", "-F", log])
    shown = os.path.join(t.logs, "stdout")
    t.until(lambda: read(shown) == expected, 20, "the first line")
    for number in range(harness.ROUNDS):
        t.cycle(root)
        with open(log, "a") as f:
            f.write(f"line {number}\n")
        expected += f"line {number}\n"
        t.until(lambda: read(shown) == expected, 20, f"line {number}: {read(shown)!r}")
        if number % 3 == 2:
            os.rename(log, f"{log}.{number}")
            t.write("log", f"new log {number}\n")
            expected += f"new log {number}\n"
            t.until(lambda: read(shown) == expected, 20, f"the new log: {read(shown)!r}")
        settled(t, root)
    t.compare_cycle(root)


@case("watcher")
def watcher(t):
    os.mkdir(t.path("folder"))
    t.setup.own(t.path("folder"))
    report, expected = t.path("report"), "ready\n"
    root = t.start([PYTHON, "-B", t.target("watcher.py"), t.path("folder"), report])
    t.until(lambda: read(report) == expected, 20, "the watch")
    for number in range(harness.ROUNDS):
        t.write(f"folder/{number}", "x")
        os.rename(t.path(f"folder/{number}"), t.path("folder/renamed"))
        os.unlink(t.path("folder/renamed"))
        expected += f"new {number}\nwritten {number}\nfrom {number}\nto renamed\ngone renamed\n"
        t.until(lambda: read(report) == expected, 20, f"round {number + 1}: {read(report)[-200:]!r}")
        settled(t, root)
        t.cycle(root)
    t.compare_cycle(root)


FILES, LARGEST = 40, 3 << 19


def prepare_copy(t):
    dice = random.Random(1)
    os.mkdir(t.path("from"))
    for number in range(FILES):
        t.write(f"from/{number}", dice.randbytes(dice.randrange(LARGEST)))


def verify_copy(t, status):
    if status != 0:
        raise Failure(f"rsync ended with status {status}: {read(t.logs + '/stderr', '')[-300:]}")
    names = sorted(os.listdir(t.path("from")))
    if sorted(os.listdir(t.path("to"))) != names:
        raise Failure(f"rsync copied {os.listdir(t.path('to'))}")
    same, different, missing = filecmp.cmpfiles(t.path("from"), t.path("to"), names, shallow=False)
    if different or missing:
        raise Failure(f"these files differ: {different} {missing}")


@case("rsync", needs=["rsync"], limit=240)
def rsync(t):
    """Three processes and the socket pairs between them."""
    job(t, ["rsync", "-r", "--whole-file", "--bwlimit=20M", "from/", "to/"], prepare_copy, verify_copy, still=True)


@case("viewers", needs=["tmux", "bash", "less", "top", "htop"])
def viewers(t):
    """less in the middle of a file, top and htop that go on showing what runs."""
    server = Tmux(t)
    t.write("text", "".join(f"line {n}\n" for n in range(100000)))
    windows = {}
    for command, shown in ("less text", "^line 0$"), ("top -d 0.2", "top - "), ("htop -d 5", "Tasks:"):
        window = windows[command.split()[0]] = server.window()
        server.expect(window, "shell>$")
        server.send(window, command + "\r")
        server.expect(window, shown)
    server.send(windows["less"], "/line 5000$\r")
    server.expect(windows["less"], "^line 5000$")
    for number in range(1, harness.ROUNDS + 1):
        t.cycle(server.root)
        server.send(windows["less"], f"{number * 1000}g")
        server.expect(windows["less"], f"^line {number * 1000 - 1}$")
        server.expect(windows["htop"], "Tasks:")
        server.expect(windows["top"], "top - ")
    for name, clock in (("top", r"top - (\S+)"), ("htop", r"Uptime: (\S.*\S)")):
        def time_of():
            return re.search(clock, server.shown(windows[name])).group(1)
        before = time_of()
        t.until(lambda: time_of() != before, 10, f"{name} does not go on", pause=0.05)
    for window in windows.values():
        server.send(window, "q")
        server.expect(window, "shell>$")
    server.end()
    t.wait_exit(server.root, 10)
