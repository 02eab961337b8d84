# SPDX-License-Identifier: Apache-2.0
"""The whole lives of programs: those that count, and those that come to an end with a result.

The protocol of the programs in targets/ that count: each has its work folder as current
folder, appends lines `LABEL NUMBER` to the file `steps` (opened anew for every
line, so that the file may be moved away while a program sleeps), counts every
label from 1 without a gap, appends `bad REASON` when it finds its own state
wrong, and when a file `stop` appears it checks everything it holds, appends
`done` and exits with 0.

How `--keep-running` is tested: the original runs on and is then put to sleep
for good into a second image. The steps file is moved away and the copy is woken
up: its steps must continue from the moment of the dump. Then the original is
woken up again, with the files it had.
"""

import os
import subprocess
import time

from cases import ROUNDS, SLOWER, Failure
from files import Snapshot, made_once
from procfs import read


# ---- programs that count ----

class Steps:
    """The lines that a program appends. Nothing may be missing, repeated or out of order."""

    def __init__(self, context, labels):
        self.context, self.labels = context, labels
        self.path = context.path("steps")
        self.base = {label: 0 for label in labels}

    def read(self):
        counts = dict(self.base)
        done = False
        text = read(self.path, "")
        for line in text[:text.rfind("\n") + 1].splitlines():
            label, _, number = line.partition(" ")
            if label == "done":
                done = True
            elif label == "bad" or label not in counts or not number.isdigit():
                raise Failure(f"the program reports: {line!r}")
            elif counts[label] is None:
                counts[label] = int(number)
            elif int(number) != counts[label] + 1:
                raise Failure(f"step {label} {counts[label]} is followed by {number}")
            else:
                counts[label] += 1
        return counts, done

    def counts(self):
        return self.read()[0]

    def advance(self, steps=3, seconds=30):
        """Wait until every label has got some steps further."""
        before = self.counts()

        def further():
            now = self.counts()
            return all(now[l] is not None and now[l] >= (before[l] or 0) + steps for l in self.labels)
        try:
            self.context.until(further, seconds, "", pause=0.005)
        except Failure as e:
            if not str(e).startswith("timed out"):
                raise
            raise Failure(f"the program does not go on: {before} became {self.counts()} in {seconds * SLOWER:g} s")

    def rotate(self):
        """Move the file away; the next one begins wherever the program is."""
        os.rename(self.path, self.path + ".aside")
        self.base = {label: None for label in self.labels}

    def from_start(self):
        self.base = {label: 0 for label in self.labels}

    def first(self):
        """The first number of each label in the file."""
        found = {}
        for line in read(self.path, "").splitlines():
            label, _, number = line.partition(" ")
            found.setdefault(label, number)
        return {l: int(found[l]) for l in self.labels}


def finish(t, root, steps):
    """Ask a counting program to check itself and to end."""
    t.write("stop", "")
    status = t.wait_exit(root, 60)
    os.unlink(t.path("stop"))
    if status != 0 or not steps.read()[1]:
        raise Failure(f"the program ended with status {status}, its last steps: {read(steps.path, '')[-200:]!r}")


def keep_running(t, root, steps, extra, wait):
    """Save a running tree, let it run on, and prove that both it and the copy are right."""
    for attempt in range(4):
        low = steps.counts()
        t.dump(root, "copy", keep=True)
        high = steps.counts()
        steps.advance(wait)
        t.untraced(root)
        t.dump(root, "original")
        files = Snapshot(t, [t.work, *extra(root)])
        try:
            steps.rotate()
            result = t.restore(root, "copy", expect=None)
            if result.status == 1 and steps.path in result.err:
                # The moment was one of those when the program had the file open. It has changed since.
                t.log("the copy had the steps file open; once more")
                files.put_back()
                steps.from_start()
                t.restore(root, "original")
                steps.advance(wait)
                continue
            if result.status != 0:
                raise Failure(f"the copy cannot be restored: {result}")
            steps.advance(wait)
            for label, number in steps.first().items():
                if not low[label] < number <= high[label] + 1:
                    raise Failure(f"the copy begins with {label} {number}; the dump was made between "
                                  f"{low[label]} and {high[label]}")
            finish(t, root, steps)
            t.expect_gone(root, [])
            files.put_back()
            steps.from_start()
            t.restore(root, "original")
            steps.advance(wait)
            finish(t, root, steps)
            return
        finally:
            files.drop()
    raise Failure("the steps file was open in every one of four copies")


def counting(t, argv, labels, static=True, wait=3, extra=lambda root: [], warm=5, **arguments):
    """The whole life of a counting program: cycles, one with a comparison of /proc, and --keep-running."""
    steps = Steps(t, labels)
    root = t.start(argv, **arguments)
    steps.advance(warm, seconds=60)
    for number in range(ROUNDS):
        t.log(f"cycle {number + 1}")
        t.cycle(root, static)
        steps.advance(wait)
    t.log("cycle with comparison")
    t.compare_cycle(root)
    steps.advance(wait)
    t.log("keep running")
    keep_running(t, root, steps, extra, wait)


# ---- programs that come to an end with a result ----

def job(t, argv, prepare, verify, still=False, compare=True, **arguments):
    """A program that works some seconds towards a result: cycles on the way, then --keep-running.

    prepare(t) fills the work folder, verify(t, status) raises Failure if the result is wrong. still: files
    that it has open change all the time, so for --keep-running it is stopped while they are copied."""
    def begin():
        t.fresh_work()
        prepare(t)
        return t.start(argv, **arguments)

    def ended(root):
        verify(t, t.wait_exit(root, 100))

    began = time.monotonic()
    root = begin()
    ended(root)
    took = time.monotonic() - began
    pause = took / (2 * (ROUNDS + 3))
    t.log(f"undisturbed: {took:.2f} s; {pause:.3f} s between cycles")

    def cycles(root):
        time.sleep(pause)
        for number in range(ROUNDS):
            t.log(f"cycle {number + 1}")
            t.cycle(root, static=False)
            time.sleep(pause)
        if compare:
            t.compare_cycle(root)

    def still_works(root):
        """Go through the cycles. False: it ended by itself before they were over."""
        try:
            cycles(root)
        except Failure:
            t.reap()
            if root not in t.statuses:
                raise
        return root not in t.statuses

    root = begin()
    while not still_works(root):  # the machine has become quicker, as other cases ended
        verify(t, t.statuses[root])
        pause /= 2
        if pause < 0.001:
            raise Failure("the job ended too early to be tested")
        root = begin()
    ended(root)

    def begin_to_work():
        root = begin()
        time.sleep(pause * 2)
        t.reap()
        return root

    root = begin_to_work()
    while root in t.statuses:
        verify(t, t.statuses[root])
        pause /= 2
        root = begin_to_work()
    stopped = t.stop_tree(root) if still else []
    files = Snapshot(t, [t.work])
    try:
        t.dump(root, "copy", keep=True)
        t.continue_tasks(stopped)
        t.untraced(root)
        ended(root)
        files.put_back()
        t.restore(root, "copy")
        t.continue_tasks(stopped)
        ended(root)
    finally:
        files.drop()


# ---- targets/Live.java ----

LIVE = ["churn0", "churn1", "hot", "talk", "tick"]  # its labels


def compile_live(t):
    def make(fresh):
        done = subprocess.run(["javac", "-d", fresh, t.target("Live.java")], capture_output=True, text=True)
        if done.returncode:
            raise Failure("javac: " + done.stderr)
    return made_once(os.path.join(t.setup.folder, "classes"), make)
