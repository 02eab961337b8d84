#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whatever goes wrong, the program runs on; a killed restore leaves nothing.

    kill.py [--torpor FILE] [--list] [NAME...]

TORPOR_TEST_KILLS=N makes N kills per case (30). Half of them come at random moments of the whole operation,
the others are aimed: at the time when the target is traced, or at the end, when a restored tree is let go.
In the cases call-*, torpor is killed right before one of its system calls (nth.c): before some N of them with
TORPOR_TEST_CALLS=N (20), before each with TORPOR_TEST_CALLS=all.
Set-up, user and reporting are those of tests/programs.
"""

import ctypes
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from attack import expect_no_others, interrupt_dump, kill_dump, kill_restore, kill_tracked  # noqa: E402
from common import (KILLS, LIMIT, PATIENCE, Before, Large, Moments, Nth, PythonThreads, Steady, alive, delay, files,  # noqa: E402
                    compile_steady, kill_members, main, measure, summary, traced)
from attacked import Jvm, Moment, RedisServer, tracked  # noqa: E402
from harness import Failure, Skip, all_stats, case, comm_of, read, stat_of, tree_of  # noqa: E402


# ---- (a) and (c): a dump that is killed or interrupted ----

for keep in (False, True):
    suffix = "-keep" if keep else ""
    case("kill-dump" + suffix, limit=LIMIT, start=Steady, keep=keep)(kill_dump)
    case("kill-dump-tree" + suffix, limit=LIMIT, start=lambda t: Steady(t, 6), keep=keep)(kill_dump)
    case("kill-dump-python" + suffix, limit=LIMIT, start=PythonThreads, keep=keep)(kill_dump)
    case("kill-dump-jvm" + suffix, needs=["javac"], limit=LIMIT * 2, start=Jvm, keep=keep)(kill_dump)
    case("kill-dump-redis" + suffix, needs=["redis-server"], limit=LIMIT * 2, start=RedisServer, keep=keep)(kill_dump)
    case("interrupt-dump" + suffix, limit=LIMIT, start=Steady, keep=keep)(interrupt_dump)
    case("interrupt-dump-redis" + suffix, needs=["redis-server"], limit=LIMIT, start=RedisServer,
         keep=keep)(interrupt_dump)

# A program whose memory is copied while it runs: killed at any moment, torpor leaves no trace in it.
for way in ("track", "clone"):
    case("kill-dump-" + way, limit=LIMIT * 2, start=lambda t, way=way: Moment(t, way), keep=True)(kill_dump)
for way in ("track", "clone"):
    case("kill-tracked-" + way, limit=LIMIT * 2)(lambda t, way=way: kill_tracked(t, Moment(t, way)))
TRACKED = [("python", [], PythonThreads), ("redis", ["redis-server"], RedisServer)]
if KILLS >= 100:  # they take long
    TRACKED += [("tree", [], lambda t: Steady(t, 6)), ("jvm", ["javac"], Jvm)]
for _name, _needs, _start in TRACKED:
    case(f"kill-dump-{_name}-track", needs=_needs, limit=LIMIT * 2, start=lambda t, start=_start: tracked(start(t)),
         keep=True)(kill_dump)

# Its memory is copied while it is examined.
case("kill-dump-large", limit=LIMIT * 2, start=Large, keep=False)(kill_dump)
case("interrupt-dump-large", limit=LIMIT * 2, start=Large, keep=False)(interrupt_dump)
case("kill-dump-end", limit=LIMIT, start=lambda t: Steady(t, 5), keep=False, at="end")(kill_dump)


@case("stopped-after-kill", limit=LIMIT)
def stopped_after_kill(t):
    """A program that stands still (SIGSTOP) keeps the remains of a killed dump; the next dump copes with them."""
    program = Steady(t)
    os.kill(program.root, signal.SIGSTOP)
    t.until(lambda: t.stands_still(program.root), 5, "the stop")
    arguments = ["dump", program.root, "-o", t.image(), "--keep-running"]
    moments = Moments(measure(t, arguments), lambda: traced(program.root), 0.01)
    for _ in range(max(10, KILLS // 4)):
        moments.strike(t, arguments)
        t.until(lambda: not traced(program.root) and t.stands_still(program.root), PATIENCE, "it does not stand still")
        if moments.number % 3 == 0:
            t.torpor(*arguments)
    t.dump(program.root, "image")
    t.restore(program.root)
    os.kill(program.root, signal.SIGCONT)
    program.check()


# ---- (b): a restore that is killed ----

case("kill-restore", limit=LIMIT)(lambda t: kill_restore(t, Steady))
case("kill-restore-large", limit=LIMIT * 2)(lambda t: kill_restore(t, Large))
case("interrupt-restore-large", limit=LIMIT * 2, start=Large, signals=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP))(kill_restore)
case("kill-restore-python", limit=LIMIT)(lambda t: kill_restore(t, PythonThreads))
case("kill-restore-jvm", needs=["javac"], limit=LIMIT * 2)(lambda t: kill_restore(t, Jvm))
case("kill-restore-redis", needs=["redis-server"], limit=LIMIT * 2)(lambda t: kill_restore(t, RedisServer))
case("kill-restore-tree", limit=LIMIT)(lambda t: kill_restore(t, lambda t: Steady(t, 8)))


@case("interrupt-loading", limit=LIMIT)
def interrupt_loading(t):
    """While large memory is loaded, however long that takes, a restore can be called off; not by a signal that is ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # we may have been started by nohup
    program, nth = Large(t), Nth(t, 500 * 4)
    program.mark()
    t.dump(program.root)
    for signo, ignored in ((signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGHUP, False), (signal.SIGHUP, True)):
        nth.launch("pread64:131072")  # each piece of memory begins late
        if ignored:
            t.launcher = ["nohup", *t.launcher]
        pid, _ = t.torpor_start(["restore", t.image(), "--detach"])
        t.until(lambda: "pread64" in read(nth.report, ""), PATIENCE, "it does not load")
        time.sleep(0.1)
        os.kill(pid, signo)
        if ignored:
            time.sleep(0.5)
            if not alive(pid):
                raise Failure(f"it does not ignore {signo}")
            os.kill(pid, signal.SIGKILL)
        status = t.wait_exit(pid, 1.5)
        nth.launched()
        if status != (-signal.SIGKILL if ignored else -signo):
            raise Failure(f"torpor ended with {status}")
        expect_no_others(t, [])
        if files(t) != [os.path.basename(t.image())]:
            raise Failure(f"there are other files: {files(t)}")
    t.restore(program.root)
    program.again()


