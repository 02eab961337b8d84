# SPDX-License-Identifier: Apache-2.0
"""Attacks on a dump and on a restore: killed or interrupted at any moment.

What they need of a program is in common.Program.
"""

import os
import re
import signal

from common import (KILLS, PATIENCE, Calls, Moments, files, kill_tree, killed, measure, read_bytes, summary, traced,
                    whole_or_gone)
from attacked import watched
from harness import Failure, comm_of, read, stat_of, threads_of, trackers_of, tree_of


# ---- (a) and (c): a dump that is killed or interrupted ----

def files_after(t, torpor_pid, parts_allowed):
    """What the dump left. Returns whether there is an image; it is whole then."""
    image = t.image()
    for name in files(t):
        path = os.path.join(t.images, name)
        if path == image:
            t.torpor("verify", image)
        elif parts_allowed and name == f"{os.path.basename(image)}.part-{torpor_pid}":
            os.unlink(path)
        else:
            raise Failure(f"the dump left {name}")
    return os.path.exists(image)


def after_dump(t, program, before, status, keep, has_image):
    """The program runs on unharmed; or it is in the image, and nothing of it is left outside. Says which."""
    root = program.root
    if has_image and not keep:
        # The commit has happened. torpor may have had the time to end the program, or not.
        if whole_or_gone(t, root, before.pids) == "gone":
            t.restore(root)
            program.resume()
            before.__init__(root)
            program.check()
            return "saved"
    if status == 0 and not keep:
        raise Failure("the dump says that it succeeded, but the program is there")
    program.check()
    before.expect_same(t)
    return "committed" if has_image else "unharmed"


LAST = 100  # more than the system calls with which a dump ends a program


def attack_dump(t, start, keep, signals, parts_allowed, expect_status, at="traced"):
    """Strike while the program is traced; at the "end": when the image is there and the program is being ended; at "calls"."""
    program = start(t)
    save = ["dump", program.root, "-o", t.image(), *program.options]
    quick = [*save, "--keep-running"]
    arguments = quick if keep else save
    duration = measure(t, quick)
    frozen = re.search(r"paused for ([\d.]+) ms", read(f"{t.logs}/{t.calls}.out"))
    t.log(f"a dump takes {duration * 1000:.1f} ms")
    moments = Moments(duration, lambda: traced(program.root), float(frozen.group(1)) / 1000 * 1.3)
    if at == "end":
        moments = Moments(duration, lambda: os.path.exists(t.image()), 0.002, always=True)
    if at == "calls":
        moments = Calls(t, quick, lambda: [os.unlink(os.path.join(t.images, name)) for name in files(t)], 0 if keep else LAST)
    program.check()
    before = program.before(program.root)
    outcomes = {}
    for number in range(moments.count):
        if os.path.exists(t.image()):
            os.unlink(t.image())
        signo = signals[number % len(signals)]
        status, pid = moments.strike(t, arguments, signo)
        expect_status(status, signo)
        has_image = files_after(t, pid, parts_allowed)
        if status == 0 and not has_image or status > 0:
            raise Failure(f"status {status}, image: {has_image}; {t.errors(t.calls)}")
        outcome = after_dump(t, program, before, status, keep, has_image)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    # What many killed dumps left behind in the program does not disturb one that is not killed.
    t.torpor(*quick)
    before.expect_same(t)
    t.torpor(*save)
    t.expect_gone(program.root, before.pids)
    t.restore(program.root)
    program.resume()
    program.check()
    summary(t, outcomes, program)


def kill_dump(t, start, keep, at="traced"):
    attack_dump(t, start, keep, [signal.SIGKILL], True, killed, at)


def interrupt_dump(t, start, keep):
    attack_dump(t, start, keep, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], False, killed)


