# SPDX-License-Identifier: Apache-2.0
"""What the tests of tests/kinds and tests/state have in common: programs that verify themselves.

Such a program (see tests/kinds/common.h) sets some state up and verifies it from inside whenever it is asked to.
It is compiled with $CC and run as the ordinary user of run.py: once without torpor (alone), saved and restored
(plain), with a comparison of /proc (compared), restored twice from one image (twice), and many times in a row
(rounds: TORPOR_TEST_ROUNDS, 10).
"""

import contextlib
import glob
import importlib.util
import os
import signal
import subprocess

import harness
from harness import COMPILER, Failure, Skip, case

COMMON = os.path.join(harness.HERE, "..", "kinds", "common.c")  # has the main function of all the programs
KILLS = int(os.environ.get("TORPOR_TEST_KILLS", "30"))
BINARIES = None  # where the compiled programs are


# ---- a program that is asked to verify itself ----

class Program:
    def __init__(self, t, name, argument=None, **streams):
        self.t, self.name = t, name
        self.result = t.path("result")
        argv = [os.path.join(BINARIES, name), t.path("pid"), self.result] + ([argument] if argument else [])
        self.root = t.popen(argv, **streams) if "stdin" in streams else t.start(argv, **streams)
        t.until(lambda: os.path.exists(t.path("pid")) or self.root in t.statuses, 20, f"{name} is not set up")
        status = t.statuses.get(self.root)
        if status == 77:
            raise Skip("the kernel does not have it, or does not let this user make it")
        if status is not None:
            raise Failure(f"{name} ended with status {status}: {harness.read(t.logs + '/stderr', '').strip()}")

    def ask(self):
        """Let the program verify its state; its answer comes with answer()."""
        if os.path.exists(self.result):
            os.unlink(self.result)
        harness.kill(self.root, signal.SIGUSR1)

    def answer(self, when):
        t = self.t
        t.until(lambda: os.path.exists(self.result) or self.root in t.statuses, 20, f"{self.name} {when}: no answer")
        text = harness.read(self.result, f"it ended with status {t.statuses.get(self.root)}").strip()
        if text != "ok":
            raise Failure(f"{self.name} {when}: {text}")

    def verify(self, when):
        self.ask()
        self.answer(when)

    def end(self):
        harness.kill(self.root, signal.SIGTERM)
        status = self.t.wait_exit(self.root, 20)
        if status != 0:
            raise Failure(f"{self.name} ended with status {status}")

    def kill(self):
        tree = harness.tree_of(self.root)
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):  # a child may have ended by itself
                harness.kill(pid, signal.SIGKILL)
        self.t.until(lambda: not any(map(harness.stat_of, tree)), 10, f"the end of {tree} after SIGKILL")


# ---- a restore that is to fail ----

def restore_refused(t, root, words):
    """A restore that fails, says why, and leaves nothing."""
    before = set(os.listdir(t.work))
    result = t.restore(root, expect=1)
    if words not in result.err:
        raise Failure(f"torpor does not say {words!r}: {result}")
    t.until(lambda: not harness.stat_of(root), 10, "the end of the failed restore's tasks")
    if set(os.listdir(t.work)) != before:
        raise Failure(f"the failed restore left {set(os.listdir(t.work)) - before}")
    return result


# ---- the ways to save and restore ----

def alone(t, kind):
    program = Program(t, kind)
    for number in range(2):
        program.verify("without torpor")
    program.end()


def plain(t, kind):
    program = Program(t, kind)
    t.cycle(program.root)
    program.verify("after the restore")
    program.verify("a second time after the restore")
    program.end()


def compared(t, kind):
    program = Program(t, kind, "compared")
    t.compare_cycle(program.root)
    program.verify("after the restore")
    program.end()


def twice(t, kind):
    program = Program(t, kind)
    t.dump(program.root)
    files = harness.Snapshot(t, [t.work])
    try:
        for time_ in ("first", "second"):
            t.restore(program.root)
            program.verify(f"after the {time_} restore")
            program.kill()
            files.put_back()
    finally:
        files.drop()


def rounds(t, kind):
    program = Program(t, kind)
    for number in range(harness.ROUNDS):
        t.cycle(program.root)
        program.verify(f"in round {number + 1}")
    program.end()


WAYS = (alone, plain, compared, twice, rounds)


def declare(name, ways=WAYS, needs=()):
    for way in ways:
        case(f"{name}-{way.__name__}", needs=needs, kind=name)(way)


# ---- running ----

def load_runner():
    spec = importlib.util.spec_from_file_location("programs_run", os.path.join(harness.HERE, "run.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(sources, folder):
    """Compile every program of a folder where the user can run it. Sources with a header are shared by all."""
    os.mkdir(folder)
    flags = "-std=gnu17 -Wall -Wextra -Werror -D_GNU_SOURCE -O1 -g -I".split() + [os.path.dirname(COMMON)]
    shared, programs = [COMMON], []
    for source in sorted(glob.glob(os.path.join(sources, "*.c"))):
        if not os.path.exists(source[:-1] + "h"):
            programs.append(source)
        elif source not in map(os.path.normpath, shared):
            shared.append(source)
    library = os.path.join(folder, "libshared.a")
    for source in shared:
        made = os.path.join(folder, os.path.basename(source)[:-1] + "o")
        subprocess.run([*COMPILER, *flags, "-c", source, "-o", made], check=True)
        subprocess.run(["ar", "rc", library, made], check=True)
    for source in programs:
        subprocess.run([*COMPILER, *flags, source, library, "-o", os.path.join(folder, os.path.basename(source)[:-2]),
                        "-lrt", "-pthread"], check=True)
    return folder


def main(folder, description):
    """Build the programs of the folder and run the cases that were declared."""
    def prepare(setup):
        global BINARIES
        BINARIES = build(folder, os.path.join(setup.folder, "self"))
    return load_runner().main(description, prepare)