# ---- one after the other: killed before each of its system calls ----

AT_CALLS = {"steady": ([], Steady), "tree": ([], lambda t: Steady(t, 4)), "python": ([], PythonThreads),
            "jvm": (["javac"], Jvm)}
for _name, (_needs, _start) in AT_CALLS.items():
    for keep in (False, True):
        case(f"call-dump-{_name}" + ("-keep" if keep else ""), needs=_needs, limit=7200, start=_start, keep=keep,
             at="calls")(kill_dump)
    case(f"call-restore-{_name}", needs=_needs, limit=7200, start=_start, at_calls=True)(kill_restore)
case("call-dump-large", limit=7200, start=Large, keep=False, at="calls")(kill_dump)
case("call-restore-large", limit=7200, start=Large, at_calls=True)(kill_restore)


# ---- (d): no room ----

def refuses_without_room(t, program, before, argv, words):
    image = argv[argv.index("-o") + 1]
    messages, to = os.pipe()  # a file would fall under the limit as well
    pid = t.popen(argv, subprocess.DEVNULL, to, to)
    os.close(to)
    status = t.wait_exit(pid, 30)
    with os.fdopen(messages) as f:
        text = f.read()
    if status != 5 or not re.search(words, text, re.I):
        raise Failure(f"expected status 5 and {words!r}, got {status}: {text}")
    if os.listdir(os.path.dirname(image)):
        raise Failure(f"the dump left {os.listdir(os.path.dirname(image))}")
    program.check()
    before.expect_same(t)


@case("full-disk")
def full_disk(t):
    if os.geteuid() != 0:
        raise Skip("only root can mount a small file system")
    folder = os.path.join(t.base, "small")
    os.mkdir(folder)
    program = Steady(t)
    before = Before(program.root)
    for size in ("4k", "64k", "512k", "1m", "2m"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "none", folder], check=True)
        try:
            refuses_without_room(t, program, before, [t.setup.binary, "dump", str(program.root), "-o",
                                                      os.path.join(folder, "image")], "no space")
        finally:
            subprocess.run(["umount", folder], check=True)


@case("file-size-limit")
def file_size_limit(t):
    program = Steady(t)
    before = Before(program.root)
    for blocks in (0, 1, 8, 100, 1000, 3000):
        refuses_without_room(t, program, before, ["sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh", t.setup.binary, "dump",
                                                  str(program.root), "-o", t.image()], "too large")