def kill_tracked(t, program):
    """A dump of a tracked program is killed, or who tracks it is, or both: it is unharmed, and the chain is right."""
    root = program.root
    base, image = t.image("base"), t.image()
    first = ["dump", root, "-o", base, "--keep-running", "--track", "--no-sync", *program.options]
    arguments = ["dump", root, "-o", image, "--parent", base, "--keep-running", "--track", "--no-sync", *program.options]
    moments = Moments(measure(t, first), lambda: traced(root), 0.03)
    t.torpor("untrack", root)
    before = program.before(root)
    outcomes = {}
    for number in range(KILLS):
        t.torpor(*first)
        trackers = trackers_of(root)
        if len(trackers) != 1:
            raise Failure(f"the trackers are {trackers}")
        if number % 3 == 2:
            outcome = kill_tracker(t, root, arguments, moments)
        else:
            outcome = f"status {moments.strike(t, arguments)[0]}"
        t.until(lambda: len(trackers_of(root)) <= 1, PATIENCE, "more than one tracker")
        t.until(lambda: not traced(root), PATIENCE, "it is still traced")
        t.until(lambda: bool(watched(root)) == bool(trackers_of(root)), PATIENCE, "its memory is watched by nobody")
        program.check()
        outcome += ", tracked" if trackers_of(root) else ""
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        for name in files(t):
            path = os.path.join(t.images, name)
            if path == image:
                t.torpor("verify", image)
            if path != base:
                os.unlink(path)
        if number % 8 == 7:
            end_and_restore(t, program, base)
        else:
            t.torpor("untrack", root)
            before.expect_same(t)
    end_and_restore(t, program, base)
    summary(t, outcomes)


def kill_tracker(t, root, arguments, moments):
    """While a dump takes over from it."""
    pid, _ = t.torpor_start(arguments)
    moments.wait(pid)
    for tracker in trackers_of(root):
        os.kill(tracker, signal.SIGKILL)
    status = t.wait_exit(pid, 40)
    if status:
        raise Failure(f"status {status}: {t.errors(t.calls)}")
    return "without tracker"


def end_and_restore(t, program, base):
    """The chain that there is now holds what the program held."""
    members = tree_of(program.root)
    t.torpor("dump", program.root, "-o", t.image("last"), "--parent", base, "--no-sync", *program.options[2:])
    t.expect_gone(program.root, members)
    t.until(lambda: not trackers_of(program.root), PATIENCE, "a tracker stays when the program has been ended")
    t.restore(program.root, "last")
    program.check()
    os.unlink(t.image("last"))


# ---- (b): a restore that is killed ----

def dump_between_steps(t, program, members):
    """Not while it has the file of its steps open: again() moves that away, and a restore would miss it."""
    while True:
        t.torpor("dump", program.root, "-o", t.image(), *program.options)
        t.expect_gone(program.root, members)
        if "/steps" not in t.torpor("inspect", t.image(), "--fds").out:
            return
        t.restore(program.root)
        os.unlink(t.image())


def kill_restore(t, start, at_calls=False, signals=(signal.SIGKILL,)):
    program = start(t)
    root = program.root
    program.mark()
    members, threads = sorted(tree_of(root)), {p: len(threads_of(p)) for p in tree_of(root)}
    dump_between_steps(t, program, members)
    restore = ["restore", t.image(), "--detach"]
    duration = measure(t, restore, lambda: kill_tree(t, root))
    t.log(f"a restore takes {duration * 1000:.1f} ms")
    content = read_bytes(t.image())
    outcomes = {"gone": 0, "whole": 0}

    def end():
        kill_tree(t, root)
        t.until(lambda: not any(stat_of(p) for p in members), PATIENCE, "the children do not end")

    def proven():
        program.again()
        end()

    if at_calls:
        moments = Calls(t, restore, lambda: whole_or_gone(t, root, members) == "gone" or end())
    else:
        moments = Moments(duration * 1.2, lambda: complete_threads(threads), duration * 0.15)
    for number in range(moments.count):
        signo = signals[number % len(signals)]
        status, _ = moments.strike(t, restore, signo)
        killed(status, signo)
        outcome = whole_or_gone(t, root, members)
        if status == 0 and outcome != "whole":
            raise Failure("the restore says that it succeeded")
        outcomes[outcome] += 1
        expect_no_others(t, members)
        if outcome == "whole":
            proven()
        if files(t) != [os.path.basename(t.image())] or read_bytes(t.image()) != content:
            raise Failure(f"the image has changed, or there are other files: {files(t)}")
        if number % 10 == 9:
            t.torpor("verify", t.image())
            t.restore(root)
            proven()
    t.restore(root)
    program.again()
    summary(t, outcomes)


def expect_no_others(t, members):
    """What torpor has made besides ends with it; one that loads memory has a moment to give that back."""
    def others():
        return [(p, comm_of(p)) for p in tree_of(os.getpid())[1:]
                if p not in members and not is_supervisor(p)]
    try:
        t.until(lambda: not others(), PATIENCE, "")
    except Failure:
        raise Failure(f"processes are left: {others()}")


def is_supervisor(pid):
    """Of nth.c: it stays with the tree, which keeps its filter."""
    return comm_of(pid) == "nth"


def complete_threads(threads):
    return all(len(threads_of(p)) == n for p, n in threads.items())
