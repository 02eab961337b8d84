#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every system call of torpor fails once: a clear error and nothing has happened, or all is as without the failure.

    inject.py [--torpor FILE] [--list] [NAME...]

nth.c makes the n-th system call of a dump or restore fail, n = 1 and on until there are no more. TORPOR_TEST_CALLS=N
tries some N of them (20), TORPOR_TEST_CALLS=all every one. When torpor says that it succeeded although a call had
failed, the image must hold what it holds otherwise, and the restored tree must look as it did.

In the cases late-*, the call does not fail, but begins late, when all that runs beside it (torpor's threads and children,
the tasks of a restore on their way, the program) has gone as far as it can: that must change nothing.
"""

import json
import os
import re
import signal
import sys
import threading
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from common import (CALLS, Before, Large, Nth, Steady, alive, compile_steady, files, kill_tree, main, read_bytes,  # noqa: E402
                    some_numbers)
import harness  # noqa: E402
from harness import PYTHON, Failure, Skip, Steps, case, comm_of, portrait, read, stat_of, state_of, tree_of  # noqa: E402

LAST = 60  # calls of a dump that ends the program
LATE_MS = 100  # longer than any of it takes on a machine that is not very busy
CHANGING = ("file", "stats", "machine", "xstate")  # from image to image of one that stands still


class Injector(Nth):
    """torpor under nth.c, which lets a call fail or, with `late`, begin so many milliseconds later."""

    def __init__(self, t, late=0):
        super().__init__(t, late or "fail")
        self.late = late
        self.outcomes = {}

    def run(self, number, *arguments):
        """Run torpor with that call disturbed. (result, which call it was, or None when there were not so many)."""
        self.launch(number)
        try:
            result = self.t.torpor(*arguments, expect=None, seconds=60)
        except Failure as e:
            raise Failure(f"call {number}, {read(self.report, '').strip()}: {e}")
        finally:
            call = self.launched()
        return result, call

    def calls(self, *arguments):
        """How many calls there are."""
        return self.count(lambda number: self.reaches(number, *arguments))

    def reaches(self, number, *arguments):
        """Are there so many calls? One that failed for another reason cannot tell."""
        result, call = self.run(number, *arguments)
        self.tidy()
        if call is None and result.status:
            raise Failure(f"before call {number}: {result}")
        return call is not None

    def tidy(self):
        pass

    def expect_proper(self, number, result, call):
        """It worked, or it failed with a status and words of its own."""
        if self.late and result.status:
            raise Failure(f"call {number}, {call}: {result}")
        what = "done all the same" if result.status == 0 else f"status {result.status}"
        self.count_outcome(what)
        if not 0 <= result.status <= 5 or result.status and "torpor: " not in result.err:
            raise Failure(f"call {number}, {call}: {result}")
        if result.status in (2, 4):
            raise Failure(f"call {number}, {call}: blamed on the usage or the image: {result}")

    def count_outcome(self, what):
        self.outcomes[what] = self.outcomes.get(what, 0) + 1

    def summary(self, calls):
        text = f"{calls} calls tried; " + ", ".join(f"{n} {o}" for o, n in sorted(self.outcomes.items()))
        print(f"    {self.t.name}: {text}", flush=True)


# ---- programs ----

class Standing:
    """A tree that stands still between the checks, so that two images of it are alike."""

    def __init__(self, t, program):
        self.t, self.program, self.root = t, program, program.root
        self.stopped = t.stop_tree(self.root)
        self.before = Before(self.root)
        self.image = None  # what one of it holds

    def check(self):
        """It goes on, is well, and stands again."""
        self.image = None
        self.t.continue_tasks(self.stopped)
        self.program.check()
        self.stopped = self.t.stop_tree(self.root)
        self.before = Before(self.root)


class Counting:
    """One of tests/programs/targets."""

    def __init__(self, t, script, labels):
        self.t = t
        self.steps = Steps(t, labels)
        self.root = t.start([PYTHON, "-B", t.target(script)])
        self.steps.advance(3)

    def check(self):
        if not alive(self.root):
            raise Failure(f"the program has ended (status {self.t.statuses.get(self.root)})")
        self.steps.advance(1)
        if os.path.getsize(self.steps.path) > 20000:
            self.steps.rotate()


PROGRAMS = {
    "steady": Steady,
    "large": Large,
    "asyncio": lambda t: Counting(t, "asynchronous.py", ["talk", "tick", "compute"]),
    "tree": lambda t: Counting(t, "family.py", ["root", "orphan", "orphangroup", "groupless", "member", "joined", "deep"]),
}


# ---- dump ----

def without_passing(value):
    """What `inspect --json` says, but times, amounts of memory, and what unused registers hold."""
    if isinstance(value, dict):
        return {k: without_passing(v) for k, v in value.items()
                if k not in CHANGING and not k.endswith("_ns") and "bytes" not in k and "size" not in k}
    return [without_passing(v) for v in value] if isinstance(value, list) else value


def content_of(t):
    return without_passing(json.loads(t.torpor("inspect", t.image(), "--json").out))


def first_difference(a, b, path=""):
    if type(a) is not type(b):
        return f"{path}: {a!r} became {b!r}"
    if isinstance(a, dict):
        for key in sorted({*a, *b}):
            if a.get(key) != b.get(key):
                return first_difference(a.get(key), b.get(key), f"{path}/{key}")
    if isinstance(a, list):
        if len(a) != len(b):
            return f"{path}: {len(a)} became {len(b)}"
        for k, (one, other) in enumerate(zip(a, b)):
            if one != other:
                return first_difference(one, other, f"{path}/{k}")
    return f"{path}: {a!r} became {b!r}"


def dumps(t, start, late=0):
    injector = Injector(t, late)
    standing = Standing(t, start(t))
    arguments = ["dump", standing.root, "-o", t.image(), "--keep-running"]
    tried = some_numbers(injector.calls(*arguments), CALLS)
    for number in tried:
        if not standing.image:
            t.torpor(*arguments)
            standing.image = content_of(t)
        if os.path.exists(t.image()):
            os.unlink(t.image())
        result, call = injector.run(number, *arguments)
        injector.expect_proper(number, result, call)
        if files(t) != ([os.path.basename(t.image())] if result.status == 0 else []):
            raise Failure(f"call {number}, {call}: status {result.status}, and these files: {files(t)}")
        if result.status == 0:
            t.torpor("verify", t.image())
            if content_of(t) != standing.image:
                raise Failure(f"call {number}, {call}: another image: "
                              f"{first_difference(standing.image, content_of(t))[:300]}")
        standing.before.expect_same(t)
        if result.status or number % 10 == 0:
            standing.check()
    injector.summary(len(tried))


def waker(t, root):
    """What wakes a program whose dump has ended it, and forgets the image."""
    members = tree_of(root)

    def wake():
        if os.path.exists(t.image()):
            t.expect_gone(root, members)
            t.restore(root)
            os.unlink(t.image())
    return wake


def ends(t, start):
    """The last calls of a dump that ends the program: it is there and well, or it is in the image and gone."""
    injector = Injector(t)
    program = start(t)
    root, arguments = program.root, ["dump", program.root, "-o", t.image()]
    injector.tidy = wake = waker(t, root)
    number = injector.calls(*arguments) - LAST
    call, tried = "", 0
    while call is not None:
        result, call = injector.run(number, *arguments)
        injector.expect_proper(number, result, call)
        if files(t) != ([os.path.basename(t.image())] if result.status == 0 else []):
            raise Failure(f"call {number}, {call}: status {result.status}, and these files: {files(t)}")
        wake()
        program.check()
        number, tried = number + (1 if CALLS == "all" else 3), tried + 1
    injector.summary(tried)


class Sender(threading.Thread):
    """Stops a program as soon as the disturbed call has begun, as `kill -STOP` would."""

    def __init__(self, t, report, root):
        super().__init__(daemon=True)
        self.t, self.report, self.root = t, report, root
        self.committed = self.over = False
        if os.path.exists(report):
            os.unlink(report)

    def run(self):
        while not self.over and not read(self.report, ""):
            time.sleep(0.001)
        self.committed = self.over or os.path.exists(self.t.image())
        try:
            os.kill(self.root, signal.SIGSTOP)
        except ProcessLookupError:
            self.committed = True


def stops(t):
    """Somebody stops the program while it is saved: so it comes back, or the dump says that the signal came too late."""
    injector = Injector(t, LATE_MS)
    program = PROGRAMS["steady"](t)
    root, arguments = program.root, ["dump", program.root, "-o", t.image()]
    injector.tidy = wake = waker(t, root)
    numbers = some_numbers(injector.calls(*arguments), CALLS)
    for number in numbers:
        sender = Sender(t, injector.report, root)
        sender.start()
        result, call = injector.run(number, *arguments)
        sender.over = True
        sender.join()
        if result.status:
            raise Failure(f"call {number}, {call}: {result}")
        wake()
        told = "send it again" in result.err
        try:
            t.until(lambda: state_of(root) == "T", 0.2 if told or sender.committed else 5, "")
            outcome = "stopped"
        except Failure:
            outcome = "told" if told else "too late"
            if not told and not sender.committed:
                raise Failure(f"call {number}, {call}: it was stopped during this call, and is not: {result}")
        injector.count_outcome(outcome)
        os.kill(root, signal.SIGCONT)
        program.check()
    injector.summary(len(numbers))


class Ticking:
    """tests/faults/ticking.c: timers that expire once in some milliseconds, and are waited for."""

    def __init__(self, t):
        self.t, self.path = t, t.path("ticking")
        self.root = t.start([t.target("ticking")])
        self.check()

    def check(self):
        """It goes on, and no timer has been lost or has expired twice."""
        now = os.path.getsize(self.path) if os.path.exists(self.path) else 0

        def further():
            bad = re.search(r"^bad .*$", read(self.path, ""), re.M)
            if bad:
                raise Failure(f"the program reports: {bad.group()!r}")
            return os.path.getsize(self.path) > now + 2 if os.path.exists(self.path) else False
        self.t.until(further, 20, "no timer expires")


def ticks(t):
    """Timers expire while the dump is busy elsewhere: each is saved as one that has expired, or as one that is still to."""
    injector = Injector(t, LATE_MS)
    program = Ticking(t)
    root, arguments = program.root, ["dump", program.root, "-o", t.image()]
    injector.tidy = wake = waker(t, root)
    numbers = some_numbers(injector.calls(*arguments), CALLS)
    for number in numbers:
        result, call = injector.run(number, *arguments)
        injector.expect_proper(number, result, call)
        wake()
        program.check()
    injector.summary(len(numbers))


# ---- restore ----

def restores(t, start, late=0):
    injector = Injector(t, late)
    program = start(t)
    root, members = program.root, tree_of(program.root)
    t.stop_tree(root)
    wanted = portrait(root)
    t.dump(root)
    content = read_bytes(t.image())
    arguments = ["restore", t.image(), "--detach"]

    def tidy():
        if stat_of(root):
            kill_tree(t, root)
        expect_nobody(t, members, "counting")
    injector.tidy = tidy
    tried = some_numbers(injector.calls(*arguments), CALLS)
    for number in tried:
        t.statuses.clear()
        result, call = injector.run(number, *arguments)
        injector.expect_proper(number, result, call)
        if result.status == 0:
            settle(t, members)
            expect_portrait(wanted, root, f"call {number}, {call}")
            kill_tree(t, root)
        expect_nobody(t, members, f"call {number}, {call}")
        if files(t) != [os.path.basename(t.image())] or read_bytes(t.image()) != content:
            raise Failure(f"call {number}, {call}: the image has changed, or there are other files: {files(t)}")
    t.restore(root)
    injector.summary(len(tried))


def expect_nobody(t, members, when):
    try:
        t.until(lambda: not any(stat_of(p) for p in members) and not tree_of(os.getpid())[1:], 5, "")
    except Failure:
        left = [(p, comm_of(p), state_of(p)) for p in {*members, *tree_of(os.getpid())[1:]}]
        raise Failure(f"{when}: processes are left: {left}")


def settle(t, members):
    t.until(lambda: all(stat_of(p) and t.stands_still(p) for p in members), 5, "it does not stand still as before")


def expect_portrait(wanted, root, when):
    # The filter is nth.c's. A busy program has moments with another mask, as in common.PASSING.
    found = [line for line in harness.differences(wanted, portrait(root)) if not re.search("Seccomp|SigBlk", line)]
    if found:
        raise Failure(f"{when}: {len(found)} differences after the restore, the first: {found[0]}")


for _name, _start in PROGRAMS.items():
    case(f"dump-{_name}", limit=7200, start=_start)(dumps)
    case(f"restore-{_name}", limit=7200, start=_start)(restores)
    case(f"late-dump-{_name}", limit=7200, start=_start, late=LATE_MS)(dumps)
    case(f"late-restore-{_name}", limit=7200, start=_start, late=LATE_MS)(restores)


def late_zombie(t):
    """A zombie that dies of its signal when all others are ready to run dies of nothing else."""
    injector = Injector(t, 10 * LATE_MS)
    program = PROGRAMS["tree"](t)
    t.stop_tree(program.root)
    wanted = portrait(program.root)
    t.dump(program.root)
    result, calls = injector.run(f"tgkill:{signal.SIGTERM:d}", "restore", t.image(), "--detach")
    if not calls or result.status:
        raise Failure(f"{calls or 'no tgkill(2)'}: {result}")
    settle(t, wanted)
    expect_portrait(wanted, program.root, calls)


def stuck(t):
    """A task that comes no further ends the restore, with its name."""
    injector = Injector(t, 20 * LATE_MS)
    program = PROGRAMS["steady"](t)
    program.mark()
    root = program.root
    t.dump(root)
    result, calls = injector.run("set_robust_list:0", "restore", t.image(), "--detach", "--timeout", "0.3")
    if not calls or result.status != 5 or "E-RESTORE-TIMEOUT" not in result.err or f"of task {root} " not in result.err:
        raise Failure(f"{calls or 'no set_robust_list(2)'}: {result}")
    expect_nobody(t, [root], calls)
    t.restore(root)
    program.again()


case("late-zombie")(late_zombie)
case("stuck")(stuck)
case("dump-stops", limit=7200)(stops)
case("dump-ticks", limit=7200)(ticks)
case("dump-ends", limit=600, start=lambda t: Steady(t, 2))(ends)


if __name__ == "__main__":
    sys.exit(main(__doc__, lambda setup: compile_steady(setup, "nth")))