@case("folder-vanishes")
def folder_vanishes(t):
    program = Steady(t)
    before = Before(program.root)
    duration = measure(t, ["dump", program.root, "-o", t.image(), "--keep-running"])
    for _ in range(20):
        folder = os.path.join(t.base, "vanishing")
        os.mkdir(folder)
        t.setup.own(folder)
        pid, _ = t.torpor_start(["dump", program.root, "-o", folder + "/image", "--keep-running"])
        delay(random.random() * duration)
        shutil.rmtree(folder, ignore_errors=True)
        status = t.wait_exit(pid, 30)
        if status not in (0, 3, 5):
            raise Failure(f"status {status}: {t.errors(t.calls)}")
        shutil.rmtree(folder, ignore_errors=True)
        program.check()
        before.expect_same(t)


# ---- (e): targets that do not hold still ----

def tolerant_dump(t, root, *more, good=(0, 1, 5)):
    """Whether a dump succeeded. When it did not, it says why."""
    if os.path.exists(t.image()):
        os.unlink(t.image())
    result = t.torpor("dump", root, "-o", t.image(), *more, expect=None, seconds=40)
    if result.status not in good or result.status and not result.err.strip():
        raise Failure(f"a dump of a restless program: {result}")
    left = files(t)
    if left != ([os.path.basename(t.image())] if result.status == 0 else []):
        raise Failure(f"status {result.status}, and these files: {left}")
    return result.status == 0


def unrest(t, mode):
    program = Steady(t, mode)
    for _ in range(20):
        if not tolerant_dump(t, program.root, "--keep-running", good=(0,)):
            raise Failure("not saved")
        program.check()
        t.untraced(program.root)
    for _ in range(5):
        t.cycle(program.root, static=False)
        program.check()


case("storm-of-threads", limit=180)(lambda t: unrest(t, "storm"))
case("storm-of-forks", limit=180)(lambda t: unrest(t, "forks"))


@case("target-executes", limit=180)
def target_executes(t):
    """The target executes another program all the time."""
    root = t.start([t.target("steady"), "exec"])
    time.sleep(0.05)
    saved = sum(tolerant_dump(t, root, "--keep-running") for _ in range(40))
    if not alive(root):
        raise Failure(f"the program has ended: {t.statuses.get(root)}")
    t.log(f"{saved} of 40 saved")
    if not saved:
        raise Failure("never saved")
    t.until(lambda: not traced(root), PATIENCE, "it is traced")


@case("target-ends", limit=LIMIT)
def target_ends(t):
    """The target ends, or is killed, while it is being saved."""
    outcomes = {}
    for number in range(max(40, KILLS)):
        root = t.start([t.target("steady"), "brief", str(random.randint(0, 120))])
        if number % 2:
            pid, _ = t.torpor_start(["dump", root, "-o", t.image(), "--keep-running"])
            delay(random.random() * 0.015)
            try:
                os.kill(root, signal.SIGKILL)
            except ProcessLookupError:
                pass
            status = t.wait_exit(pid, 30)
            if status not in (0, 1, 5):
                raise Failure(f"status {status}: {t.errors(t.calls)}")
        else:
            status = 0 if tolerant_dump(t, root, "--keep-running") else 1
        result = t.wait_exit(root, 30)
        if result != 9 and not (number % 2 and result == -9):
            raise Failure(f"the program ended with {result}")
        outcomes["saved" if status == 0 else "not saved"] = outcomes.get("saved" if status == 0 else "not saved", 0) + 1
        for name in os.listdir(t.images):
            os.unlink(t.image())
            if name != os.path.basename(t.image()):
                raise Failure(f"left behind: {name}")
    summary(t, outcomes)


@case("steady-target-killed", limit=LIMIT)
def steady_killed(t):
    """A target with many threads is killed while it is being saved: no hang, no zombie that stays."""
    for number in range(max(20, KILLS // 3)):
        program = Steady(t, 2)
        members = tree_of(program.root)
        pid, _ = t.torpor_start(["dump", program.root, "-o", t.image(), "--keep-running"])
        if number % 2:
            end = time.monotonic() + 2
            while not traced(program.root) and time.monotonic() < end:
                pass
        delay(random.random() * 0.012)
        os.kill(members[number % 3], signal.SIGKILL)
        status = t.wait_exit(pid, 10)
        if status not in (0, 1, 5):
            raise Failure(f"status {status}: {t.errors(t.calls)}")
        if status and os.listdir(t.images):
            raise Failure(f"left behind: {os.listdir(t.images)}")
        if status == 0:
            os.unlink(t.image())
        kill_members(t, members)
        os.unlink(program.path)


# ---- (f): what cannot be ----

@case("two-dumps")
def two_dumps(t):
    """Two dumps of one program at once: one or both succeed, and the program is as before."""
    program = Steady(t)
    before = Before(program.root)
    refused = 0
    for _ in range(20):
        pids = [t.torpor_start(["dump", program.root, "-o", t.image(f"image{k}"), "--keep-running"])[0] for k in (1, 2)]
        statuses = [t.wait_exit(p, 30) for p in pids]
        for k, status in enumerate(statuses):
            text = t.errors(t.calls - 1 + k)
            if status and (status not in (1, 3) or "tracing" not in text):
                raise Failure(f"status {status}: {text}")
            if os.path.exists(t.image(f"image{k + 1}")) != (status == 0):
                raise Failure(f"status {status}, and {os.listdir(t.images)}")
            refused += status != 0
        if all(statuses):
            raise Failure("neither dump succeeded")
        for name in os.listdir(t.images):
            t.torpor("verify", os.path.join(t.images, name))
            os.unlink(os.path.join(t.images, name))
        program.check()
        before.expect_same(t)
    summary(t, {"refused": refused, "saved": 40 - refused})


class Flicker:
    """A debugger that attaches to a task and lets go again, some hundred times a second."""

    SEIZE, LIBC = 0x4206, ctypes.CDLL(None)

    def __init__(self, pid):
        self.pid, self.over, self.times = pid, False, 0
        self.thread = threading.Thread(target=self.attach, daemon=True)

    def attach(self):
        while not self.over:
            once = threading.Thread(target=self.hold, daemon=True)
            once.start()
            once.join()
            time.sleep(random.random() * 0.002)

    def hold(self):
        """The end of the thread that traces lets go: unlike PTRACE_DETACH, it needs no stop of the task."""
        self.times += self.LIBC.ptrace(self.SEIZE, self.pid, None, None) == 0
        time.sleep(random.random() * 0.005)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *unused):
        self.over = True
        self.thread.join()


@case("tracer-comes-and-goes")
def tracer_comes_and_goes(t):
    """Whoever traces a task only now and then is named as the cause, also when it has let go by then; or it is saved."""
    program = Steady(t)
    refused = 0
    with Flicker(program.root) as flicker:
        for _ in range(100):
            result = t.torpor("dump", program.root, "-o", t.image(), "--keep-running", expect=None)
            if result.status and (result.status != 1 or "is tracing it" not in result.err):
                raise Failure(f"{result}")
            if os.path.exists(t.image()) != (result.status == 0):
                raise Failure(f"status {result.status}, and {os.listdir(t.images)}")
            if result.status == 0:
                os.unlink(t.image())
            refused += result.status != 0
    if not flicker.times:
        raise Failure("nobody traced it")
    program.check()
    summary(t, {"times traced": flicker.times, "refused": refused, "saved": 100 - refused})


@case("impossible-targets", shares_machine=True)
def impossible(t):
    vacant = next(p for p in range(4000, 32000) if not stat_of(p))
    foreign = t.start(["sleep", "1000"], user=False)
    t.until(lambda: comm_of(foreign) == "sleep", 5, "the start of sleep")
    refusals = [(1, 2, "init"), (vacant, 1, "no process"), (foreign, 3, "as that user"), (0, 2, "not a PID"),
                ("4x", 2, "not a PID"), ("nobody", 1, "no program with the name")]
    # A PID namespace of the tests' own has no kernel threads.
    refusals += [(p, 1, "kernel thread") for p, stat in all_stats().items() if stat.comm == "kthreadd"]
    for target, status, words in refusals:
        result = t.torpor("dump", target, "-o", t.image(), expect=None if t.setup.account is None else status)
        if not re.search(words, result.err, re.I):
            raise Failure(f"dump of {target}: {result}")
    # Itself, and its ancestors: the shell becomes torpor, or waits for it.
    for script, words in (('exec "$0" dump $$ -o "$1"', "itself"), ('"$0" dump $$ -o "$1"; exit $?', "itself runs inside"),
                          ('sh -c "$0 dump $$ -o $1; exit \\$?"; exit $?', "itself runs inside")):
        with t.output("self.err") as err:
            err.truncate(0)
            pid = t.popen(["sh", "-c", script, t.setup.binary, t.image()], subprocess.DEVNULL, err, err)
        status = t.wait_exit(pid, 10)
        text = read(f"{t.logs}/self.err")
        if status not in (1, 2, 3) or not re.search(words, text):
            raise Failure(f"{script}: status {status}: {text}")
    if os.listdir(t.images):
        raise Failure(f"left behind: {os.listdir(t.images)}")


if __name__ == "__main__":
    sys.exit(main(__doc__, lambda setup: compile_steady(setup, "nth")))
